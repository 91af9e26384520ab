"""Encoding in strips: an encoder that is a chain of stages reads the image a few rows at a time.

Each stage passes on the rows that it has finished and keeps only those that later rows depend on. So hardly any row is
computed twice, and besides the result only a few rows of each stage are in memory. Source: Alwani et al., *Fused-Layer
CNN Accelerators* (MICRO 2016), where a chain of convolutions is computed so in hardware.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

Maps = tuple[torch.Tensor, ...]  # of the same height and width, each (B, channels, H, W)

MARGINS = 16  # the least rows of a strip, in margins of a stage: at most 2 in 16 are then computed twice


class Stage(NamedTuple):
    """A step of an encoder. (Stages of a training are in `models/training/stages.py`.)"""

    step: Callable[..., Maps]  # from the maps of the stage before (or the image) to maps of the same height and width
    margin: int  # how many pixels to each side a pixel of its maps depends on
    floats: int  # about how many numbers it holds for each pixel, with those it receives and returns


class Known(NamedTuple):
    """The encoder's features of the part of an image that has been encoded."""

    maps: torch.Tensor  # (B, out_dim, h, w)
    top: int  # the part's first row in the image
    left: int  # its first column

    def has(self, top: int, bottom: int, left: int, right: int) -> bool:
        """Whether the rows `top` to `bottom - 1` and columns `left` to `right - 1` of the image are known."""
        rows, columns = (top - self.top, bottom - self.top), (left - self.left, right - self.left)
        return all(0 <= first and last <= n for (first, last), n in zip((rows, columns), self.maps.shape[-2:]))

    def cut(self, y: slice, x: slice) -> torch.Tensor:
        """The features `(B, out_dim, h, w)` of a region of the image; slices may go beyond the image's end. Raises
        ValueError for a region that begins outside of the known part."""
        if y.start < self.top or x.start < self.left:
            raise ValueError(f'rows from {y.start} and columns from {x.start} are not all known')
        return self.maps[:, :, y.start - self.top : y.stop - self.top, x.start - self.left : x.stop - self.left]


def on_last(module: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Maps]:
    """A step that applies `module` to the last map and passes the others on unchanged."""
    return lambda *maps: (*maps[:-1], module(maps[-1]))


def encode(stages: Sequence[Stage], strips: Iterator[torch.Tensor], height: int, rows: int) -> Iterator[torch.Tensor]:
    """The last map `(B, out_dim, H, W)` of the last stage for an image of `height`, in strips of about `rows` rows,
    each computed when it is asked for. `strips`: the image in strips of `rows` rows, `(B, 3, rows, W)`."""
    maps: Iterator[Maps] = ((strip,) for strip in strips)
    for stage in stages:
        maps = apply_stage(maps, stage, height, rows)
    return (strip[-1] for strip in maps)


class Strips:
    """The encoder's features of a part of an image, computed from top to bottom as far as they are asked for. Those
    above what was last asked for are forgotten.

    `strips`: the features `(B, out_dim, rows, w)`, strip by strip, of the rows `top` to `bottom - 1` of the image;
    `left`: their first column in it.
    """

    def __init__(self, strips: Iterator[torch.Tensor], top: int, bottom: int, left: int):
        self.strips, self.bottom, self.left = strips, bottom, left
        self.top = self.end = top  # of the rows that are held; the next strip begins at `end`
        self.held: torch.Tensor | None = None

    def between(self, first: int, last: int, done: Callable[[float], Any] = lambda share: None) -> Known:
        """The features of the rows `first` to `last - 1` of the image, as far as the part reaches, and perhaps of some
        more. `done(share)` is called with the share of those that were missing which is computed. Raises ValueError for
        rows that are forgotten."""
        last = min(last, self.bottom)
        if first < self.top:
            raise ValueError(f'the rows from {first} to {self.top} are not held any more')
        pieces, begun = self.taken(first), self.end
        while self.end < last:
            strip = next(self.strips)
            self.end += strip.shape[2]
            if self.end > first:
                pieces.append(strip)
            else:
                self.top = self.end
            del strip
            done(min(1, (self.end - begun) / (last - begun)))
        self.held = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        return Known(self.held, self.top, self.left)

    def taken(self, first: int) -> list[torch.Tensor]:
        """What is held of the rows from `first` on; nothing is held afterwards."""
        held, self.held = self.held, None
        if held is None or first >= self.end:
            self.top = self.end
            return []
        above, self.top = first - self.top, first
        return [held[:, :, above:].clone() if above else held]


def apply_stage(strips: Iterator[Maps], stage: Stage, height: int, rows: int) -> Iterator[Maps]:
    """The stage's maps, in strips of about `rows` rows, for `strips` of the maps before it. `height`: the image's."""
    held: list[torch.Tensor] = []
    top = end = done = 0  # the first row held, the one after the last row held, and the next row to be passed on
    while done < height:
        new = next(strips)
        end += new[0].shape[2]
        held = [torch.cat(maps, dim=2) for maps in zip(held, new)] if top < end - new[0].shape[2] else list(new)
        del new
        known = height if end == height else max(end - stage.margin, done)
        count = max(1, round((known - done) / rows))
        ends = [done + (known - done) * k // count for k in range(1, count + 1)]
        for last in ends if known > done else ():
            first, done = done, last
            above, below = max(first - stage.margin, 0), min(last + stage.margin, end)
            made = stage.step(*(maps[:, :, above - top : below - top] for maps in held))
            result = [tuple(maps[:, :, first - above : last - above] for maps in made)]
            del made
            if done == known:
                again = max(done - stage.margin, 0)
                held = [] if done == height else [maps[:, :, again - top :].clone() for maps in held]
                top = again
            yield result.pop()  # popped, so that it can be freed as soon as the next stage has used it


def rows_per_strip(stages: Sequence[Stage], width: int, pixels: int, floats: float) -> int:
    """How many rows a strip of an image of `width` has: enough for `pixels` pixels, or fewer if `encode` would hold
    more than `floats` numbers, but never so few that much would be computed twice."""
    most = (floats / width - floats_per_column(stages, 0)) / max(stage.floats for stage in stages)
    return max(MARGINS * max(stage.margin for stage in stages), min(-(-pixels // width), int(most)))


def floats_per_column(stages: Sequence[Stage], rows: int) -> int:
    """About how many numbers `encode` holds for each column of the image, besides the image and the result."""
    between = sum(stage.margin * stage.floats for stage in stages)  # half of a stage's numbers are its input
    return between + max((rows + 2 * stage.margin) * stage.floats for stage in stages)
