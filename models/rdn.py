"""RDN without its upsampling tail, as an encoder."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from models.layers.convolution import Conv2d
from models.registry import register
from models.rendering.strips import Maps, Stage, on_last
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
            dense = denser(conv, dense)
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

    def stages(self) -> list[Stage]:
        """The same as a chain, convolution by convolution: the maps are the first convolution's, the sum of what the
        blocks' outputs so far contribute to the last fusion, and the dense block's."""
        held = 2 * self.out_dim
        stages = [Stage(self.begin, 2, 4 * self.out_dim)]
        for block, weight in zip(self.blocks, self.fuse[0].weight.split(self.out_dim, dim=1)):
            for conv in block.convs:
                dense = conv.in_channels
                stages.append(Stage(on_last(partial(denser, conv)), 1, held + 2 * dense + 3 * conv.out_channels))
            stages.append(Stage(partial(self.fused, block, weight), 0, held + dense + 4 * self.out_dim))
        return [*stages, Stage(lambda first, total, x: (first + self.fuse[1](total),), 1, 5 * self.out_dim)]

    def begin(self, image: torch.Tensor) -> Maps:
        first = self.shallow[0](image)
        bias = self.fuse[0].bias[:, None, None]
        return first, bias.expand(first.shape), self.shallow[1](first)

    def fused(
        self, block: nn.Module, weight: torch.Tensor, first: torch.Tensor, total: torch.Tensor, x: torch.Tensor
    ) -> Maps:
        x = x[:, : self.out_dim] + block.fuse(x)
        return first, total + F.conv2d(x, weight), x


def denser(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a dense block knows so far, and what one more convolution makes of it."""
    return torch.cat([x, conv(x).relu()], dim=1)
