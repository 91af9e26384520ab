"""The interface of all models: encode an LR image once, ask for colours anywhere."""

import abc
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from models.device import numbers
from models.rendering import grid, strips
from models.rendering.memory import peak_floats
from models.rendering.render import check_image, render, render_bands
from utils import UserError

FLOATS_PER_POINT = 4  # times the widest linear layer: what a point is estimated to hold while `query` evaluates it


class ImplicitModel(nn.Module, abc.ABC):
    """A model that renders an LR image at any size.

    A subclass gives `encode`, `query` and `receptive_field`; that is enough to render, to train and to evaluate. One
    that gives `plan`, `query_blocks` and `floats_per_block` as well renders faster, because the output pixels of an LR
    pixel can share work.

    Images enter and leave in [0, 1], are `(B, 3, H, W)`, and the networks work in [-1, 1]. `self.encoder`, where there
    is one, is a module with `out_dim` and `receptive_field` (`models.registry.make_encoder`); it may have
    `floats_per_pixel`, about how many numbers it holds for each pixel at its peak (measured where absent), and
    `window`: it computes in windows of so many pixels that start at multiples of it, so that tiles have to as well.
    With `stages()`, a list of `models.rendering.strips.Stage`, it is a chain that reads an image in strips of rows. Or
    it has `whole`, and 0 as its `receptive_field`: its features depend on all of an image, which is encoded as a whole,
    once, and tiles are cut from its features.
    """

    encoder: Any
    imnet: Any
    spec: dict  # that the model was built from (`models.build`)
    meta: dict  # what its weight file says about it

    # ------------------------------------------------------------ what a model gives

    @abc.abstractmethod
    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Any:
        """LR images `(B, 3, H, W)` in [0, 1] to features: any object that `query` understands.

        The features of a pixel depend on no pixel that is more than `receptive_field` away. `maps`, for `encoded`: what
        the encoder made of them already; only an encoder with `whole` needs it.
        """

    @abc.abstractmethod
    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points, each evaluated by itself.

        `coord (B, Q, 2)`, (y, x) in [-1, 1], which span the encoded image; `cell (2,)`, `(B, 2)` or `(B, Q, 2)`, the
        size of an output pixel in the same units; both best in float64 (`models.rendering.grid`). Returns `(B, Q, 3)`
        on the scale of [0, 1], not clamped.
        """

    @property
    @abc.abstractmethod
    def receptive_field(self) -> int:
        """How many LR pixels to each side the colour of a point in an LR pixel depends on: the margin of a tile."""

    # ------------------------------------------------------------ what a model may give

    def plan(self, features: Any, rows: grid.Blocks, columns: grid.Blocks, relative_cell: torch.Tensor) -> Any:
        """What `query_blocks` needs to know of an output size and can share among all blocks.

        `rows` and `columns`: the output pixels of each axis, by the LR pixels they belong to; `relative_cell (2,)`: the
        size of an output pixel where an LR pixel counts 2, (2/scale_y, 2/scale_x).
        """
        return grid.Layout(rows, columns, relative_cell)

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels.

        `i`, `j` int64 `(B, P)`, or `(1, P)` for the same in all images: which of the plan's rows and columns of blocks.
        Returns `(B, P, my * mx, 3)` on the scale of [0, 1], not clamped. This default calls `query`.
        """
        (y, dy), (x, dx) = plan.rows.at(i), plan.columns.at(j)
        y, x = torch.broadcast_tensors((y[..., None] + dy)[..., :, None], (x[..., None] + dx)[..., None, :])
        batch, size = features_shape(features)
        points = torch.stack([y.flatten(1), x.flatten(1)], dim=-1).expand(batch, -1, -1)  # (B, P * my * mx, 2)
        extent = numbers(size, points.device, points.dtype)
        coord, cell = (2 * points + 1) / extent - 1, plan.relative_cell.to(extent) / extent
        return self.query(features, coord, cell).unflatten(1, (i.shape[1], -1))

    def decodes_in(self, dtype: torch.dtype, lr: torch.Tensor) -> bool:
        """Whether the model has a way of its own to render `lr` in half precision: it encodes in its own precision, and
        `query_blocks` computes in `dtype` for a plan of features `for_decoding_in` it. Otherwise encoding and decoding
        are under autocast."""
        return False

    def for_decoding_in(self, dtype: torch.dtype, features: Any) -> Any:
        """Features that tell `plan` and `query_blocks` to compute in `dtype`, from those of `encode`."""
        raise NotImplementedError

    def floats_per_block(self, plan: Any) -> float:
        """About how many numbers `query_blocks` holds at its peak for each block of a plan."""
        widest = max((m.in_features + m.out_features for m in self.modules() if isinstance(m, nn.Linear)), default=64)
        return FLOATS_PER_POINT * widest * grid.points_per_block(plan)

    @functools.cached_property
    def floats_per_pixel(self) -> float:
        """About how many numbers `encode` holds at its peak for each LR pixel; measured where a model does not say."""
        return peak_floats(self, 'encode')

    # ------------------------------------------------------------ what all models share

    def encode_part(self, lr: torch.Tensor, y: slice, x: slice, maps: strips.Known | None = None) -> Any:
        """`encode` of the part `lr[:, :, y, x]`, right except within `receptive_field` of edges beyond which the image
        continues.

        `maps`: the encoder's features, where they are known; its receptive field does not count then.
        """
        if maps is None:
            return self.encode(lr[:, :, y, x])
        return self.encode(lr[:, :, y, x], maps.cut(y, x))

    @property
    def wraps(self) -> bool:
        """Whether features at a border of the image depend on the encoder's at the opposite border."""
        return False

    def takes_maps(self) -> bool:
        """Whether `encode` takes the encoder's features where they are known already."""
        return 'maps' in inspect.signature(self.encode).parameters

    def whole_maps(self, lr: torch.Tensor) -> strips.Known | None:
        """`encoded(lr)` if the encoder needs the whole image, otherwise None: parts of it are encoded by themselves.

        Raises UserError for a model whose `encode` does not take them.
        """
        if not getattr(getattr(self, 'encoder', None), 'whole', False):
            return None
        if not self.takes_maps():
            raise UserError(
                f'the encoder {type(self.encoder).__name__} encodes images as a whole, and the encode of '
                f'{type(self).__name__} takes no maps'
            )
        return strips.Known(self.encoded(lr), 0, 0)

    def stages(self) -> list[strips.Stage]:
        """The encoder's `stages`; none where it has none, or `encode` takes no maps."""
        stages = getattr(getattr(self, 'encoder', None), 'stages', None)
        return list(stages()) if stages and self.takes_maps() else []

    def strip_maps(self, lr: torch.Tensor, y: slice, x: slice, rows: int) -> strips.Strips:
        """The encoder's features of the part `lr[:, :, y, x]`, without those that depend on what lies outside it, in
        strips of about so many `rows`, which are encoded when they are asked for."""
        part, dtype = lr[:, :, y, x], next(self.parameters()).dtype
        memory = torch.channels_last if lr.device.type == 'cpu' else torch.contiguous_format

        def image(top):
            return to_network(part[:, :, top : top + rows].to(dtype)).contiguous(memory_format=memory)

        height, depth = part.shape[2], self.encoder.receptive_field
        maps = strips.encode(self.stages(), map(image, range(0, height, rows)), height, rows)
        (top, bottom, _), (left, right, _) = y.indices(lr.shape[2]), x.indices(lr.shape[3])
        before, after = depth * (left > 0), depth * (right < lr.shape[3])
        inner = (strip[..., before : strip.shape[3] - after] for strip in maps)
        return strips.Strips(inner, top, bottom - depth * (bottom < lr.shape[2]), left + before)

    def render(self, lr: torch.Tensor, size: Sequence[int], **options: Any) -> torch.Tensor:
        """`lr (B, 3, H, W)` in [0, 1] at any output size `(h, w)`: `(B, 3, h, w)` on the same scale, not clamped.

        `options`: `tile`, `precision`, `progress`, `part`, see `models.rendering.render.render`.
        """
        return render(self, lr, size, **options)

    def render_bands(self, lr: torch.Tensor, size: Sequence[int], **options: Any) -> Iterator[torch.Tensor]:
        """What `render` returns, in bands of rows from top to bottom, each made when it is asked for. A class that
        overrides one of the two overrides both: the demo takes bands."""
        return render_bands(self, lr, size, **options)

    @property
    def window(self) -> int:
        """Tiles start at multiples of so many LR pixels: the encoder's `window`, or 1."""
        return getattr(getattr(self, 'encoder', None), 'window', 1)

    def encoder_floats(self) -> float:
        """About how many numbers the encoder holds at its peak for each pixel."""
        if not hasattr(self.encoder, 'floats_per_pixel'):
            return self.measured_encoder_floats
        return self.encoder.floats_per_pixel

    @functools.cached_property
    def measured_encoder_floats(self) -> float:
        return peak_floats(self.encoder)

    def encoded(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """The encoder's features of `lr (B, 3, H, W)` in [0, 1]: `(B, out_dim, H, W)`; `maps` where they are already
        known.

        Raises UserError for an input that is not an LR image on this model's device, and for features of another shape.
        """
        like = next(self.parameters(), lr)
        check_image(lr, like)
        maps = self.encoder(to_network(lr.to(like.dtype))) if maps is None else maps
        expected = (len(lr), self.encoder.out_dim, *lr.shape[-2:])
        if not isinstance(maps, torch.Tensor) or maps.shape != expected:
            shape = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
            raise UserError(
                f'the encoder {type(self.encoder).__name__} gives {shape} for an LR image of {tuple(lr.shape)}, not '
                f'{expected}: (B, out_dim, H, W), with the height and width of its input'
            )
        if maps.dtype != like.dtype and not torch.is_autocast_enabled(lr.device.type):
            raise UserError(f'the encoder {type(self.encoder).__name__} gives {maps.dtype}, the model has {like.dtype}')
        return maps


def to_network(image: torch.Tensor) -> torch.Tensor:
    """Colours in [0, 1] on the networks' scale, [-1, 1]."""
    return (image - 0.5) / 0.5


def to_image(colour: torch.Tensor) -> torch.Tensor:
    """Colours on the networks' scale, [-1, 1], in [0, 1]."""
    return colour * 0.5 + 0.5


def features_shape(features: Any) -> tuple[int, tuple[int, int]]:
    """Batch size and LR size (H, W) of features: of the `(B, ..., H, W)` tensor that they are or begin with, or as
    their attribute `size` says."""
    first = features if isinstance(features, torch.Tensor) else next(x for x in features if isinstance(x, torch.Tensor))
    size = first.shape[-2:] if isinstance(features, torch.Tensor) or not hasattr(features, 'size') else features.size
    return len(first), (int(size[0]), int(size[1]))
