"""LM-LIIF: LIIF by latent modulated functions."""

import torch
from torch.nn import functional as F

from models.lmf import LMF, Features
from models.registry import make_part, register
from models.rendering.implicit import to_network
from models.rendering.windows import padded


@register('lmliif')
class LMLIIF(LMF):
    """LM-LIIF, arXiv 2404.16451: the hypernetwork takes the 3x3 features around an LR pixel and the cell; the modulated
    MLP takes a latent code, the offset and the cell.

    `encoder_spec`, `imnet_spec` (an `lmmlp`) and `hypernet_spec` (an `mlp`, whose input and output widths are derived)
    are specs of the registry.
    """

    def __init__(self, encoder_spec: dict, imnet_spec: dict, hypernet_spec: dict):
        super().__init__(encoder_spec, imnet_spec, beyond=4)
        n_outputs = self.imnet.n_modulations + self.imnet.hidden_dim
        n_inputs = 9 * self.encoder.out_dim + 2
        self.hypernet = make_part('MLP', hypernet_spec, 'after_first', in_dim=n_inputs, out_dim=n_outputs)

    @property
    def floats_per_pixel(self) -> float:
        layers = self.hypernet.layers
        return self.encoder_floats() + self.encoder.out_dim + 4 * layers[0].out_features + 3 * layers[-1].out_features

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Features:
        """`lr (B, 3, H, W)` in [0, 1] to `Features`; `told` is what the hypernetwork's first layer makes of the
        window around each LR pixel, without the cell."""
        maps, first = self.encoded(lr, maps), self.hypernet.layers[0]
        weight = first.weight[:, :-2].unflatten(1, (-1, 3, 3))
        told = F.conv2d(maps, weight, first.bias, padding=1)
        return Features(padded(to_network(lr.to(first.weight.dtype)), 0), padded(told, 0))

    def hypernet_output(self, told: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """As in `LMF.hypernet_output`."""
        return self.hypernet.after_first(told + F.linear(cell, self.hypernet.layers[0].weight[:, -2:]))

    def latent(self, code: torch.Tensor, offset: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """As in `LMF.latent`."""
        return torch.cat([code, offset, cell.expand_as(offset)], dim=-1)
