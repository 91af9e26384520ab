"""Convolution with large kernels, which is faster as a product of spectra."""

import torch
from torch.nn import functional as F

SMALLEST_KERNEL = 21  # measured on a CPU: with smaller ones direct convolution is faster
SMALLEST_WORK = 7e5  # pixels times taps of a kernel: with less work direct convolution is faster
MOST_KERNELS = 1024  # pairs of channels; their spectra take 70 MB
LENGTH = 128  # largest side of the blocks that an image is cut into


def is_faster(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `fft_conv2d` is faster: for large kernels on a CPU, without gradients and not in half precision."""
    k, area, kernels = weight.shape[-1], x.shape[-2] * x.shape[-1], weight.shape[0] * weight.shape[1]
    if k < SMALLEST_KERNEL or k * k * area < SMALLEST_WORK or kernels > MOST_KERNELS:
        return False
    precise = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled('cpu')
    return x.device.type == 'cpu' and precise and not torch.is_grad_enabled()


def fft_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A convolution that keeps height and width: `x (B, C, H, W)`, `weight (O, C, k, k)` with an odd `k` and `bias
    (O,)` give `(B, O, H, W)`, channels last in memory. Rounding errors are relative to the largest values of a block.

    The image is cut into blocks that overlap by the kernel's size, and their spectra are multiplied by those of the
    kernels (the overlap-save method of signal processing).
    """
    (batch, _, height, width), (channels, _, k, _) = x.shape, weight.shape
    (high, row_step, row_length), (wide, column_step, column_length) = (
        overlapping_blocks(n, k // 2) for n in (height, width)
    )
    size = row_length, column_length
    below = (high - 1) * row_step + row_length - k // 2 - height
    right = (wide - 1) * column_step + column_length - k // 2 - width
    blocks = F.pad(x, (k // 2, right, k // 2, below)).unfold(2, row_length, row_step)
    blocks = blocks.unfold(3, column_length, column_step)  # (B, C, high, wide, *size)
    image = torch.fft.rfft2(blocks).permute(4, 5, 1, 0, 2, 3).flatten(3).flatten(0, 1)  # (frequencies, C, blocks)
    kernel = torch.fft.rfft2(weight, s=size).conj().permute(2, 3, 0, 1).flatten(0, 1)  # (frequencies, O, C)
    product = torch.bmm(kernel, image).permute(1, 2, 0)
    product = product.reshape(channels, batch, high, wide, row_length, -1)
    blocks = torch.fft.irfft2(product, s=size)[..., :row_step, :column_step]  # (O, B, high, wide, rows, columns)
    out = blocks.permute(1, 2, 4, 3, 5, 0).contiguous() + bias  # channels last in memory
    return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)[:, :, :height, :width]


def overlapping_blocks(n: int, margin: int) -> tuple[int, int, int]:
    """How to cut an axis of `n` pixels into equal blocks: their number, the step from one to the next, their length.

    A single block needs a margin only at its beginning: what is read beyond its end wraps around to that margin.
    """
    whole = in_eights(max(n + margin, 2 * margin + 1))
    length = max(LENGTH, in_eights(8 * margin))
    if whole <= length:
        return 1, n, whole
    count = -(-n // (length - 2 * margin))
    step = -(-n // count)
    return count, step, in_eights(step + 2 * margin)


def in_eights(n: int) -> int:
    """The smallest multiple of 8 that is at least n: lengths that are fast to transform."""
    return -(-n // 8) * 8
