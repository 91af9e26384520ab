"""MSSA, multi-scale self-attention of a query point to the LR pixels around it."""
import torch
from torch import nn

from models.msc import MSC
from models.registry import make
from models.rim import conv2d
from models.sim import SIM
from utils import UserError


class MSSA(nn.Module):
    """The maps that MSSA works on, and its attention weights.

    `forward`: `(B, C, H, W)` to `(query_key, value)`, both `(B, C, H, W)`. One map serves as query and as key.
    Source: MSIT (arXiv 2403.06536), multi-scale self-attention.
    Raises UserError if the channels cannot be divided among the heads or the kernel sizes.
    """

    def __init__(self, channels, heads, kernels, position_bias_spec, rim=False):
        super().__init__()
        if channels % heads:
            raise UserError(f'{channels} channels cannot be divided among {heads} heads')
        self.heads = heads
        self.inner = nn.Conv2d(channels, channels, 1)
        self.msc = MSC(channels, kernels, rim)
        self.sim = SIM(channels, groups=channels // len(kernels))
        self.value = conv2d(channels, channels, 3, rim)
        self.position_bias = None if position_bias_spec is None else make(position_bias_spec, heads=heads)
        self.receptive_field = max(self.msc.receptive_field, 1)

    def forward(self, z):
        return self.sim(self.msc(self.inner(z))), self.value(z)

    def bias(self, dy, dx):
        """Position bias of a window from the offsets of its rows and columns, one LR pixel counting 1.

        `dy (..., K)` and `dx (..., K)`, broadcast against each other, give `(..., heads, K * K)`, rows outermost.
        """
        if self.position_bias is None:
            return dy.new_zeros(()).float()
        rows = self.position_bias.along(0, 2 * dy) + self.position_bias.constant()    # (..., K, heads)
        columns = self.position_bias.along(1, 2 * dx)                                # (..., K, heads)
        window = rows.transpose(-1, -2)[..., :, None] + columns.transpose(-1, -2)[..., None, :]
        return window.flatten(-2)                                                    # (..., heads, K * K)

    def weights(self, query, keys, bias):
        """Softmax over the window: `query (N, m, C)`, `keys (N, K, C)`, `bias (N, m, heads, K)` give `(N, heads, m, K)`."""
        n, m, channels = query.shape
        depth = channels // self.heads
        query = query.reshape(n, m, self.heads, depth).transpose(1, 2)               # (N, heads, m, d)
        keys = keys.reshape(n, -1, self.heads, depth).permute(0, 2, 3, 1)            # (N, heads, d, K)
        logits = torch.matmul(query * depth ** -0.5, keys)
        return (logits + (bias.transpose(1, 2) if bias.ndim else bias)).softmax(dim=-1)
