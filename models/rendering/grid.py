"""How the pixels of two images of different sizes lie relative to each other, one axis at a time.

Pixel `i` of `n` has its centre at `-1 + (2 i + 1) / n`; coordinates are `(y, x)` in [-1, 1]. Source: MSIT (arXiv
2403.06536) and LIIF (arXiv 2012.09161); ties are decided here, in integer arithmetic, for every way of rendering.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from models.device import numbers, widest
from utils import UserError


def pixel_centres(h: int, w: int, device: torch.device | str = 'cpu') -> torch.Tensor:
    """Coordinates of all pixels, row by row: `(h * w, 2)`, (y, x) in [-1, 1], float64 where `device` has it."""
    axes = [to_device(device, (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1) for n in (h, w)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).reshape(-1, 2)


def to_device(device: torch.device | str, positions: torch.Tensor) -> torch.Tensor:
    """Positions in float64 on a device; in float32 on MPS, which has no float64."""
    return positions.to(device, widest(device))


def centres_of(index: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Coordinates of some of the pixels of `pixel_centres(h, w)`, by their numbers `y * w + x`: `(...)` int64 to
    `(..., 2)`, on its device, without a table of all."""
    y, x = (at.to(widest(index.device)) for at in (index // w, index % w))
    return torch.stack([(2 * y + 1) / h - 1, (2 * x + 1) / w - 1], dim=-1)


def cell_size(h: int, w: int, device: torch.device | str = 'cpu') -> torch.Tensor:
    """The size of a pixel in an image of `h x w`, for `query`: `(2,)`, (2/h, 2/w), float64 where `device` has it."""
    return numbers((2 / h, 2 / w), device, widest(device))


def relative_cell(lr_size: Sequence[int], size: Sequence[int], device: torch.device | str = 'cpu') -> torch.Tensor:
    """The size of an output pixel where an LR pixel counts 2: `(2,)`, (2/scale_y, 2/scale_x), float64 where `device`
    has it."""
    return numbers([2 * n_lr / n for n_lr, n in zip(lr_size, size)], device, widest(device))


def nearest_index(n_lr: int, n_out: int, chosen: range | None = None) -> torch.Tensor:
    """The LR pixel that each of `n_out` output pixels belongs to, `(n_out,)` int64: `(2 i + 1) n_lr / (2 n_out) - 1/2`
    rounded half to even. `chosen`, a range: only of these output pixels, `(len(chosen),)`."""
    doubled = (2 * indices(chosen or range(n_out)) + 1) * n_lr - n_out
    below = torch.div(doubled, 2 * n_out, rounding_mode='floor')
    rest = doubled - below * 2 * n_out  # in units of 1 / (2 n_out): n_out is the tie
    return below + ((rest > n_out) | ((rest == n_out) & (below % 2 == 1))).long()


def indices(chosen: range) -> torch.Tensor:
    """A range as a tensor, int64."""
    return torch.arange(chosen.start, chosen.stop, chosen.step)


def nearest_pixel(position: torch.Tensor, n_lr: int) -> torch.Tensor:
    """The LR pixel whose area holds `position`, in pixels of the LR axis: any shape, to int64 of that shape.

    Agrees with `nearest_index` at pixel centres: a position that differs from a tie only by rounding counts as a tie.
    """
    below = position.floor()
    rest = position - below
    tie = (rest - 0.5).abs() <= slack(position, n_lr)
    up = torch.where(tie, below.remainder(2) == 1, rest > 0.5)
    return (below + up).clamp(0, n_lr - 1).long()


def slack(position: torch.Tensor, n_lr: int) -> float:
    """How much a position within an axis of `n_lr` pixels may be off by rounding."""
    return 4 * max(n_lr, 1) * torch.finfo(position.dtype).eps


class Blocks:
    """The output pixels of one axis, sorted into the LR pixels they belong to.

    `chosen`, a range: only these of the `n_out` output pixels. `fullest`: blocks of more output pixels are cut evenly
    into blocks of at most so many, of the same LR pixel.

    Attributes, on the CPU until `to` moves them:
    `size`: output pixels of the fullest block;
    `pixels (P,)` int64: the LR pixels that have any (all of them from x1 up), and for each of these
    `offset (P, size)` float64 (on MPS float32): from the LR pixel's centre to the output pixel's, in LR pixels, in
    [-1/2, 1/2];
    `output (P, size)` int64: the output pixels, counted from the first chosen one, the last one repeated where there
    are fewer than `size`.
    """

    def __init__(self, n_lr: int, n_out: int, chosen: range | None = None, fullest: int | None = None):
        chosen = chosen or range(n_out)
        self.pixels, count = nearest_index(n_lr, n_out, chosen).unique_consecutive(return_counts=True)
        if fullest:
            parts = -(-count // fullest)
            place = indices(range(int(parts.sum()))) - (parts.cumsum(0) - parts).repeat_interleave(parts)
            self.pixels, count, parts = (values.repeat_interleave(parts) for values in (self.pixels, count, parts))
            count = (place + 1) * count // parts - place * count // parts
        first = count.cumsum(0) - count
        self.size = int(count.max())
        self.output = torch.minimum(first[:, None] + torch.arange(self.size), (first + count - 1)[:, None])
        output = chosen.start + chosen.step * self.output
        doubled = (2 * output + 1) * n_lr - n_out * (2 * self.pixels[:, None] + 1)
        self.offset = doubled.double() / (2 * n_out)

    def part(self, first: int, last: int, origin: int = 0) -> 'Blocks':
        """The blocks `first` to `last - 1`, their LR pixels counted from `origin`."""
        part = object.__new__(Blocks)
        part.size, part.pixels = self.size, self.pixels[first:last] - origin
        part.offset, part.output = self.offset[first:last], self.output[first:last]
        return part

    def to(self, device: torch.device | str) -> 'Blocks':
        """The same blocks with their tensors on a device; themselves if they are there."""
        if self.pixels.device == torch.device(device):
            return self
        moved = object.__new__(Blocks)
        moved.size, moved.offset = self.size, to_device(device, self.offset)
        moved.pixels, moved.output = self.pixels.to(device), self.output.to(device)
        return moved

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The LR pixels of blocks `index (B, P)`, `(B, P)`, and the offsets in them, `(B, P, size)`, on its device."""
        return self.pixels.to(index.device)[index], to_device(index.device, self.offset)[index]

    def slots(self) -> torch.Tensor:
        """The positions of these blocks' output pixels, in order, in the flattened `(P, size)`: int64."""
        new = self.output.flatten().diff(prepend=self.output.new_full((1,), -1)) > 0
        return new.nonzero().flatten()


def linear_weights(offset: torch.Tensor) -> torch.Tensor:
    """Weights of linear interpolation on the pixel before, at and after the nearest one: `(...)` to `(..., 3)`."""
    return torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=-1)


def snapped(position: torch.Tensor, n_lr: int) -> torch.Tensor:
    """`position`, in pixels of the LR axis, moved to a pixel's centre if it differs from that only by rounding."""
    centre = position.round()
    return torch.where((position - centre).abs() <= slack(position, n_lr), centre, position)


def check_points(coord: torch.Tensor, cell: torch.Tensor, maps: torch.Tensor) -> None:
    """Raise UserError if `coord` or `cell` is not what `query` takes for features that are held in `maps (B, ...)`."""
    for name, points in (('coord', coord), ('cell', cell)):
        if not isinstance(points, torch.Tensor):
            raise UserError(f'{name} is a tensor, not {type(points).__name__}')
    if coord.ndim != 3 or coord.shape[-1] != 2 or min(coord.shape) < 1 or not coord.is_floating_point():
        raise UserError(f'coord is floating point (B, Q, 2), not {coord.dtype} {tuple(coord.shape)}')
    if cell.shape not in ((2,), (len(coord), 2), coord.shape) or not cell.is_floating_point():
        raise UserError(f'cell is floating point (2,), (B, 2) or (B, Q, 2), not {cell.dtype} {tuple(cell.shape)}')
    if coord.device.type != maps.device.type:
        raise UserError(f'coord is on {coord.device}, the features on {maps.device}')


def points(
    coord: torch.Tensor, cell: torch.Tensor, lr_size: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The arguments of `query` in LR pixels: `y` and `x (B, Q)`, 0 at the first pixel's centre, and the relative cell,
    `(B, Q, 2)` or with sizes of 1 where it does not vary. See `models.rendering.implicit.ImplicitModel.query`."""
    size = numbers(lr_size, coord.device, coord.dtype)
    y, x = (((coord + 1) * size - 1) / 2).unbind(-1)
    cell = cell.to(coord)
    return y, x, (cell if cell.ndim == 3 else cell.reshape(-1, 1, 2)) * size


class Layout(NamedTuple):
    """Where blocks of output pixels lie in their LR pixels: the plan of decoders that need nothing else."""

    rows: Blocks
    columns: Blocks
    relative_cell: torch.Tensor  # (2,), (2/scale_y, 2/scale_x), float64


def points_per_block(plan: Any) -> int:
    """How many output pixels the largest block of a plan has."""
    return plan.rows.size * plan.columns.size
