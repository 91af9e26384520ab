"""MSSA, multi-scale self-attention of a query point to the LR pixels around it."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from models.layers.msc import MSC
from models.layers.rim import make_conv
from models.layers.sim import SIM
from utils import UserError


class MSSA(nn.Module):
    """The maps that MSSA works on, and its attention weights.

    `make_position_bias(heads)` gives the position bias, or None for none.
    `forward`: `(B, C, H, W)` to `(query_key, value)`, both `(B, C, H, W)`. One map serves as query and as key.
    Source: MSIT (arXiv 2403.06536), multi-scale self-attention.
    Raises UserError if the channels cannot be divided among the heads or the kernel sizes.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        kernels: Sequence[int],
        make_position_bias: Callable[[int], nn.Module | None],
        rim: bool = False,
    ):
        super().__init__()
        if channels % heads:
            raise UserError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads = heads
        self.inner = nn.Conv2d(channels, channels, 1)
        self.msc = MSC(channels, kernels, rim)
        self.sim = SIM(channels, groups=channels // len(kernels))
        self.value = make_conv(channels, channels, 3, rim)
        self.position_bias = make_position_bias(heads)
        self.receptive_field = max(self.msc.receptive_field, 1)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sim(self.msc(self.inner(z))), self.value(z)

    def bias_along(self, axis: int, offset: torch.Tensor, radius: int) -> torch.Tensor:
        """The part of the position bias that the offset along `axis` (0: y, 1: x) adds to the logits of a window; the
        bias is the sum of both axes' parts.

        `offset (...)`, from the nearest LR pixel to the point, in LR pixels, gives `(..., heads, K)`, the window's `K =
        (2 radius + 1)^2` pixels with its rows outermost.
        """
        side = 2 * radius + 1
        window = offset[..., None] - torch.arange(-radius, radius + 1, device=offset.device)
        if self.position_bias is None:
            return window.new_zeros(*offset.shape, self.heads, side**2, dtype=self.inner.weight.dtype)
        along = self.position_bias.along(axis, 2 * window)  # the bias counts an LR pixel as 2
        if axis == 0:
            along = along + self.position_bias.constant()
        along = along.transpose(-1, -2).unsqueeze(-1 if axis == 0 else -2)
        return along.expand(*offset.shape, self.heads, side, side).flatten(-2)


def attend(query: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention weights: the softmax of `query keys / sqrt(d) + bias` over the window.

    `query (N, m, d)`, `keys (N, d, K)` and `bias (N, m, K)` give `(N, m, K)`.
    """
    scale = query.shape[-1] ** -0.5
    if bias.dtype == query.dtype:
        logits = torch.baddbmm(bias, query, keys, alpha=scale)
    else:  # under autocast the bias keeps its precision
        logits = torch.bmm(query * scale, keys) + bias
    return logits.softmax(dim=-1)
