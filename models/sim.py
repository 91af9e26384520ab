"""SIM, scale integration: mixes what the kernel sizes of MSC saw."""
from torch import nn
from torch.nn import functional as F


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
        return self.project(self.act(self.norm(self.expand(x)) if self.training else self.expand_normed(x)))

    def expand_normed(self, x):
        """What `expand` and `norm` give in evaluation, where the norm is a part of the convolution."""
        expand, norm = self.expand, self.norm
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = (expand.bias - norm.running_mean) * gain + norm.bias
        return F.conv2d(x, expand.weight * gain[:, None, None, None], bias, groups=expand.groups)
