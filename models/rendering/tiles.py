"""Tiles of an image: where they lie, their margins, and how large they may be."""

import math
from collections.abc import Callable

Region = tuple[int, int, int, int]  # of pixels or blocks: top, bottom, left, right, the latter of each pair exclusive

SMALLEST_TILE = 16  # LR pixels to a side; below it, running out of memory is final


def tiles(region: Region, high: int, wide: int) -> list[Region]:
    """`region` in tiles, each at most `high` and `wide`, row by row."""
    top, bottom, left, right = region
    return [
        (y, min(y + high, bottom), x, min(x + wide, right))
        for y in range(top, bottom, high)
        for x in range(left, right, wide)
    ]


def cut_in_four(region: Region) -> list[Region]:
    """The quarters of a tile, or none if it is too small to be cut."""
    top, bottom, left, right = region
    if max(bottom - top, right - left) <= SMALLEST_TILE:
        return []
    high, wide = -(-(bottom - top) // 2), -(-(right - left) // 2)
    return tiles(region, high, wide)


def with_margin(first: int, last: int, margin: int, window: int) -> slice:
    """The LR pixels `first` to `last - 1` of an axis with a margin on both sides, which starts and ends at multiples of
    `window` (or with the image, whose end a slice may exceed).

    It starts at an even pixel, because a point between two LR pixels belongs to the even one (`grid.nearest_index`).
    """
    step = math.lcm(window, 2)
    return slice(max(first - margin, 0) // step * step, -(-(last + margin) // window) * window)


def largest(height: int, width: int, margin: int, fits: Callable[[int, int], bool]) -> tuple[int, int]:
    """Height and width of the inner part of tiles of `height x width` pixels: among equal tiles that `fits(h, w)` takes
    with their margins, those that have the fewest pixels in all. `SMALLEST_TILE` where none fits."""
    best, fewest = (SMALLEST_TILE, SMALLEST_TILE), math.inf
    for wide in dict.fromkeys(-(-width // count) for count in range(1, max(2, width // SMALLEST_TILE))):
        w = min(wide + 2 * margin, width)
        if not fits(min(1 + 2 * margin, height), w):
            continue
        low, high = 1, height
        while low < high:  # the highest that fits
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(min(middle + 2 * margin, height), w) else (low, middle - 1)
        rows, columns = -(-height // low), -(-width // wide)
        pixels = (height + 2 * margin * (rows - 1)) * (width + 2 * margin * (columns - 1))
        if pixels < fewest:
            best, fewest = (-(-height // rows), wide), pixels
    return best
