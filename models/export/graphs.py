"""What is written as ONNX: for every kind of model an `encode` and a `decode`, of one image, in plain operations.

`encode(lr)`: a tile of the LR image with its margin, `(1, 3, H, W)` in [0, 1], to `features (H', W', F)`, which are
`decode`'s alone to understand; `H'` and `W'` are `H` and `W` with `pad` more at each side.

`decode(features, y, x, y_offset, x_offset, y_slot, x_slot, relative_cell)`: the colours of a rectangle of output
pixels, `(h, w, 3)` in the scale of [0, 1], not clamped. Three inputs tell where its rows lie, and three its columns:

- `y (P,)` int64: the LR row that each row of blocks belongs to, counted from the first that `features` is of;
- `y_offset (P, m)` float32: from the LR row's centre to the output rows', in LR pixels, in [-1/2, 1/2], for up to `m`
  output rows of a block, anything where there are fewer;
- `y_slot (h,)` int64: where the output rows stand in the flattened `(P, m)`.

`models.rendering.grid.Blocks` has the three as `pixels`, `offset` and `slots()`. `relative_cell (2,)` is
(2 / scale_y, 2 / scale_x). What the output pixels of an LR pixel share is computed once for all of them, as in
`render`.
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.layers.convolution import Conv2d
from models.layers.position_bias import SinusoidBias
from models.layers.sim import SIM
from models.liif import LIIF
from models.lte import LTE
from models.mlp import Linear
from models.msit import MSIT
from models.rendering import grid
from models.rendering.implicit import ImplicitModel, to_image, to_network
from utils import UserError


def graphs(model: ImplicitModel) -> tuple[nn.Module, nn.Module]:
    """The modules `encode` and `decode` of a model. Raises UserError for a kind of model that has none."""
    if not has_graphs(model):
        raise UserError(f'{model.spec["name"]!r} cannot be exported: there is no graph for this kind of model')
    encode, decode = KINDS[type(model)]
    plain = in_plain_operations(model)
    return encode(plain), decode(plain)


def has_graphs(model: ImplicitModel) -> bool:
    """Whether a model is of a kind that can be exported, and not of one derived from it."""
    return type(model) in KINDS


def in_plain_operations(model: nn.Module) -> nn.Module:
    """A copy of a model that does not choose by an input's size how to compute, as a graph cannot choose."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            setattr(module, name, plain(part))
    return model


def plain(part: nn.Module) -> nn.Module:
    """A part, or what computes the same for inputs of all sizes in the same way."""
    if isinstance(part, SIM):
        return nn.Sequential(with_norm(part), part.act, part.project)
    if isinstance(part, SinusoidBias):
        return Sinusoid(part)
    made: nn.Module
    if isinstance(part, Conv2d):
        side = part.weight.shape[-1]
        made = nn.Conv2d(part.in_channels, part.out_channels, side, padding=side // 2)
    elif isinstance(part, Linear):
        made = nn.Linear(part.in_features, part.out_features, bias=part.bias is not None)
    else:
        return part
    made.load_state_dict(part.state_dict())
    return made.requires_grad_(False)


def with_norm(sim: SIM) -> nn.Conv2d:
    """SIM's first convolution and its batch norm as one convolution."""
    weight, bias, groups = sim.normed()
    made = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], 1, groups=groups).requires_grad_(False)
    made.weight.copy_(weight)
    made.bias.copy_(bias)
    return made


class Sinusoid(nn.Module):
    """`SinusoidBias` with angles from -pi to pi: graphics cards are exact for no others, and here they reach 7161."""

    def __init__(self, bias: SinusoidBias):
        super().__init__()
        weight = bias.proj.weight
        quarter = weight.shape[1] // 4
        j = torch.arange(quarter, dtype=torch.float64)
        frequency = 2 ** (bias.max_exponent * j / (quarter - 1)) - 1
        self.turns = nn.Parameter((frequency / (2 * math.pi)).to(weight), requires_grad=False)
        self.parts = nn.ParameterList(part.contiguous() for part in weight.split(quarter, dim=1))
        self.bias = bias.proj.bias

    def along(self, axis: int, offset: torch.Tensor) -> torch.Tensor:
        turns = offset[..., None] * self.turns
        angle = 2 * math.pi * (turns - turns.round())
        return F.linear(angle.sin(), self.parts[axis]) + F.linear(angle.cos(), self.parts[axis + 2])

    def constant(self) -> torch.Tensor:
        return self.bias


# ---------------------------------------------------------------- MSIT


class EncodeMSIT(nn.Module):
    """Features: the LR image in [-1, 1], the border continued, then query-and-key and value, zeros around."""

    def __init__(self, model: MSIT):
        super().__init__()
        self.encoder, self.project, self.msno, self.mssa = model.encoder, model.project, model.msno, model.mssa
        self.pad = model.radius

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        lr = to_network(lr)
        around = (self.pad,) * 4
        maps = F.pad(torch.cat(self.mssa(self.msno(self.project(self.encoder(lr)))), dim=1), around)
        return torch.cat([F.pad(lr, around, mode='replicate'), maps], dim=1)[0].permute(1, 2, 0)


