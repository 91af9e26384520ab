"""The weights that come with the project: for clean images, for photographs as they are, and blends of the two."""

from pathlib import Path
from typing import Any

import torch

from models.weights.files import load
from models.weights.surgery import average
from utils import error_prefix

MODELZOO = Path(__file__).resolve().parents[2] / 'modelzoo'
LIGHT, PHOTO = MODELZOO / 'EDSR_light_MSIT.pth', MODELZOO / 'photo_MSIT.pth'
BUNDLED = {'light': LIGHT, 'photo': PHOTO}  # by the names that `demo.py -model` takes


def blended(clean: float, light: Path = LIGHT, photo: Path = PHOTO) -> Any:
    """The model of `light` for `clean` 0, of `photo` for 1, and between them the one with interpolated parameters.

    Source: network interpolation, ESRGAN (arXiv 1809.00219, section 3.4). Raises UserError if the two are of different
    architectures, or one of them cannot be read.
    """
    if clean in (0, 1):
        return load(photo if clean else light)
    ends = [load(path, torch.float64) for path in (light, photo)]
    with error_prefix(f'{light} and {photo}'):
        return average(ends, [1 - clean, clean]).float()
