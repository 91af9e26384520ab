"""LTE+: LTE with its waves stored in another order."""

import torch

from models.lte import LTE
from models.registry import register
from utils import check_whole


@register('lte-fast')
class LTEFast(LTE):
    """LTE+, the fast LTE of arXiv 2111.08918, published as `lte-fast`: `num_layer` hidden layers of `hidden_dim`, which
    is twice the number of waves. Raises UserError for sizes that make no sense.

    It computes the same as LTE, but `freq` has the frequencies of all waves along y first, then those along x. In
    published weights the MLP's layers are 1x1 convolutions.
    """

    def __init__(self, encoder_spec: dict, num_layer: int = 3, hidden_dim: int = 256):
        check_whole('lte-fast', num_layer=num_layer, hidden_dim=hidden_dim)
        imnet = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [hidden_dim] * num_layer}}
        super().__init__(encoder_spec, imnet, hidden_dim)

    def frequencies(self, maps: torch.Tensor) -> torch.Tensor:
        """As in `LTE.frequencies`."""
        return self.freq(maps)
