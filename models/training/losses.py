"""The losses that a stage of training may name, alone or as a weighted sum. A new one is added by registering it."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from utils import Registry, UserError, suggestion

losses = Registry('loss')


class Loss(nn.Module):
    """The difference between colours and targets in [0, 1], a scalar, the mean over all of them.

    `forward(colour, target)`: both `(B, ..., 3)`, or with `of_images` `(B, 3, h, w)`, which the draw 'patch' gives.
    """

    of_images = False


@losses.register('l1')
class L1(Loss):
    """The mean absolute difference."""

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(colour, target)


@losses.register('rmse')
class RMSE(Loss):
    """The mean over patches of the root of a patch's mean squared difference.

    It lies between L1 and PSNR's logarithm (HINet, arXiv 2105.06086): within a patch, uncertain detail comes out as the
    mean of what is possible, and no patch outweighs the others. Differences below 1e-4 hardly count.
    """

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((colour - target).square().flatten(1).mean(dim=1) + 1e-8).sqrt().mean()


@losses.register('charbonnier')
class Charbonnier(Loss):
    """`sqrt(d^2 + 1e-6)`: L1 that is smooth at 0. Source: LapSRN (arXiv 1704.03915, section 3.3)."""

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((colour - target).square() + 1e-6).sqrt().mean()


@losses.register('fft')
class Fourier(Loss):
    """Half of the mean difference in amplitude and half of that in phase, in radians from 0 to pi, of the discrete
    Fourier transform (orthonormal) of each channel. Source: Fuoli et al., arXiv 2106.00783, section 3.2.

    A phase tells nothing where either amplitude is below 1e-6; none is compared there.
    """

    of_images = True

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        spectrum, aim = (torch.fft.rfft2(images.float(), norm='ortho') for images in (colour, target))
        amplitude, aimed = spectrum.abs(), aim.abs()
        turned = torch.where(torch.minimum(amplitude, aimed) > 1e-6, spectrum * aim.conj(), 1)
        return ((amplitude - aimed).abs().mean() + turned.angle().abs().mean()) / 2


@losses.register('lpips')
class LPIPS(Loss):
    """The learned perceptual distance of the package `lpips` with VGG. Source: Zhang et al., arXiv 1801.03924.

    Raises UserError if the package or the weights of VGG are not available.
    """

    of_images = True

    def __init__(self) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise UserError('the loss lpips needs the package lpips: pip install lpips') from error
        try:
            self.net = lpips.LPIPS(net='vgg', verbose=False).eval().requires_grad_(False)
        except (OSError, RuntimeError) as error:  # what downloading raises
            raise UserError(f'the loss lpips needs the weights of VGG, which could not be obtained: {error}') from error

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.net(colour * 2 - 1, target * 2 - 1).mean()


class WeightedSum(nn.Module):
    """Losses with weights, as a config names them: one name, or names to weights.

    `forward(colour, target)` of queries, `(B, ..., 3)`, gives each loss times its weight; their sum is to be minimised.
    """

    def __init__(self, named: str | Mapping[str, float]):
        super().__init__()
        self.weights = loss_weights(named)
        self.parts = nn.ModuleDict({name: losses.entries[name]() for name in self.weights})

    def forward(self, colour: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {}
        for name, part in self.parts.items():
            of_images = getattr(part, 'of_images', False)
            pair = (images(colour), images(target)) if of_images else (colour, target)
            values[name] = self.weights[name] * part(*pair)
        return values


def images(queries: torch.Tensor) -> torch.Tensor:
    """Queries of a square patch, `(B, side^2, 3)`, row by row, as images: `(B, 3, side, side)`."""
    side = math.isqrt(queries.shape[1])
    return queries.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def loss_weights(named: str | Mapping[str, float]) -> dict[str, float]:
    """Names and weights of the losses that a config names. Raises UserError for what is none."""
    given = {named: 1} if isinstance(named, str) else named
    if not isinstance(given, Mapping) or not given:
        raise UserError(
            f'loss is a name or a mapping of names to weights, not {named!r}{suggestion(named, losses.entries)}'
        )
    for name, weight in given.items():
        if name not in losses.entries:
            raise UserError(f'unknown loss {name!r}{suggestion(name, losses.entries)}')
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            raise UserError(f'the weight of the loss {name!r} is a positive number, not {weight!r}')
    return dict(given)


def check_loss(named: str | Mapping[str, float], draw: str) -> None:
    """Raise UserError if what a config names is no loss of the queries that `draw` gives."""
    for name in loss_weights(named):
        if getattr(losses.entries[name], 'of_images', False) and draw != 'patch':
            raise UserError(f'the loss {name!r} compares images: it needs the draw patch, not {draw}')
