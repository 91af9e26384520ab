"""SIM, scale integration: mixes what the kernel sizes of MSC saw."""
from torch import nn


class SIM(nn.Module):
    """Grouped 1x1 convolution to 2C, batch norm, GELU, 1x1 convolution to C: `(B, C, H, W)` to the same.

    Source: MSIT (arXiv 2403.06536), scale integration of MSNO and of MSSA's query and key.
    """

    def __init__(self, channels, groups):
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, groups=groups)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.act = nn.GELU()
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        return self.project(self.act(self.norm(self.expand(x))))
