"""Encoding in strips: an encoder that is a chain of stages reads the image a few rows at a time.

Each stage passes on the rows that it has finished and keeps only those that later rows depend on. So hardly any row is
computed twice, and besides the result only a few rows of each stage are in memory. Source: Alwani et al., *Fused-Layer
CNN Accelerators* (MICRO 2016), where a chain of convolutions is computed so in hardware.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

Maps = tuple[torch.Tensor, ...]  # of the same height and width, each (B, channels, H, W)

MARGINS = 32  # the least rows of a strip, in margins of a stage: at most 2 in 32 are then computed twice


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


def encode(stages: Sequence[Stage], image: torch.Tensor, rows: int, done: Callable[[int], Any]) -> torch.Tensor:
    """The last map `(B, out_dim, H, W)` of the last stage for `image (B, 3, H, W)`, computed in strips of about `rows`
    rows; `done(n)` is called with the number of rows completed so far."""
    height = image.shape[2]
    strips: Iterator[Maps] = ((image[:, :, top : top + rows],) for top in range(0, height, rows))
    for stage in stages:
        strips = apply_stage(strips, stage, height, rows)
    first = next(strips)[-1]
    if first.shape[2] == height:
        done(height)
        return first
    shape = *first.shape[:2], height, first.shape[3]
    last = torch.channels_last if first.stride(1) == 1 else torch.contiguous_format
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=last)
    top = 0
    for strip in itertools.chain([(first,)], strips):
        bottom = top + strip[-1].shape[2]
        out[:, :, top:bottom] = strip[-1]
        del strip
        top = bottom
        done(top)
    return out


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
