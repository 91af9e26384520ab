"""What training minimises: the difference of colours at a batch's queries."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.layers.fem import FEM
from models.rendering import grid
from models.training.losses import WeightedSum


class Objective(nn.Module):
    """The losses of a batch of `datasets.wrappers.Training` samples, scalars by name, whose sum is to be minimised.

    `draw`: what `index` of the batch counts, see there. `loss`: a name, or names to weights, of
    `models.training.losses`.
    Source: MSIT (arXiv 2403.06536), L1.
    """

    def __init__(self, model: nn.Module, draw: str, loss: str | Mapping[str, float] = 'l1'):
        super().__init__()
        self.model, self.draw, self.losses = model, draw, WeightedSum(loss)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        colour, target = self.predict(batch)
        return self.losses(colour.to(target.dtype), target)

    def predict(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours and targets of the queries, `(B, Q, 3)`, or with blocks of `m` pixels `(B, P, m, 3)`, in [0, 1]."""
        lr, hr, index = batch['lr'].to(next(self.model.parameters()).dtype) / 255, batch['hr'], batch['index']
        h, w = hr.shape[-2:]
        features = self.model.encode(lr)
        if self.draw != 'block':
            coord = grid.pixel_centres(h, w, lr.device)[index]
            colour = self.model.query(features, coord, grid.cell_size(h, w).to(lr.device))
        else:
            colour, index = self.blocks(features, index, lr.shape[-2:], (h, w))
        target = hr.flatten(2).transpose(1, 2)  # (B, h * w, 3)
        chosen = torch.gather(target, 1, index.flatten(1)[..., None].expand(-1, -1, 3))
        return colour, chosen.reshape(colour.shape).to(lr.dtype) / 255

    def blocks(
        self, features: Any, index: torch.Tensor, lr_size: Sequence[int], size: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours of all HR pixels of LR pixels `index (B, P)`, `(B, P, m, 3)`, and their numbers, `(B, P, m)`."""
        (height, width), (h, w) = lr_size, size
        rows, columns = grid.Blocks(height, h), grid.Blocks(width, w)
        y, x = index // width, index % width
        plan = self.model.plan(features, rows, columns, grid.relative_cell((height, width), (h, w)))
        colour = self.model.query_blocks(features, plan, y, x)
        at = rows.output.to(index.device)[y][..., :, None] * w + columns.output.to(index.device)[x][..., None, :]
        return colour, at.flatten(2)


def compile_parts(module: nn.Module) -> None:
    """Compile the parts of a model in place, which changes neither weights nor their names; copies are not compiled.

    FEM is left out: inductor (torch 2.15, CPU) fails on the gradient of its padding.
    """
    for part in module.children():
        if any(isinstance(inner, FEM) for inner in part.modules()):
            compile_parts(part)
        else:
            part.compile()
