"""The decoder's compiled first layer against the same in torch's operations."""
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from test_render import built

from models import native, shared

compiled = pytest.mark.skipif(native.library(torch.float32) is None, reason='no compiled code on this system')
few = st.integers(1, 4)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty place to keep it."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def problem(heads, d, radius, hidden, rows, columns, my, mx, dtype, seed):
    """Random features, plan, bilinear weights and windows of all LR pixels of `rows` x `columns`, in two images."""
    make = torch.Generator().manual_seed(seed)
    side = 2 * radius + 1

    def random(*shape):
        return torch.randn(*shape, dtype=dtype, generator=make)
    maps = [random(heads, 2, rows + side - 1, columns + side - 1, d) for _ in range(2)]
    features = SimpleNamespace(query_key=maps[0], value=maps[1])
    plan = SimpleNamespace(row_weight=random(rows, my, 3), column_weight=random(columns, mx, 3),
                           row_bias=random(heads, rows, my, side ** 2),
                           column_bias=random(heads, columns, mx, side ** 2),
                           weight=random(heads, side ** 2, d, hidden) / side, constant=random(hidden))
    batch, i, j = torch.cartesian_prod(torch.arange(2), torch.arange(rows), torch.arange(columns)).t()
    corner = (batch * (rows + side - 1) + i) * (columns + side - 1) + j
    index = corner + (torch.arange(side)[:, None] * (columns + side - 1) + torch.arange(side)).reshape(-1, 1)
    return plan, features, random(len(i), my * mx, 9), index, i, j


def both(plan, *rest):
    """What `shared` and `native` make of a problem."""
    with torch.no_grad():
        there = shared.first_layer(plan, *rest)
        return there, native.first_layer(SimpleNamespace(**{**vars(plan), 'weight': native.packed(plan.weight)}), *rest)


@compiled
@given(heads=few, d=st.integers(1, 70), radius=st.integers(1, 4), hidden=st.integers(1, 150), rows=few, columns=few,
       my=few, mx=few, dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_compiled_code_does_what_torch_does(dtype, **sizes):
    there, here = both(*problem(**sizes, dtype=dtype))
    assert here.shape == there.shape and here.dtype == dtype
    assert (here - there).abs().max() <= TOLERANCE[dtype] * there.abs().max()


def supported(flag):
    with open('/proc/cpuinfo', encoding='ascii') as file:
        return flag in file.read().split()


@compiled
@pytest.mark.parametrize('flags, needs', [((), 'sse2'), (('-mavx2', '-mfma'), 'avx2'), (('-mavx512f',), 'avx512f')])
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_it_is_right_on_every_kind_of_processor(afresh, monkeypatch, flags, needs, dtype):
    if not supported(needs):
        pytest.skip(f'this processor has no {needs}')
    kept = [flag for flag in native.FLAGS if flag != '-march=native']
    monkeypatch.setattr(native, 'FLAGS', [*kept, *flags])
    there, here = both(*problem(2, 33, 2, 70, 3, 2, 3, 3, dtype, seed=0))
    assert (here - there).abs().max() <= TOLERANCE[dtype] * there.abs().max()


MAIN = r"""
#include "%s"
#include <stdlib.h>
static void *zeros(long n, long size) { return calloc(n, size); }
int main(void) {
    const long cases[][6] = {%s};
    for (unsigned at = 0; at < sizeof cases / sizeof *cases; at++) {
        const long n = cases[at][0], my = cases[at][1], mx = cases[at][2], d = cases[at][3], side = cases[at][4];
        const long m = my * mx, window = side * side, columns = 2 * COLUMNS, pixels = 5;
        const long wide = ((d > window ? d : window) + COLUMNS - 1) / COLUMNS * COLUMNS;
        int64_t *index = zeros(window * n, 8), *i = zeros(n, 8), *j = zeros(n, 8);
        for (long k = 0; k < window * n; k++) index[k] = k %% pixels;
        for (long k = 0; k < n; k++) i[k] = k %% 3, j[k] = k %% 2;
        real *logits = zeros(n * m * window, sizeof(real)), *near = zeros(n * m * 9, sizeof(real));
        real *maps = zeros(pixels * d, sizeof(real)), *room = zeros(cases[at][5], sizeof(real));
        real *rows = zeros(3 * my * window, sizeof(real)), *across = zeros(2 * mx * window, sizeof(real));
        real *weight = zeros(columns * window * d, sizeof(real)), *hidden = zeros(n * m * columns, sizeof(real));
        find_logits(logits, near, maps, index, rows, i, across, j, room, 1, n, my, mx, d, side, wide);
        add_shared(hidden, logits, maps, index, weight, room, n, m, d, window, columns);
        free(index), free(i), free(j), free(logits), free(near), free(maps), free(room), free(rows), free(across);
        free(weight), free(hidden);
    }
    return 0;
}
"""


@compiled
@pytest.mark.parametrize('real', ['float', 'double'])
@pytest.mark.parametrize('processor', ['x86-64', 'native'])
def test_it_stays_within_its_arrays(tmp_path, real, processor):
    """The address sanitizer watches a program of its own that calls both functions on arrays that just fit."""
    cases = [(n, my, mx, d, side, native.room_for(side ** 2, d)) for n in (1, 7, native.GROUP + 1)
             for my, mx in ((1, 1), (3, 2), (4, 5)) for d in (1, 14, 64, 79) for side in (3, 5, 9)]
    numbers = ', '.join('{%s}' % ', '.join(map(str, case)) for case in cases)
    (tmp_path / 'main.c').write_text(MAIN % (native.SOURCE, numbers))
    flags = [*native.SIZES, f'-DREAL={real}', f'-march={processor}']
    watched = ['-fsanitize=address,undefined', '-fno-sanitize-recover']
    command = [*shlex.split(os.environ.get('CC') or 'cc'), '-x', 'c', *watched, *flags]
    (tmp_path / 'empty.c').write_text('int main(void) { return 0; }')

    def run(name):
        """What compiling said if it failed, otherwise what running the program did."""
        done = subprocess.run([*command, tmp_path / f'{name}.c', '-o', tmp_path / name], capture_output=True, text=True)
        return done if done.returncode else subprocess.run([tmp_path / name], capture_output=True, text=True)
    if run('empty').returncode:
        pytest.skip('this compiler has no sanitizer')
    done = run('main')
    assert (done.returncode, done.stderr) == (0, '')


@compiled
def test_an_array_of_the_wrong_kind_is_refused():
    right = torch.rand(3, 4)
    for wrong in (right.double(), right.bfloat16(), right.t()):
        with pytest.raises(TypeError, match='cannot read'):
            native.pointers(right, right, wrong)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_autocast_around_rendering_changes_nothing(precision):
    model, lr = built(TINY, dtype=torch.float32), torch.rand(2, 3, 6, 5)
    alone = model.render(lr, (11, 14), precision=precision)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model.render(lr, (11, 14), precision=precision), alone)


