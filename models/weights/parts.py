"""Parts of a model, as `encoder` or `encoder.body`: the beginnings of its weights' names; and parts of other models
put in their place."""

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from models.weights import files
from models.weights.fixed_scale import from_fixed_scale
from utils import Note, UserError, error_prefix, suggestion


def check_parts(parts: Iterable[str], names: Iterable[str], what: str) -> None:
    """Raise UserError, which tells of `what` they were stated, if one of `parts` is the beginning of none of the
    weights' `names`."""
    names = list(names)
    known = {name[:at] for name in names for at, letter in enumerate(name) if letter == '.'}
    for part in parts:
        if part not in known:
            tops = {name.split('.')[0] for name in names}
            raise UserError(f'{what}: the model has no part {part!r}{suggestion(part, tops)}')


def longest_part(name: str, parts: Iterable[str]) -> str | None:
    """The longest of the parts that holds the weight `name`; the part '' holds all."""
    return max((part for part in parts if not part or name.startswith(f'{part}.')), key=len, default=None)


def fill_parts(model: nn.Module, sources: Mapping[str, str]) -> None:
    """Give parts of `model` the weights of files, in place: `sources` maps parts to files.

    A file is a weight file of any model that has such a part, own or published, or, for the encoder, published weights
    of EDSR, RDN, RCAN or SwinIR for one scale (`models.weights.fixed_scale`). What the file lacks stays as it is. A
    `utils.Note` for each part tells what was taken and what was not.
    Raises UserError for a part that the model does not have, and for a file that has nothing of it or has weights of
    another shape.
    """
    own = model.state_dict()
    check_parts(sources, own, 'init')
    for part, path in sources.items():
        with error_prefix(f'init: {part}'):
            given, source, left = read_part(path)
            wanted = [name for name in own if name.startswith(f'{part}.')]
            taken = {name: given[name] for name in wanted if name in given}
            if not taken:
                raise UserError(f'{path}: has nothing of this part, only {", ".join(tops(given)) or "no weights"}')
            for name, value in taken.items():
                if value.shape != own[name].shape:
                    raise UserError(
                        f'{path}: weights of another architecture: {name} is {tuple(value.shape)} there and '
                        f'{tuple(own[name].shape)} in the model'
                    )
        with torch.no_grad():
            for name, value in taken.items():
                own[name].copy_(value)
        said = f'init: {part}: {len(taken)} of {len(wanted)} weights are those of {path}{source}'
        lacking = [name for name in wanted if name not in taken]
        if lacking:
            said += f'; it lacks {few(lacking)}'
        left = [*(name for name in given if name.startswith(f'{part}.') and name not in taken), *left]
        left += [top for top in tops(given) if not f'{part}.'.startswith(f'{top}.')]
        warnings.warn(said + (f'; left in it: {few(left)}' if left else ''), Note, stacklevel=2)


def read_part(path: str) -> tuple[dict[str, torch.Tensor], str, list[str]]:
    """The weights in a file by this project's names, which network they are of where that is told, and what of the file
    is left out already."""
    content = files.read(path)
    with error_prefix(path):
        spec, state, _, _ = files.entries(content)
    encoder = None if spec else from_fixed_scale(files.unwrapped(state)[0])
    if encoder:
        return encoder.state, f' ({encoder.network})', encoder.left
    return files.load(path).state_dict(), '', []


def tops(state: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split('.')[0] for name in state))


def few(names: list[str]) -> str:
    """The first three of the names, and how many more there are."""
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if names[3:] else '')
