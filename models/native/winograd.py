"""Convolution with small kernels by Winograd's method, as compiled code for a CPU.

Source: Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, arXiv 1509.09308, section 4.3, F(4x4, 3x3).
Barabasz et al., arXiv 1803.10986, show that other points than the usual ones are more accurate.
"""

import functools
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.native import library
from models.native.library import SIZES, pointers

LARGEST_KERNEL = 9  # measured: with larger kernels, direct convolution is as fast
FEWEST_CHANNELS = 24  # measured: with fewer channels, direct convolution is as fast
FEWEST_FOR_WHOLE = 16  # the same for kernels that are cut into parts of 3 x 3 without padding
FEWEST_PIXELS = 256  # in smaller images, transforming the kernels takes longer than it saves
MOST_NUMBERS = 1e7  # in the transformed kernels: 40 MB in float32


def is_faster(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `winograd_conv2d` can be used and is faster: without gradients and in full precision. It needs a quarter
    of the multiplications for 3 x 3 and 9 x 9 kernels, and two fifths for those in between."""
    k, area, channels = weight.shape[-1], x.shape[-2] * x.shape[-1], weight.shape[:2]
    fewest = FEWEST_CHANNELS if k % 3 else FEWEST_FOR_WHOLE
    if not 3 <= k <= LARGEST_KERNEL or min(channels) < fewest or area < FEWEST_PIXELS:
        return False
    if 36 * -(-k // 3) * -(-k // 3) * channels[0] * channels[1] > MOST_NUMBERS:
        return False
    if torch.is_autocast_enabled('cpu') or x.dtype != weight.dtype or not library.usable_on(x):
        return False
    return not any(n % lanes(x.dtype) for n in channels) and works(x.dtype)


def lanes(dtype: torch.dtype) -> int:
    """Numbers in a vector register of the compiled code, of which the channels have to be a multiple."""
    return library.compiled(dtype).lanes()


@functools.cache
@torch.no_grad()
def works(dtype: torch.dtype) -> bool:
    """Whether a small convolution by the compiled code is what torch's operations give. Asked once in a process."""
    units = library.SIZES['UNIT']
    x, weight, bias = (
        library.some_numbers(*shape, dtype=dtype)
        for shape in ((1, units, 7, 9), (2 * units, units, 5, 5), (2 * units,))
    )
    windows = F.pad(x, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1)  # (1, C, H, W, 5, 5)
    weight = weight / units
    expected = [(windows[0] * kernel[:, None, None]).sum((0, 3, 4)) + b for kernel, b in zip(weight, bias)]
    return library.agree('a convolution', winograd_conv2d(x, weight, bias)[0], torch.stack(expected))


def winograd_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A convolution that keeps height and width: `x (B, C, H, W)`, `weight (O, C, k, k)` with an odd `k` and `bias
    (O,)` give `(B, O, H, W)`, channels last in memory. `C` and `O` are multiples of `lanes`."""
    (batch, channels, height, width), (out_channels, _, k, _) = x.shape, weight.shape
    x, weight, bias = with_channels_last(x), weight.contiguous(), bias.contiguous()
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


def with_channels_last(x: torch.Tensor) -> torch.Tensor:
    """`x (B, C, H, W)` with the channels of a pixel side by side in memory."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def is_faster_with_gradients(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `WinogradConv2d` can be used and is faster: with 3 x 3 kernels, images whose channels are already last in
    memory, and everything else as in `is_faster`."""
    if weight.shape[-1] != 3 or x.stride(1) != 1:
        return False
    with torch.no_grad():
        return is_faster(x, weight)


class WinogradConv2d(torch.autograd.Function):
    """`winograd_conv2d` with 3 x 3 kernels for training in float32; gradients are computed by the same method.
    `x (B, C, H, W)`, `weight (O, C, 3, 3)` and `bias (O,)` give `(B, O, H, W)`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = with_channels_last(x)
        ctx.save_for_backward(x, weight)
        return winograd_conv2d(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        gradient = with_channels_last(gradient)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = winograd_conv2d(gradient, weight.flip(2, 3).transpose(0, 1), weight.new_zeros(weight.shape[1]))
        if ctx.needs_input_grad[1]:
            of_weight = gradient_of_weight(x, gradient)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def gradient_of_weight(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of 3 x 3 kernels, `(O, C, 3, 3)`, from `x (B, C, H, W)` and the `gradient (B, O, H, W)` of the
    result, both with their channels last. With the same number of threads it is the same to the last bit."""
    (batch, channels, height, width), out_channels = x.shape, gradient.shape[1]
    threads = torch.get_num_threads()
    result = x.new_empty(out_channels, channels, 3, 3)
    room = x.new_empty(threads, 36 * (SIZES['TILES'] * (channels + out_channels) + channels * out_channels))
    strides = [n for tensor in (x, gradient) for n in (tensor.stride(3), tensor.stride(2), tensor.stride(0))]
    arrays = (tensor.data_ptr() for tensor in (result, x, gradient, room))
    library.compiled(x.dtype).convolve_weight(*arrays, batch, height, width, channels, out_channels, *strides, threads)
    return result


def multiply_adds(x: torch.Tensor, weight: torch.Tensor) -> int:
    """How many multiply-adds the products in `winograd_conv2d` take: 36 for 16 pixels, instead of 144, with 3 x 3
    kernels."""
    tiles, parts = len(x) * -(-x.shape[-2] // 4) * -(-x.shape[-1] // 4), -(-weight.shape[-1] // 3)
    return 36 * tiles * parts**2 * weight.shape[0] * weight.shape[1]
