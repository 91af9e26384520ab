"""Images, as files hold them, rendered by a model in bands of rows, so that they may be larger than memory."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch

from models.device import PRECISIONS, free_memory
from models.native import in_use
from models.rendering.implicit import ImplicitModel
from models.rendering.render import WRITTEN, check_options
from models.rendering.self_ensemble import render_ensemble
from utils import UserError, is_out_of_memory

BYTES = 4 * WRITTEN  # that an output pixel takes until it is written
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
        self.ensemble, self.options = ensemble, options

    @property
    def code(self) -> str:
        """What computes: 'compiled' code as far as there is some for the model, or 'torch' alone."""
        like = next(self.model.parameters(), None)
        if like is None or self.device.type != 'cpu':
            return 'torch'
        with torch.no_grad():
            half = PRECISIONS[self.precision]
            return 'compiled' if (self.model.decodes_in(half, like) if half else in_use(like.dtype)) else 'torch'

    def __call__(self, picture: P, size: Sequence[int]) -> P:
        """`picture` at `size` (h, w); alpha by the same model, as a grey image.

        Raises UserError if there is not enough memory or the model makes values that are not finite.
        """
        return joined(list(self.bands(picture, size)))

    def bands(self, picture: P, size: Sequence[int]) -> Iterator[P]:
        """The same in bands of rows from top to bottom, each made when it is asked for."""
        planes, alpha = [picture.rgb], picture.alpha
        even = alpha is not None and alpha.min() == alpha.max()  # and stays so
        if alpha is not None and not even:
            planes.append(alpha.expand(3, -1, -1))
        try:
            for band in self.rendered(torch.stack(planes), size):
                rgb = band[0]
                if alpha is not None:
                    band = alpha[:, :1, :1].expand(1, *rgb.shape[1:]) if even else band[1].mean(0, keepdim=True)
                yield picture._replace(rgb=rgb, alpha=None if alpha is None else band)
                del band, rgb  # before the next ones are made
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                extent = f'{size[0]} x {size[1]} pixels'
                raise UserError(f'{extent} need more memory than there is on {self.device}') from error
            raise

    def image(self, lr: torch.Tensor, size: Sequence[int], part: Sequence[range] | None = None) -> torch.Tensor:
        """`lr (3, H, W)` rendered, on the CPU: `(3, h, w)`. `size` and `part`: see `models.rendering.render.render`."""
        return checked(self.render(lr[None].to(self.device), size, part=part))[0]

    def rendered(self, lr: torch.Tensor, size: Sequence[int]) -> Iterator[torch.Tensor]:
        """`lr (B, 3, H, W)` rendered, in bands `(B, 3, rows, w)` on the CPU."""
        lr = lr.to(self.device)
        strips = self.strips(size)
        least = -(-size[0] // lr.shape[2])  # the rows of a row of LR pixels, the lowest band that `render_bands` makes
        if not self.ensemble and least <= len(strips[0]):
            return map(checked, self.model.render_bands(lr, size, **self.options))
        parts = ((rows, range(size[1])) for rows in strips)  # of the ensemble, transposed images are made by columns
        return (checked(self.render(lr, size, part)) for part in parts)

    def render(self, lr: torch.Tensor, size: Sequence[int], part: Sequence[range] | None) -> torch.Tensor:
        """See `models.rendering.render.render`."""
        render = functools.partial(render_ensemble, self.model) if self.ensemble else self.model.render
        return render(lr, size, part=part, **self.options)

    def strips(self, size: Sequence[int]) -> list[range]:
        """The rows of an output of `size` (h, w) in ranges, each of which fits into half of the free memory."""
        free = min(free_memory(device) for device in (torch.device('cpu'), self.device))
        high = max(1, int(free / 2 / BYTES / size[1]))
        return [range(top, min(top + high, size[0])) for top in range(0, size[0], high)]


def joined(bands: Sequence[P]) -> P:
    """The picture whose bands of rows these are."""
    rgb, alpha = zip(*((band.rgb, band.alpha) for band in bands))
    return bands[0]._replace(rgb=torch.cat(rgb, 1), alpha=None if alpha[0] is None else torch.cat(alpha, 1))


def checked(out: torch.Tensor) -> torch.Tensor:
    """What a model has rendered, on the CPU. Raises UserError if it is not finite."""
    out = out.cpu()
    if not torch.stack(out.aminmax()).isfinite().all():  # which takes no more memory
        raise UserError('the result has values that are not finite: the weights do not suit this image')
    return out
