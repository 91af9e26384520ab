"""The local ensemble: a point's colour is a blend of predictions from the four LR pixels around it, its corners.

Source: LIIF (arXiv 2012.09161, section 3), and for what happens at centres and borders its published code.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from models.rendering import grid


class Corner(NamedTuple):
    """One of the four LR pixels around points."""

    y: torch.Tensor  # (B, Q) int64
    x: torch.Tensor  # (B, Q) int64
    offset: torch.Tensor  # (B, Q, 2), (y, x), from its centre to the point, in halves of an LR pixel
    weight: torch.Tensor  # (B, Q), the area between the point and the opposite corner; the four sum to 1
    bilinear: torch.Tensor  # (B, Q), its weight in bilinear interpolation, the border continued


def corners(y: torch.Tensor, x: torch.Tensor, size: Sequence[int]) -> list[Corner]:
    """The four corners of points `y, x (B, Q)`, in pixels of an LR image of `size` (H, W), 0 the first one's centre.

    Along an axis these are the last pixel centred at or before the point and the next one; beyond the border both are
    the border pixel, whose two areas share the weight. At a centre the next pixel weighs nothing (except for the
    published 1e-9, which decides where all four areas vanish: on the centres of the last row or column). A point that
    differs from a centre only by rounding counts as at the centre; the published code shifts all points by 1e-6.
    """
    rows, columns = neighbours(y, size[0]), neighbours(x, size[1])
    area = [[(dy * dx).abs() + 1e-9 for _, dx, _ in columns] for _, dy, _ in rows]
    total = sum(area[0] + area[1])
    return [
        Corner(row, column, torch.stack([dy, dx], dim=-1), area[1 - a][1 - b] / total, row_share * column_share)
        for a, (row, dy, row_share) in enumerate(rows)
        for b, (column, dx, column_share) in enumerate(columns)
    ]


def neighbours(position: torch.Tensor, n_lr: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The pixels before and after points of an axis of `n_lr`: twice (pixel, offset, share in linear interpolation)."""
    position = grid.snapped(position, n_lr)
    before = position.floor()
    share = position - before
    pixels = before.clamp(0, n_lr - 1), (before + 1).clamp(0, n_lr - 1)
    return [(pixel.long(), 2 * (position - pixel), weight) for pixel, weight in zip(pixels, (1 - share, share))]


def block_points(plan: Any, i: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The points of blocks `i, j (B, P)` of a `grid.Layout`, in LR pixels: `y` and `x`, both `(B, P * my * mx)`."""
    (y, dy), (x, dx) = plan.rows.at(i), plan.columns.at(j)
    y, x = torch.broadcast_tensors((y[..., None] + dy)[..., :, None], (x[..., None] + dx)[..., None, :])
    return y.flatten(1), x.flatten(1)
