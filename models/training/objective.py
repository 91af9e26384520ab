"""What training minimises: the difference of colours at a batch's queries."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

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
            colour = self.model.query(features, grid.centres_of(index, h, w), grid.cell_size(h, w, lr.device))
        else:
            colour, index = self.blocks(features, index, lr.shape[-2:], (h, w))
        target = hr.flatten(2).transpose(1, 2)  # (B, h * w, 3)
        chosen = torch.gather(target, 1, index.flatten(1)[..., None].expand(-1, -1, 3))
        return colour, chosen.reshape(colour.shape).to(lr.dtype) / 255

    def blocks(
        self, features: Any, index: torch.Tensor, lr_size: Sequence[int], size: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Colours of all HR pixels of LR pixels `index (B, P)`, `(B, P, m, 3)`, and their numbers, `(B, P, m)`."""
        rows, columns, relative_cell = layout(tuple(lr_size), tuple(size), index.device)
        y, x = index // lr_size[1], index % lr_size[1]
        plan = self.model.plan(features, rows, columns, relative_cell)
        colour = self.model.query_blocks(features, plan, y, x)
        at = rows.output[y][..., :, None] * size[1] + columns.output[x][..., None, :]
        return colour, at.flatten(2)


@functools.lru_cache(maxsize=512)
def layout(lr_size: tuple[int, int], size: tuple[int, int], device: torch.device) -> grid.Layout:
    """Where the HR pixels of a patch lie, on `device`: the same for all patches of these sizes, so that they are kept
    there. A training has a few hundred sizes, of some kilobytes each."""
    rows, columns = (grid.Blocks(*axis).to(device) for axis in zip(lr_size, size))
    return grid.Layout(rows, columns, grid.relative_cell(lr_size, size, device))


def compile_parts(module: nn.Module, mode: str | None = None) -> None:
    """Compile the parts of a model in place, which changes neither weights nor their names; copies are not compiled.

    `mode`: that of `torch.compile`. What the parts are applied to has the same sizes at every scale.
    """
    for part in module.children():
        part.compile(mode=mode)
