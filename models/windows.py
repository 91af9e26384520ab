"""Reading pixels, and windows around them, from maps laid out for it."""
import torch
from torch.nn import functional as F


def padded(maps, radius, mode='constant'):
    """`(B, C, H, W)` to `(B, H + 2 radius, W + 2 radius, C)`."""
    return F.pad(maps, (radius,) * 4, mode=mode).permute(0, 2, 3, 1).contiguous()


def windows(maps, y, x, radius):
    """The `K = (2 radius + 1)^2` pixels around LR pixels, rows outermost.

    `maps (B, H + 2 radius, W + 2 radius, C)` and `y, x (B, P)` to `(K, B * P, C)`.
    """
    batch, height, width, channels = maps.shape
    corner = (torch.arange(batch, device=y.device)[:, None] * height + y) * width + x
    side = torch.arange(2 * radius + 1, device=y.device)
    index = (side[:, None] * width + side).reshape(-1, 1) + corner.reshape(-1)
    return maps.reshape(-1, channels).index_select(0, index.reshape(-1)).reshape(*index.shape, channels)
