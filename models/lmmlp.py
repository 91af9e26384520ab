"""The modulated MLP of LMF, so narrow that the modulation decides what it computes."""

import torch
from torch import nn

from models.mlp import Linear
from models.registry import register
from utils import check_whole


@register('lmmlp')
class LMMLP(nn.Module):
    """`hidden_depth` layers of `hidden_dim`, each modulated before its ReLU, and a plain layer that gives
    the three numbers of a colour.

    The input is a latent code of `hidden_dim` numbers and `beyond` more. Source: LMF (arXiv 2404.16451, section 3).

    Attributes: `hidden_dim`; `n_modulations`, the numbers that a modulation consists of.
    Raises UserError for sizes that make no sense.
    """

    def __init__(self, hidden_dim: int, hidden_depth: int, beyond: int = 0):
        super().__init__()
        check_whole('lmmlp', hidden_dim=hidden_dim, hidden_depth=hidden_depth)
        self.hidden_dim, self.n_modulations = hidden_dim, 2 * hidden_depth * hidden_dim
        sizes = [hidden_dim + beyond, *[hidden_dim] * hidden_depth, 3]
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:]):
            layers += [Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """`x (N, hidden_dim + beyond)` and `modulation (N, n_modulations)`, the factors of all hidden layers followed
        by all their shifts, to `(N, 3)`."""
        factors, shifts = (part.split(self.hidden_dim, dim=-1) for part in modulation.chunk(2, dim=-1))
        for layer, factor, shift in zip(self.layers[::2], factors, shifts):
            x = torch.addcmul(shift, layer(x).to(shift.dtype), factor).relu()
        return self.layers[-1](x)