# ---------------------------------------------------------------- where there is none

@compiled
def test_what_is_compiled_is_kept(afresh, monkeypatch):
    assert native.library(torch.float32) is not None
    kept = list((afresh / 'cache').rglob('*'))
    assert [path.suffix for path in kept if path.is_file()] == ['.so']
    native.library.cache_clear()
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: pytest.fail('compiled a second time'))
    assert native.library(torch.float32) is not None


@compiled
@pytest.mark.parametrize('options', ['-pipe', '-x c++'])
def test_a_compiler_with_options_will_do_also_one_of_another_language(afresh, monkeypatch, options):
    monkeypatch.setenv('CC', f'{os.environ.get("CC") or "cc"} {options}')
    assert native.library(torch.float32) is not None


@compiled
def test_a_file_that_cannot_be_loaded_is_made_anew(afresh, monkeypatch):
    with monkeypatch.context() as damaged:
        damaged.setattr(native.ctypes, 'CDLL', mock.Mock(side_effect=OSError('file too short')))
        assert native.library(torch.float32) is None
    assert not list(afresh.rglob('*.so'))
    native.library.cache_clear()
    assert native.library(torch.float32) is not None


def test_on_an_unknown_processor_there_is_none(afresh, monkeypatch):
    read = Path.read_text
    monkeypatch.setattr(Path, 'read_text', lambda path, **options:
                        'Features: fp asimd' if path == Path('/proc/cpuinfo') else read(path, **options))
    assert native.library(torch.float32) is None


@pytest.mark.parametrize('compiler', ['no-such-compiler', 'false', 'true', '"'])
def test_without_a_working_compiler_torch_renders(afresh, monkeypatch, compiler):
    model, lr = built(TINY), torch.rand(1, 3, 5, 6, dtype=torch.float64)
    want = model.render(lr, (11, 14))
    native.library.cache_clear()
    monkeypatch.setenv('CC', compiler)
    monkeypatch.setenv('XDG_CACHE_HOME', str(afresh / 'other'))
    assert native.library(torch.float64) is None
    monkeypatch.setattr(native, 'first_layer', None)                # is not called
    assert (model.render(lr, (11, 14)) - want).abs().max() < 1e-12
    assert not [path for path in (afresh / 'other').rglob('*') if path.is_file()]


def test_where_nothing_can_be_kept_there_is_none(afresh, monkeypatch):
    (afresh / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(afresh / 'file'))
    assert native.library(torch.float32) is None
    native.library.cache_clear()
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', mock.Mock(side_effect=RuntimeError('Could not determine home directory.')))
    assert native.library(torch.float32) is None


def test_half_precision_and_gradients_are_torchs():
    maps = torch.rand(2, 1, 9, 9, 4)
    assert not native.serves(maps)                                  # gradients may be wanted
    with torch.no_grad():
        assert native.serves(maps) == (native.library(torch.float32) is not None)
        assert not native.serves(maps.bfloat16()) and not native.serves(maps.to('meta'))
