"""SwinIR without its upsampling tail, as an encoder."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models.layers.convolution import Conv2d
from models.registry import register
from utils import UserError, check_whole, is_whole

N_FEATS = 64  # channels of the features, whatever the width inside


class Windows(NamedTuple):
    """What all blocks share for images of the same size."""

    side: int  # of a window, in pixels
    relative_position: torch.Tensor  # (N, N) int64 for the N = side^2 pixels of a window, see `WindowAttention`
    mask: torch.Tensor  # (windows, 1, N, N), 0 or minus infinity, added to the logits of shifted windows


class WindowAttention(nn.Module):
    """Self-attention within windows, with a bias for every offset between two pixels.

    `x (windows of all images, N, C)`; `mask` as in `Windows`, or None.
    """

    def __init__(self, channels: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, windows: Windows, mask: torch.Tensor | None) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (*, heads, N, d)
        bias = self.relative_position_bias_table[windows.relative_position].permute(2, 0, 1).to(query.dtype)
        logits = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
        if mask is not None:
            logits = (logits.unflatten(0, (-1, len(mask))) + mask).flatten(0, 1)
        attended = logits.softmax(dim=-1).to(value.dtype) @ value
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A transformer block, `(B, H, W, C)` to the same. With `shift`, its windows lie half a window further down and to
    the right."""

    def __init__(self, channels: int, heads: int, side: int, shift: int, mlp_ratio: float):
        super().__init__()
        self.shift = side // 2 if shift else 0
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, side)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: torch.Tensor, windows: Windows) -> torch.Tensor:
        height, width = x.shape[1:3]
        side, shift = windows.side, self.shift
        y = self.norm1(x).roll((-shift, -shift), dims=(1, 2))
        y = y.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # (B, rows, columns, side, side, C)
        y = self.attn(y.flatten(3, 4).flatten(0, 2), windows, windows.mask if shift else None)
        y = y.reshape(len(x), height // side, width // side, side, side, -1).transpose(2, 3)
        x = x + y.flatten(3, 4).flatten(1, 2).roll((shift, shift), dims=(1, 2))
        return x + self.mlp(self.norm2(x))


class ResidualGroup(nn.Module):
    """Blocks, every other one with shifted windows, and a convolution, with a skip connection around all of them."""

    def __init__(self, channels: int, depth: int, heads: int, side: int, mlp_ratio: float):
        super().__init__()
        blocks = [Block(channels, heads, side, shift=j % 2 == 1, mlp_ratio=mlp_ratio) for j in range(depth)]
        self.residual_group = nn.ModuleDict({'blocks': nn.ModuleList(blocks)})
        self.conv = Conv2d(channels, channels, 3)

    def forward(self, x: torch.Tensor, windows: Windows) -> torch.Tensor:
        y = x
        for block in self.residual_group['blocks']:
            y = block(y, windows)
        return x + of_pixels(self.conv, y)


@register('swinir')
class SwinIR(nn.Module):
    """Features of an image: `(B, 3, H, W)` in [-1, 1] to `(B, 64, H, W)`.

    `embed_dim`: channels inside. `depths` and `num_heads`: the blocks of each group and their attention heads.
    `window_size`: side of the attention windows in pixels, an even number. `mlp_ratio`: width of the hidden layer
    divided by `embed_dim`. The defaults are the published sizes, 11.6 M parameters.

    The image is padded by reflection to a multiple of the windows' size, and the features are cropped to its own size;
    published decoders take them uncropped.
    Source: Liang et al., *SwinIR: Image Restoration Using Swin Transformer*, arXiv 2108.10257, section 3.

    Attributes: `out_dim`, the channels of the features; `window`: tiles begin at multiples of so many pixels;
    `receptive_field`, how many pixels to each side a feature sees at most; `floats_per_pixel`, about how many numbers
    are held at a time for each pixel.
    Raises UserError for sizes that do not fit together.
    """

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 6,
        num_heads: Sequence[int] = (6,) * 6,
        window_size: int = 8,
        mlp_ratio: float = 2,
    ):
        super().__init__()
        check_whole('swinir', embed_dim=embed_dim, window_size=window_size)
        for name, value in (('depths', depths), ('num_heads', num_heads)):
            if not isinstance(value, (list, tuple)) or not value or not all(map(is_whole, value)):
                raise UserError(f'swinir: {name} is a list of whole numbers from 1 up, not {value!r}')
        if len(depths) != len(num_heads):
            raise UserError(f'swinir: {len(depths)} depths and {len(num_heads)} num_heads, one for each group each')
        if any(embed_dim % heads for heads in num_heads):
            raise UserError(f'swinir: embed_dim {embed_dim} cannot be divided among {list(num_heads)} heads')
        if window_size % 2:
            raise UserError(f'swinir: window_size is an even number, not {window_size}')
        if type(mlp_ratio) not in (int, float) or not 1 <= embed_dim * mlp_ratio < 2**31:
            raise UserError(f'swinir: mlp_ratio is a positive number, not {mlp_ratio!r}')
        self.out_dim, self.window = N_FEATS, window_size
        self.receptive_field = reach(depths, window_size)
        self.floats_per_pixel = int((5 + mlp_ratio) * embed_dim) + 3 * max(num_heads) * window_size**2
        self.conv_first = Conv2d(3, embed_dim, 3)
        self.patch_embed = nn.ModuleDict({'norm': nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList(
            ResidualGroup(embed_dim, depth, heads, window_size, mlp_ratio) for depth, heads in zip(depths, num_heads)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = Conv2d(embed_dim, embed_dim, 3)
        self.conv_before_upsample = nn.Sequential(Conv2d(embed_dim, N_FEATS, 3), nn.LeakyReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        first = self.conv_first(reflected(reflected(x, 2, self.window), 3, self.window))
        windows = windows_of(first, self.window)
        y = self.patch_embed['norm'](first.permute(0, 2, 3, 1))
        for group in self.layers:
            y = group(y, windows)
        y = self.norm(y).permute(0, 3, 1, 2)
        return self.conv_before_upsample(self.conv_after_body(y) + first)[:, :, :height, :width]


def of_pixels(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`conv` applied to `x (B, H, W, C)`; the result is laid out alike."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def reflected(x: torch.Tensor, axis: int, multiple: int) -> torch.Tensor:
    """`x` padded at the end of `axis` to a `multiple` of pixels, by reflection that does not repeat the last pixel; an
    axis that is too short is reflected back and forth."""
    n = x.shape[axis]
    at = torch.arange(-(-n // multiple) * multiple, device=x.device)
    period = max(2 * n - 2, 1)
    at = at % period
    return x if len(at) == n else x.index_select(axis, torch.minimum(at, period - at))


def windows_of(maps: torch.Tensor, side: int) -> Windows:
    """The `Windows` of `maps (B, C, H, W)`, H and W multiples of `side`."""
    device = maps.device
    y, x = torch.cartesian_prod(torch.arange(side, device=device), torch.arange(side, device=device)).t()
    relative_y, relative_x = (at[:, None] - at + side - 1 for at in (y, x))

    def shares(n):
        """For an axis cut into shifted windows, a number for each pixel of each window, `(windows, side)`: pixels of a
        window see each other if their numbers are equal. The last window holds the last pixels and, because shifting
        is cyclic, the first ones."""
        number = torch.zeros(n // side, side, dtype=torch.long, device=device)
        number[-1, side - side // 2 :] = 1
        return number

    rows, columns = (shares(n) for n in maps.shape[-2:])
    number = 2 * rows[:, None, :, None] + columns[None, :, None, :]  # (rows, columns, side, side)
    number = number.flatten(2).flatten(0, 1)  # (windows, N)
    apart = number[:, :, None] != number[:, None]
    mask = maps.new_zeros(apart.shape).masked_fill_(apart, -torch.inf)
    return Windows(side, relative_y * (2 * side - 1) + relative_x, mask[:, None])


def reach(depths: Sequence[int], side: int) -> int:
    """How far away from a feature, in pixels, the pixels that it depends on can be. Its windows are the ones that hold
    its pixel, which may be anywhere in a window."""
    farthest = 0
    for pixel in range(side):
        first, last = pixel - 2, pixel + 2  # the two convolutions at the end
        for depth in reversed(depths):
            first, last = first - 1, last + 1
            for shift in reversed([side // 2 * (j % 2) for j in range(depth)]):
                first = (first - shift) // side * side + shift
                last = (last - shift) // side * side + shift + side - 1
        farthest = max(farthest, pixel - first + 1, last - pixel + 1)
    return farthest
