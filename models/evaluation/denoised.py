"""A model preceded by a denoiser: the obvious remedy for weights that have been trained on clean images only."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from utils import UserError

PREFIX = 'nlmeans+'  # before a model's name


class Denoised(nn.Module):
    """`model`, applied to LR images that scikit-image has denoised by non-local means, with the noise level that it
    estimates itself.

    Source: Buades et al., A non-local algorithm for image denoising, CVPR 2005. `render` has the model's arguments.
    Raises UserError if scikit-image is not installed.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        restoration()

    def render(self, lr: torch.Tensor, size: Sequence[int], **options: Any) -> torch.Tensor:
        return self.model.render(torch.stack([denoised(image) for image in lr]), size, **options)


def denoised(image: torch.Tensor) -> torch.Tensor:
    """An image `(3, h, w)` in [0, 1], denoised by non-local means."""
    skimage = restoration()
    array = image.permute(1, 2, 0).cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # for an image without detail, whose estimate is NaN
        sigma = float(skimage.estimate_sigma(array, average_sigmas=True, channel_axis=-1))
    clean = skimage.denoise_nl_means(array, 5, 6, h=0.8 * sigma, sigma=sigma, channel_axis=-1) if sigma > 0 else array
    return torch.from_numpy(clean).permute(2, 0, 1).to(image)


def restoration() -> Any:
    """scikit-image's module of denoisers. Raises UserError if it, or PyWavelets, which it needs, is not installed."""
    try:
        import pywt  # noqa: F401
        from skimage import restoration as module
    except ImportError as error:
        raise UserError(f'{PREFIX}MODEL needs two packages: pip install scikit-image PyWavelets') from error
    return module
