"""EDSR without its upsampling tail and without mean shift, as an encoder."""

import torch
from torch import nn

from models.layers.convolution import Conv2d
from models.registry import register
from models.rendering.strips import Stage, on_last
from utils import UserError, check_whole


class ResidualBlock(nn.Module):
    def __init__(self, n_feats: int, res_scale: float):
        super().__init__()
        self.body = nn.Sequential(Conv2d(n_feats, n_feats, 3), nn.ReLU(), Conv2d(n_feats, n_feats, 3))
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.body(x), alpha=self.res_scale)


class EDSR(nn.Module):
    """Features of an image: `(B, 3, H, W)` in [-1, 1] to `(B, n_feats, H, W)`.

    Source: Lim et al., *Enhanced Deep Residual Networks for Single Image Super-Resolution*, arXiv 1707.02921,
    section 3.

    Attributes: `out_dim`, the channels of the features; `receptive_field`, how many pixels to each side a feature sees;
    `floats_per_pixel`, about how many numbers per pixel are held at a time.
    Raises UserError for sizes that make no sense.
    """

    def __init__(self, n_resblocks: int, n_feats: int, res_scale: float):
        super().__init__()
        check_whole('edsr', n_resblocks=n_resblocks, n_feats=n_feats)
        if type(res_scale) not in (int, float):
            raise UserError(f'edsr: res_scale is a number, not {res_scale!r}')
        self.out_dim = n_feats
        self.receptive_field = 2 * n_resblocks + 2
        self.floats_per_pixel = 4 * n_feats
        self.head = nn.Sequential(Conv2d(3, n_feats, 3))
        self.body = nn.Sequential(
            *[ResidualBlock(n_feats, res_scale) for _ in range(n_resblocks)], Conv2d(n_feats, n_feats, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return x + self.body(x)

    def stages(self) -> list[Stage]:
        """The same as a chain: the maps are the head's and the blocks'."""
        *blocks, last = self.body
        return [
            Stage(lambda image: (self.head(image),) * 2, 1, 2 * self.out_dim),
            *(Stage(on_last(block), 2, 6 * self.out_dim) for block in blocks),
            Stage(lambda x, y: (x + last(y),), 1, 4 * self.out_dim),
        ]


@register('edsr-baseline')
def edsr_baseline(n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1) -> EDSR:
    """The small EDSR: 16 blocks of 64 features, 1.22 M parameters."""
    return EDSR(n_resblocks, n_feats, res_scale)


@register('edsr')
def edsr(n_resblocks: int = 32, n_feats: int = 256, res_scale: float = 0.1) -> EDSR:
    """The large EDSR: 32 blocks of 256 features, residuals scaled by 0.1."""
    return EDSR(n_resblocks, n_feats, res_scale)
