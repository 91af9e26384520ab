"""Position bias: what the offset between a query point and a key adds to an attention logit."""

import torch
from torch import nn
from torch.nn import functional as F

from models.device import widest
from utils import UserError, is_whole


class SinusoidBias(nn.Module):
    """A linear function of sines and cosines of the offset, one output for each head.

    With frequencies `f_j = 2^(max_exponent j / (features/4 - 1)) - 1` the features of an offset `(y, x)` are
    `[sin(f y) | sin(f x) | cos(f y) | cos(f x)]`; one LR pixel counts 2. The bias is a sum of a function of `y` and one
    of `x`, which `along` gives separately. Offsets are converted to the weight's type, at least float32, also under
    autocast: the frequencies reach 1023.
    Source: MSIT (arXiv 2403.06536), position bias of MSSA.
    Raises UserError if `features` is not a multiple of 4, from 8, or `max_exponent` is not a number.
    """

    def __init__(self, heads: int, features: int = 64, max_exponent: float = 10):
        super().__init__()
        if not is_whole(features, 8) or features % 4:
            raise UserError(f'sinusoid: features is a multiple of 4, at least 8, not {features!r}')
        if type(max_exponent) not in (int, float):
            raise UserError(f'sinusoid: max_exponent is a number, not {max_exponent!r}')
        self.proj = nn.Linear(features, heads)
        self.max_exponent = max_exponent

    def along(self, axis: int, offset: torch.Tensor) -> torch.Tensor:
        """The part of the bias that depends on the offset along `axis` (0: y, 1: x): `(...)` to `(..., heads)`."""
        with torch.autocast(offset.device.type, enabled=False):
            weight = self.proj.weight.to(torch.promote_types(self.proj.weight.dtype, torch.float32))
            quarter = weight.shape[1] // 4
            exact = weight.device if widest(weight.device) == torch.float64 else 'cpu'
            j = torch.arange(quarter, dtype=torch.float64, device=exact)
            frequency = (2 ** (self.max_exponent * j / (quarter - 1)) - 1).to(weight)
            angle = offset.to(weight.dtype)[..., None] * frequency
            of_sine, of_cosine = (
                weight[:, quarter * axis :][:, :quarter],
                weight[:, quarter * (axis + 2) :][:, :quarter],
            )
            return F.linear(angle.sin(), of_sine) + F.linear(angle.cos(), of_cosine)

    def constant(self) -> torch.Tensor:
        """The part of the bias that does not depend on the offset, `(heads,)`."""
        return self.proj.bias
