"""Estimate how long rendering will take, by rendering a small part of the image."""

import sys
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

SIDE = 64  # side of the part that is rendered for the estimate, in LR pixels
WORTH = 50  # smaller images, in such parts, are done too soon to be worth an estimate
LONG = 10  # seconds; shorter work is not announced


def announce(
    what: object, render: Callable[..., torch.Tensor], lr: torch.Tensor, size: Sequence[int], times: float = 1
) -> None:
    """Say on stderr about how long `what` will take, unless it is short.

    `what` consists of `times` calls of `render(lr, size)` with images of the size of `lr (..., H, W)`.
    """
    if times * lr.shape[-2] * lr.shape[-1] <= WORTH * SIDE**2:
        return
    seconds = times * expected_seconds(render, lr, size)
    if seconds >= LONG:
        tqdm.write(f'{what}: takes about {in_words(seconds)}', file=sys.stderr)
        sys.stderr.flush()


def expected_seconds(render: Callable[..., torch.Tensor], lr: torch.Tensor, size: Sequence[int]) -> float:
    """About how many seconds `render(lr, size)` will take.

    The middle of `lr (..., H, W)` is rendered twice at the same scale, and the second time counts, as the first call
    takes longer.
    """
    whole = lr.shape[-2:]
    y, x = (slice((n - min(n, SIDE)) // 2, (n + min(n, SIDE)) // 2) for n in whole)
    part = lr[..., y, x]
    small = [max(1, round(n * of / all_of)) for n, of, all_of in zip(size, part.shape[-2:], whole)]
    for _ in range(2):
        began = time.perf_counter()
        render(part, small).cpu()  # waits for the device
        seconds = time.perf_counter() - began
    return seconds * whole[0] * whole[1] / (part.shape[-2] * part.shape[-1])


def in_words(seconds: float) -> str:
    """'40 s', '3 min' or '2.5 h'."""
    if seconds < 90:
        return f'{round(seconds, -1):.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 90 * 60 else f'{seconds / 3600:.1f} h'
