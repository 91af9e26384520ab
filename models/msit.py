"""MSIT: an SR encoder, MSNO, MSSA and an MLP that renders a low-resolution image at any size."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.device import numbers
from models.layers.msno import MSNO
from models.layers.mssa import MSSA, attend
from models.layers.position_bias import SinusoidBias
from models.mlp import MLP
from models.native import msit_decoder
from models.native.library import SIZES, in_blocks
from models.registry import make_encoder, make_imnet, make_position_bias, register
from models.rendering import first_layer, grid
from models.rendering.implicit import ImplicitModel, to_image, to_network
from models.rendering.render import check_image
from models.rendering.strips import Known
from models.rendering.tiles import with_margin
from models.rendering.windows import middle_3x3, padded, window_index, windows
from utils import UserError, check_whole

register('sinusoid')(SinusoidBias)  # here, as layers know no registry


class Features(NamedTuple):
    """The features of an LR image of `H x W`, laid out and padded for reading windows of it."""

    lr: torch.Tensor  # (B, H + 2, W + 2, 3) in the network's scale of [-1, 1], the border continued
    query_key: torch.Tensor  # (heads, B, H + 2 r, W + 2 r, C / heads), zeros around
    value: torch.Tensor  # the same

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.lr.shape[1] - 2, self.lr.shape[2] - 2


@register('msit')
class MSIT(ImplicitModel):
    """Multi-scale implicit transformer, arXiv 2403.06536.

    `encoder_spec` and `imnet_spec` are specs of the registry (the MLP's `in_dim` is derived); `channels` C; `heads` of
    the attention; `radius` r of its window of `(2 r + 1)^2` LR pixels; `msno_kernels` and `mssa_kernels`, the kernel
    sizes of the two multi-scale convolutions; `fem`, the padding of FEM ('replicate', 'circular') or None for no FEM;
    `position_bias_spec`, or None for no position bias; `rim`, whether the kernels are re-parameterised (stage 2 and
    later). Raises UserError for sizes that do not fit together.
    """

    def __init__(
        self,
        encoder_spec: dict,
        imnet_spec: dict,
        channels: int = 256,
        heads: int = 8,
        radius: int = 3,
        msno_kernels: Sequence[int] = tuple(range(3, 34, 2)),
        mssa_kernels: Sequence[int] = (3, 5, 7, 9),
        fem: str | None = 'replicate',
        position_bias_spec: dict | None = None,
        rim: bool = False,
    ):
        super().__init__()
        check_whole('msit', channels=channels, heads=heads, radius=radius)
        if not isinstance(rim, bool):
            raise UserError(f'msit: rim is true or false, not {rim!r}')
        self.radius = radius
        self.window_pixels = (2 * radius + 1) ** 2
        self.encoder = make_encoder(encoder_spec)
        self.project = nn.Conv2d(self.encoder.out_dim, channels, 1)
        self.msno = MSNO(channels, msno_kernels, fem, rim)
        self.mssa = MSSA(channels, heads, mssa_kernels, partial(make_position_bias, position_bias_spec), rim)
        self.imnet = make_imnet(imnet_spec, self.window_pixels * channels + 2)

    @property
    def receptive_field(self) -> int:
        return sum(part.receptive_field for part in (self.encoder, self.msno, self.mssa)) + self.radius

    @property
    def wraps(self) -> bool:
        return self.msno.fem_padding == 'circular'

    @property
    def floats_per_pixel(self) -> float:
        return self.encoder_floats() + 8 * self.project.out_channels

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Features:
        """`lr (B, 3, H, W)` in [0, 1] to `Features`, see `ImplicitModel.encode`."""
        return self.features(lr, self.projected(lr, maps))

    def encode_part(self, lr: torch.Tensor, y: slice, x: slice, maps: Known | None = None) -> Features:
        """As in `ImplicitModel.encode_part`.

        At the image's own border a circular FEM reads the opposite border, which lies outside the part: what is read
        there, one pixel wide, is encoded as well.
        """
        part = lr[:, :, y, x]
        if part.shape == lr.shape or not self.wraps:
            return super().encode_part(lr, y, x, maps)
        height, width = lr.shape[-2:]

        def elsewhere(top, bottom, left, right):
            """The projected encoding of a part of the whole image."""
            if maps and maps.has(top, bottom, left, right):
                return projected(slice(top, bottom), slice(left, right), maps)
            depth = self.encoder.receptive_field
            rows, columns = (with_margin(*ends, depth, self.window) for ends in ((top, bottom), (left, right)))
            whole = projected(rows, columns)
            return whole[:, :, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]

        def projected(rows, columns, maps=None):
            return self.projected(lr[:, :, rows, columns], maps and maps.cut(rows, columns))

        inner = projected(y, x, maps)
        around = F.pad(inner, (1, 1, 1, 1), mode='replicate')
        (first, last), (left, right) = (y.indices(height)[:2], x.indices(width)[:2])
        rows = [(0, height - 1)] * (first == 0) + [(-1, 0)] * (last == height)  # where, and what lies beyond
        columns = [(0, width - 1)] * (left == 0) + [(-1, 0)] * (right == width)
        for at, beyond in rows:
            around[:, :, at, 1:-1] = elsewhere(beyond, beyond + 1, left, right)[:, :, 0]
        for at, beyond in columns:
            around[:, :, 1:-1, at] = elsewhere(first, last, beyond, beyond + 1)[..., 0]
        for (i, row), (j, column) in itertools.product(rows, columns):
            around[:, :, i, j] = elsewhere(row, row + 1, column, column + 1)[:, :, 0, 0]
        return self.features(part, inner, around)

    def projected(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """The encoder's features of `lr (B, 3, H, W)`, `maps` if they are known, projected to C channels: `(B, C, H,
        W)`."""
        check_image(lr, self.project.weight)
        if lr.device.type == 'cpu' and not torch.is_grad_enabled():
            # there large kernels are three times as fast with the channels last,
            # but a backward pass takes 12 times as long
            lr = lr.contiguous(memory_format=torch.channels_last)
        return self.project(self.encoded(lr, maps))

    def features(self, lr: torch.Tensor, mapped: torch.Tensor, around: torch.Tensor | None = None) -> Features:
        """`Features` from the projected encoding; `around`: the same with one pixel more at each side, for FEM."""
        query_key, value = self.mssa(self.msno(mapped, around))
        skipped = padded(to_network(lr), 1, 'replicate')
        return Features(skipped, *(self.heads_apart(maps) for maps in (query_key, value)))

    def heads_apart(self, maps: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` to `(heads, B, H + 2 r, W + 2 r, C / heads)`, zeros around."""
        maps = F.pad(maps, (self.radius,) * 4)
        return rearrange(maps, 'b (head d) y x -> head b y x d', head=self.mssa.heads).contiguous()

    def query(self, features: Any, coord: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Colours at any points, point by point as the paper states it.

        `coord (B, Q, 2)` (y, x) in [-1, 1]; `cell (2,)`, `(B, 2)` or `(B, Q, 2)`, the size of a pixel in the same
        units. Both best in float64 (`models.rendering.grid`). Returns `(B, Q, 3)` in the scale of [0, 1], not clamped.
        """
        grid.check_points(coord, cell, features.lr)
        y, x, offset = self.locate(features, coord)
        weight = bilinear_weights(offset)[:, :, None]  # (B, Q, 1, 9)
        query, keys = self.gather(features, y, x, weight)
        values = windows(heads_together(features.value), y, x, self.radius)  # (K, N, C)
        attention = self.weigh(query, keys, offset).permute(2, 0, 1)  # (K, N, heads)
        n, heads = attention.shape[1:]
        latent = values.reshape(self.window_pixels, n, heads, -1) * attention[..., None].to(values.dtype)
        latent = latent.transpose(0, 1).reshape(n, -1)  # (N, K * C)
        cell = cell.to(coord) if cell.ndim == 3 else cell.to(coord).reshape(-1, 1, 2)
        cell = (cell * numbers(features.size, cell.device, cell.dtype)).expand(coord.shape).reshape(n, 2)
        colour = self.imnet(torch.cat([latent, cell.to(latent.dtype)], dim=-1)).reshape(*y.shape, -1)
        return to_image(colour + self.skip(features, y, x, weight).squeeze(2))

    def attention(self, features: Any, coord: torch.Tensor) -> torch.Tensor:
        """The weights with which each head attends to the LR pixels around points `coord (B, Q, 2)`, as in `query`:
        `(B, Q, heads, K)`, the window's rows outermost; they sum to 1."""
        y, x, offset = self.locate(features, coord)
        query, keys = self.gather(features, y, x, bilinear_weights(offset)[:, :, None])
        return self.weigh(query, keys, offset).unflatten(0, y.shape)

    def plan(self, features: Any, rows: grid.Blocks, columns: grid.Blocks, relative_cell: torch.Tensor) -> 'Plan':
        """What depends only on where output pixels lie, the same for all images of a size: a `Plan` from
        the `grid.Blocks` of both axes and the relative cell, (2/scale_y, 2/scale_x), `(2,)`. For `query_blocks` of
        features like these, and for gradients only if made with them."""
        first = self.imnet.layers[0]
        constant = F.linear(relative_cell.to(first.weight), first.weight[:, -2:], first.bias)
        weight = rearrange(
            first.weight[:, :-2], 'hidden (k head d) -> head k d hidden', k=self.window_pixels, head=self.mssa.heads
        )
        weight, constant = weight.to(features.value.dtype), constant.to(features.query_key.dtype)
        along = [
            self.mssa.bias_along(axis, grid.to_device(first.weight.device, blocks.offset), self.radius)
            for axis, blocks in enumerate((rows, columns))
        ]
        row_bias, column_bias = (bias.permute(2, 0, 1, 3).contiguous() for bias in along)
        row_weight, column_weight = (grid.linear_weights(blocks.offset).to(first.weight) for blocks in (rows, columns))
        layer: first_layer.Layer | msit_decoder.Layers
        if self.is_compiled_for(features.query_key, features.value.dtype):
            layer = msit_decoder.layers(self.imnet, weight, constant, row_bias, column_bias)
        else:
            layer = first_layer.Layer(row_bias, column_bias, weight.contiguous(), constant)
        return Plan(rows, columns, row_weight, column_weight, layer)

    def is_compiled_for(self, maps: torch.Tensor, factors: torch.dtype) -> bool:
        """Whether `query_blocks` is compiled code on `maps` like those of the features, with factors of a dtype."""
        return type(self.imnet) is MLP and msit_decoder.usable_for(self.imnet, maps, factors)

    def decodes_in(self, dtype: torch.dtype, lr: torch.Tensor) -> bool:
        return self.is_compiled_for(lr.new_empty(0, self.project.out_channels // self.mssa.heads), dtype)

    def for_decoding_in(self, dtype: torch.dtype, features: Features) -> Features:
        return features._replace(value=features.value.to(dtype))

    def floats_per_block(self, plan: Any) -> float:
        """About how many numbers `query_blocks` holds at a time for each block of a plan."""
        hidden = in_blocks(self.imnet.layers[0].out_features)
        shared_at_once = hidden if isinstance(plan.layer, first_layer.Layer) else SIZES['COLUMNS']
        return self.window_pixels * shared_at_once + grid.points_per_block(plan) * (
            hidden + in_blocks(self.window_pixels)
        )

    def query_blocks(self, features: Any, plan: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Colours of all output pixels that belong to some LR pixels, which share the first layer's work.

        `i`, `j` int64 `(B, P)`, or `(1, P)` for the same in all images: which of the plan's rows and columns of blocks.
        Returns `(B, P, my * mx, 3)` in the scale of [0, 1], not clamped.
        """
        batch = len(features.lr)
        i, j = i.expand(batch, -1), j.expand(batch, -1)
        y, x = plan.rows.pixels.to(i.device)[i], plan.columns.pixels.to(j.device)[j]  # (B, P)
        weight = plan.row_weight[i][:, :, :, None, :, None] * plan.column_weight[j][:, :, None, :, None, :]
        weight = weight.flatten(4).flatten(2, 3)  # (B, P, m, 9)
        index = window_index(features.value.shape[1:], y, x, self.radius)  # (K, N)
        near = weight.flatten(0, 1).to(features.query_key.dtype)
        arguments = plan, features, near, index, i.flatten(), j.flatten()
        if isinstance(plan.layer, first_layer.Layer):
            colour = self.imnet.after_first(first_layer.before_activation(*arguments))  # (N, m, 3)
        else:
            colour = msit_decoder.colours(*arguments)
        colour = colour.reshape(*weight.shape[:3], -1)
        return to_image(colour + self.skip(features, y, x, weight))

    # ------------------------------------------------------------ parts

    def locate(self, features: Any, coord: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The nearest LR pixel, `y` and `x (B, Q)` int64, of points `(B, Q, 2)`, and their offset from its centre,
        `(B, Q, 2)` in LR pixels."""
        height, width = features.size
        position = ((coord + 1) * numbers(features.size, coord.device, coord.dtype) - 1) / 2
        y, x = grid.nearest_pixel(position[..., 0], height), grid.nearest_pixel(position[..., 1], width)
        return y, x, position - torch.stack([y, x], dim=-1)

    def gather(
        self, features: Any, y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys of LR pixels `y, x (B, P)` for points with bilinear `weight (B, P, m, 9)`, `N = B * P`.

        Returns `(N, m, C)`, the query map sampled bilinearly, and `(K, N, C)`, its windows (zeros outside, both).
        """
        keys = windows(heads_together(features.query_key), y, x, self.radius)
        return torch.bmm(weight.flatten(0, 1).to(keys.dtype), middle_3x3(keys).transpose(0, 1)), keys

    def weigh(self, query: torch.Tensor, keys: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Attention weights of single points, `(N, heads, K)`, from `query (N, 1, C)`, `keys (K, N, C)` and `offset (B,
        Q, 2)`."""
        n, heads = query.shape[0], self.mssa.heads
        bias = sum(self.mssa.bias_along(axis, offset[..., axis], self.radius) for axis in (0, 1))
        keys = keys.reshape(self.window_pixels, n * heads, -1).permute(1, 2, 0)  # (N * heads, d, K)
        attention = attend(query.reshape(n * heads, 1, -1), keys, bias.reshape(n * heads, 1, -1))
        return attention.reshape(n, heads, -1)

    def skip(self, features: Any, y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The LR image sampled bilinearly, the border continued: `(B, P, m, 3)`, in its own precision also under
        autocast."""
        nearest = windows(features.lr, y, x, 1).unflatten(1, y.shape).permute(1, 2, 0, 3)  # (B, P, 9, 3)
        with torch.autocast(nearest.device.type, enabled=False):
            return weight.to(nearest.dtype) @ nearest


class Plan(NamedTuple):
    """Where blocks of output pixels lie in their LR pixels, and what depends on that alone."""

    rows: grid.Blocks
    columns: grid.Blocks
    row_weight: torch.Tensor  # (rows of blocks, my, 3), bilinear weights on the LR pixels before, at and after
    column_weight: torch.Tensor  # (columns of blocks, mx, 3)
    layer: first_layer.Layer | msit_decoder.Layers  # for the first layer (torch), or the whole MLP (compiled)


def heads_together(maps: torch.Tensor) -> torch.Tensor:
    """`(heads, B, H, W, C / heads)` to `(B, H, W, C)`."""
    return rearrange(maps, 'head b y x d -> b y x (head d)')


def bilinear_weights(offset: torch.Tensor) -> torch.Tensor:
    """Weights on the 3x3 pixels around the nearest one: offsets `(..., 2)`, (y, x), to `(..., 9)`, rows outermost."""
    y, x = grid.linear_weights(offset[..., 0]), grid.linear_weights(offset[..., 1])
    return (y[..., :, None] * x[..., None, :]).flatten(-2)
