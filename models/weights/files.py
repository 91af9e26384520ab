"""Weight files: `{'model': {'name', 'args', 'sd'}, 'meta': {...}}`, plain tensors, numbers and strings.

`save` writes files of this form. `load` also reads:

- The same content in `.safetensors`: the tensors are the weights, and the metadata holds `spec` (`{'name', 'args'}`)
  and `meta`, both as JSON.
- Training checkpoints of this project and of others. If a file holds several sets of weights, the average over the
  training (EMA) is used, because validations use it too.
- Weights whose names have the prefixes of a wrapped model (`module.`, `_orig_mod.`, or one that all names share, or
  `model.` and the like beside other weights).
- Weights alone, without a spec, if the caller gives the spec, or if their names and shapes fit exactly one model of
  `configs/train`.

A `utils.Note` reports all of these but the first.
"""

import json
import math
import os
import pickle
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.registry import build, models
from models.rendering.implicit import ImplicitModel
from models.weights.published import from_published, is_published
from models.weights.surgery import fitted, fold
from utils import Note, UserError, atomic_path, error_prefix, is_number, load_config, one_line

WITHOUT_WEIGHTS = ('bicubic',)
CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'train'
SAFETENSORS = '.safetensors'
# The keys under which files of several projects keep weights, averages first.
AVERAGES = ('ema', 'params_ema', 'state_dict_ema', 'ema_state_dict', 'model_ema')
WEIGHTS = (*AVERAGES, 'sd', 'params', 'state_dict', 'model_state_dict', 'model')
PARTS = ('model', 'net', 'generator', 'net_g')  # what modules that hold a model and its losses (Lightning) call it
WRAPPERS = ('module', '_orig_mod')  # DataParallel, DistributedDataParallel, AveragedModel; torch.compile


# ---------------------------------------------------------------- writing


def save(path: str | Path, model: ImplicitModel, meta: dict | None = None) -> None:
    """Write a model's weights, spec and `meta` (strings and numbers; the model's own if None) to `path`, completely or
    not at all: as safetensors if the name ends in `.safetensors`, otherwise by `torch.save`.

    Raises UserError for a `meta` of anything else, which a file could not hold or `load` would not read.
    """
    spec, state, meta = model.spec, model.state_dict(), dict(model.meta if meta is None else meta)
    as_safetensors = Path(path).suffix.lower() == SAFETENSORS
    check_savable(path, meta, () if as_safetensors else (torch.Tensor,))
    with atomic_path(path) as temporary:
        if as_safetensors:
            card = {'format': 'pt', 'spec': json.dumps(spec), 'meta': json.dumps(meta)}
            state = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
            save_file(state, temporary, card)
        else:
            torch.save({'model': {**spec, 'sd': state}, 'meta': meta}, temporary)


def check_savable(path: str | Path, meta: dict, others: tuple[type, ...]) -> None:
    """Raise UserError if an entry of `meta` is neither what JSON knows nor one of the `others`."""

    def stand_in(value):
        if not isinstance(value, others):
            raise TypeError(f'there is a {type(value).__name__} in it')

    for name, value in meta.items():
        try:
            json.dumps({name: value}, default=stand_in)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f'{path}: the entry {name!r} of meta cannot be saved: {error}') from error


# ---------------------------------------------------------------- reading


def load(path: str | Path, dtype: torch.dtype = torch.float32, spec: dict | None = None) -> ImplicitModel:
    """The model in a weight file or training checkpoint, of this project or published, ready for inference. `path` may
    also be a name in `WITHOUT_WEIGHTS`, of a model that has nothing to load. `spec`, `{'name', 'args'}`, is for a file
    without one.

    The model is in evaluation mode on the CPU and has parameters of `dtype`, `.spec` and `.meta`. RIM is folded, in
    that precision, into plain convolutions. A `utils.Note` reports a file that is not plainly a weight file of this
    project. Raises UserError for a file that is missing, truncated or of another kind, that carries code, or that does
    not fit its own spec.
    """
    if str(path) in WITHOUT_WEIGHTS:
        return build({'name': str(path), 'args': {}}).eval()
    content = read(path)
    with error_prefix(path):
        found, state, meta, notes = entries(content)
        spec = found if spec is None else spec
        try:
            model, more = fitting(spec, state, dtype) if spec else known(state, dtype)
            model = fold(model)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f'the spec in this file makes no model ({type(error).__name__}: {error})') from error
    for note in notes + more:
        warnings.warn(f'{path}: {note}', Note, stacklevel=2)
    model.meta = meta
    return model.eval().requires_grad_(False)