class DecodeMSIT(nn.Module):
    """The MLP's first layer is applied to a window's values once for each LR pixel and head, see
    `models.rendering.first_layer`; what follows it is computed of the output pixels that are asked for alone.

    `reads`: how many LR pixels to each side of its own a block needs. `floats_per_block`, `floats_per_pixel`: about how
    many numbers are held at a time for each block, and for each place of an output pixel in it.
    """

    def __init__(self, model: MSIT):
        super().__init__()
        first = model.imnet.layers[0]
        self.radius = self.reads = model.radius
        self.heads, self.side = model.mssa.heads, 2 * model.radius + 1
        self.channels = model.project.out_channels
        self.bias = model.mssa
        weight = first.weight[:, :-2].unflatten(1, (self.side**2, self.heads, -1))
        self.weight = nn.Parameter(weight.permute(2, 1, 3, 0).contiguous())  # (heads, K, C / heads, hidden)
        self.of_cell = nn.Parameter(first.weight[:, -2:].contiguous())
        self.constant = first.bias
        self.after_first = model.imnet.layers[1:]
        hidden, window = first.out_features, self.side**2
        self.floats_per_block = 2 * self.heads * window * hidden + 3 * window * 2 * self.channels
        self.floats_per_pixel = 3 * hidden + 3 * self.heads * window + 2 * self.channels

    def forward(
        self,
        features: torch.Tensor,
        y: torch.Tensor,
        x: torch.Tensor,
        y_offset: torch.Tensor,
        x_offset: torch.Tensor,
        y_slot: torch.Tensor,
        x_slot: torch.Tensor,
        relative_cell: torch.Tensor,
    ) -> torch.Tensor:
        (rows, high), (columns, wide) = y_offset.shape, x_offset.shape
        many, heads, window = high * wide, self.heads, self.side**2
        step = torch.arange(self.side)
        index = (y[:, None] + step)[:, None, :, None] * features.shape[1] + (x[:, None] + step)[None, :, None, :]
        maps = features.flatten(0, 1)[index.flatten()].reshape(rows * columns, window, -1)  # (N, K, F)
        of_lr, keys, values = maps.split([3, self.channels, self.channels], dim=-1)
        near = self.near(torch.cat([of_lr, keys], dim=-1))  # (N, 9, 3 + C)

        def of_rows(told):  # (rows, m, ...) to (N, m, ...)
            return told[:, None].expand(-1, columns, *told.shape[1:]).flatten(0, 1)

        def of_columns(told):
            return told[None].expand(rows, -1, *told.shape[1:]).flatten(0, 1)

        weights = (
            of_rows(grid.linear_weights(y_offset))[:, :, None, :, None]
            * of_columns(grid.linear_weights(x_offset))[:, None, :, None, :]
        )
        sampled = weights.reshape(-1, many, 9) @ near  # (N, m, 3 + C)
        query = sampled[..., 3:].unflatten(-1, (heads, -1)).transpose(1, 2)  # (N, heads, m, d)
        keys = keys.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)  # (N, heads, d, K)
        logits = (query * query.shape[-1] ** -0.5) @ keys
        along_y, along_x = (
            self.bias.bias_along(axis, offset, self.radius).transpose(1, 2)
            for axis, offset in enumerate((y_offset, x_offset))
        )  # (.., heads, m, K)
        bias = of_rows(along_y)[:, :, :, None] + of_columns(along_x)[:, :, None]
        attention = (logits + bias.reshape(-1, heads, many, window)).softmax(dim=-1)
        attention = attention.transpose(1, 2).flatten(2)  # (N, m, heads * K)
        values = values.unflatten(-1, (heads, -1)).permute(2, 1, 0, 3)  # (heads, K, N, d)
        shared = (values @ self.weight).flatten(0, 1).transpose(0, 1)  # (N, heads * K, hidden)
        hidden = (attention @ shared).flatten(0, 1)  # (N * m, hidden)
        wanted = asked_for(y_slot, x_slot, high, wide, columns)
        hidden = hidden[wanted] + F.linear(relative_cell, self.of_cell, self.constant)
        colour = self.after_first(hidden) + sampled[..., :3].flatten(0, 1)[wanted]
        return to_image(colour).reshape(y_slot.shape[0], x_slot.shape[0], 3)

    def near(self, window: torch.Tensor) -> torch.Tensor:
        """The 3x3 pixels in the middle of windows `(N, K, C)`: `(N, 9, C)`."""
        middle = slice(self.radius - 1, self.radius + 2)
        return window.unflatten(1, (self.side, self.side))[:, middle, middle].flatten(1, 2)


def asked_for(y_slot: torch.Tensor, x_slot: torch.Tensor, high: int, wide: int, columns: int) -> torch.Tensor:
    """Where the output pixels, row by row, are among those of all blocks, `(rows, columns, high, wide)` flattened."""
    row, column = y_slot // high, x_slot // wide  # of blocks
    of_row = (row * columns * high + y_slot - row * high) * wide
    of_column = column * (high * wide) + x_slot - column * wide
    return (of_row[:, None] + of_column).flatten()


