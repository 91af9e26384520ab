"""Self-ensemble: the mean of a model's renderings of the eight flips and transpositions of an image."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch


def render_ensemble(
    model: Any, lr: torch.Tensor, size: Sequence[int], part: Sequence[range] | None = None, **options: Any
) -> torch.Tensor:
    """The mean of `model.render(lr, size, part=part, **options)` over the eight symmetries of `lr (B, 3, H, W)`, each
    turned back: `(B, 3, h, w)`. Four of them are transposed and rendered at (w, h).

    Source: Lim et al., EDSR (arXiv 1707.02921), geometric self-ensemble. Raises UserError as `render` does.
    """
    total: Any = 0
    for transposed, flipped in itertools.product((False, True), ((), (-2,), (-1,), (-2, -1))):
        image = lr.flip(flipped)
        chosen = part and [mirrored(*axis) if d in flipped else axis[0] for d, axis in zip((-2, -1), zip(part, size))]
        if transposed:
            chosen = chosen and chosen[::-1]
            output = model.render(image.transpose(-2, -1), (size[1], size[0]), part=chosen, **options).transpose(-2, -1)
        else:
            output = model.render(image, size, part=chosen, **options)
        total = total + output.flip(flipped)
    return total / 8


def mirrored(chosen: range, n: int) -> range:
    """Where the pixels `chosen`, a range of an axis of `n`, lie when the axis is flipped: a range."""
    return range(n - 1 - chosen[-1], n - chosen[0], chosen.step)
