"""The parts that models are built from, each by its spec and checked to be what it stands for."""
from models.registry import make
from utils import UserError


def part(role, spec, has, **injected):
    """What `spec` names, which `has` an attribute that only parts of that `role` have; UserError if it has not."""
    made = make(spec, **injected)
    if not hasattr(made, has):
        raise UserError(f'{spec["name"]!r} is no {role}')
    return made


def encoder(spec):
    """The encoder of a spec."""
    return part('encoder', spec, 'out_dim')


def imnet(spec, in_dim):
    """The MLP of a spec, which gives colours. Raises UserError if it does not give three numbers."""
    made = part('MLP', spec, 'after_first', in_dim=in_dim)
    if made.layers[-1].out_features != 3:
        raise UserError(f'the out_dim of imnet_spec is 3, for the colours, not {made.layers[-1].out_features}')
    return made


def position_bias(spec, heads):
    """The position bias of a spec, None of None."""
    return None if spec is None else part('position bias', spec, 'along', heads=heads)
