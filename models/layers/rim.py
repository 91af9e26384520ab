"""RIM, the re-interaction module: a convolution whose frozen kernel learns to interact with itself."""

import torch
from torch import nn
from torch.nn import functional as F

from models.layers import convolution


class RIMConv2d(nn.Module):
    """A `kernel x kernel` convolution with the kernel `W' = W + (A * W) . (b W)`, `padding = kernel // 2`.

    `W (out, in, k, k)` is frozen (a buffer). Each of its 2-D slices has a 3x3 filter `A` (zero padding, no bias) and a
    scalar `b`, trained together with the bias. `b` starts at 0, so that `W' = W` exactly.
    Source: MSIT (arXiv 2403.06536), re-interaction module.

    `(B, in_channels, H, W)` to `(B, out_channels, H, W)`.
    """

    weight: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, kernel_size)
        slices = in_channels * out_channels
        self.register_buffer('weight', plain.weight.detach().clone())
        self.bias = plain.bias
        self.interaction = nn.Parameter(nn.Conv2d(slices, slices, 3, groups=slices).weight.detach().clone())
        self.gain = nn.Parameter(torch.zeros(slices, 1, 1, 1))

    def kernel(self) -> torch.Tensor:
        """`W'`, `(out, in, k, k)`."""
        out_channels, in_channels, k, _ = self.weight.shape
        slices = self.weight.reshape(1, out_channels * in_channels, k, k)
        neighbours = F.conv2d(slices, self.interaction, padding=1, groups=slices.shape[1])
        gained = slices * self.gain.reshape(1, -1, 1, 1)
        return (slices + neighbours * gained).reshape(self.weight.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return convolution.same_conv2d(x, self.kernel(), self.bias)


def make_conv(in_channels: int, out_channels: int, kernel_size: int, rim: bool) -> nn.Module:
    """A convolution of stage 1 (plain) or, with `rim`, of a later stage. Both keep height and width."""
    return (RIMConv2d if rim else convolution.Conv2d)(in_channels, out_channels, kernel_size)


@torch.no_grad()
def fold_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `module` with every RIM convolution folded into the plain one that computes the same."""
    state = module.state_dict()
    for name, part in module.named_modules():
        if isinstance(part, RIMConv2d):
            state[f'{name}.weight'] = part.kernel().detach()
            del state[f'{name}.interaction'], state[f'{name}.gain']
    return state
