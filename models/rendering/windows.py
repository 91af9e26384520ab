"""Reading pixels, and the windows around them, from padded maps."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def padded(maps: torch.Tensor, radius: int, mode: str = 'constant') -> torch.Tensor:
    """`(B, C, H, W)` to `(B, H + 2 radius, W + 2 radius, C)`."""
    return F.pad(maps, (radius,) * 4, mode=mode).permute(0, 2, 3, 1).contiguous()


def window_index(shape: Sequence[int], y: torch.Tensor, x: torch.Tensor, radius: int) -> torch.Tensor:
    """Where the `K = (2 radius + 1)^2` pixels around LR pixels lie, rows of the window outermost.

    `shape`: that of maps `(B, H + 2 radius, W + 2 radius, ...)`, whose pixels are numbered in order; `y, x (B, P)`.
    Gives `(K, B * P)`.
    """
    batch, height, width = shape[:3]
    corner = (torch.arange(batch, device=y.device)[:, None] * height + y) * width + x
    side = torch.arange(2 * radius + 1, device=y.device)
    return (side[:, None] * width + side).reshape(-1, 1) + corner.reshape(-1)


def pick(maps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The pixels of `maps (..., C)`, numbered in order, at `index (K, N)`: `(K, N, C)`."""
    return maps.reshape(-1, maps.shape[-1]).index_select(0, index.reshape(-1)).reshape(*index.shape, -1)


def windows(maps: torch.Tensor, y: torch.Tensor, x: torch.Tensor, radius: int) -> torch.Tensor:
    """The windows of `window_index` themselves: `(K, B * P, C)`."""
    return pick(maps, window_index(maps.shape, y, x, radius))


def middle_3x3(keys: torch.Tensor) -> torch.Tensor:
    """The 3x3 pixels in the middle of windows: `(K, N, C)` to `(9, N, C)`."""
    side = round(len(keys) ** 0.5)
    middle = slice(side // 2 - 1, side // 2 + 2)
    return keys.unflatten(0, (side, side))[middle, middle].flatten(0, 1)