def read(path: str | Path) -> Any:
    """The content of a file written by `torch.save` or of a safetensors file, on the CPU. Raises UserError if the file
    is not whole or not plain data."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # opening a pipe would wait
        raise UserError(f'{path}: not a regular file')
    try:
        file = open(path, 'rb')
    except FileNotFoundError as error:
        missing = 'a link that leads to no file' if os.path.islink(path) else 'no such file'
        raise UserError(f'{path}: {missing}') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    with file, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            if is_safetensors(file):
                return read_safetensors(path)
            return torch.load(file, map_location='cpu', weights_only=True)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
        except pickle.UnpicklingError as error:
            raise UserError(f'{path}: refused, it is no weight file or carries code besides weights') from error
        except Exception as error:  # what torch raises for damaged bytes depends on where the damage is
            raise UserError(f'{path}: not a whole weight file ({type(error).__name__})') from error


def is_safetensors(file: BinaryIO) -> bool:
    """Whether an open file, at its beginning, is a safetensors file (a length, then JSON) or is named as one."""
    head = file.read(9)
    file.seek(0)
    named = Path(file.name).suffix.lower() == SAFETENSORS
    return not head.startswith(b'PK') and (head[8:] == b'{' or named)  # files written by torch.save start with PK


def read_safetensors(path: str | Path) -> dict:
    """The content of a safetensors file, in the form of a weight file if its metadata has a `spec`; otherwise the
    tensors alone."""
    try:
        with safe_open(path, framework='pt') as file:
            card = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise UserError(f'not a whole weight file ({one_line(error)})') from error
    if 'spec' not in card:
        return state
    try:
        spec, meta = json.loads(card['spec']), json.loads(card.get('meta', '{}'))
    except ValueError as error:
        raise UserError(f'the spec or the meta of this file is no JSON ({error})') from error
    if not isinstance(spec, dict):
        raise UserError(f'in this file spec is no dict but a {type(spec).__name__}')
    return {'model': {**spec, 'sd': state}, 'meta': meta}


# ---------------------------------------------------------------- what is in a file


def entries(content: Any) -> tuple[dict | None, dict, dict, list[str]]:
    """From the content of a file: its spec (None if there is none), its weights, its card, and notes on which weights
    these are. Raises UserError for content of another form."""
    content = content if isinstance(content, dict) else {}
    model = content.get('model')
    model = model if isinstance(model, dict) else {}
    own = next((place for place in (model, content) if 'name' in place), {})
    key, state = find_weights(own, content, model)
    if state is None:
        raise UserError('holds no model; a weight file is {"model": {"name", "args", "sd"}}')
    name, args, meta = own.get('name', ''), own.get('args'), content.get('meta')
    args, meta = {} if args is None else args, {} if meta is None else meta
    for what, value, kind in (('name', name, str), ('args', args, dict), ('sd', state, dict), ('meta', meta, dict)):
        if not isinstance(value, kind):
            raise UserError(f'in this file {what} is no {kind.__name__} but a {type(value).__name__}')
    for entry, value in state.items():
        if not isinstance(entry, str) or not isinstance(value, torch.Tensor):
            raise UserError(f'in this file the weight {entry!r} is no tensor but a {type(value).__name__}')
    check_card(meta)
    notes = []
    if key in AVERAGES:
        notes.append(f'of several sets of weights, the average over the training ({key}) is used')
    elif key not in ('sd', None):
        notes.append(f'the weights under {key!r} are used')
    return {'name': name, 'args': args} if own else None, state, meta, notes


def find_weights(own: dict, *places: dict) -> tuple[str | None, Any]:
    """The key of the weights to use, None if one of `places` is itself the weights; and the weights, None if there are
    none. What is under `sd` in `own`, beside the model's name, is taken whatever it is."""
    for key in WEIGHTS:
        if key == 'sd' and 'sd' in own:
            return key, own['sd']
        for place in places:
            if is_state_dict(place.get(key)):
                return key, place[key]
    return None, next((place for place in places if is_state_dict(place)), None)


def is_state_dict(value: Any) -> bool:
    """Whether `value` is a dict that holds at least one tensor and nothing but tensors."""
    return isinstance(value, dict) and bool(value) and all(isinstance(part, torch.Tensor) for part in value.values())


def check_card(meta: dict) -> None:
    """Raise UserError if entries of a weight file's card that programs rely on make no sense."""
    for key in ('scale_min', 'scale_max'):
        value = meta.get(key, 1)
        if not is_number(value) or value <= 0:
            shown = repr(value) if isinstance(value, (str, int, float)) else f'a {type(value).__name__}'
            raise UserError(f'in this file {key} is no number above 0 but {shown:.60}')
    if meta.get('scale_min', 0) > meta.get('scale_max', math.inf):
        raise UserError('in this file scale_min is larger than scale_max')


# ---------------------------------------------------------------- names and specs


