"""The decoder's multi-layer perceptron."""
from torch import nn

from models.registry import register
from utils import UserError, check_whole, is_whole, nearest

ACTIVATIONS = {'relu': nn.ReLU, 'gelu': nn.GELU}


@register('mlp')
class MLP(nn.Module):
    """Linear layers `in_dim -> hidden_list -> out_dim` with `act` ('relu' or the exact 'gelu') between them.

    Input `(..., in_dim)`, output `(..., out_dim)`. Source: LIIF (arXiv 2012.09161, section 4).
    Raises UserError for an unknown activation and sizes that make no sense.
    """

    def __init__(self, in_dim, out_dim, hidden_list, act='relu'):
        super().__init__()
        check_whole('mlp', in_dim=in_dim, out_dim=out_dim)
        if not isinstance(hidden_list, (list, tuple)) or not all(map(is_whole, hidden_list)):
            raise UserError(f'mlp: hidden_list is a list of whole numbers from 1 up, not {hidden_list!r}')
        if act not in tuple(ACTIVATIONS):
            raise UserError(f'mlp: unknown activation {act!r}{nearest(act, ACTIVATIONS)}')
        sizes = [in_dim, *hidden_list, out_dim]
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:]):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[act]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.layers(x)

    def after_first(self, x):
        """What follows the first linear layer, for callers that evaluate that layer in a way of their own."""
        return self.layers[1:](x)
