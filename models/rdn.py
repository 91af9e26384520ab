"""RDN without its upsampling tail, as an encoder."""

import torch
from torch import nn

from models.layers.convolution import Conv2d
from models.registry import register
from utils import check_whole


class ResidualDenseBlock(nn.Module):
    """Every convolution sees the block's input and all earlier outputs; a 1x1 convolution fuses them."""

    def __init__(self, n_feats: int, growth: int, n_convs: int):
        super().__init__()
        self.convs = nn.ModuleList(Conv2d(n_feats + c * growth, growth, 3) for c in range(n_convs))
        self.fuse = nn.Conv2d(n_feats + n_convs * growth, n_feats, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = x
        for conv in self.convs:
            dense = torch.cat([dense, conv(dense).relu()], dim=1)
        return x + self.fuse(dense)


@register('rdn')
class RDN(nn.Module):
    """Features of an image: `(B, 3, H, W)` in [-1, 1] to `(B, n_feats, H, W)`.

    The defaults are configuration B, 22 M parameters.
    Source: Zhang et al., *Residual Dense Network for Image Super-Resolution*, arXiv 1802.08797, section 3.

    Attributes: `out_dim`, the channels of the features; `receptive_field`, how many pixels to each side a feature sees;
    `floats_per_pixel`, about how many numbers per pixel are held at a time.
    Raises UserError for sizes that make no sense.
    """

    def __init__(self, n_blocks: int = 16, n_convs: int = 8, growth: int = 64, n_feats: int = 64):
        super().__init__()
        check_whole('rdn', n_blocks=n_blocks, n_convs=n_convs, growth=growth, n_feats=n_feats)
        self.out_dim = n_feats
        self.receptive_field = n_blocks * n_convs + 3
        self.floats_per_pixel = 2 * max(n_blocks * n_feats, n_feats + n_convs * growth) + n_blocks * n_feats
        self.shallow = nn.ModuleList([Conv2d(3, n_feats, 3), Conv2d(n_feats, n_feats, 3)])
        self.blocks = nn.ModuleList(ResidualDenseBlock(n_feats, growth, n_convs) for _ in range(n_blocks))
        self.fuse = nn.Sequential(nn.Conv2d(n_blocks * n_feats, n_feats, 1), Conv2d(n_feats, n_feats, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.shallow[0](x)
        x = self.shallow[1](first)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return first + self.fuse(torch.cat(outputs, dim=1))
