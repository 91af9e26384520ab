"""What the programs share: errors and notes, command lines, checks, registries, configs, files, progress."""

import argparse
import contextlib
import difflib
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml
from tqdm import tqdm

if TYPE_CHECKING:
    import numpy as np
    import torch

Numbers = TypeVar('Numbers', 'np.ndarray', 'torch.Tensor')

# ---------------------------------------------------------------- errors and notes


class UserError(Exception):
    """A mistake of the user's, told in one line: the programs print it and exit with status 2."""


class Note(UserWarning):
    """What a user should know though nothing failed: `warnings.warn(text, Note)`. Programs print it in one line."""


def one_line(what: object) -> str:
    """`what` as a text without line ends, which file names and messages of libraries may contain."""
    return ' '.join(str(what).split())


@contextlib.contextmanager
def error_prefix(what: object) -> Iterator[None]:
    """A `UserError` raised in this context says what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{what}: {error}') from error


def run_main(main: Callable[[], int | None], debug: bool = False) -> NoReturn:
    """Run `main()` as a program and leave with its exit status.

    `UserError`, too little memory and a stdout that takes no more end in one line on stderr and status 2, Ctrl-C in
    status 130, SIGTERM, SIGHUP and a closed pipe in status 128 + the signal's number; files that are being written
    vanish. With `debug` the traceback is shown. Characters that the terminal cannot show are printed as escapes.
    A `Note` is one line on stderr; of several processes, the first prints them.
    """
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    said = None
    try:
        with signals_raise(), warnings.catch_warnings():
            warnings.simplefilter('always' if os.environ.get('RANK', '0') == '0' else 'ignore', Note)
            warnings.showwarning = shown_as_note(warnings.showwarning)
            status = main()
            if sys.stdout:
                sys.stdout.flush()
    except (UserError, MemoryError, RuntimeError) as error:
        if debug or not (isinstance(error, UserError) or is_out_of_memory(error)):
            raise
        message = str(error) if isinstance(error, UserError) else 'there is not enough memory for this'
        said, status = f'error: {one_line(message)}', 2
    except BrokenPipeError:
        status = 128 + 13  # as a program that SIGPIPE ends
    except OSError as error:  # one of a file has the file's name
        if debug or error.filename is not None:
            raise
        said, status = f'error: stdout cannot be written ({error.strerror})', 2
    except KeyboardInterrupt:
        if debug:
            raise
        said, status = 'interrupted', 130
    with contextlib.suppress(OSError):
        if said:
            print(said, file=sys.stderr)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # what is left goes nowhere, or Python would complain of it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status or 0)


def open_closed_streams() -> None:
    """Where the program was started without stdin, stdout or stderr, nothing takes its place: a file that is opened
    later would get its number, and what is meant for the stream."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdin = sys.stdin or open(os.devnull, encoding='utf-8')
    sys.stdout = sys.stdout or open(os.devnull, 'w', encoding='utf-8')
    sys.stderr = sys.stderr or open(os.devnull, 'w', encoding='utf-8')


def shown_as_note(showwarning: Callable[..., None]) -> Callable[..., None]:
    """`showwarning`, that of the module `warnings`, but for a `Note`, which is printed in one line."""

    def show(message, category, *where, **more):
        if issubclass(category, Note):
            print(f'note: {one_line(message)}', file=sys.stderr)
        else:
            showwarning(message, category, *where, **more)

    return show


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """In this context SIGTERM and SIGHUP raise SystemExit, once, and SIGINT KeyboardInterrupt, unless they are ignored
    or have handlers already."""
    ending = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]

    def stop(number, frame):
        for other in set(ending) & set(before):
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in [(number, stop) for number in ending] + [(signal.SIGINT, signal.default_int_handler)]:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number in set(before) - {signal.SIGINT}:
            signal.signal(number, before[number])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice: Python's, or torch's of any device."""
    said = str(error) if isinstance(error, RuntimeError) else ''
    return isinstance(error, MemoryError) or "can't allocate memory" in said or 'out of memory' in said


def suggestion(name: object, known: Iterable) -> str:
    """', did you mean X?' or '', and the list of what is known."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    hint = f', did you mean {close[0]!r}?' if close else ''
    return f'{hint} (known: {", ".join(sorted(map(str, known)))})'


# ---------------------------------------------------------------- command lines


def one_or_two_dashes(argv: list[str]) -> list[str]:
    """`-model x`, `--model x` and `--model=x` are one option: long options lose their second dash for argparse."""
    return [a[1:] if a.startswith('--') and len(a) > 2 else a for a in argv]


class Parser(argparse.ArgumentParser):
    """Arguments of a program: options with one or two dashes, never abbreviated; mistakes end in one line, status 2."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, add_help=False)
        self.add_argument('-h', '-help', action='help', help='show this and stop')

    def parse_args(self) -> argparse.Namespace:  # type: ignore[override]
        return super().parse_intermixed_args(one_or_two_dashes(sys.argv[1:]))

    def _get_option_tuples(self, option_string):
        return []  # what an option may abbreviate: nothing, which `allow_abbrev` says of two dashes only

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, except that help for a stdout that takes no more ends as all of a program's output does."""
        if message and file is sys.stdout:
            run_main(lambda: print(message, end=''))
        super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {one_line(message)}\n')


