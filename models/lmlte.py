"""LM-LTE: LTE by latent modulated functions."""

import math

import torch
from torch import nn

from models.lmf import LMF, Features
from models.registry import make_part, register
from models.rendering.implicit import to_network
from models.rendering.windows import padded
from utils import UserError, is_whole


@register('lmlte')
class LMLTE(LMF):
    """LM-LTE, arXiv 2404.16451: the hypernetwork takes the waves of LTE at a corner of an LR pixel; the modulated MLP
    takes, at the point, waves that the hypernetwork determines. The LR image is added.

    `encoder_spec`, `imnet_spec` (an `lmmlp`) and `hypernet_spec` (an `mlp`, whose input and output widths are derived)
    are specs of the registry; `hidden_dim` is twice the number of LTE's waves. Raises UserError if it, or the width of
    the modulated MLP, is odd.
    """

    adds_lr = True

    def __init__(self, encoder_spec: dict, imnet_spec: dict, hypernet_spec: dict, hidden_dim: int = 128):
        super().__init__(encoder_spec, imnet_spec, beyond=0)
        width = self.imnet.hidden_dim
        for name, value in (('hidden_dim', hidden_dim), ('the hidden_dim of imnet_spec', width)):
            if not is_whole(value) or value % 2:
                raise UserError(f'lmlte: {name} is an even number from 2 up, not {value!r}')
        self.coef = nn.Conv2d(self.encoder.out_dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(self.encoder.out_dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imphase = nn.Linear(2, width // 2, bias=False)
        n_outputs = self.imnet.n_modulations + 2 * width
        self.hypernet = make_part('MLP', hypernet_spec, 'after_first', in_dim=hidden_dim, out_dim=n_outputs)

    @property
    def floats_per_pixel(self) -> float:
        layers = self.hypernet.layers
        hidden = 4 * self.coef.out_channels + 2 * layers[0].out_features
        return self.encoder_floats() + hidden + 3 * layers[-1].out_features

    def encode(self, lr: torch.Tensor, maps: torch.Tensor | None = None) -> Features:
        """`lr (B, 3, H, W)` in [0, 1] to `Features`; `told` has the amplitudes and frequencies of the waves."""
        maps, lr = self.encoded(lr, maps), lr.to(self.coef.weight.dtype)
        return Features(padded(to_network(lr), 0), padded(torch.cat([self.coef(maps), self.freq(maps)], dim=1), 0))

    def hypernet_output(self, told: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """As in `LMF.hypernet_output`."""
        amplitude, frequency = told.chunk(2, dim=-1)
        return self.hypernet(waves(amplitude, frequency, told.new_ones(2), self.phase(cell)))

    def latent(self, code: torch.Tensor, offset: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """As in `LMF.latent`."""
        amplitude, frequency = code.chunk(2, dim=-1)
        return waves(amplitude, frequency, offset, self.imphase(cell))


def waves(amplitude: torch.Tensor, frequency: torch.Tensor, offset: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Waves at `offset (..., 2)` (y, x): cosines, then sines, of `frequency (..., 2m)`, along y and x in turn for each
    wave, and of `phase (..., m)`, times `amplitude (..., 2m)`: `(..., 2m)`."""
    angle = math.pi * ((frequency.unflatten(-1, (-1, 2)) * offset[..., None, :]).sum(dim=-1) + phase)
    return amplitude * torch.cat([angle.cos(), angle.sin()], dim=-1)
