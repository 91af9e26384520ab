"""What the programs share: errors, arguments, the registry, configs, devices, files."""

import argparse
import json
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import utils
from models.device import choose_device
from utils import Note, Parser, Registry, UserError, atomic_path, load_config, merge, run_main

in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---------------------------------------------------------------- ends of programs


def ended(capfd, main, **options):
    with pytest.raises(SystemExit) as stopped:
        run_main(main, **options)
    return stopped.value.code, *capfd.readouterr()


def raising(error):
    def main():
        raise error

    return main


def test_status_of_a_program(capfd):
    assert ended(capfd, lambda: None) == (0, '', '')
    assert ended(capfd, lambda: 3) == (3, '', '')
    assert ended(capfd, raising(KeyboardInterrupt())) == (130, '', 'interrupted\n')


def test_a_mistake_is_one_line(capfd):
    refused(ended(capfd, raising(UserError('a file:\n  says\tmore'))), 'error: a file: says more')


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB'),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError('MPS backend out of memory'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_one_line(capfd, error):
    refused(ended(capfd, raising(error)), 'not enough memory')


@pytest.mark.parametrize('error', [UserError('x'), MemoryError(), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_debug_lets_errors_through(error):
    with pytest.raises(type(error)):
        run_main(raising(error), debug=True)


@pytest.mark.parametrize('error', [RuntimeError('shapes differ'), ValueError('x'), AssertionError()])
def test_mistakes_of_the_code_are_not_hidden(error):
    with pytest.raises(type(error)):
        run_main(raising(error))


def test_a_note_is_one_line_and_other_warnings_are_as_ever(capfd, monkeypatch):
    def main():
        for _ in range(2):
            warnings.warn('what one\nshould know', Note)
        warnings.warn('old', DeprecationWarning)

    with warnings.catch_warnings():
        warnings.simplefilter('always', DeprecationWarning)
        warnings.showwarning = lambda message, *_: print(f'other: {message}', file=sys.stderr)
        status, out, err = ended(capfd, main)
        assert (status, out) == (0, '')
        assert err == 'note: what one should know\n' * 2 + 'other: old\n'
        monkeypatch.setenv('RANK', '1')  # of several processes, the first tells
        assert ended(capfd, main)[2] == 'other: old\n'


def test_about_says_what():
    with pytest.raises(UserError, match='^photo.png: the file ends early$'), utils.error_prefix('photo.png'):
        raise UserError('the file ends early')


# ---------------------------------------------------------------- arguments


@pytest.fixture
def parsed(monkeypatch):
    def parse(*words):
        monkeypatch.setattr(sys, 'argv', ['program', *words])
        parser = Parser('A program.')
        parser.add_argument('-model')
        parser.add_argument('-save-images', action='store_true')
        return vars(parser.parse_args())

    return parse


@pytest.mark.parametrize(
    'words',
    [
        ['-model', 'm', '-save-images'],
        ['--model', 'm', '--save-images'],
        ['--model=m', '--save-images'],
        ['-save-images', '-model=m'],
    ],
)
def test_one_dash_or_two(parsed, words):
    assert parsed(*words) == {'model': 'm', 'save_images': True}


@pytest.mark.parametrize('words', [['-mod', 'm'], ['--save'], ['-model'], ['-save-images', 'yes'], ['x'], ['--']])
def test_arguments_that_are_none(parsed, capfd, words):
    with pytest.raises(SystemExit) as stopped:
        parsed(*words) and sys.exit('accepted')
    refused((stopped.value.code, *capfd.readouterr()))


@pytest.mark.parametrize(
    'parser, good, bad',
    [
        (utils.positive, {'64': 64, '007': 7}, ['0', '-1', '1.5', '', 'x', '1e3', '٣', ' 3']),
        (utils.pixel, {'310,420': (310, 420), '0, 0': (0, 0)}, ['3', '3,4,5', '-1,3', '3,-1', '3;4', '', ',', '1.5,2']),
        (utils.size, {'48x64': (48, 64), '48': (48, 48)}, ['0x3', '3x3x3', 'x', '', '-3x3', '2.5x3', '3x']),
        (utils.part, {'1,2,3,4': (1, 2, 3, 4), '0,0,1,1': (0, 0, 1, 1)}, ['1,2,3', '-1,2,3,4', '1,2,0,4', '1,2,3,x']),
        (utils.shard, {'2/8': (2, 8), '1/1': (1, 1)}, ['0/8', '9/8', '2', '2/8/9', 'a/b', '-1/3', '']),
    ],
)
def test_text_of_command_lines(parser, good, bad):
    for text, value in good.items():
        assert parser(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f'{text!r} is not ')) as caught:
            parser(text)
        assert '\n' not in str(caught.value)


def test_nearest():
    assert utils.suggestion('chanels', ['heads', 'channels']) == ", did you mean 'channels'? (known: channels, heads)"
    assert utils.suggestion(None, [1, 'a']) == ' (known: 1, a)'


# ---------------------------------------------------------------- the registry


@pytest.fixture
def shapes():
    registry = Registry('shape')

    @registry.register('box')
    def box(width, height=2, inner=None):
        return width, height, registry.make(inner, width=width - 1) if inner else None

    return registry


def test_specs_build_what_they_name(shapes):
    assert shapes.make({'name': 'box', 'args': {'width': 3}}) == (3, 2, None)
    inner = {'name': 'box', 'args': {'height': 1}}
    assert shapes.make({'name': 'box', 'args': {'inner': inner, 'width': 9}}) == (9, 2, (8, 1, None))
    assert shapes.make({'name': 'box', 'args': None}, width=1) == (1, 2, None)


def test_a_failed_registration_changes_nothing(shapes):
    before = dict(shapes.entries)
    with pytest.raises(ValueError, match="shape 'box' is registered twice"):
        shapes.register('box')(lambda: 'another')
    assert shapes.entries == before


@pytest.mark.parametrize(
    'spec, injected, said',
    [
        ({'name': 'bx'}, {}, r"unknown shape 'bx', did you mean 'box'\? .known: box"),
        ({'name': 'box', 'args': {'with': 3}}, {}, "'box' has no argument 'with', did you mean 'width'"),
        ({'name': 'box', 'args': {'width': 3}}, {'width': 3}, "'box' has no argument 'width' .known: height, inner"),
        ({'name': 'box'}, {}, "'box' needs the argument 'width'"),
        ({'name': 'box', 'args': {'width': 1}}, {'depth': 3}, "'box' cannot stand here: it takes no 'depth'"),
        ({'name': 'box', 'arg': {}}, {}, 'a shape spec is {name, args}'),
        ([], {}, 'a shape spec is'),
        (None, {}, 'a shape spec is'),
        ({'name': []}, {}, 'a shape spec is'),
        ({'name': 'box', 'args': 0}, {}, 'a mapping'),
    ],
)
def test_specs_that_build_nothing(shapes, spec, injected, said):
    with pytest.raises(UserError, match=said):
        shapes.make(spec, **injected)


@pytest.mark.parametrize('value', [0, -1, 1.0, '1', None, True, [1], math.inf, math.nan])
def test_whole_numbers(value):
    utils.check_whole('box', width=1, height=10**400)
    utils.check_whole('box', smallest=0, width=0)
    with pytest.raises(UserError, match='box: height is a whole number from 1 up, not'):
        utils.check_whole('box', width=1, height=value)
    assert not utils.is_whole(value) and not utils.is_whole(2, 3)


@pytest.mark.parametrize('value', ['1', None, True, [1], math.inf, -math.inf, math.nan, 1j, np.bool_(True)])
def test_numbers(value):
    utils.check_numbers('box', width=-1, height=2.5, depth=np.float32(1), weight=10**400)
    with pytest.raises(UserError, match='box: height is a number, not'):
        utils.check_numbers('box', width=1, height=value)


@pytest.mark.parametrize('value', [None, 1, ['a'], b'a'])
def test_paths(value):
    utils.check_paths('box', inside='a', outside=Path('b'))
    with pytest.raises(UserError, match='box: outside is the path of a file or folder, not'):
        utils.check_paths('box', inside='a', outside=value)


# ---------------------------------------------------------------- configs


@pytest.fixture
def load(tmp_path):
    """`load(schema, **files)` writes YAML files and reads the first one."""

    def write_and_load(schema=None, **files):
        for name, text in files.items():
            (tmp_path / f'{name}.yaml').write_text(text, encoding='utf-8')
        return load_config(tmp_path / f'{next(iter(files))}.yaml', schema)

    return write_and_load


def test_what_differs_is_written_and_the_rest_inherited(load):
    files = {
        'top': 'base: middle.yaml\na: {x: 1}',
        'middle': 'base: low.yaml\na: {y: 2}\nb: 2',
        'low': 'a: {x: 0, z: 0}\nc: 3',
    }
    assert load(**files) == {'a': {'x': 1, 'y': 2, 'z': 0}, 'b': 2, 'c': 3}


def test_of_several_bases_the_later_ones_win(load):
    assert load(top='base: [one.yaml, two.yaml]\nd: 9', one='{a: 1, b: 1, d: 1}', two='{b: 2, c: 2}') == {
        'a': 1,
        'b': 2,
        'c': 2,
        'd': 9,
    }


def test_bases_are_found_beside_the_file(tmp_path, load):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder/low.yaml').write_text('base: ../lowest.yaml')
    assert load(top='base: folder/low.yaml', lowest='a: 1') == {'a': 1}


def test_a_spec_of_another_name_replaces_the_whole_spec(load):
    low = 'dataset: {name: folder, args: {path: a, cache: bin}}'
    assert load(top='{base: low.yaml, dataset: {args: {cache: none}}}', low=low)['dataset'] == {
        'name': 'folder',
        'args': {'path': 'a', 'cache': 'none'},
    }
    assert load(top='{base: low.yaml, dataset: {name: pairs, args: {other: b}}}', low=low)['dataset'] == {
        'name': 'pairs',
        'args': {'other': 'b'},
    }
    assert load(top='{base: low.yaml, dataset: null}', low=low) == {'dataset': None}


keys = st.sampled_from('abc')
nested = st.recursive(st.none() | st.integers(0, 3), lambda part: st.dictionaries(keys, part), max_leaves=9)


@given(st.dictionaries(keys, nested), st.dictionaries(keys, nested))
def test_merging(below, above):
    merged = merge(below, above)
    assert merge(below, {}) == below and merge({}, above) == above and merge(merged, above) == merged
    assert set(merged) == set(below) | set(above)

    def says(whole, part):
        """Whether `whole` contains everything in `part`."""
        return (
            part == whole
            if not isinstance(part, dict)
            else isinstance(whole, dict) and all(k in whole and says(whole[k], v) for k, v in part.items())
        )

    assert says(merged, above)


def test_merging_changes_neither():
    below, above = {'a': {'b': 1}}, {'a': {'c': 2}}
    merge(below, above)['a']['d'] = 3
    assert (below, above) == ({'a': {'b': 1}}, {'a': {'c': 2}})


@given(st.floats(allow_nan=False, allow_infinity=False))
@in_tmp
def test_numbers_are_numbers(load, value):
    assert load(top=f'a: {value!r}\nb: {value:e}') == {'a': value, 'b': float(f'{value:e}')}


def test_numbers_without_a_point(load):
    assert load(top='a: 1e-4\nb: -2E3\nc: [1e4, 1, x1e4]') == {'a': 1e-4, 'b': -2e3, 'c': [1e4, 1, 'x1e4']}


SCHEMA = {'model': {'name': None, 'args': None}, 'batch_size': None}


def test_known_keys_are_accepted(load):
    content = 'model: {name: a, args: {anything: {goes: here}}}\nbatch_size: 3'
    assert load(SCHEMA, top=content)['model']['args'] == {'anything': {'goes': 'here'}}
    assert load(SCHEMA, top='model: null') == {'model': None}


@pytest.mark.parametrize(
    'text, said',
    [
        ('batchsize: 3', r"top.yaml: unknown key 'batchsize', did you mean 'batch_size'\? .known: batch_size, model"),
        ('model: {nam: a}', "top.yaml: model: unknown key 'nam', did you mean 'name'"),
        ('3: 4', 'unknown key 3'),
        ('model: msit', "'model' is a mapping, not 'msit'"),
        ('base: low.yaml', "top.yaml: unknown key 'of_low'"),
        ('batch_size: 3\nbatch_size: 4', "the key 'batch_size' is there twice"),
        ('model: {name: a, args: {x: 1, y: 2, x: 3}}', "the key 'x' is there twice"),
        ('', 'a mapping of keys'),
        ('- 3', 'a mapping of keys'),
        ('text', 'a mapping of keys'),
        ('{', 'not valid YAML'),
        ('a: &x *y', 'not valid YAML'),
        ('a: 2001-99-99', 'not valid YAML'),
        ('a: !!float x', 'not valid YAML'),
        ('a: !!bool x', 'not valid YAML'),
        ('a: !!timestamp x', 'not valid YAML'),
        ('a: !!python/object/apply:os.getcwd []', 'not valid YAML'),
        ('[' * 1000, 'not valid YAML'),
        ('base: none.yaml', 'none.yaml: cannot read the config .No such file'),
        ('base: .', 'cannot read the config .Is a directory'),
        ('base: 3', 'base is a file or a list of files, not 3'),
        ('base: null', 'base is'),
        ('base: [low.yaml, 3]', 'base is'),
    ],
)
def test_configs_that_are_refused(load, text, said):
    with pytest.raises(UserError, match=said):
        load(SCHEMA, top=text, low='of_low: 1')


def test_a_config_that_lacks_keys_is_told_where_defaults_come_from(tmp_path):
    path, base = tmp_path / 'mine/config.yaml', tmp_path / 'configs/base.yaml'
    utils.check_complete({'a': None, 'b': 1}, {'a': None, 'b': None}, path, base)
    with pytest.raises(UserError) as caught:
        utils.check_complete({'b': 1}, {'a': None, 'b': None, 'c': None}, path, base)
    assert str(caught.value).startswith(f"{path}: the key 'a' is missing and 1 more; ")
    wanted = str(caught.value).split('base: ')[-1]
    for place in (path.parent, base.parent):
        place.mkdir()
    base.write_text('{a: 1, c: 2}')
    path.write_text(f'{{base: {wanted}, b: 1}}')
    assert load_config(path) == {'a': 1, 'b': 1, 'c': 2}  # what it says to write helps


def test_circles(load):
    with pytest.raises(UserError, match='in a circle'):
        load(top='base: top.yaml')
    with pytest.raises(UserError, match='in a circle'):
        load(top='base: low.yaml', low='base: [lowest.yaml]', lowest='base: ./top.yaml')
    assert load(top='base: [one.yaml, two.yaml]', one='base: low.yaml', two='base: low.yaml', low='a: 1') == {'a': 1}


def test_files_that_are_no_text(tmp_path):
    (tmp_path / 'a.yaml').write_bytes(b'a: \xff\xfe')
    with pytest.raises(UserError, match='not valid YAML'):
        load_config(tmp_path / 'a.yaml')
    with pytest.raises(UserError, match='cannot read the config'):
        load_config(tmp_path)
    with pytest.raises(UserError, match='b.yaml: cannot read the config .No such file'):
        load_config(tmp_path / 'b.yaml')


tokens = st.sampled_from(
    [
        'a',
        'b',
        ': ',
        '- ',
        '\n',
        '  ',
        '{',
        '}',
        '[',
        ']',
        ', ',
        '&x ',
        '*x',
        '!!int ',
        '!!set ',
        '<<',
        '!!omap ',
        '1e5',
        '0x',
        '1:2',
        '"',
        '|',
        '%',
        '~',
        '? ',
        '\t',
        '\0',
        'base',
        'null',
    ]
)


@settings(in_tmp, max_examples=200)
@given(st.lists(tokens, max_size=12))
def test_any_text_gives_a_config_or_an_error_of_the_user(load, text):
    try:
        assert isinstance(load(top=''.join(text)), dict)
    except UserError:
        pass


# ---------------------------------------------------------------- devices and files


def test_devices(monkeypatch):
    assert choose_device('cpu') == torch.device('cpu')
    assert choose_device().type in ('cuda', 'mps', 'cpu')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    assert choose_device() == torch.device('cpu')


@pytest.mark.parametrize('name', ['', 'abacus', 'cuda:99', 'cuda:-1', 'meta', 'xla', 'hpu', '0', 'cpu cpu'])
def test_devices_that_are_not_there(name):
    with pytest.raises(UserError, match=f'device {name!r} is not available here'):
        choose_device(name)


@pytest.mark.parametrize('before', [None, 'old'])
def test_a_file_is_whole_or_as_it_was(tmp_path, before):
    path = tmp_path / 'file.txt'
    if before:
        path.write_text(before)
    for error in (OSError, KeyboardInterrupt, UserError):
        with pytest.raises(error), atomic_path(path) as temporary:
            assert temporary.parent == tmp_path and temporary.suffix == '.txt'  # one file system, and the format
            temporary.write_text('half')
            raise error
        assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])
    with atomic_path(path) as temporary:
        temporary.write_text('new')
        assert not before or path.read_text() == before
    assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, 'new')]


