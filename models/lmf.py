"""LMF: a hypernetwork makes a modulation for every LR pixel; a tiny MLP, modulated by it, gives the colours."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from models.registry import make_encoder, make_part
from models.rendering import grid
from models.rendering.implicit import ImplicitModel, to_image
from models.rendering.local_ensemble import Corner, block_points, corners
from models.rendering.windows import windows


class Features(NamedTuple):
    """The features of an LR image of `H x W`."""

    lr: torch.Tensor  # (B, H, W, 3) in the network's scale of [-1, 1]
    told: torch.Tensor  # (B, H, W, T), the input of the hypernetwork besides the cell

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.lr.shape[1], self.lr.shape[2]


class Plan(NamedTuple):
    """Where blocks of output pixels lie in their LR pixels, and the codes of all LR pixels at this size."""

    rows: grid.Blocks
    columns: grid.Blocks
    relative_cell: torch.Tensor  # (2,), (2/scale_y, 2/scale_x), float64
    codes: torch.Tensor  # (B, H, W, M), see `LMF.codes`


class LMF(ImplicitModel):
    """Latent modulated function, arXiv 2404.16451, with local ensemble, cell decoding and modulated inputs: the
    part that LM-LIIF and LM-LTE share.

    A subclass makes `hypernet` and defines `encode`, `hypernet_output` and `latent`. `beyond`: how many numbers the
    modulated MLP of `imnet_spec` takes besides its latent code.
    """

    adds_lr = False  # whether the MLP gives the difference from the LR image, sampled bilinearly

    def __init__(self, encoder_spec: dict, imnet_spec: dict, beyond: int):
        super().__init__()
        self.encoder = make_encoder(encoder_spec)
        self.imnet = make_part('modulated MLP', imnet_spec, 'n_modulations', beyond=beyond)

    @property
    def receptive_field(self) -> int:
        return self.encoder.receptive_field + 2  # the corners, and the 3x3 pixels around them

    def hypernet_output(self, told: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The hypernetwork: `told (..., T)` of LR pixels and the relative `cell`, which broadcasts with `(..., 2)`, to
        `(..., M)`, the scales of all hidden layers, their shifts, and a latent code."""
        raise NotImplementedError

    def latent(self, code: torch.Tensor, offset: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The input of the modulated MLP for points, `(B, Q, C)`, from the latent `code (B, Q, L)` of an LR pixel, the
        `offset (B, Q, 2)` from its centre, where an LR pixel counts 2, and the relative `cell (B or 1, Q or 1, 2)`."""
        raise NotImplementedError

    def codes(self, told: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """The codes of LR pixels, `(..., M)`, for the modulated MLP: the hypernetwork's output with 1 added to the
        scales. Arguments as in `hypernet_output`."""
        output = self.hypernet_output(told, cell)
        n_scales = self.imnet.n_modulations // 2
        return torch.cat([output[..., :n_scales] + 1, output[..., n_scales:]], dim=-1)

    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points, as in the paper. Arguments and result as in `ImplicitModel.query`. If all points of an
        image have the same cell, the code of every LR pixel is computed once."""
        grid.check_points(coord, cell, features.lr)
        y, x, cell = grid.points(coord, cell, features.size)
        cell = cell.to(self.imnet.layers[0].weight)
        if cell.shape[1] > 1:
            return self.colours(features, y, x, cell, lambda corner: self.codes(at(features.told, corner), cell))
        codes = self.codes(features.told, cell[:, None])
        return self.colours(features, y, x, cell, lambda corner: at(codes, corner))

    def plan(self, features: Any, rows: grid.Blocks, columns: grid.Blocks, relative_cell: torch.Tensor) -> Plan:
        """As in `ImplicitModel.plan`, with the codes of all LR pixels."""
        cell = relative_cell.to(self.imnet.layers[0].weight)
        return Plan(rows, columns, relative_cell, self.codes(features.told.to(cell.dtype), cell))

    def floats_per_block(self, plan: Any) -> float:
        """As in `ImplicitModel.floats_per_block`."""
        return grid.points_per_block(plan) * (plan.codes.shape[-1] + 4 * self.imnet.hidden_dim)

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels. Arguments and result as in
        `ImplicitModel.query_blocks`. The codes come from the plan, computed once for each LR pixel."""
        batch = len(features.lr)
        i, j = i.expand(batch, -1), j.expand(batch, -1)
        cell = plan.relative_cell.to(plan.codes).reshape(1, 1, 2)
        colour = self.colours(features, *block_points(plan, i, j), cell, lambda corner: at(plan.codes, corner))
        return colour.unflatten(1, (i.shape[1], -1))

    def colours(
        self,
        features: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        cell: torch.Tensor,
        codes_at: Callable[[Corner], torch.Tensor],
    ) -> torch.Tensor:
        """Colours `(B, Q, 3)` at points `y, x (B, Q)` in LR pixels, with the relative cell `(B or 1, Q or 1, 2)`;
        `codes_at(corner)`: the codes `(B, Q, M)` of the LR pixels of a corner."""
        colour: Any = 0
        for corner in corners(y, x, features.size):
            codes = codes_at(corner)
            modulation, code = codes.tensor_split([self.imnet.n_modulations], dim=-1)
            given = self.latent(code, corner.offset.to(code.dtype), cell)
            told = self.imnet(given.flatten(0, 1), modulation.flatten(0, 1)).unflatten(0, y.shape)
            colour = colour + corner.weight[..., None].to(told.dtype) * told
            if self.adds_lr:
                lr = at(features.lr, corner)
                colour = colour + corner.bilinear[..., None].to(lr.dtype) * lr
        return to_image(colour)


def at(maps: torch.Tensor, corner: Corner) -> torch.Tensor:
    """`maps (B, H, W, C)` at the LR pixels of a corner: `(B, Q, C)`."""
    return windows(maps, corner.y, corner.x, 0)[0].unflatten(0, corner.y.shape)