# ---------------------------------------------------------------- LIIF and LTE


class EncodeLIIF(nn.Module):
    """Features: what the MLP's first layer makes of every 3x3 window of the encoder's maps."""

    pad = 0

    def __init__(self, model: LIIF):
        super().__init__()
        first = model.imnet.layers[0]
        self.encoder = model.encoder
        self.first = nn.Parameter(first.weight[:, :-4].unflatten(1, (-1, 3, 3)).contiguous())
        self.constant = first.bias

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(to_network(lr))
        return F.conv2d(maps, self.first, self.constant, padding=1)[0].permute(1, 2, 0)


class EncodeLTE(nn.Module):
    """Features: the LR image in [-1, 1], the amplitudes, then the frequencies along y and along x."""

    pad = 0

    def __init__(self, model: LTE):
        super().__init__()
        self.encoder, self.coef, self.freq = model.encoder, model.coef, model.freq

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        lr = to_network(lr)
        maps = self.encoder(lr)
        frequency = self.freq(maps).unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
        return torch.cat([lr, self.coef(maps), frequency], dim=1)[0].permute(1, 2, 0)


class LocalEnsemble(nn.Module):
    """Blends what the four LR pixels around an output pixel say, see `models.rendering.local_ensemble`. Blocks are
    not needed: the axes are taken apart into output rows and columns."""

    reads, floats_per_block = 1, 0
    corner: Any  # what one of the four says, given by each kind of model

    def forward(
        self,
        features: torch.Tensor,
        y: torch.Tensor,
        x: torch.Tensor,
        y_offset: torch.Tensor,
        x_offset: torch.Tensor,
        y_slot: torch.Tensor,
        x_slot: torch.Tensor,
        relative_cell: torch.Tensor,
    ) -> torch.Tensor:
        rows = self.neighbours(y, y_offset, y_slot, features.shape[0])
        columns = self.neighbours(x, x_offset, x_slot, features.shape[1])
        maps = features.flatten(0, 1)
        # 1e9 times those of `local_ensemble`, whose 1e-9 the exporter takes for nothing and drops
        area = [[(row[1][:, None] * column[1]).abs() * 1e9 + 1 for column in columns] for row in rows]
        total = sum(area[0] + area[1])
        colour = torch.zeros(())
        for a, (row, dy, row_share) in enumerate(rows):
            for b, (column, dx, column_share) in enumerate(columns):
                said = maps[(row[:, None] * features.shape[1] + column).flatten()]
                said = said.reshape(y_slot.shape[0], x_slot.shape[0], -1)
                weight, bilinear = area[1 - a][1 - b] / total, row_share[:, None] * column_share
                colour = colour + self.corner(
                    said, dy[:, None, None], dx[:, None], relative_cell, weight[..., None], bilinear[..., None]
                )
        return to_image(colour)

    def neighbours(
        self, pixel: torch.Tensor, offset: torch.Tensor, slot: torch.Tensor, n_lr: int
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The LR pixels before and after the output pixels of an axis: twice (pixel, offset from it to the output
        pixel where an LR pixel counts 2, share in linear interpolation)."""
        pixel, offset = pixel[:, None].expand_as(offset).flatten()[slot], offset.flatten()[slot]
        before = pixel - (offset < 0).long()
        share = offset - offset.floor()
        both = before.clamp(0, n_lr - 1), (before + 1).clamp(0, n_lr - 1)
        return [(at, 2 * (pixel - at + offset), part) for at, part in zip(both, (1 - share, share))]


class DecodeLIIF(LocalEnsemble):
    def __init__(self, model: LIIF):
        super().__init__()
        self.where = nn.Parameter(model.imnet.layers[0].weight[:, -4:].contiguous())
        self.after_first = model.imnet.layers[1:]
        self.floats_per_pixel = 4 * len(self.where)

    def corner(self, first: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
        dy, dx, relative_cell, weight, _ = where
        hidden = first + dy * self.where[:, 0] + dx * self.where[:, 1] + F.linear(relative_cell, self.where[:, 2:])
        return weight * self.after_first(hidden)


class DecodeLTE(LocalEnsemble):
    def __init__(self, model: LTE):
        super().__init__()
        self.phase, self.imnet, self.waves = model.phase, model.imnet, model.coef.out_channels
        self.floats_per_pixel = 6 * self.waves

    def corner(self, maps: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
        dy, dx, relative_cell, weight, bilinear = where
        lr, amplitude, along_y, along_x = maps.split([3, self.waves, self.waves // 2, self.waves // 2], dim=-1)
        angle = math.pi * (along_y * dy + along_x * dx + self.phase(relative_cell))
        told = self.imnet(amplitude * torch.cat([angle.cos(), angle.sin()], dim=-1))
        return weight * told + bilinear * lr


KINDS = {MSIT: (EncodeMSIT, DecodeMSIT), LIIF: (EncodeLIIF, DecodeLIIF), LTE: (EncodeLTE, DecodeLTE)}
