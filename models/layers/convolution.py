"""Convolutions that keep height and width, each computed in the fastest way: one of three, or of two with gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import fft_convolution
from models.native import winograd


def same_conv2d(x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
    """`x (B, C, H, W)`, `weight (O, C, k, k)` with an odd `k` and `bias (O,)` give `(B, O, H, W)`."""
    if fft_convolution.is_faster(x, weight):
        return fft_convolution.fft_conv2d(x, weight, bias)
    if winograd.is_faster(x, weight):
        return winograd.winograd_conv2d(x, weight, bias)
    if winograd.is_faster_with_gradients(x, weight):
        return winograd.WinogradConv2d.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=[weight.shape[-1] // 2] * 2)


class Conv2d(nn.Conv2d):
    """A plain convolution with an odd `kernel_size`, which keeps height and width."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return same_conv2d(x, self.weight, self.bias)
