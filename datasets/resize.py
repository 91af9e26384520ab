"""How LR images are made: by MATLAB's or PIL's bicubic, as the evaluation protocol prescribes.

The MATLAB rule reproduces LR images that were published with benchmark papers without a differing pixel.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from utils import UserError, cubic

Scale = float | Sequence[float]  # one number, or (sy, sx)
FILTERS = {  # that `reduced` takes; PIL's widen with the factor (antialiasing)
    'bicubic': Image.Resampling.BICUBIC,
    'area': Image.Resampling.BOX,
    'lanczos': Image.Resampling.LANCZOS,
    'matlab': None,
}


def matlab_taps(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights and indices, both `(n_out, taps)`, that resize an axis by `scale` = output / input.

    When reducing, the kernel is widened by 1/scale (antialiasing). The weights of an output pixel sum to 1, and taps
    beyond the border read the border pixel.
    """
    stretch = max(1 / scale, 1)
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    index = np.floor(centre - 2 * stretch)[:, None] + np.arange(math.ceil(4 * stretch) + 2)
    weight = cubic((centre[:, None] - index) / stretch)
    return weight / weight.sum(axis=1, keepdims=True), index.clip(0, n_in - 1).astype(np.int64)


def matlab_resize(image: np.ndarray, size: Sequence[int], scale: Sequence[float], to_uint8: bool = True) -> np.ndarray:
    """MATLAB's `imresize(image, scale, 'bicubic')`: rows first, then columns.

    `image (H, W)` or `(H, W, C)`, 0..255; `size` (h, w); `scale` (sy, sx), output / input. With `to_uint8` the values
    are rounded half up and clipped after each pass, as MATLAB does for a uint8 image; otherwise the result is float64,
    as for a double image.
    """
    for axis in (0, 1):
        weight, index = matlab_taps(image.shape[axis], size[axis], scale[axis])
        taps = np.take(image.astype(np.float64), index, axis=axis)  # the axis becomes two: output pixel, tap
        weight = weight.reshape((1,) * axis + weight.shape + (1,) * (image.ndim - 1 - axis))
        image = (taps * weight).sum(axis=axis + 1)
        if to_uint8:
            image = np.floor(image + 0.5).clip(0, 255).astype(np.uint8)
    return image


def pil_resize(image: np.ndarray, size: Sequence[int], resample: int = Image.Resampling.BICUBIC) -> np.ndarray:
    """PIL's antialiased bicubic, or another one of its filters, of a uint8 image `(H, W)` or `(H, W, 3)` to `size`
    (h, w)."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample))


def reduced(image: np.ndarray, size: Sequence[int], filter: str) -> np.ndarray:
    """A uint8 image `(H, W)` or `(H, W, 3)` reduced to `size` (h, w) by one of `FILTERS`: PIL's bicubic, mean of an
    area or Lanczos (of 3 lobes), or MATLAB's bicubic."""
    resample = FILTERS[filter]
    if resample is None:
        return matlab_resize(image, size, [n / m for n, m in zip(size, image.shape)])
    return pil_resize(image, size, resample)


def degrade(hr: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """The LR image of `hr` by the evaluation protocol, and the part of `hr` that it shows.

    `hr (H, W)` or `(H, W, 3)` uint8; `scale` a number, or (sy, sx). At x2, x3 and x4 the image is cropped to a multiple
    of the scale and reduced by MATLAB's bicubic. At any other scale, an axis of n HR pixels has `m = floor(n / s)` LR
    pixels; it is cropped to `round(m s)` HR pixels and reduced by PIL's bicubic.
    Returns `(lr, hr)`, uint8.
    Raises UserError for a scale that is not positive and finite or leaves no LR pixel.
    """
    scales = scale_pair(scale)
    lr_size, hr_size = sizes(hr.shape[:2], scales)
    hr = hr[: hr_size[0], : hr_size[1]]
    if by_matlab(scales):
        return matlab_resize(hr, lr_size, (1 / scales[0], 1 / scales[1])), hr
    return pil_resize(hr, lr_size), hr


def sizes(size: Sequence[int], scale: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For an HR image of `size` (h, w) at `scale` (sy, sx): the size of the LR image, and that of the part of the HR
    image that it shows. Raises UserError if no LR pixel is left."""
    lr_size = tuple(math.floor(n / s + 1e-9) for n, s in zip(size, scale))
    if min(lr_size) < 1:
        raise UserError(f'an image of {size[0]} x {size[1]} pixels is too small for scale {scale[0]:g} x {scale[1]:g}')
    return lr_size, tuple(round(n * s) for n, s in zip(lr_size, scale))


def whole_scale(lr_size: Sequence[int], hr_size: Sequence[int]) -> int | None:
    """The whole scale of an LR and an HR image of these sizes (h, w), where less than an LR pixel of the HR image may
    be left over; None if they have none."""
    sides = list(zip(hr_size, lr_size))
    scale = hr_size[0] // lr_size[0]
    fits = scale >= 1 and all(n_hr // n_lr == scale and n_hr % n_lr < scale for n_hr, n_lr in sides)
    return scale if fits else None


def by_matlab(scale: Sequence[float]) -> bool:
    """Whether the protocol uses MATLAB's bicubic at a scale (sy, sx), and not PIL's."""
    return scale[0] == scale[1] and scale[0] in (2, 3, 4)


def scale_pair(scale: Any) -> tuple[float, ...]:
    """The (sy, sx) of a number or a pair, which may be text. Raises UserError if they are not positive and finite."""
    try:
        pair = tuple(float(s) for s in (scale if isinstance(scale, (list, tuple)) else (scale, scale)))
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2 or not all(math.isfinite(s) and s > 0 for s in pair):
        raise UserError(f'a scale is a positive number, or two of them (height, width), not {scale!r}')
    return pair


def parse_scale(text: str) -> tuple[float, ...]:
    """(sy, sx) of '3.3' or '2x' (both), or of '2,3.5' or '2x3.5': height, width. Raises UserError as `scale_pair` does.

    For all programs: what people type.
    """
    parts = [part.strip() for part in re.split('[,x×]', text.lower())]
    if parts[1:] == [''] and ',' not in text:
        parts = parts[:1]
    try:
        return scale_pair(parts if parts[1:] else parts[0])
    except UserError as error:
        raise UserError(
            f'a scale is a positive number, or two of them as 2x3.5 or 2,3.5 (height, width), not {text!r}'
        ) from error
