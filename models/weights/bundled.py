"""The weights that come with the project: for clean images, for ordinary photographs, and blends of the two."""

from pathlib import Path
from typing import Any

import torch

from models.weights.files import load
from models.weights.surgery import average
from utils import error_prefix

MODELZOO = Path(__file__).resolve().parents[2] / 'modelzoo'
LIGHT, PHOTO = MODELZOO / 'EDSR_light_MSIT.pth', MODELZOO / 'photo_MSIT.pth'
BUNDLED = {'light': LIGHT, 'photo': PHOTO}  # by their names for `demo.py -model`


def blended(clean: float, light: Path = LIGHT, photo: Path = PHOTO) -> Any:
    """A model whose parameters are interpolated between those of the two files: `light` at `clean` 0, `photo` at 1.

    Source: network interpolation, ESRGAN (arXiv 1809.00219, section 3.4). Raises UserError if the two architectures
    differ or a file cannot be read.
    """
    if clean in (0, 1):
        return load(photo if clean else light)
    ends = [load(path, torch.float64) for path in (light, photo)]
    with error_prefix(f'{light} and {photo}'):
        return average(ends, [1 - clean, clean]).float().requires_grad_(False)
