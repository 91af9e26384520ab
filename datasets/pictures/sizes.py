"""Scales and output sizes as people state them.

Each `by_...` reads the text of an option and returns a function from the input's (h, w) to the output's, not yet
rounded. It raises `argparse.ArgumentTypeError` for text that makes no sense.
"""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence

from utils import UserError

OUTPUT_LIMIT = 10**9  # pixels; more is taken for a typing mistake
Size = Callable[[tuple[int, ...]], tuple[float, ...]]
Scale = float | Sequence[float]  # one number, or (sy, sx)


def scale_pair(scale: object) -> tuple[float, ...]:
    """A number or a pair, which may be text, as (sy, sx). Raises UserError if they are not positive and finite."""
    try:
        pair = tuple(float(s) for s in (scale if isinstance(scale, (list, tuple)) else (scale, scale)))
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2 or not all(math.isfinite(s) and s > 0 for s in pair):
        raise UserError(f'a scale is a positive number, or two of them (height, width), not {scale!r}')
    return pair


def parse_scale(text: str) -> tuple[float, ...]:
    """The (sy, sx) that people type: '3.3', '2x' or 'x2' for both, '2,3.5' or '2x3.5' for height and width.

    Raises UserError as `scale_pair` does.
    """
    parts = [part.strip() for part in re.split('[,x×]', text.lower())]
    if len(parts) == 2 and '' in parts and ',' not in text:
        parts.remove('')
    try:
        return scale_pair(parts if parts[1:] else parts[0])
    except UserError as error:
        raise UserError(
            f'a scale is a positive number, or two of them as 2x3.5 or 2,3.5 (height, width), not {text!r}'
        ) from error


def output_size(input_size: tuple[int, ...], wanted: Size) -> tuple[int, ...]:
    """The output's (h, w) in whole pixels, for an image of `input_size` (h, w); `wanted` is the result of a `by_...`.

    Raises UserError for an empty size and for more than `OUTPUT_LIMIT` pixels.
    """
    size = wanted(input_size)
    if math.prod(size) > OUTPUT_LIMIT:
        raise UserError(f'the output would have more pixels than the limit of {OUTPUT_LIMIT:,}')
    if min(map(round, size)) < 1:
        raise UserError(f'nothing would be left of {input_size[0]} x {input_size[1]} pixels')
    return tuple(map(round, size))


def by_scale(text: str) -> Size:
    """'3.7', or '2,3.5' for (height, width), as in `parse_scale`."""
    try:
        y, x = parse_scale(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from error
    return lambda size: (size[0] * y, size[1] * x)


def by_resolution(text: str) -> Size:
    """'720,1280' for height and width; '720,' or ',1280' for one side, where the other keeps the ratio."""
    sides = re.fullmatch(r'\s*(\d{1,9})\s*[x×*:/ ]\s*(\d{1,9})\s*', text, re.ASCII | re.IGNORECASE)
    if sides:
        first, second = sides.groups()
        raise ArgumentTypeError(
            f'{text!r} does not say which is which: write the height, a comma, the width; {second},{first} is an image '
            f'{first} wide and {second} high'
        )
    stated = [value.strip() for value in text.split(',')]
    try:
        height, width = (int(value or 0) for value in stated)
        good = any(stated) and all(side > 0 for side, value in zip((height, width), stated) if value)
    except ValueError:
        good = False
    if not good:
        raise ArgumentTypeError(f'{text!r} is not a height and a width in pixels, as 720,1280, or one of them, as 720,')
    if not height:
        return lambda size: (in_proportion(size[0], width, size[1]), width)
    if not width:
        return lambda size: (height, in_proportion(size[1], height, size[0]))
    return lambda size: (height, width)


def by_longest(text: str) -> Size:
    """'3840': the longest side."""
    try:
        longest = int(text)
    except ValueError:
        longest = 0
    if longest < 1:
        raise ArgumentTypeError(f'{text!r} is not a whole number of pixels, as 3840')
    return lambda size: tuple(in_proportion(side, longest, max(size)) for side in size)


def by_megapixels(text: str) -> Size:
    """'24': the number of pixels, in millions."""
    try:
        pixels = float(text) * 1e6
    except ValueError:
        pixels = math.nan
    if not 0 < pixels < math.inf:
        raise ArgumentTypeError(f'{text!r} is not a positive number, as 24')
    return lambda size: tuple(max(1, side * math.sqrt(pixels / math.prod(size))) for side in size)


def in_proportion(side: int, numerator: int, denominator: int) -> int:
    """`side * numerator / denominator`, rounded, at least 1; whole numbers of any length."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))
