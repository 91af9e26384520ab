"""Colour and alpha of transparent images."""

import torch
from torch.nn import functional as F


def over_white(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """`planes (C, H, W)` seen through `alpha (1, H, W)` before white."""
    return planes * alpha + (1 - alpha)


def with_colour_everywhere(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """`planes (C, H, W)` whose pixels that are fully transparent by `alpha (1, H, W)` have the colour of what is near.

    What stands there unseen, black most often, would bleed into the edges: models look at neighbours. To multiply by
    alpha beforehand and divide by it afterwards keeps it out as well, but darkens what the model sees towards every
    edge, and where little alpha is left divides its errors by next to nothing.
    """
    if alpha.all() or not alpha.any():
        return planes
    return torch.where(alpha > 0, planes, spread(planes * alpha, alpha))


def spread(colour: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted means of colour, `colour / weight`, `(C, H, W)`; where there is no weight `(1, H, W)`, those of ever
    larger squares around. Source: Gortler et al., The Lumigraph (SIGGRAPH 1996), section 3.4, pull-push."""
    means = colour / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if weight.all():
        return means
    halves = (
        F.avg_pool2d(F.pad(planes, (0, planes.shape[2] % 2, 0, planes.shape[1] % 2)), 2) for planes in (colour, weight)
    )
    larger = F.interpolate(spread(*halves)[None], weight.shape[1:], mode='bilinear')[0]
    return torch.where(weight > 0, means, larger)
