"""A light encoder: plain residual blocks that change little at first, for small models and short trainings."""

import torch
from torch import nn

from models.layers.convolution import Conv2d
from models.registry import register
from models.rendering.strips import Stage, on_last
from utils import check_whole

AT_FIRST = 0.1  # factor on what a block adds


class Block(nn.Module):
    """`x + conv(relu(conv(x)))`, `(B, n_feats, H, W)` to the same by way of `hidden` channels.

    Few channels between blocks and many inside them make better use of the same number of parameters: WDSR (Yu et al.,
    arXiv 1808.08718, section 3.1). The last convolution starts small, so that a deep
    chain of blocks is nearly the identity at first and can be trained at a high learning rate: ESRGAN (Wang et al.,
    arXiv 1809.00219, section 3.1, smaller initialisation).
    """

    def __init__(self, n_feats: int, hidden: int):
        super().__init__()
        self.body = nn.Sequential(Conv2d(n_feats, hidden, 3), nn.ReLU(), Conv2d(hidden, n_feats, 3))
        with torch.no_grad():
            for parameter in self.body[-1].parameters():
                parameter.mul_(AT_FIRST)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@register('light')
class Light(nn.Module):
    """Features of an image: `(B, 3, H, W)` in [-1, 1] to `(B, n_feats, H, W)`.

    A convolution, `n_blocks` of `Block`, a convolution, and a skip connection over all of these, as in EDSR (Lim et
    al., arXiv 1707.02921, section 3). Nearly all of its work is 3 x 3 convolutions. If the numbers of channels are
    multiples of 16 from 32 up, Winograd's method makes these about twice as fast on a CPU in float32, in rendering as
    in training.

    Attributes: `out_dim`, the channels of the features; `receptive_field`, how many pixels to each side a feature sees;
    `floats_per_pixel`, about how many numbers are held at a time for each pixel.
    Raises UserError for sizes that make no sense.
    """

    def __init__(self, n_blocks: int = 13, n_feats: int = 32, hidden: int = 64):
        super().__init__()
        check_whole('light', n_blocks=n_blocks, n_feats=n_feats, hidden=hidden)
        self.out_dim = n_feats
        self.receptive_field = 2 * n_blocks + 2
        self.floats_per_pixel = 2 * n_feats + 2 * hidden
        self.head = Conv2d(3, n_feats, 3)
        self.blocks = nn.Sequential(*[Block(n_feats, hidden) for _ in range(n_blocks)])
        self.tail = Conv2d(n_feats, n_feats, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        return x + self.tail(self.blocks(x))

    def stages(self) -> list[Stage]:
        """The same as a chain: the maps are the head's and the blocks'."""
        inside = 2 * self.blocks[0].body[0].out_channels
        return [
            Stage(lambda image: (self.head(image),) * 2, 1, 2 * self.out_dim),
            *(Stage(on_last(block), 2, 4 * self.out_dim + inside) for block in self.blocks),
            Stage(lambda x, y: (x + self.tail(y),), 1, 4 * self.out_dim),
        ]
