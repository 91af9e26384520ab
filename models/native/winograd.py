"""Convolution of small kernels by Winograd's method, as compiled code for a CPU.

Source: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, arXiv 1509.09308, section 4.3, F(4x4, 3x3);
that other points than the usual ones are more accurate is from Barabasz et al., arXiv 1803.10986.
"""

import torch

from models.native import library
from models.native.library import SIZES, pointers

LARGEST_KERNEL = 9  # measured: beyond, direct convolution is as fast,
FEWEST_CHANNELS = 32  # as it is for fewer channels
FEWEST_PIXELS = 256  # and in smaller images, where transforming the kernels takes longer than it saves
MOST_NUMBERS = 1e7  # of the transformed kernels: 40 MB in float32


def is_faster(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `winograd_conv2d` can be used and is faster: without gradients and in full precision. It takes a quarter
    of the multiplications of 3 x 3 and 9 x 9 kernels, two fifths of those between."""
    k, area, channels = weight.shape[-1], x.shape[-2] * x.shape[-1], weight.shape[:2]
    if not 3 <= k <= LARGEST_KERNEL or min(channels) < FEWEST_CHANNELS or area < FEWEST_PIXELS:
        return False
    if 36 * -(-k // 3) * -(-k // 3) * channels[0] * channels[1] > MOST_NUMBERS:
        return False
    if any(n % SIZES['UNIT'] for n in channels) or torch.is_autocast_enabled('cpu') or x.dtype != weight.dtype:
        return False
    return library.usable_on(x)


def winograd_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The convolution that keeps height and width, for as many channels as come in whole UNITs: `x (B, C, H, W)`,
    `weight (O, C, k, k)` with an odd `k` and `bias (O,)` give `(B, O, H, W)`, the channels last in memory."""
    (batch, channels, height, width), (out_channels, _, k, _) = x.shape, weight.shape
    if x.stride(1) != 1:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = weight.contiguous(), bias.contiguous()
    threads, parts = torch.get_num_threads(), -(-k // 3)
    out = x.new_empty(batch, height, width, out_channels)
    kernel = x.new_empty(36 * parts**2 * channels * out_channels)
    room = x.new_empty(threads, 36 * SIZES['TILES'] * (channels + out_channels))
    arrays = pointers(out, weight, bias, kernel, room)
    library.compiled(x.dtype).convolve(
        arrays[0],
        x.data_ptr(),
        *arrays[1:],
        batch,
        height,
        width,
        channels,
        out_channels,
        k,
        x.stride(3),
        x.stride(2),
        x.stride(0),
        threads,
    )
    return out.permute(0, 3, 1, 2)


def multiply_adds(x: torch.Tensor, weight: torch.Tensor) -> int:
    """Those of the products in `winograd_conv2d`: 36 for 16 pixels, instead of 144 with a kernel of 3 x 3."""
    tiles, parts = len(x) * -(-x.shape[-2] // 4) * -(-x.shape[-1] // 4), -(-weight.shape[-1] // 3)
    return 36 * tiles * parts**2 * weight.shape[0] * weight.shape[1]