def positive(text: str) -> int:
    """'64' to 64."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:19])):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 up')
    return int(text[:19])


def share(text: str) -> float:
    """'0.5' to 0.5."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
    return number


def pixel(text: str) -> tuple[int, int]:
    """'310,420' to (310, 420)."""
    return numbers_apart(text, ',', 2, lambda y, x: min(y, x) >= 0, 'a row and a column of the image, as 310,420')


def size(text: str) -> tuple[int, int]:
    """'48x64' to (48, 64), height and width; '48' to (48, 48)."""
    kind = 'a height and width in pixels, as 48x64'
    if 'x' not in text:
        return numbers_apart(text, 'x', 1, lambda n: n >= 1, kind) * 2
    return numbers_apart(text, 'x', 2, lambda h, w: min(h, w) >= 1, kind)


def part(text: str) -> tuple[int, int, int, int]:
    """'10,20,28,28' to (top, left, height, width)."""
    kind = 'a top, left, height and width in pixels, as 10,20,28,28'
    return numbers_apart(text, ',', 4, lambda y, x, h, w: min(y, x) >= 0 and min(h, w) >= 1, kind)


def shard(text: str) -> tuple[int, int]:
    """'2/8' to (2, 8)."""
    return numbers_apart(text, '/', 2, lambda k, n: 1 <= k <= n, 'one of a number of shares, as 2/8')


def numbers_apart(text: str, separator: str, count: int, good: Callable[..., bool], kind: str) -> tuple:
    """`count` whole numbers of any sign between separators. Raises ArgumentTypeError, saying what `kind` of text is
    wanted, for anything else and for numbers that are not `good`."""
    try:
        numbers = tuple(map(int, text.split(separator)))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not good(*numbers):
        raise argparse.ArgumentTypeError(f'{text!r} is not {kind}')
    return numbers


# ---------------------------------------------------------------- interpolation


def cubic(x: Numbers) -> Numbers:
    """The cubic convolution kernel with a = -1/2 (Keys, 1981), at every number of an array or a tensor.

    It stands here because images are reduced in numpy and enlarged in torch, in folders that do not import each other.
    """
    x = abs(x)
    inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return (x <= 1) * inner + ((x > 1) & (x <= 2)) * outer


# ---------------------------------------------------------------- checks of what configs and callers state


def is_whole(value: object, smallest: int = 1) -> bool:
    """Whether `value` is a whole number from `smallest` up."""
    return type(value) is int and value >= smallest


def is_number(value: object) -> bool:
    """Whether `value` is a finite number, and not true or false."""
    return isinstance(value, Real) and not isinstance(value, bool) and -math.inf < value < math.inf  # type: ignore


def check_whole(what: str, smallest: int = 1, **values: object) -> None:
    """Raise UserError if one of the arguments `values` of `what` is no whole number from `smallest` up."""
    for name, value in values.items():
        if not is_whole(value, smallest):
            raise UserError(f'{what}: {name} is a whole number from {smallest} up, not {value!r}')


def check_numbers(what: str, **values: object) -> None:
    """Raise UserError if one of the arguments `values` of `what` is no finite number."""
    for name, value in values.items():
        if not is_number(value):
            raise UserError(f'{what}: {name} is a number, not {value!r}')


def check_paths(what: str, **values: object) -> None:
    """Raise UserError if one of the arguments `values` of `what` is no path."""
    for name, value in values.items():
        if not isinstance(value, (str, Path)):
            raise UserError(f'{what}: {name} is the path of a file or folder, not {value!r}')


# ---------------------------------------------------------------- registries


class Registry:
    """Names to constructors; `make(spec)` builds from `{'name': ..., 'args': {...}}`."""

    def __init__(self, kind: str):
        self.kind = kind
        self.entries: dict[str, Callable] = {}

    def register(self, name: str) -> Callable[[Callable], Callable]:
        """Decorator. Raises ValueError if the name is taken; a failed registration changes nothing."""

        def add(constructor):
            if name in self.entries:
                raise ValueError(f'{self.kind} {name!r} is registered twice')
            self.entries[name] = constructor
            return constructor

        return add

    def make(self, spec: object, **injected: Any) -> Any:
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
            raise UserError(f'unknown {self.kind} {name!r}{suggestion(name, self.entries)}')
        constructor = self.entries[name]
        variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD  # as nn.Module's own
        signature = inspect.signature(constructor)
        parameters = {key: value for key, value in signature.parameters.items() if value.kind not in variadic}
        for key in injected:
            if key not in parameters:
                raise UserError(f'{self.kind} {name!r} cannot stand here: it takes no {key!r}')
        known = [k for k in parameters if k not in injected]
        for key in args:
            if key not in known:
                raise UserError(f'{self.kind} {name!r} has no argument {key!r}{suggestion(key, known)}')
        for key in known:
            if parameters[key].default is inspect.Parameter.empty and key not in args:
                raise UserError(f'{self.kind} {name!r} needs the argument {key!r}')
        return constructor(**args, **injected)


