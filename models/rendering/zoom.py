"""A zoom into a point: frames of one size at scales that grow evenly; only what they show is rendered."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

FINE = 9  # steps to a frame's pixel in which the view moves; odd, so that one of them is the pixel's centre


def zoom(
    render: Callable[..., torch.Tensor],
    lr: torch.Tensor,
    frame: Sequence[int],
    point: Sequence[int],
    depth: float,
    count: int,
) -> Iterator[torch.Tensor]:
    """Frames of `lr (3, H, W)`, `count` images `(3, h, w)`, `frame = (h, w)`, made by `render(lr, size, part)`.

    The first shows the whole image, or as much as fits at x1; the last is `depth` times closer. `point` (y, x), an LR
    pixel, is in the middle as soon as the frame, which stays inside the image, allows it.
    """
    first = first_scale(lr.shape[-2:], frame)
    for t in range(count):
        scale = first * depth ** (t / (count - 1))
        size, part = view(lr.shape[-2:], frame, point, scale)
        yield render(lr, size, part)


def first_scale(lr_size: Sequence[int], frame: Sequence[int]) -> float:
    """The scale at which a `frame` (h, w) shows all of an image of `lr_size`, or x1 if that would reduce it."""
    return max(1, *(n / n_lr for n, n_lr in zip(frame, lr_size)))


def view(
    lr_size: Sequence[int], frame: Sequence[int], point: Sequence[int], scale: float
) -> tuple[list[int], list[range]]:
    """The arguments of `render` for a frame: the size of the whole image, in `FINE` times finer pixels, and the part
    of it."""
    size = [max(FINE * n, round(FINE * n_lr * scale)) for n, n_lr in zip(frame, lr_size)]
    part = []
    for n, n_lr, fine, at in zip(frame, lr_size, size, point):
        start = math.floor((at + 0.5) / n_lr * fine - FINE * n / 2 + 0.5)
        start = min(max(start, 0), fine - FINE * n)
        part.append(range(start + FINE // 2, start + FINE * n, FINE))
    return size, part
