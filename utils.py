"""What the three programs share: errors, arguments, registries, configs, atomic files."""

import argparse
import contextlib
import difflib
import inspect
import json
import math
import os
import re
import sys
from pathlib import Path

import yaml

# ---------------------------------------------------------------- errors


class UserError(Exception):
    """A mistake of the user's, told in one line: the programs print it and exit with status 2."""


@contextlib.contextmanager
def about(what):
    """A `UserError` raised in this context says what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{what}: {error}') from error


def run_main(main, debug=False):
    """Run `main()` as a program and leave with its exit status.

    `UserError` and too little memory end in one line on stderr and status 2, Ctrl-C in status 130; with `debug` the
    traceback is shown.
    """
    try:
        status = main()
    except (UserError, MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, UserError) or is_out_of_memory(error)):
            raise
        message = str(error) if isinstance(error, UserError) else 'there is not enough memory for this'
        print(f'error: {" ".join(message.split())}', file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        if debug:
            raise
        print('interrupted', file=sys.stderr)
        status = 130
    sys.exit(status or 0)


def is_out_of_memory(error):
    """Whether an exception says that memory did not suffice: Python's, or torch's of any device."""
    said = str(error) if isinstance(error, RuntimeError) else ''
    return isinstance(error, MemoryError) or "can't allocate memory" in said or 'out of memory' in said


def one_or_two_dashes(argv):
    """`-model x`, `--model x` and `--model=x` are one option: long options lose their second dash for argparse."""
    return [a[1:] if a.startswith('--') and len(a) > 2 else a for a in argv]


def nearest(name, known):
    """', did you mean X?' or '', and the list of what is known."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    hint = f', did you mean {close[0]!r}?' if close else ''
    return f'{hint} (known: {", ".join(sorted(map(str, known)))})'


