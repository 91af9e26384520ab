"""MSNO, the multi-scale neural operator."""

from collections.abc import Sequence

import torch
from torch import nn

from models.layers.fem import FEM
from models.layers.msc import MSC
from models.layers.sim import SIM


class MSNO(nn.Module):
    """`project(SIM(MSC(FEM(S))) * V)` with 1x1 projections `S` and `V` of the input: `(B, C, H, W)` to the same.

    `kernels` are MSC's kernel sizes; `fem` is FEM's padding, or None for no FEM.
    Source: MSIT (arXiv 2403.06536), multi-scale neural operator.
    """

    def __init__(self, channels: int, kernels: Sequence[int], fem: str | None = 'replicate', rim: bool = False):
        super().__init__()
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.scales = nn.Conv2d(channels, channels, 1, bias=False)
        self.fem = None if fem is None else FEM(channels, fem)
        self.fem_padding = fem
        self.msc = MSC(channels, kernels, rim)
        self.sim = SIM(channels, groups=len(kernels))
        self.project = nn.Conv2d(channels, channels, 1)
        self.receptive_field = self.msc.receptive_field + (0 if fem is None else FEM.receptive_field)

    def forward(self, x: torch.Tensor, around: torch.Tensor | None = None) -> torch.Tensor:
        """`around (B, C, H + 2, W + 2)`: `x` with the pixels that FEM sees beyond its border, where these are known."""
        scales = self.scales(x) if around is None else self.scales(around)
        if self.fem is not None:
            scales = self.fem(scales, padded=around is not None)
        scales = self.sim(self.msc(scales))
        return self.project(scales * self.value(x))
