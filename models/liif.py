"""LIIF: an SR encoder and an MLP that is evaluated for the four LR pixels around every point."""

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from models.registry import make_encoder, make_imnet, register
from models.rendering import grid
from models.rendering.implicit import ImplicitModel, to_image
from models.rendering.local_ensemble import Corner, block_points, corners
from models.rendering.windows import padded, windows


class Features(NamedTuple):
    """The features of an LR image of `H x W`."""

    maps: torch.Tensor  # (B, H + 2, W + 2, C), zeros around

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.maps.shape[1] - 2, self.maps.shape[2] - 2


class Plan(NamedTuple):
    """Where blocks of output pixels lie, and what they share."""

    rows: grid.Blocks
    columns: grid.Blocks
    relative_cell: torch.Tensor  # (2,), (2/scale_y, 2/scale_x), float64
    first: torch.Tensor  # (B, H, W, hidden), the MLP's first layer applied to every 3x3 window of the maps


@register('liif')
class LIIF(ImplicitModel):
    """Local implicit image function, arXiv 2012.09161, with feature unfolding, local ensemble and cell decoding.

    `encoder_spec` and `imnet_spec` are specs of the registry (the MLP's `in_dim` is derived).
    """

    def __init__(self, encoder_spec: dict, imnet_spec: dict):
        super().__init__()
        self.encoder = make_encoder(encoder_spec)
        self.imnet = make_imnet(imnet_spec, in_dim=9 * self.encoder.out_dim + 4)

    @property
    def receptive_field(self) -> int:
        return self.encoder.receptive_field + 2  # the corners, and the windows around them

    @property
    def floats_per_pixel(self) -> float:
        return self.encoder_floats() + 2 * self.encoder.out_dim + 2 * self.imnet.layers[0].out_features

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Features:
        """`lr (B, 3, H, W)` in [0, 1] to `Features`, see `ImplicitModel.encode`."""
        return Features(padded(self.encoded(lr, maps), 1))

    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points, as the paper states it. Arguments and result as in `ImplicitModel.query`."""
        grid.check_points(coord, cell, features.maps)
        y, x, cell = grid.points(coord, cell, features.size)
        colour: Any = 0
        for corner in corners(y, x, features.size):
            window = windows(features.maps, corner.y, corner.x, 1).permute(1, 2, 0).flatten(1)  # (B * Q, 9 C)
            latent = torch.cat([window, told_of(corner, cell).to(window.dtype)], dim=-1)
            colour = colour + self.weighed(corner, self.imnet(latent))
        return to_image(colour)

    def plan(self, features: Any, rows: grid.Blocks, columns: grid.Blocks, relative_cell: torch.Tensor) -> Plan:
        """As in `ImplicitModel.plan`, with the first layer of every LR pixel's window."""
        first, maps = self.imnet.layers[0], features.maps.permute(0, 3, 1, 2)
        weight, bias = first.weight[:, :-4].unflatten(1, (-1, 3, 3)).to(maps.dtype), first.bias.to(maps.dtype)
        return Plan(rows, columns, relative_cell, padded(F.conv2d(maps, weight, bias), 0))

    def floats_per_block(self, plan: Any) -> float:
        """As in `ImplicitModel.floats_per_block`."""
        return 2 * grid.points_per_block(plan) * self.imnet.layers[0].out_features

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels. Arguments and result as in
        `ImplicitModel.query_blocks`.

        The first layer is applied to a window once for each LR pixel, not once for each output pixel and corner.
        """
        batch = len(features.maps)
        i, j = i.expand(batch, -1), j.expand(batch, -1)
        weight = self.imnet.layers[0].weight[:, -4:].t()
        colour: Any = 0
        for corner in corners(*block_points(plan, i, j), features.size):
            shared = windows(plan.first, corner.y, corner.x, 0)[0]  # (B * P * m, hidden)
            hidden = torch.addmm(shared, told_of(corner, plan.relative_cell).to(weight), weight)
            colour = colour + self.weighed(corner, self.imnet.after_first(hidden))
        return to_image(colour).unflatten(1, (i.shape[1], -1))

    def weighed(self, corner: Corner, colour: torch.Tensor) -> torch.Tensor:
        """A corner's share of the colour, `(B, Q, 3)`, of its `colour (B * Q, 3)`."""
        return corner.weight[..., None].to(self.imnet.layers[0].weight) * colour.unflatten(0, corner.weight.shape)


def told_of(corner: Corner, cell: torch.Tensor) -> torch.Tensor:
    """The MLP's inputs besides the features, `(B * Q, 4)`: the offset from the corner and the relative cell."""
    return torch.cat([corner.offset, cell.to(corner.offset).expand_as(corner.offset)], dim=-1).flatten(0, 1)
