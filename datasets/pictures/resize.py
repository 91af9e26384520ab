"""Resizing of 8-bit images, exactly as MATLAB and as PIL do it."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from utils import cubic

FILTERS = {  # by which `resized` resizes; PIL's widen with the factor (antialiasing), as MATLAB's does
    'bicubic': Image.Resampling.BICUBIC,
    'bilinear': Image.Resampling.BILINEAR,
    'lanczos': Image.Resampling.LANCZOS,
    'area': Image.Resampling.BOX,
    'hamming': Image.Resampling.HAMMING,
    'matlab': None,
}


def matlab_taps(n_in: int, n_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights and indices, both `(n_out, taps)`, that resize an axis by `scale` (output / input).

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

    `image (H, W)` or `(H, W, C)` in 0..255; `size` (h, w); `scale` (sy, sx), output / input. With `to_uint8` the values
    are rounded half up and clipped after each pass, as MATLAB does with a uint8 image; otherwise the result is float64,
    as with a double image.
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
    """PIL's antialiased bicubic, or another of its filters, of a uint8 image `(H, W)` or `(H, W, 3)` to `size`
    (h, w)."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample))


def resized(image: np.ndarray, size: Sequence[int], filter: str) -> np.ndarray:
    """A uint8 image `(H, W)` or `(H, W, 3)` resized to `size` (h, w) by one of `FILTERS`: PIL's, of which 'area' is the
    mean of an area and 'lanczos' has 3 lobes, or MATLAB's bicubic."""
    resample = FILTERS[filter]
    if resample is None:
        return matlab_resize(image, size, [n / m for n, m in zip(size, image.shape)])
    return pil_resize(image, size, resample)
