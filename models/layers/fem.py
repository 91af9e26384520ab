"""FEM, feature enhancement: every channel is replaced by neighbouring pixels of itself."""

import torch
from torch import nn
from torch.nn import functional as F

from utils import UserError, suggestion

# (dy, dx) that a channel reads from, by channel mod 8; two entries are added up.
READS = (
    ((0, 1),),
    ((0, -1),),
    ((1, 0),),
    ((-1, 0),),
    ((0, 1), (-1, 1)),
    ((0, -1), (1, -1)),
    ((1, 0), (1, 1)),
    ((-1, 0), (-1, -1)),
)
PADDINGS = ('replicate', 'circular')


class FEM(nn.Module):
    """Shifts channels by one pixel, `(B, C, H, W)` to the same; no parameters.

    `padding` says what lies beyond the border: the border pixel ('replicate') or, as in the published model, the
    opposite border ('circular'). Source: MSIT (arXiv 2403.06536), feature enhancement.
    Raises UserError for another padding.
    """

    receptive_field = 1
    kernel: torch.Tensor

    def __init__(self, channels: int, padding: str = 'replicate'):
        super().__init__()
        if padding not in PADDINGS:
            raise UserError(f'FEM: unknown padding {padding!r}{suggestion(padding, PADDINGS)}')
        self.padding = padding
        kernel = torch.zeros(channels, 1, 3, 3)
        for channel in range(channels):
            for dy, dx in READS[channel % 8]:
                kernel[channel, 0, 1 + dy, 1 + dx] = 1
        self.register_buffer('kernel', kernel, persistent=False)

    def forward(self, x: torch.Tensor, padded: bool = False) -> torch.Tensor:
        """`padded`: `x` is `(B, C, H + 2, W + 2)`, with what lies beyond the border."""
        if not padded:
            x = continued(continued(x, 2, self.padding), 3, self.padding)
        return F.conv2d(x, self.kernel, groups=len(self.kernel))


def continued(x: torch.Tensor, axis: int, padding: str) -> torch.Tensor:
    """`x` with a pixel more at both ends of an axis. `F.pad` does the same, but inductor (torch 2.14, CPU) fails on the
    gradient of its mode 'replicate'."""
    n = x.shape[axis]
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
    return torch.cat([last, x, first] if padding == 'circular' else [first, x, last], dim=axis)