def fitting(spec: dict, state: dict, dtype: torch.dtype) -> tuple[ImplicitModel, list[str]]:
    """The model of `spec`, of this project or published, with the weights `state`, and notes on prefixes that were
    removed from their names. Raises UserError, naming parameters, if the weights do not fit."""
    if set(spec) != {'name', 'args'} or not isinstance(spec['args'], dict):
        raise UserError(f"a model's spec is {{name, args}}, not {spec!r}")
    try:
        return fitted(*in_own_terms(spec, state), dtype), []
    except UserError:
        plain, prefixes, others = unwrapped(state)
        if not prefixes:
            raise
    note = f'removed {" and ".join(map(repr, prefixes))} from the names of its weights'
    note += f'; {others} weights of something else are left out' * (others > 0)
    return fitted(*in_own_terms(spec, plain), dtype), [note]


def in_own_terms(spec: dict, state: dict) -> tuple[dict, dict]:
    """Spec and weights, translated if they are published ones."""
    if spec['name'] not in models.entries or is_published(spec['args']):
        return from_published(spec['name'], spec['args'], state)
    return spec, state


def unwrapped(state: dict) -> tuple[dict, list[str], int]:
    """`state` with the names that its entries had before the model was wrapped, and the prefixes that were removed:
    those of `WRAPPERS`, wherever they stand in a name, and then those that all names share, or those of one of `PARTS`
    whose other weights, such as a loss's, are left out; and how many these are."""
    names = {key: key.split('.') for key in state}
    if all(parts[0] == 'module' for key, parts in names.items() if key != 'n_averaged'):
        names.pop('n_averaged', None)  # of AveragedModel
    prefixes = [word for word in WRAPPERS if any(word in parts[:-1] for parts in names.values())]
    names = {key: [part for part in parts[:-1] if part not in WRAPPERS] + parts[-1:] for key, parts in names.items()}
    others = 0
    for part in PARTS:
        inside = {key: parts for key, parts in names.items() if parts[0] == part}
        if inside and not others:
            others, names = len(names) - len(inside), inside
    while len(first := {parts[0] for parts in names.values()}) == 1 and all(parts[1:] for parts in names.values()):
        prefixes += first
        names = {key: parts[1:] for key, parts in names.items()}
    plain = {'.'.join(parts): state[key] for key, parts in names.items()}
    if len(plain) < len(names):
        return state, [], 0  # wrapped and other weights in one file, and nothing says which are the right ones
    return plain, [f'{prefix}.' for prefix in prefixes], others


def known(state: dict, dtype: torch.dtype) -> tuple[ImplicitModel, list[str]]:
    """The model in `configs/train` whose parameters have the names and shapes of these weights, which lack a spec; and
    notes. Raises UserError if there is none, or if there are several that compute differently."""
    candidates = [shapes(state), shapes(unwrapped(state)[0])]
    found = [(spec, config) for spec, config in known_specs() if shapes_of(spec) in candidates]
    if len(found) == 1:
        ((spec, config),) = found
        model, notes = fitting(spec, state, dtype)
        return model, [
            f'holds no spec; its weights have the names and shapes of the model of {config.name}, which is used'
        ] + notes
    fit = (
        f'that fit several models ({", ".join(config.name for _, config in found)})'
        if found
        else ('of no architecture in configs/train')
    )
    raise UserError(
        f'holds no model but weights alone, {fit}; models.load(path, spec={{"name": ..., "args": ...}}) takes the '
        'architecture from its caller, and models.save(path, model) writes a weight file'
    )


def known_specs() -> list[tuple[dict, Path]]:
    """The specs of the models that the configs in `configs/train` train, with RIM and the blocks of each stage; each
    once, with the first config that has it."""
    found: dict[str, tuple[dict, Path]] = {}
    for path in sorted(CONFIGS.glob('*.yaml')):
        config = load_config(path)
        if 'model' not in config:
            continue
        specs = [config['model']]
        for stage in (config.get('stages') or {}).values():
            args = config['model']['args']
            if stage and stage.get('rim'):
                args = {**args, 'rim': True}
            if stage and stage.get('blocks'):
                encoder = args['encoder_spec']
                encoder = {**encoder, 'args': {**encoder['args'], 'n_resblocks': stage['blocks']}}
                args = {**args, 'encoder_spec': encoder}
            specs.append({**config['model'], 'args': args})
        for spec in specs:
            found.setdefault(json.dumps(spec, sort_keys=True), (spec, path))
    return list(found.values())


def shapes_of(spec: dict) -> dict[str, torch.Size]:
    """The names and shapes of the weights of the model of `spec`."""
    with torch.device('meta'):
        return shapes(build(spec).state_dict())


def shapes(state: dict) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
