"""The registry of models, encoders and their parts (see `utils.Registry`), and functions that build from specs and
check that the result is what the caller needs."""

from typing import Any

from torch import nn

from models.rendering.implicit import ImplicitModel
from utils import Registry, UserError

models = Registry('model')
register, make = models.register, models.make


def build(spec: dict) -> ImplicitModel:
    """The model of a spec. Its `.spec` is that spec; its `.meta`, what a weight file says about it, is empty.

    Raises UserError for a spec of something else, such as a part of a model.
    """
    model = make_part('model that renders images', spec, 'render')
    model.spec, model.meta = spec, {}
    return model


def make_part(role: str, spec: dict, has: str, **injected: Any) -> Any:
    """What `spec` names. Raises UserError if it lacks the attribute `has`, by which parts of that `role` are known."""
    made = make(spec, **injected)
    if not hasattr(made, has):
        raise UserError(f'{spec["name"]!r} is no {role}')
    return made


def make_encoder(spec: dict) -> nn.Module:
    """The encoder of a spec. Raises UserError if it lacks an attribute that models need."""
    made = make(spec)
    lacking = [name for name in ('out_dim', 'receptive_field') if not hasattr(made, name)]
    if lacking:
        raise UserError(f'{spec["name"]!r} is no encoder: it has no {" and no ".join(lacking)}')
    return made


def make_imnet(spec: dict, in_dim: int) -> nn.Module:
    """The MLP of a spec, which gives colours. Raises UserError if it does not give three numbers."""
    made = make_part('MLP', spec, 'after_first', in_dim=in_dim)
    if made.layers[-1].out_features != 3:
        raise UserError(f'the out_dim of imnet_spec is 3, for the colours, not {made.layers[-1].out_features}')
    return made


def make_position_bias(spec: dict | None, heads: int) -> nn.Module | None:
    """The position bias of a spec, or None if the spec is None."""
    return None if spec is None else make_part('position bias', spec, 'along', heads=heads)
