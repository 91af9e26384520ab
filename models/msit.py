"""MSIT: an SR encoder, MSNO, MSSA and an MLP that renders a low-resolution image at any size."""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from models import grid
from models.mssa import MSSA
from models.msno import MSNO
from models.registry import make, register
from models.render import render
from utils import UserError


class Features(NamedTuple):
    """What `encode` finds in an LR image; all in the network's scale of [-1, 1] for colours."""
    lr: torch.Tensor            # (B, 3, H, W)
    query_key: torch.Tensor     # (B, C, H, W)
    value: torch.Tensor         # (B, C, H, W)


@register('msit')
class MSIT(nn.Module):
    """Multi-scale implicit transformer, arXiv 2403.06536.

    `encoder_spec` and `imnet_spec` are specs of the registry (the MLP's `in_dim` is derived); `channels` C; `heads` of the
    attention; `radius` r of its window of `(2 r + 1)^2` LR pixels; `msno_kernels` and `mssa_kernels`, the kernel sizes of
    the two multi-scale convolutions; `fem`, the padding of FEM ('replicate', 'circular') or None for no FEM;
    `position_bias_spec`, or None for no position bias; `rim`, whether the kernels are re-parameterised (stage 2 and later).
    Raises UserError for sizes that do not fit together.
    """

    def __init__(self, encoder_spec, imnet_spec, channels=256, heads=8, radius=3, msno_kernels=tuple(range(3, 34, 2)),
                 mssa_kernels=(3, 5, 7, 9), fem='replicate', position_bias_spec=None, rim=False):
        super().__init__()
        if radius < 1:
            raise UserError(f'msit: the radius of the window is at least 1, not {radius}')
        self.radius = radius
        self.window = (2 * radius + 1) ** 2
        self.encoder = make(encoder_spec)
        self.project = nn.Conv2d(self.encoder.out_dim, channels, 1)
        self.msno = MSNO(channels, msno_kernels, fem, rim)
        self.mssa = MSSA(channels, heads, mssa_kernels, position_bias_spec, rim)
        self.imnet = make(imnet_spec, in_dim=self.window * channels + 2)
        self.receptive_field = (self.encoder.receptive_field + self.msno.receptive_field + self.mssa.receptive_field + radius)

    def encode(self, lr):
        """`lr (B, 3, H, W)` in [0, 1] to `Features`."""
        lr = (lr - 0.5) / 0.5
        query_key, value = self.mssa(self.msno(self.project(self.encoder(lr))))
        return Features(lr, query_key, value)

    def query(self, features, coord, cell):
        """Colours at any points, point by point as the paper states it.

        `coord (B, Q, 2)` (y, x) in [-1, 1]; `cell (2,)`, `(B, 2)` or `(B, Q, 2)`, the size of a pixel in the same units. Both best in
        float64 (`models.grid`). Returns `(B, Q, 3)` in the scale of [0, 1], not clamped.
        """
        pixel, offset = self.locate(features, coord)
        query, keys, values = self.gather(features, pixel, offset[:, :, None])              # one point a pixel
        attention = self.mssa.weights(query, keys, self.window_bias(offset[:, :, None]).flatten(0, 1))
        n, heads, _, window = attention.shape
        attention = attention.reshape(n, heads, window).transpose(1, 2)                     # (N, K, heads)
        latent = values.reshape(n, window, heads, -1) * attention[..., None].to(values.dtype)
        height, width = features.lr.shape[-2:]
        cell = cell.to(coord) if cell.ndim == 3 else cell.to(coord).reshape(-1, 1, 2)
        cell = (cell * cell.new_tensor([height, width])).expand(coord.shape).reshape(n, 2)
        colour = self.imnet(torch.cat([latent.flatten(1), cell.to(latent.dtype)], dim=-1))
        skip = self.skip(features, pixel, offset[:, :, None]).squeeze(2)
        return (colour.reshape(skip.shape) + skip) * 0.5 + 0.5

    def query_blocks(self, features, pixel, rows, columns, cell):
        """Colours of all output pixels that belong to some LR pixels, which share the first layer's work.

        The first layer of the MLP is applied to the window's values once for each LR pixel and then weighed, instead of weighing the values once for
        each output pixel: the same sum in another order.

        `pixel (B, P)`: the LR pixels, `y * W + x`; `rows (B, P, my)` and `columns (B, P, mx)`: offsets of the output rows and columns
        from the LR pixel's centre, in LR pixels, in [-1/2, 1/2]; `cell (2,)`: size of an output pixel in [-1, 1] units. Returns `(B, P, my * mx, 3)` in the
        scale of [0, 1], not clamped.
        """
        batch, count, my = rows.shape
        mx = columns.shape[-1]
        offset = torch.stack([rows[..., :, None].expand(-1, -1, -1, mx), columns[..., None, :].expand(-1, -1, my, -1)], dim=-1)
        offset = offset.flatten(2, 3)                                                       # (B, P, m, 2)
        query, keys, values = self.gather(features, pixel, offset)
        dy, dx = self.window_offsets(rows), self.window_offsets(columns)
        bias = self.mssa.bias(dy[..., :, None, :], dx[..., None, :, :])                     # (B, P, my, mx, heads, K)
        bias = bias.reshape(batch * count, my * mx, *bias.shape[-2:]) if bias.ndim else bias
        attention = self.mssa.weights(query, keys, bias)                                    # (N, heads, m, K)

        first = self.imnet.layers[0]
        n, heads, m, window = attention.shape
        depth = values.shape[-1] // heads
        of_window = first.weight[:, :-2].reshape(-1, window, heads, depth).permute(2, 1, 3, 0)     # (heads, K, d, hidden)
        values = values.reshape(n, window, heads, depth).permute(2, 1, 0, 3)                       # (heads, K, N, d)
        shared = torch.matmul(values, of_window).flatten(0, 1).transpose(0, 1)                     # (N, heads * K, hidden)
        height, width = features.lr.shape[-2:]
        relative_cell = (cell * cell.new_tensor([height, width])).to(first.weight)
        constant = F.linear(relative_cell, first.weight[:, -2:], first.bias)
        hidden = torch.matmul(attention.transpose(1, 2).flatten(2).to(shared.dtype), shared) + constant
        colour = self.imnet.after_first(hidden)                                                    # (N, m, 3)
        return (colour.reshape(batch, count, m, -1) + self.skip(features, pixel, offset)) * 0.5 + 0.5

    def render(self, lr, size, tile=None):
        """`lr (B, 3, H, W)` in [0, 1] at any output size `(h, w)`: `(B, 3, h, w)` on the same scale, not clamped."""
        return render(self, lr, size, tile)

    # ------------------------------------------------------------ parts

    def locate(self, features, coord):
        """The nearest LR pixel of points `(B, Q, 2)` and the offset from its centre: `(B, Q)` int64, `y * W + x`, and
        `(B, Q, 2)` in LR pixels."""
        height, width = features.lr.shape[-2:]
        position = ((coord + 1) * coord.new_tensor([height, width]) - 1) / 2
        y, x = grid.nearest_pixel(position[..., 0], height), grid.nearest_pixel(position[..., 1], width)
        return y * width + x, position - torch.stack([y, x], dim=-1)

    def window_offsets(self, offset):
        """From each row (or column) of the window to the point: `(...)` to `(..., 2 r + 1)`, in LR pixels."""
        return offset[..., None] - torch.arange(-self.radius, self.radius + 1, device=offset.device)

    def window_bias(self, offset):
        """Position bias of points at `offset (..., 2)` from their LR pixel: `(..., heads, K)`."""
        return self.mssa.bias(self.window_offsets(offset[..., 0]), self.window_offsets(offset[..., 1]))

    def gather(self, features, pixel, offset):
        """Queries, keys and values of LR pixels `(B, P)` for points at `offset (B, P, m, 2)`.

        Returns `(N, m, C)`, the query map sampled bilinearly (zeros outside), and twice `(N, K, C)`, the windows (zeros outside), `N = B * P`.
        """
        keys, values = (windows(x, pixel, self.radius, 'constant') for x in features[1:])
        side = 2 * self.radius + 1
        nearest = keys.unflatten(1, (side, side))[:, self.radius - 1:self.radius + 2, self.radius - 1:self.radius + 2].flatten(1, 2)
        weight = bilinear_weights(offset).flatten(0, 1).to(keys.dtype)                      # (N, m, 9)
        return torch.matmul(weight, nearest), keys, values

    def skip(self, features, pixel, offset):
        """The LR image sampled bilinearly, the border continued: `(B, P, m, 3)`."""
        weight = bilinear_weights(offset)
        nearest = windows(features.lr, pixel, 1, 'replicate').reshape(*pixel.shape, 9, 3)
        return torch.matmul(weight.to(nearest.dtype), nearest)


def bilinear_weights(offset):
    """Weights on the 3x3 pixels around the nearest one: offsets `(..., 2)`, (y, x), to `(..., 9)`, rows outermost."""
    y, x = grid.linear_weights(offset[..., 0]), grid.linear_weights(offset[..., 1])
    return (y[..., :, None] * x[..., None, :]).flatten(-2)


def windows(x, pixel, radius, padding):
    """The `(2 radius + 1)^2` pixels around LR pixels: `(B, C, H, W)` and `(B, P)` int64 `y * W + x` to `(B * P, K, C)`."""
    batch, channels, _, width = x.shape
    flat = F.pad(x, (radius,) * 4, mode=padding).permute(0, 2, 3, 1).reshape(-1, channels)
    wide, rows = width + 2 * radius, x.shape[2] + 2 * radius
    corner = pixel.div(width, rounding_mode='floor') * wide + pixel % width
    corner = corner + torch.arange(batch, device=pixel.device)[:, None] * (wide * rows)
    side = torch.arange(2 * radius + 1, device=pixel.device)
    index = corner.reshape(-1, 1) + (side[:, None] * wide + side).reshape(-1)
    return flat.index_select(0, index.reshape(-1)).reshape(*index.shape, channels)