# ---------------------------------------------------------------- configs


def load_config(path: str | Path, schema: dict | None = None) -> dict:
    """Read a YAML config. `base: other.yaml` (or a list of them), relative to the file, is read first and overridden
    key by key; with `schema`, a nested dict of the known keys (None: anything goes below), an unknown key is refused.

    Returns a dict. Raises UserError for a missing or malformed file, a key that is there twice, a circular base, an
    unknown key.
    """
    config = _load_with_bases(Path(path), ())
    if schema is not None:
        check_keys(config, schema, str(path))
    return config


def _load_with_bases(path: Path, above: tuple) -> dict:
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
    merged: dict = {}
    for base in bases:
        merged = merge(merged, _load_with_bases(path.parent / base, (*above, path.resolve())))
    return merge(merged, config)


class ConfigLoader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as people expect, and not a string; a key may not be there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'the key {key!r} is there twice', node.start_mark)
        return super().construct_mapping(node, deep)


ConfigLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789')
)


def merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`, mapping by mapping; a spec with another `name` replaces the whole spec."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if 'name' in above and above['name'] != below.get('name', above['name']):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(below[key], value) if key in below else value
    return merged


def check_keys(config: dict, schema: dict, where: str) -> None:
    """Refuse keys of the nested dict `config` that `schema` does not have, naming the nearest known one."""
    for key, value in config.items():
        if key not in schema:
            raise UserError(f'{where}: unknown key {key!r}{suggestion(key, schema)}')
        if isinstance(schema[key], dict) and value is not None:
            if not isinstance(value, dict):
                raise UserError(f'{where}: {key!r} is a mapping, not {value!r}')
            check_keys(value, schema[key], f'{where}: {key}')


def check_complete(config: dict, keys: Iterable[str], path: str | Path, base: Path) -> None:
    """Raise UserError, saying where defaults come from, if `config`, read from `path`, lacks some of the `keys`; `base`
    is the config that has them."""
    lacking = [key for key in keys if key not in config]
    if lacking:
        wanted = os.path.relpath(base, Path(path).resolve().parent)
        others = f' and {len(lacking) - 1} more' if lacking[1:] else ''
        raise UserError(
            f'{path}: the key {lacking[0]!r} is missing{others}; defaults come from the config that `base:` names, '
            f'here for example base: {wanted}'
        )


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    The file is flushed to disk first, so `path` is at every moment the old file or the whole new one.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.stem[:24]}.{os.getpid()}.partial{path.suffix}')  # file systems limit names
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raise UserError, before any work, if `folder` cannot be made or written to."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise UserError(f'{folder}: {os.path.realpath(there)} is no folder that can be written to')


def write_text(path: Path, text: str) -> None:
    """Write `text` and a line's end to `path`, all or nothing. Raises UserError if that cannot be."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from error


def write_json(path: Path, data: Any) -> None:
    """As `write_text`, data as JSON, which has no infinity: the string 'inf' stands in its place."""
    write_text(path, json.dumps(finite(data), indent=1, allow_nan=False))


def finite(data: Any) -> Any:
    """`data`, of dicts and lists, with the string 'inf' for infinity."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return 'inf' if data == math.inf else data


def distinct_names(files: Iterable[str | Path]) -> dict[str | Path, str]:
    """A short name for each of the `files`: its stem; the file's name where stems are the same; the whole path where
    these are the same too. No two files have the same name."""
    names = {file: Path(file).stem for file in files}
    for longer in (lambda file: Path(file).name, str):
        while True:
            counts = Counter(names.values())
            alike = [file for file, name in names.items() if counts[name] > 1 and name != longer(file)]
            if not alike:
                break
            names |= {file: longer(file) for file in alike}
    return names


def labelled(files: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a label (see `distinct_names`) and a file's name, each file once."""
    return [(name, str(file)) for file, name in distinct_names(files).items()]


# ---------------------------------------------------------------- progress


EVERY = 10  # seconds between two lines about progress in a log


class Lines:
    """A stream for tqdm, which writes each state of its bar to stderr as a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def progress(total: int, unit: str = 'image', shown: bool = True) -> tqdm:
    """A bar that shows how much of `total` is done, where stderr is a terminal; elsewhere, as in the log of a job, a
    line every `EVERY` seconds at most."""
    if sys.stderr.isatty():
        return tqdm(total=total, unit=unit, disable=not shown)
    return tqdm(total=total, unit=unit, disable=not shown, **in_a_log())


def in_a_log() -> dict[str, Any]:
    """How tqdm writes lines, one every `EVERY` seconds at most."""
    return dict(file=Lines(), mininterval=EVERY, miniters=1, delay=EVERY, ncols=0, leave=False)
