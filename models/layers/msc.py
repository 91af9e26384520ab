"""MSC, multi-scale convolution: equal chunks of the channels, each with its own kernel size."""

from collections.abc import Sequence

import torch
from torch import nn

from models.layers.rim import make_conv
from utils import UserError, is_whole


class MSC(nn.Module):
    """Chunk `i` of the channels goes through a dense convolution with kernel `kernels[i]`: `(B, C, H, W)` to the same.

    `rim` trains the kernels' interaction instead of the kernels (see `models/layers/rim.py`).
    Source: MSIT (arXiv 2403.06536), multi-scale convolution of MSNO and of MSSA's query and key.
    Raises UserError if the channels cannot be divided so, or a kernel size is even.
    """

    def __init__(self, channels: int, kernels: Sequence[int], rim: bool = False):
        super().__init__()
        if not isinstance(kernels, (list, tuple)) or not kernels or any(not is_whole(k) or k % 2 == 0 for k in kernels):
            raise UserError(f'kernel sizes are a list of odd numbers from 1 up, not {kernels!r}')
        if channels % len(kernels):
            raise UserError(
                f'{channels} channels cannot be cut into {len(kernels)} equal chunks, one for each kernel size'
            )
        chunk = channels // len(kernels)
        self.receptive_field = max(kernels) // 2
        self.convs = nn.ModuleList(make_conv(chunk, chunk, k, rim) for k in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([conv(part) for conv, part in zip(self.convs, x.chunk(len(self.convs), dim=1))], dim=1)
