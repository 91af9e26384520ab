"""What training minimises: the difference of colours at a batch's queries."""

import torch
from torch import nn
from torch.nn import functional as F

from models.layers.fem import FEM
from models.rendering import grid


def rmse(colour, target):
    """The mean over patches of the root of a patch's mean squared difference, `(B, ...)` both.

    Between L1 and the logarithm that PSNR takes (HINet, arXiv 2105.06086): within a patch what cannot be known comes
    out as the mean of what it may be, and no patch outweighs the others. Below 1e-4 a difference counts no more.
    """
    return ((colour - target).square().flatten(1).mean(dim=1) + 1e-8).sqrt().mean()


LOSSES = {'l1': F.l1_loss, 'rmse': rmse}


class Objective(nn.Module):
    """The loss of a batch of `datasets.wrappers.Training` samples, a scalar. Source: MSIT (arXiv 2403.06536), L1.

    `draw`: what `index` of the batch counts, see there. `loss`: 'l1' or 'rmse', the function above.
    """

    def __init__(self, model, draw, loss='l1'):
        super().__init__()
        self.model, self.draw, self.loss = model, draw, LOSSES[loss]

    def forward(self, batch):
        colour, target = self.predict(batch)
        return self.loss(colour.to(target.dtype), target)

    def predict(self, batch):
        """Colours and targets of the queries, `(B, Q, 3)`, or with blocks of `m` pixels `(B, P, m, 3)`, in [0, 1]."""
        lr, hr, index = batch['lr'].to(next(self.model.parameters()).dtype) / 255, batch['hr'], batch['index']
        h, w = hr.shape[-2:]
        features = self.model.encode(lr)
        if self.draw == 'pixel':
            coord = grid.pixel_centres(h, w, lr.device)[index]
            colour = self.model.query(features, coord, grid.cell_size(h, w).to(lr.device))
        else:
            colour, index = self.blocks(features, index, lr.shape[-2:], (h, w))
        target = hr.flatten(2).transpose(1, 2)  # (B, h * w, 3)
        chosen = torch.gather(target, 1, index.flatten(1)[..., None].expand(-1, -1, 3))
        return colour, chosen.reshape(colour.shape).to(lr.dtype) / 255

    def blocks(self, features, index, lr_size, size):
        """Colours of all HR pixels of LR pixels `index (B, P)`, `(B, P, m, 3)`, and their numbers, `(B, P, m)`."""
        (height, width), (h, w) = lr_size, size
        rows, columns = grid.Blocks(height, h), grid.Blocks(width, w)
        y, x = index // width, index % width
        plan = self.model.plan(features, rows, columns, grid.relative_cell((height, width), (h, w)))
        colour = self.model.query_blocks(features, plan, y, x)
        at = rows.output.to(index.device)[y][..., :, None] * w + columns.output.to(index.device)[x][..., None, :]
        return colour, at.flatten(2)


def compile_parts(module):
    """Compile the parts of a model in place, which changes neither weights nor their names; copies are not compiled.

    FEM is left out: inductor (torch 2.15, CPU) fails on the gradient of its padding.
    """
    for part in module.children():
        if any(isinstance(inner, FEM) for inner in part.modules()):
            compile_parts(part)
        else:
            part.compile()
