"""Colour and alpha of transparent images."""

import torch
from torch.nn import functional as F


def over_white(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """`planes (C, H, W)` with `alpha (1, H, W)`, laid over white."""
    return planes * alpha + (1 - alpha)


def with_colour_everywhere(planes: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """`planes (C, H, W)` in which the pixels that are fully transparent by `alpha (1, H, W)` take the colour of what is
    near.

    The invisible colour that is stored there, most often black, would bleed into the edges, because models look at
    neighbours. Multiplying by alpha beforehand and dividing by it afterwards would keep it out as well, but would
    darken what the model sees near every edge, and divide its errors by nearly nothing where alpha is small.
    """
    if alpha.all() or not alpha.any():
        return planes
    return torch.where(alpha > 0, planes, spread(planes * alpha, alpha))


def spread(colour: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted means of colour, `colour / weight`, `(C, H, W)`; where `weight (1, H, W)` is 0, the means over ever
    larger squares around the pixel. Source: Gortler et al., The Lumigraph (SIGGRAPH 1996), section 3.4, pull-push."""
    means = colour / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if weight.all():
        return means
    halves = (
        F.avg_pool2d(F.pad(planes, (0, planes.shape[2] % 2, 0, planes.shape[1] % 2)), 2) for planes in (colour, weight)
    )
    larger = F.interpolate(spread(*halves)[None], weight.shape[1:], mode='bilinear')[0]
    return torch.where(weight > 0, means, larger)
