"""The decoder's multi-layer perceptron."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.registry import register
from utils import UserError, check_whole, is_whole, suggestion

FEWEST_ROWS = 256  # for fewer, calling a convolution takes longer than it saves
AVX512 = 'AVX512' in torch.backends.cpu.get_cpu_capability()
ACTIVATIONS = {'relu': nn.ReLU, 'gelu': nn.GELU}


class Linear(nn.Linear):
    """`nn.Linear`, computed as a convolution with a kernel of one pixel in float32 on a CPU with AVX-512.

    torch gives convolutions to oneDNN and products of float32 matrices to MKL. On AMD processors MKL took up to twice
    as long, depending on the processor and on the release of torch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        in_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
        if not (AVX512 and x.device.type == 'cpu' and in_float32 and x.numel() >= FEWEST_ROWS * self.in_features):
            return super().forward(x)
        column = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # channels last in memory
        # the dilation changes nothing, but without it torch gives a kernel of one pixel to MKL on one thread
        column = F.conv2d(column, self.weight[:, :, None, None], self.bias, dilation=2)
        return column.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


@register('mlp')
class MLP(nn.Module):
    """Linear layers `in_dim -> hidden_list -> out_dim` with `act` ('relu' or the exact 'gelu') between them.

    Input `(..., in_dim)`, output `(..., out_dim)`. Source: LIIF (arXiv 2012.09161, section 4).
    Raises UserError for an unknown activation and sizes that make no sense.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_list: Sequence[int], act: str = 'relu'):
        super().__init__()
        check_whole('mlp', in_dim=in_dim, out_dim=out_dim)
        if not isinstance(hidden_list, (list, tuple)) or not all(map(is_whole, hidden_list)):
            raise UserError(f'mlp: hidden_list is a list of whole numbers from 1 up, not {hidden_list!r}')
        if act not in tuple(ACTIVATIONS):
            raise UserError(f'mlp: unknown activation {act!r}{suggestion(act, ACTIVATIONS)}')
        sizes = [in_dim, *hidden_list, out_dim]
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:]):
            layers += [Linear(fan_in, fan_out), ACTIVATIONS[act]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def after_first(self, x: torch.Tensor) -> torch.Tensor:
        """Everything after the first linear layer, for callers that evaluate that layer in their own way."""
        return self.layers[1:](x)
