"""Weight files: `{'model': {'name', 'args', 'sd'}, 'meta': {...}}`, plain tensors, numbers and strings."""

import pickle
import warnings

import torch

from models.registry import build, models
from models.weights.published import from_published, is_published
from models.weights.surgery import fitted, fold
from utils import UserError, about, atomic_path

WITHOUT_WEIGHTS = ('bicubic',)


def save(path, model, meta=None):
    """Write a model's weights, spec and `meta` (strings and numbers) to `path`, all or nothing."""
    content = {'model': {**model.spec, 'sd': model.state_dict()}, 'meta': dict(model.meta if meta is None else meta)}
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path, dtype=torch.float32):
    """The model of a weight file or training checkpoint, own or published, ready for inference; or by its name, of
    `WITHOUT_WEIGHTS`, one that has nothing to load.

    In evaluation mode on the CPU, with parameters of `dtype`, RIM folded (in that precision) into plain convolutions,
    with `.spec` and `.meta`.
    Raises UserError for a file that is missing, truncated, of another kind, carries code, or does not fit its own spec.
    """
    if str(path) in WITHOUT_WEIGHTS:
        return build({'name': str(path), 'args': {}}).eval()
    content = read(path)
    with about(path):
        name, args, state, meta = entries(content)
        try:
            spec = {'name': name, 'args': args}
            if name not in models.entries or is_published(args):
                spec, state = from_published(name, args, state)
            model = fold(fitted(spec, state, dtype))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f'the spec in this file makes no model ({type(error).__name__}: {error})') from error
    model.meta = meta
    return model.eval().requires_grad_(False)


def entries(content):
    """Name, arguments, weights and card that a weight file holds. Raises UserError for content of another form."""
    model = content.get('model') if isinstance(content, dict) else None
    if not isinstance(model, dict) or not {'name', 'sd'} <= set(model):
        raise UserError('holds no model; a weight file is {"model": {"name", "args", "sd"}}')
    name, args, state, meta = model['name'], model.get('args'), model['sd'], content.get('meta')
    args, meta = {} if args is None else args, {} if meta is None else meta
    for what, value, kind in (('name', name, str), ('args', args, dict), ('sd', state, dict), ('meta', meta, dict)):
        if not isinstance(value, kind):
            raise UserError(f'in this file {what} is no {kind.__name__} but a {type(value).__name__}')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UserError(f'in this file the weight {key!r} is no tensor but a {type(value).__name__}')
    return name, args, state, meta


def read(path):
    """The content of a file of torch.save, on the CPU. Raises UserError if it is not whole or not plain data."""
    try:
        file = open(path, 'rb')
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such file') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    with file, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return torch.load(file, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(f'{path}: refused, it is no weight file or carries code besides weights') from error
        except Exception as error:  # what torch raises for damaged bytes depends on where the damage is
            raise UserError(f'{path}: not a whole weight file ({type(error).__name__})') from error
