"""RCAN without its upsampling tail and without mean shift, as an encoder."""

import torch
from torch import nn

from models.layers.convolution import Conv2d
from models.registry import register
from utils import UserError, check_whole


class ChannelAttention(nn.Module):
    """Every channel times a weight between 0 and 1 that depends on the means of all channels over the whole image."""

    def __init__(self, n_feats: int, reduction: int):
        super().__init__()
        fewer = n_feats // reduction
        self.conv_du = nn.Sequential(nn.Conv2d(n_feats, fewer, 1), nn.ReLU(), nn.Conv2d(fewer, n_feats, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.conv_du(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class ResidualBlock(nn.Module):
    def __init__(self, n_feats: int, reduction: int):
        super().__init__()
        self.body = nn.Sequential(
            Conv2d(n_feats, n_feats, 3), nn.ReLU(), Conv2d(n_feats, n_feats, 3), ChannelAttention(n_feats, reduction)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Group(nn.Module):
    """Residual blocks and a convolution, with a skip connection around all of them."""

    def __init__(self, n_resblocks: int, n_feats: int, reduction: int):
        super().__init__()
        blocks = [ResidualBlock(n_feats, reduction) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, Conv2d(n_feats, n_feats, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@register('rcan')
class RCAN(nn.Module):
    """Features of an image: `(B, 3, H, W)` in [-1, 1] to `(B, n_feats, H, W)`. Every feature depends
    on the whole image.

    The defaults are the published sizes, 15.3 M parameters.
    Source: Zhang et al., *Image Super-Resolution Using Very Deep Residual Channel Attention Networks*, arXiv
    1807.02758, section 3.

    Attributes: `out_dim`, the channels of the features; `whole`: an image is encoded as a whole, and tiles are cut from
    its features, so that they need no margin (`receptive_field`); `floats_per_pixel`, about how many numbers are held
    at a time for each pixel.
    Raises UserError for sizes that make no sense.
    """

    whole = True
    receptive_field = 0

    def __init__(self, n_resgroups: int = 10, n_resblocks: int = 20, n_feats: int = 64, reduction: int = 16):
        super().__init__()
        check_whole('rcan', n_resgroups=n_resgroups, n_resblocks=n_resblocks, n_feats=n_feats, reduction=reduction)
        if reduction > n_feats:
            raise UserError(f'rcan: reduction is at most n_feats, {n_feats}, not {reduction}')
        self.out_dim = n_feats
        self.floats_per_pixel = 6 * n_feats
        self.head = nn.Sequential(Conv2d(3, n_feats, 3))
        groups = [Group(n_resblocks, n_feats, reduction) for _ in range(n_resgroups)]
        self.body = nn.Sequential(*groups, Conv2d(n_feats, n_feats, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return x + self.body(x)
