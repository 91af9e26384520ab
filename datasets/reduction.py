"""How LR images are made: by MATLAB's or PIL's bicubic, as the evaluation protocol prescribes.

The result reproduces LR images that were published with benchmark papers, to the last bit.
"""

import math
from collections.abc import Sequence

import numpy as np

from datasets.pictures.resize import matlab_resize, pil_resize
from datasets.pictures.sizes import Scale, scale_pair
from utils import UserError


def reduced(hr: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """The LR image of `hr` by the evaluation protocol, and `hr` cropped to what the LR image shows.

    `hr (H, W)` or `(H, W, 3)` uint8; `scale` a number, or (sy, sx). At x2, x3 and x4 the image is cropped to a multiple
    of the scale and reduced by MATLAB's bicubic. At any other scale, an axis of n HR pixels has `m = floor(n / s)` LR
    pixels; it is cropped to `round(m s)` HR pixels and reduced by PIL's bicubic.
    Returns `(lr, hr)`, uint8. Raises UserError for a scale that is not positive and finite or leaves no LR pixel.
    """
    scales = scale_pair(scale)
    lr_size, hr_size = sizes(hr.shape[:2], scales)
    hr = hr[: hr_size[0], : hr_size[1]]
    if by_matlab(scales):
        return matlab_resize(hr, lr_size, (1 / scales[0], 1 / scales[1])), hr
    return pil_resize(hr, lr_size), hr


def sizes(size: Sequence[int], scale: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes of the LR image and of the cropped HR image, for an HR image of `size` (h, w) at `scale` (sy, sx).
    Raises UserError if no LR pixel is left."""
    lr_size = tuple(math.floor(n / s + 1e-9) for n, s in zip(size, scale))
    if min(lr_size) < 1:
        raise UserError(f'an image of {size[0]} x {size[1]} pixels is too small for scale {scale[0]:g} x {scale[1]:g}')
    return lr_size, tuple(round(n * s) for n, s in zip(lr_size, scale))


def whole_scale(lr_size: Sequence[int], hr_size: Sequence[int]) -> int | None:
    """The whole scale between an LR and an HR image of these sizes (h, w), or None if there is none. The HR image may
    have less than an LR pixel more along each axis."""
    sides = list(zip(hr_size, lr_size))
    scale = hr_size[0] // lr_size[0]
    fits = scale >= 1 and all(n_hr // n_lr == scale and n_hr % n_lr < scale for n_hr, n_lr in sides)
    return scale if fits else None


def by_matlab(scale: Sequence[float]) -> bool:
    """Whether the protocol uses MATLAB's bicubic, rather than PIL's, at a scale (sy, sx)."""
    return scale[0] == scale[1] and scale[0] in (2, 3, 4)
