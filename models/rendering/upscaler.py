"""Images, as files hold them, rendered by a model; in strips of rows where they are larger than memory."""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch

from models.device import PRECISIONS, free_memory
from models.native import in_use
from models.rendering.implicit import ImplicitModel
from models.rendering.render import check_options
from models.rendering.self_ensemble import render_ensemble
from utils import UserError, is_out_of_memory

BYTES = 80  # that an output pixel takes until it is written: copies of its colour and alpha in float32
P = TypeVar('P', bound='Planes')


class Planes(Protocol):
    """What is rendered of a `datasets.pictures.Picture`, a named tuple."""

    @property
    def rgb(self) -> torch.Tensor:
        """`(3, H, W)` in [0, 1]"""

    @property
    def alpha(self) -> torch.Tensor | None:
        """`(1, H, W)` in [0, 1], or None if the picture is opaque"""

    def _replace(self: P, **planes: torch.Tensor | None) -> P: ...


class Upscaler:
    """Renders `Picture`s with `model` on `device`, with self-ensemble if `ensemble`; `options`: see
    `models.rendering.render.render`.

    Raises UserError for options that make no sense.
    """

    def __init__(self, model: ImplicitModel, device: torch.device, ensemble: bool = False, **options: Any):
        check_options(
            torch.empty(1, 3, 1, 1, device=device), (1, 1), options.get('tile'), options.get('precision', 'fp32')
        )
        self.model, self.device = model.to(device), device
        self.precision = options.get('precision', 'fp32')
        render = functools.partial(render_ensemble, self.model) if ensemble else self.model.render
        self.render = functools.partial(render, **options)

    @property
    def code(self) -> str:
        """What computes: 'compiled' code as far as there is some for the model, or 'torch' alone."""
        like = next(self.model.parameters(), None)
        if like is None or self.device.type != 'cpu':
            return 'torch'
        with torch.no_grad():
            half = PRECISIONS[self.precision]
            return 'compiled' if (self.model.decodes_in(half, like) if half else in_use(like.dtype)) else 'torch'

    def __call__(self, picture: P, size: Sequence[int], rows: range | None = None) -> P:
        """`picture` at `size` (h, w), or these `rows` of it, a range; alpha by the same model, as a grey image.

        Raises UserError if there is not enough memory or the model makes values that are not finite.
        """
        part = rows or range(size[0]), range(size[1])
        try:
            rgb = self.plane(picture.rgb, size, part)
            alpha = None if picture.alpha is None else self.plane(picture.alpha, size, part)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                extent = f'{size[0]} x {size[1]} pixels'
                raise UserError(f'{extent} need more memory than there is on {self.device}') from error
            raise
        return picture._replace(rgb=rgb, alpha=alpha)

    def plane(self, plane: torch.Tensor, size: Sequence[int], part: Sequence[range]) -> torch.Tensor:
        """Colour `(3, H, W)` or alpha `(1, H, W)` rendered, on the CPU. Alpha that is the same everywhere stays so."""
        if len(plane) == 1 and plane.min() == plane.max():
            return plane[:, :1, :1].expand(-1, *map(len, part))
        out = self.image(plane.expand(3, -1, -1), size, part)
        return out if len(plane) == 3 else out.mean(0, keepdim=True)

    def image(self, lr: torch.Tensor, size: Sequence[int], part: Sequence[range] | None = None) -> torch.Tensor:
        """`lr (3, H, W)` rendered, on the CPU: `(3, h, w)`. `size` and `part`: see `models.rendering.render.render`."""
        out = self.render(lr[None].to(self.device), size, part=part)[0].cpu()
        if not out.isfinite().all():
            raise UserError('the result has values that are not finite: the weights do not suit this image')
        return out

    def strips(self, size: Sequence[int]) -> list[range]:
        """The rows of an output of `size` (h, w) in ranges, each of which fits into half of the free memory."""
        free = min(free_memory(device) for device in (torch.device('cpu'), self.device))
        high = max(1, int(free / 2 / BYTES / size[1]))
        return [range(top, min(top + high, size[0])) for top in range(0, size[0], high)]
