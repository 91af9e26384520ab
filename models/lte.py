"""LTE: an SR encoder and an MLP whose input is waves, which the four LR pixels around a point define."""

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from models.registry import make_encoder, make_imnet, register
from models.rendering import grid
from models.rendering.implicit import ImplicitModel, to_image, to_network
from models.rendering.local_ensemble import block_points, corners
from models.rendering.windows import padded, windows
from utils import UserError, is_whole


class Features(NamedTuple):
    """The features of an LR image of `H x W`."""

    lr: torch.Tensor  # (B, H, W, 3) in the network's scale of [-1, 1]
    amplitude: torch.Tensor  # (B, H, W, hidden_dim), of all cosines, then of all sines
    frequency: torch.Tensor  # (B, H, W, hidden_dim), of all waves along y, then of all along x

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.lr.shape[1], self.lr.shape[2]


@register('lte')
class LTE(ImplicitModel):
    """Local texture estimator, arXiv 2111.08918, with local ensemble and the LR image added.

    `encoder_spec` and `imnet_spec` are specs of the registry (the MLP's `in_dim` is derived); `hidden_dim` is twice the
    number of waves. Raises UserError if it is odd.
    """

    def __init__(self, encoder_spec: dict, imnet_spec: dict, hidden_dim: int = 256):
        super().__init__()
        if not is_whole(hidden_dim) or hidden_dim % 2:
            raise UserError(f'lte: hidden_dim is an even number from 2 up, not {hidden_dim!r}')
        self.encoder = make_encoder(encoder_spec)
        self.coef = nn.Conv2d(self.encoder.out_dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(self.encoder.out_dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = make_imnet(imnet_spec, in_dim=hidden_dim)

    @property
    def receptive_field(self) -> int:
        return self.encoder.receptive_field + 2  # the corners, and the 3x3 kernels

    @property
    def floats_per_pixel(self) -> float:
        return self.encoder_floats() + 5 * self.coef.out_channels

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Features:
        """`lr (B, 3, H, W)` in [0, 1] to `Features`, see `ImplicitModel.encode`."""
        maps = self.encoded(lr, maps)
        lr = to_network(lr).to(maps.dtype)
        return Features(padded(lr, 0), padded(self.coef(maps), 0), padded(self.frequencies(maps), 0))

    def frequencies(self, maps: torch.Tensor) -> torch.Tensor:
        """Of the encoder's features, `(B, C, H, W)`: of all waves along y, then of all along x, `(B, hidden_dim, H,
        W)`. Published weights give those of each wave along y and x in turn."""
        return self.freq(maps).unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)

    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points, as the paper states it. Arguments and result as in `ImplicitModel.query`."""
        grid.check_points(coord, cell, features.lr)
        return self.colours(features, *grid.points(coord, cell, features.size))

    def floats_per_block(self, plan: Any) -> float:
        """As in `ImplicitModel.floats_per_block`."""
        return 3 * grid.points_per_block(plan) * self.coef.out_channels

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels. Arguments and result as in
        `ImplicitModel.query_blocks`. The waves differ from pixel to pixel, so output pixels share no work after
        `encode`."""
        batch = len(features.lr)
        i, j = i.expand(batch, -1), j.expand(batch, -1)
        cell = plan.relative_cell.to(self.phase.weight).reshape(1, 1, 2)
        return self.colours(features, *block_points(plan, i, j), cell).unflatten(1, (i.shape[1], -1))

    def colours(self, features: Any, y: torch.Tensor, x: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours `(B, Q, 3)` at points `y, x (B, Q)` in LR pixels, with the relative cell `(B or 1, Q or 1, 2)`."""
        phase = self.phase(cell.to(self.phase.weight))
        colour: Any = 0
        for corner in corners(y, x, features.size):
            lr, amplitude, frequency = (
                windows(maps, corner.y, corner.x, 0)[0].unflatten(0, y.shape) for maps in features
            )
            dy, dx = corner.offset.to(lr.dtype).split(1, dim=-1)
            along_y, along_x = frequency.chunk(2, dim=-1)
            angle = math.pi * (along_y * dy + along_x * dx + phase)
            told = self.imnet(amplitude * torch.cat([angle.cos(), angle.sin()], dim=-1))
            weight, bilinear = (share[..., None].to(lr.dtype) for share in (corner.weight, corner.bilinear))
            colour = colour + weight * told + bilinear * lr
        return to_image(colour)
