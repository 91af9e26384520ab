"""Tiles of an image: their positions, margins and sizes."""

import math
from collections.abc import Callable

Region = tuple[int, int, int, int]  # top, bottom, left, right, in pixels or blocks; bottom and right are exclusive

SMALLEST_TILE = 16  # LR pixels on each side; a tile this small that does not fit into memory is an error


def tiles(region: Region, high: int, wide: int) -> list[Region]:
    """Divide `region` into tiles of at most `high x wide`, listed row by row."""
    top, bottom, left, right = region
    return [
        (y, min(y + high, bottom), x, min(x + wide, right))
        for y in range(top, bottom, high)
        for x in range(left, right, wide)
    ]


def cut_in_four(region: Region) -> list[Region]:
    """The four quarters of a tile, or an empty list if it is too small to be cut."""
    top, bottom, left, right = region
    if max(bottom - top, right - left) <= SMALLEST_TILE:
        return []
    high, wide = -(-(bottom - top) // 2), -(-(right - left) // 2)
    return tiles(region, high, wide)


def with_margin(first: int, last: int, margin: int, window: int) -> slice:
    """The LR pixels `first` to `last - 1` of an axis with a margin on both sides, as a slice that starts and ends at
    multiples of `window`. It may go beyond the image's end.

    It starts at an even pixel, because a point between two LR pixels belongs to the even one (`grid.nearest_index`).
    """
    step = math.lcm(window, 2)
    return slice(max(first - margin, 0) // step * step, -(-(last + margin) // window) * window)


def largest_tile(height: int, width: int, margin: int, fits: Callable[[int, int], bool]) -> tuple[int, int]:
    """Height and width, without margins, of the tiles into which to divide `height x width` pixels.

    `fits(h, w)` says whether a tile of that size, margins included, fits into memory. Of all divisions into equal tiles
    that fit, the one with the fewest pixels in total is chosen; if none fits, tiles of `SMALLEST_TILE`.
    """
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
