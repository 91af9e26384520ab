"""Rendering a whole image, LR pixel by LR pixel and tile by tile, in bounded memory."""
import torch

from models import grid
from utils import UserError

CHUNK = 2048            # LR pixels decoded at once


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
    height, width = lr.shape[-2:]
    rows, columns = grid.Blocks(height, h), grid.Blocks(width, w)
    cell = grid.cell_size(h, w).to(lr.device)
    out = lr.new_empty(lr.shape[0], h, w, 3)
    features = model.encode(lr)
    step = max(1, CHUNK // (len(columns.pixels) * lr.shape[0]))
    for first in range(0, len(rows.pixels), step):
        y = slice(first, first + step)
        ys, count = rows.pixels[y], len(rows.pixels[y])
        pixel = (ys[:, None] * width + columns.pixels).reshape(1, -1).expand(lr.shape[0], -1).to(lr.device)
        dy = rows.offset[y][:, None].expand(-1, len(columns.pixels), -1).reshape(1, -1, rows.size)
        dx = columns.offset[None].expand(count, -1, -1).reshape(1, -1, columns.size)
        colour = model.query_blocks(features, pixel, dy.expand(lr.shape[0], -1, -1).to(lr.device),
                                    dx.expand(lr.shape[0], -1, -1).to(lr.device), cell)
        colour = colour.reshape(lr.shape[0], count, -1, rows.size, columns.size, 3).transpose(2, 3)
        colour = colour.reshape(lr.shape[0], count * rows.size, -1, 3)
        start = rows.output[first, 0]
        chosen = rows.slot[start:rows.output[y][-1, -1] + 1] - first * rows.size
        out[:, start:start + len(chosen)] = colour[:, chosen.to(lr.device)][:, :, columns.slot.to(lr.device)]
    return out.permute(0, 3, 1, 2)
