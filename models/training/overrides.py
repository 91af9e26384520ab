"""Command-line settings that override a config: `batch_size=16 stages.stage1.lr=2e-4`."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from models.training import stages
from utils import ConfigLoader, UserError, merge, suggestion

ARGS = 'args'  # below this key are a constructor's arguments, which the registries know


def overridden(config: Mapping, settings: Iterable[str], schema: Mapping) -> dict:
    """`config` with `settings`, each a key with those above it, as `stages.stage1.lr`, `=`, and a value in YAML.

    A mapping is laid over the one that is there as that of a config over its base; null takes its place. `schema`: the
    known keys, a nested dict (None: anything goes below). Raises UserError for a setting of another form and, with the
    nearest known one, for an unknown key.
    """
    for setting in settings:
        path, value = parsed(setting)
        check_path(config, path, schema, setting)
        for key in reversed(path):
            value = {key: value}
        config = merge(dict(config), value)
    return dict(config)


def parsed(setting: str) -> tuple[list[str], Any]:
    """The keys of a setting, the outermost first, and its value."""
    path, equals, text = setting.partition('=')
    keys = path.split('.')
    if not equals or not all(keys):
        raise UserError(f'-set takes key=value, as batch_size=16 or stages.stage1.lr=2e-4, not {setting!r}')
    try:
        return keys, yaml.load(text, ConfigLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f'-set {setting}: the value is not valid YAML') from error


def check_path(config: Mapping, path: list[str], schema: Mapping | None, setting: str) -> None:
    """Raise UserError if the keys `path` are not known."""
    place: Any = config
    for depth, key in enumerate(path):
        above = '.'.join(path[:depth])
        if not isinstance(place, Mapping):
            raise UserError(f'-set {setting}: {above!r} is no mapping but {place!r}')
        known = [*place, *(schema or ())]
        if depth == 2 and path[0] == 'stages':
            known = list(stages.KEYS)
        if known and key not in known and (depth == 0 or path[depth - 1] != ARGS):
            where = f' in {above!r}' if above else ''
            raise UserError(f'-set {setting}: unknown key {key!r}{where}{suggestion(key, known)}')
        schema = schema.get(key) if schema else None
        place = place.get(key)
        if place is None and depth + 1 < len(path):
            place = {}