def test_a_file_that_was_not_written_replaces_nothing(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == 'old' and len(list(tmp_path.iterdir())) == 1


def test_text_and_json(tmp_path):
    utils.write_text(tmp_path / 'a.txt', 'é\n1')
    assert (tmp_path / 'a.txt').read_text(encoding='utf-8') == 'é\n1\n'
    utils.write_json(tmp_path / 'a.json', {'a': [1, math.inf, {'b': (2.5, math.inf)}], 'c': None})
    assert json.loads((tmp_path / 'a.json').read_text()) == {'a': [1, 'inf', {'b': [2.5, 'inf']}], 'c': None}
    with pytest.raises(UserError, match='cannot be written .No such file'):
        utils.write_text(tmp_path / 'none/a.txt', 'x')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.txt']


def test_folders_that_can_be_written_to(tmp_path):
    (tmp_path / 'file').touch()
    utils.check_folder(tmp_path)
    utils.check_folder(tmp_path / 'not' / 'yet')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(UserError, match='is no folder that can be written to'):
            utils.check_folder(folder)


def test_labels_tell_files_apart():
    assert utils.labelled(['a/x.pth', 'b/y.pth', 'c/x.pth', 'a/x.pth']) == [
        ('a/x.pth', 'a/x.pth'),
        ('y', 'b/y.pth'),
        ('c/x.pth', 'c/x.pth'),
    ]


def test_labels_are_as_long_as_is_needed_and_no_two_are_the_same():
    for files, labels in (
        (['x.png', 'x.jpg', 'y.png'], ['x.png', 'x.jpg', 'y']),
        (['x.png', 'x.jpg', 'x.jpg.png'], ['x.png', 'x.jpg', 'x.jpg.png']),
        (['a/x.png', 'b/x.png', 'x.png'], ['a/x.png', 'b/x.png', 'x.png']),
        (['a.pth', 'b/a.pth', 'c/a.pth.x'], ['a.pth', 'b/a.pth', 'a.pth.x']),
        ([], []),
    ):
        assert [label for label, _ in utils.labelled(files)] == labels


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize('seconds', [1, 4, 30])
def test_progress_is_a_line_every_ten_seconds_at_most(capfd, monkeypatch, seconds):
    now = [0.0]
    bar = utils.progress(12)
    bar._time, bar.start_t, bar.last_print_t = lambda: now[0], 0, 0
    with bar:
        for _ in range(12):
            now[0] += seconds
            bar.update()
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == '' and '\r' not in err and len(lines) == {1: 1, 4: 4, 30: 12}[seconds]
    assert all(re.match(r'\d+% \d+/12 \[\d\d:\d\d<', line) for line in lines), err


def test_no_progress_if_not_wanted(capfd, monkeypatch):
    monkeypatch.setattr(utils, 'EVERY', 0)
    with utils.progress(3, shown=False) as bar:
        bar.update(3)
    assert capfd.readouterr() == ('', '')


def test_on_a_terminal_progress_is_a_bar(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    with utils.progress(3) as bar:
        bar.update(3)
    assert '100%' in capfd.readouterr().err
