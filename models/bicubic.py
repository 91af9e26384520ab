"""Bicubic interpolation by MATLAB's rule, as a decoder without parameters."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from models.registry import register
from models.rendering import grid
from models.rendering.implicit import ImplicitModel
from models.rendering.render import check_image
from utils import cubic


@register('bicubic')
class Bicubic(ImplicitModel):
    """MATLAB's `imresize(..., 'bicubic')` of a floating point image, at any points and any sizes.

    Where pixels of the output are larger than those of the LR image the kernel is widened by the same factor
    (antialiasing). The rule in numpy is `datasets.pictures.resize.matlab_resize`.
    """

    receptive_field = 10**9  # the whole image: below x1 the kernel may be as wide as that

    def __init__(self):
        super().__init__()

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """`lr (B, 3, H, W)` in [0, 1] to `(B, H, W, 3)`."""
        check_image(lr, lr)
        return lr.permute(0, 2, 3, 1)

    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points. Arguments and result as in `ImplicitModel.query`."""
        grid.check_points(coord, cell, features)
        size = features.shape[1:3]
        y, x, cell = grid.points(coord, cell, size)
        at, taps = [], []
        for axis, position in enumerate((y, x)):
            pixel = grid.nearest_pixel(position, size[axis])
            at.append(pixel)
            taps.append(tap_weights((position - pixel)[..., None], cell[..., axis, None]))
        return blend(features, *at, *taps).squeeze(2)

    def floats_per_block(self, plan: Any) -> float:
        """As in `ImplicitModel.floats_per_block`, for windows of 5 x 5."""
        return 25 * 3 * (grid.points_per_block(plan) + 1)

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels. Arguments and result as in
        `ImplicitModel.query_blocks`."""
        i, j = i.expand(len(features), -1), j.expand(len(features), -1)
        (y, dy), (x, dx) = plan.rows.at(i), plan.columns.at(j)
        cell = plan.relative_cell.to(dy)
        return blend(features, y, x, tap_weights(dy, cell[0]), tap_weights(dx, cell[1]))

    def render(self, lr: torch.Tensor, size: Sequence[int], tile: int | None = None, **options: Any) -> torch.Tensor:
        """As in every decoder. Encoding takes no memory, so without `tile` the image is one tile."""
        check_image(lr, lr)
        return super().render(lr, size, tile=max(lr.shape) if tile is None else tile, **options)

    def render_bands(
        self, lr: torch.Tensor, size: Sequence[int], tile: int | None = None, **options: Any
    ) -> Iterator[torch.Tensor]:
        """As in every decoder, see `render`."""
        check_image(lr, lr)
        return super().render_bands(lr, size, tile=max(lr.shape) if tile is None else tile, **options)


def tap_weights(offset: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Weights of the taps around LR pixels for points at `offset (B, P, m)` from their centres: `(B, P, m, K)`, which
    sum to 1.

    `cell`, the size of an output pixel where an LR pixel counts 2, broadcasts with `offset`. The K taps are those
    from `-(K // 2)` to `K // 2` of the LR pixel.
    """
    stretch = (cell / 2).clamp(min=1)
    radius = int(2 * stretch.max() + offset.abs().max())
    tap = torch.arange(-radius, radius + 1, device=offset.device)
    weight = cubic((offset[..., None] - tap) / stretch[..., None])
    return weight / weight.sum(dim=-1, keepdim=True)


def blend(
    image: torch.Tensor, y: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """The pixels around `y, x (B, P)` of `image (B, H, W, C)`, the border continued, weighed by `rows (B, P, my, K)`
    and `columns (B, P, mx, L)`: `(B, P, my * mx, C)`."""
    index = [
        (at[..., None] + torch.arange(weight.shape[-1], device=at.device) - weight.shape[-1] // 2).clamp(0, n - 1)
        for at, weight, n in zip((y, x), (rows, columns), image.shape[1:3])
    ]
    batch = torch.arange(len(image), device=y.device)[:, None, None, None]
    window = image[batch, index[0][..., :, None], index[1][..., None, :]]  # (B, P, K, L, C)
    lines = (rows.to(image.dtype)[..., None, None] * window[:, :, None]).sum(dim=3)  # (B, P, my, L, C)
    return (columns.to(image.dtype)[:, :, None, :, :, None] * lines[:, :, :, None]).sum(dim=4).flatten(2, 3)
