"""Rendering a whole image, LR pixel by LR pixel and tile by tile, in bounded memory."""
import torch

from models import grid
from utils import UserError

CHUNK = 128             # LR pixels decoded at once


@torch.no_grad()
def render(model, lr, size, tile=None):
    """Render `lr (B, 3, H, W)` in [0, 1] at `size = (h, w)`: `(B, 3, h, w)`, not clamped.

    `tile`: side of the square of LR pixels that is encoded at once, with a margin as wide as the receptive field, so that
    every pixel comes out as if the image were encoded whole; None: the whole image.
    Raises UserError for a size or tile that is not positive.
    """
    h, w = size
    if min(h, w) < 1 or int(h) != h or int(w) != w:
        raise UserError(f'the output size is two whole numbers from 1 up, not {h} x {w}')
    if tile is not None and tile < 1:
        raise UserError(f'the tile is a whole number of LR pixels from 1 up, not {tile}')
    height, width = lr.shape[-2:]
    rows, columns = grid.Blocks(height, h), grid.Blocks(width, w)
    relative_cell = grid.relative_cell((height, width), (h, w))
    out = lr.new_empty(lr.shape[0], 3, h, w)
    for top, bottom in pieces(height, tile):
        for left, right in pieces(width, tile):
            y, x = margin(top, bottom, height, model.receptive_field), margin(left, right, width, model.receptive_field)
            plan = model.plan(cut(rows, top, bottom, y.start), cut(columns, left, right, x.start), relative_cell)
            if len(plan.rows.pixels) and len(plan.columns.pixels):
                decode(model, model.encode(lr[:, :, y, x]), plan, out)
    return out


def pieces(n, tile):
    """`n` pixels in pieces of `tile`: pairs of first and last + 1."""
    return [(first, min(first + tile, n)) for first in range(0, n, tile)] if tile else [(0, n)]


def margin(first, last, n, width):
    return slice(max(first - width, 0), min(last + width, n))


def cut(blocks, first, last, origin):
    """The blocks of the LR pixels `first` to `last - 1`, counted from `origin`."""
    at = torch.searchsorted(blocks.pixels, torch.tensor([first, last]))
    return blocks.part(int(at[0]), int(at[1]), origin)


def decode(model, features, plan, out):
    """Write the output pixels of all of the plan's blocks to `out (B, 3, h, w)`, a few blocks at a time."""
    batch = len(out)
    n_rows, n_columns = len(plan.rows.pixels), len(plan.columns.pixels)
    wide = max(1, min(n_columns, CHUNK // batch))
    high = max(1, CHUNK // (batch * wide))
    for top in range(0, n_rows, high):
        for left in range(0, n_columns, wide):
            i, j = torch.arange(top, min(top + high, n_rows)), torch.arange(left, min(left + wide, n_columns))
            pairs = torch.cartesian_prod(i, j).to(out.device)
            colour = model.query_blocks(features, plan, pairs[None, :, 0], pairs[None, :, 1])
            colour = colour.reshape(batch, len(i), len(j), plan.rows.size, plan.columns.size, 3)
            colour = colour.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, len(i) * plan.rows.size, len(j) * plan.columns.size)
            rows, columns = plan.rows.part(top, top + high), plan.columns.part(left, left + wide)
            colour = colour[:, :, rows.slots().to(out.device)][:, :, :, columns.slots().to(out.device)]
            y, x = int(rows.output[0, 0]), int(columns.output[0, 0])
            out[:, :, y:y + colour.shape[2], x:x + colour.shape[3]] = colour