class Parser(argparse.ArgumentParser):
    """Arguments of a program: options with one or two dashes, never abbreviated; mistakes end in one line, status 2."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False, add_help=False)
        self.add_argument('-h', '-help', action='help', help='show this and stop')

    def parse_args(self):
        return super().parse_args(one_or_two_dashes(sys.argv[1:]))

    def _get_option_tuples(self, option_string):
        return []  # what an option may abbreviate: nothing, which `allow_abbrev` says of two dashes only

    def error(self, message):
        self.exit(2, f'error: {" ".join(message.split())}\n')


# ---------------------------------------------------------------- registries


class Registry:
    """Names to constructors; `make(spec)` builds from `{'name': ..., 'args': {...}}`."""

    def __init__(self, kind):
        self.kind = kind
        self.entries = {}

    def register(self, name):
        """Decorator. Raises ValueError if the name is taken; a failed registration changes nothing."""

        def add(constructor):
            if name in self.entries:
                raise ValueError(f'{self.kind} {name!r} is registered twice')
            self.entries[name] = constructor
            return constructor

        return add

    def make(self, spec, **injected):
        """Build what `spec` names. `injected` are arguments that the caller derives; a spec may not state them.

        Raises UserError for a malformed spec, an unknown name or argument, a missing argument, and a name whose
        constructor takes none of what is injected; what values make sense is the constructors' to say.
        """
        if not isinstance(spec, dict) or not isinstance(spec.get('name'), str) or set(spec) - {'name', 'args'}:
            raise UserError(f'a {self.kind} spec is {{name, args}}, not {spec!r}')
        name, args = spec['name'], {} if spec.get('args') is None else spec['args']
        if not isinstance(args, dict):
            raise UserError(f'{self.kind} {name!r}: args is a mapping, not {args!r}')
        if name not in self.entries:
            raise UserError(f'unknown {self.kind} {name!r}{nearest(name, self.entries)}')
        constructor = self.entries[name]
        parameters = inspect.signature(constructor).parameters
        for key in injected:
            if key not in parameters:
                raise UserError(f'{self.kind} {name!r} cannot stand here: it takes no {key!r}')
        known = [k for k in parameters if k not in injected]
        for key in args:
            if key not in known:
                raise UserError(f'{self.kind} {name!r} has no argument {key!r}{nearest(key, known)}')
        for key in known:
            if parameters[key].default is inspect.Parameter.empty and key not in args:
                raise UserError(f'{self.kind} {name!r} needs the argument {key!r}')
        return constructor(**args, **injected)


def is_whole(value, smallest=1):
    """Whether `value` is a whole number from `smallest` up."""
    return type(value) is int and value >= smallest


def check_whole(what, **values):
    """Raise UserError if one of the arguments `values` of `what` is no whole number from 1 up."""
    for name, value in values.items():
        if not is_whole(value):
            raise UserError(f'{what}: {name} is a whole number from 1 up, not {value!r}')


# ---------------------------------------------------------------- configs


def load_config(path, schema=None):
    """Read a YAML config. `base: other.yaml` (or a list of them), relative to the file, is read first and overridden
    key by key; with `schema`, a nested dict of the known keys (None: anything goes below), an unknown key is refused.

    Returns a dict. Raises UserError for a missing or malformed file, a key that is there twice, a circular base, an
    unknown key.
    """
    config = _load_with_bases(Path(path), ())
    if schema is not None:
        check_keys(config, schema, str(path))
    return config


def _load_with_bases(path, above):
    if path.resolve() in above:
        raise UserError(f'{path}: configs inherit from each other in a circle')
    try:
        with open(path, encoding='utf-8') as file:
            config = yaml.load(file, ConfigLoader)
    except OSError as error:
        raise UserError(f'{path}: cannot read the config ({error.strerror})') from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:  # all PyYAML's
        raise UserError(f'{path}: not valid YAML: {error}') from error
    if not isinstance(config, dict):
        raise UserError(f'{path}: a config is a mapping of keys to values')
    bases = config.pop('base', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f'{path}: base is a file or a list of files, not {bases!r}')
    merged = {}
    for base in bases:
        merged = merge(merged, _load_with_bases(path.parent / base, (*above, path.resolve())))
    return merge(merged, config)


class ConfigLoader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as people expect, and not a string; a key may not be there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'the key {key!r} is there twice', node.start_mark)
        return super().construct_mapping(node, deep)


ConfigLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789')
)


def merge(below, above):
    """`above` laid over `below`, mapping by mapping; a spec with another `name` replaces the whole spec."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if 'name' in above and above['name'] != below.get('name', above['name']):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(below[key], value) if key in below else value
    return merged


def check_keys(config, schema, where):
    """Refuse keys of the nested dict `config` that `schema` does not have, naming the nearest known one."""
    for key, value in config.items():
        if key not in schema:
            raise UserError(f'{where}: unknown key {key!r}{nearest(key, schema)}')
        if isinstance(schema[key], dict) and value is not None:
            if not isinstance(value, dict):
                raise UserError(f'{where}: {key!r} is a mapping, not {value!r}')
            check_keys(value, schema[key], f'{where}: {key}')


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    The file is flushed to disk first, so `path` is at every moment the old file or the whole new one.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}.partial{path.suffix}')
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(folder):
    """Raise UserError, before any work, if `folder` cannot be made or written to."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f'{folder}: {there.resolve()} is no folder that can be written to')


def write_text(path, text):
    """Write `text` and a line's end to `path`, all or nothing. Raises UserError if that cannot be."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from error


def write_json(path, data):
    """As `write_text`, data as JSON, which has no infinity: the string 'inf' stands in its place."""
    write_text(path, json.dumps(finite(data), indent=1, allow_nan=False))


def finite(data):
    """`data`, of dicts and lists, with the string 'inf' for infinity."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return 'inf' if data == math.inf else data


def labelled(files):
    """Pairs of a label and a file's name, each file once: its stem, or the whole name where stems are the same."""
    files = list(dict.fromkeys(files))
    stems = [Path(file).stem for file in files]
    return [(stem if stems.count(stem) == 1 else file, file) for stem, file in zip(stems, files)]
