"""How LR images are made: MATLAB's bicubic and PIL's, and which of them the protocol takes.

The MATLAB rule was checked against LR images published with benchmark papers, without a differing pixel.
"""

import math

import numpy as np
from PIL import Image

from utils import UserError


def cubic(x):
    """The cubic convolution kernel with a = -1/2 (Keys, 1981)."""
    x = np.abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))


def matlab_taps(n_in, n_out, scale):
    """Weights and indices, both `(n_out, taps)`, that resize an axis by `scale` = output / input.

    When reducing, the kernel is widened by 1/scale (antialiasing); weights sum to 1; taps outside are clamped to the
    border.
    """
    stretch = max(1 / scale, 1)
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    index = np.floor(centre - 2 * stretch)[:, None] + np.arange(math.ceil(4 * stretch) + 2)
    weight = cubic((centre[:, None] - index) / stretch)
    return weight / weight.sum(axis=1, keepdims=True), index.clip(0, n_in - 1).astype(np.int64)


def matlab_resize(image, size, scale, to_uint8=True):
    """MATLAB's `imresize(image, scale, 'bicubic')`: rows first, then columns.

    `image (H, W)` or `(H, W, C)`, 0..255; `size` (h, w); `scale` (sy, sx), output / input. With `to_uint8` the values
    are rounded half up and clipped after each pass, as MATLAB does with a uint8 image; otherwise the result stays
    float64, as with a double image.
    """
    for axis in (0, 1):
        weight, index = matlab_taps(image.shape[axis], size[axis], scale[axis])
        taps = np.take(image.astype(np.float64), index, axis=axis)  # the axis becomes two: out, tap
        weight = weight.reshape((1,) * axis + weight.shape + (1,) * (image.ndim - 1 - axis))
        image = (taps * weight).sum(axis=axis + 1)
        if to_uint8:
            image = np.floor(image + 0.5).clip(0, 255).astype(np.uint8)
    return image


def pil_resize(image, size):
    """PIL's antialiased bicubic of a uint8 image `(H, W)` or `(H, W, 3)` to `size` (h, w)."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def degrade(hr, scale):
    """The LR image of `hr` by the evaluation protocol, and the part of `hr` that it shows.

    `hr (H, W)` or `(H, W, 3)` uint8; `scale` a number, or (sy, sx). At x2, x3 and x4 MATLAB's bicubic of the image
    cropped to a multiple; at any other scale PIL's, with `floor(n / s)` LR pixels of `round(lr s)` HR pixels.
    Returns `(lr, hr)`, uint8.
    Raises UserError for a scale that is not positive and finite or leaves no LR pixel.
    """
    scales = scale_pair(scale)
    lr_size, hr_size = sizes(hr.shape[:2], scales)
    hr = hr[: hr_size[0], : hr_size[1]]
    if by_matlab(scales):
        return matlab_resize(hr, lr_size, (1 / scales[0], 1 / scales[1])), hr
    return pil_resize(hr, lr_size), hr


def sizes(size, scale):
    """The protocol's sizes at `scale` (sy, sx) for an HR image of `size` (h, w): of the LR image, and of the part of
    the HR image that it shows. Raises UserError if no LR pixel is left."""
    lr_size = tuple(math.floor(n / s + 1e-9) for n, s in zip(size, scale))
    if min(lr_size) < 1:
        raise UserError(f'an image of {size[0]} x {size[1]} pixels is too small for scale {scale[0]:g} x {scale[1]:g}')
    return lr_size, tuple(round(n * s) for n, s in zip(lr_size, scale))


def by_matlab(scale):
    """Whether the protocol makes the LR images of a scale (sy, sx) by MATLAB's bicubic; PIL's otherwise."""
    return scale[0] == scale[1] and scale[0] in (2, 3, 4)


def scale_pair(scale):
    """(sy, sx) of a scale given as a number or a pair. Raises UserError if it is not positive and finite."""
    try:
        pair = tuple(float(s) for s in (scale if isinstance(scale, (list, tuple)) else (scale, scale)))
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2 or not all(math.isfinite(s) and s > 0 for s in pair):
        raise UserError(f'a scale is a positive number, or two of them (height, width), not {scale!r}')
    return pair


def parse_scale(text):
    """(sy, sx) of '3.3', or of '2x3.5': height x width. Raises UserError as `scale_pair` does."""
    parts = text.split('x')
    try:
        return scale_pair(parts if parts[1:] else text)
    except UserError as error:
        raise UserError(
            f'a scale is a positive number, or two of them as 2x3.5 (height x width), not {text!r}'
        ) from error
