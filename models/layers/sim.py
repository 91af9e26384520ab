"""SIM, scale integration: mixes the results of MSC's kernel sizes."""

import torch
from torch import nn
from torch.nn import functional as F

FEWEST_CHANNELS = 16  # in a group


class SIM(nn.Module):
    """Grouped 1x1 convolution to 2C, batch norm, GELU, 1x1 convolution to C: `(B, C, H, W)` to the same.

    Source: MSIT (arXiv 2403.06536), scale integration of MSNO and of MSSA's query and key.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1, groups=groups)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.act = nn.GELU()
        self.project = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.act(self.norm(self.expand(x)) if self.training else self.expand_normed(x)))

    def expand_normed(self, x: torch.Tensor) -> torch.Tensor:
        """`norm(expand(x))` in evaluation mode, as one convolution."""
        weight, bias, groups = self.normed()
        return F.conv2d(x, weight, bias, groups=groups)

    def normed(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Weight, bias and groups of the convolution that equals `expand` and `norm` in evaluation mode."""
        expand, norm = self.expand, self.norm
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = (expand.bias - norm.running_mean) * gain + norm.bias
        weight, groups = merged(expand.weight * gain[:, None, None, None], expand.groups)
        return weight, bias, groups


def merged(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, int]:
    """The `weight (O, C / groups, 1, 1)` of a grouped convolution rewritten for fewer groups, with zeros between
    channels of different groups, and the number of groups that are left. On a CPU, groups of few channels are slow."""
    each = weight.shape[1]
    many = max(n for n in range(1, groups + 1) if groups % n == 0 and n * each <= max(FEWEST_CHANNELS, each))
    apart = weight.reshape(groups // many, many, -1, each)
    together = weight.new_zeros(*apart.shape[:3], many, each)
    together.diagonal(dim1=1, dim2=3).copy_(apart.permute(0, 2, 3, 1))
    return together.reshape(-1, many * each, 1, 1), groups // many
