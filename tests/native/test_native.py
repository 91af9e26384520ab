"""The compiled decoder against torch, and when there is none."""

import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import TINY
from decoding import LAYERS, SIZES, both, forget, problem
from examples import built, by_query
from hypothesis import given, settings
from hypothesis import strategies as st

from models import native
from models.edsr import edsr_baseline
from models.mlp import MLP
from models.native import library, msit_decoder, store, winograd
from utils import Note

compiled = pytest.mark.skipif(library.compiled(torch.float32) is None, reason='no compiled code on this system')
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Nothing compiled yet, and an empty place to keep it; what is compiled is slow, and soon done."""
    monkeypatch.setattr(library, 'FLAGS', [flag.replace('-O3', '-O1') for flag in library.FLAGS])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    forget()
    yield tmp_path
    forget()


def agree(there, here, dtype):
    return all(
        own.dtype == dtype
        and own.shape == other.shape
        and (own - other).abs().max() <= TOLERANCE[dtype] * (1 + other.abs().max())
        for own, other in zip(here, there)
    )


@compiled
@given(**SIZES, **LAYERS, d=st.integers(1, 70), dtype=st.sampled_from(list(TOLERANCE)))
@settings(max_examples=150, deadline=None)
def test_compiled_code_does_what_torch_does(dtype, hidden_list, act, **sizes):
    assert agree(*both(*problem(**sizes, dtype=dtype), hidden_list=hidden_list, act=act), dtype)


@compiled
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_large_and_small_numbers_and_none(dtype):
    """Logits whose exponential would overflow, large activations, and NaN."""
    plan, features, *rest = problem(2, 8, 1, 40, 2, 3, 3, 3, dtype, seed=0)
    layer = plan.layer
    for size in (1e-30, 30, 1000):
        scaled = SimpleNamespace(
            **{**vars(plan), 'layer': layer._replace(row_bias=layer.row_bias * size, weight=layer.weight * size)}
        )
        assert agree(*both(scaled, features, *rest), dtype)
    features.query_key[0, 0, 0, 0, 0] = torch.nan  # a corner: one LR pixel sees it
    for there, here in zip(*both(plan, features, *rest)):
        assert torch.equal(here.isnan(), there.isnan()) and here.isnan().any() and not here.isnan().all()


@compiled
@given(st.lists(st.floats(-12, 12), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_gelu(numbers):
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 2e-6)):
        x = torch.tensor(numbers, dtype=dtype)
        imnet = MLP(1, len(x), [len(x)], 'gelu').to(dtype)
        with torch.no_grad():
            imnet.layers[2].weight.copy_(torch.eye(len(x)))
            imnet.layers[2].bias.zero_()
            bias = torch.zeros(1, 1, 1, 9, dtype=dtype)
            layers = msit_decoder.layers(imnet, x.new_zeros(1, 9, 1, len(x)), x, bias, bias)
            blocks = layers.constant.reshape(-1, 1, 1, library.SIZES['COLUMNS'])
            got = msit_decoder.perceptron(layers, blocks.contiguous(), dtype)[0, 0, : len(x)]
        assert (got - torch.nn.functional.gelu(x)).abs().max() <= tolerance


def supported(flag):
    with open('/proc/cpuinfo', encoding='ascii') as file:
        return flag in file.read().split()


@compiled
@pytest.mark.parametrize('flags, needs', [((), 'sse2'), (('-mavx2', '-mfma'), 'avx2'), (('-mavx512f',), 'avx512f')])
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_it_is_right_on_every_kind_of_processor(afresh, monkeypatch, flags, needs, dtype):
    if not supported(needs):
        pytest.skip(f'this processor has no {needs}')
    kept = [flag for flag in library.FLAGS if flag != '-march=native']
    monkeypatch.setattr(library, 'FLAGS', [*kept, *flags])
    assert agree(*both(*problem(2, 33, 2, 70, 3, 2, 3, 3, dtype, seed=0)), dtype)
    x, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((1, 32, 9, 14), (80, 32, 5, 5), (80,)))
    expected = torch.nn.functional.conv2d(x, weight, bias, padding=2)
    assert (winograd.winograd_conv2d(x, weight, bias) - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


MAIN = r"""
#include "%(folder)s/msit_decoder.c"
#include "%(folder)s/winograd.c"
#include <stdlib.h>
#include <string.h>
#define LENGTH(cases) (sizeof cases / sizeof *cases)
static real *zeros(long n) { return calloc(n, sizeof(real)); }
static real *dirty(long n) { return memset(zeros(n), -1, n * sizeof(real)); }       /* not a number */
static void check(const real *x, long n) { for (long k = 0; k < n; k++) if (x[k] != 0) abort(); }
static void decode(long n, long my, long mx, long d, long side) {
    const long m = my * mx, window = side * side, hidden = 2 * COLUMNS, pixels = 5, heads = 2;
    const long wide = ((d > window ? d : window) + COLUMNS - 1) / COLUMNS * COLUMNS;
    int64_t *index = calloc(window * n, 8), *i = calloc(n, 8), *j = calloc(n, 8);
    for (long k = 0; k < window * n; k++) index[k] = k %% pixels;
    for (long k = 0; k < n; k++) i[k] = k %% 3, j[k] = k %% 2;
    real *near = zeros(n * m * 9), *maps = zeros(heads * pixels * d), *values = zeros(heads * pixels * packs(d));
    real *room = dirty((18 + d + 2 * ROWS) * wide + n * m * packs(in_units(window)) + GROUP * packs(window) * COLUMNS
                       + GROUP * packs(d));
    real *rows = zeros(heads * 3 * my * in_units(window)), *columns = zeros(heads * 2 * mx * in_units(window));
    real *weight = zeros(heads * hidden * window * packs(d)), *constant = zeros(hidden), *x = dirty(n * m * hidden);
    first_layer(x, near, maps, values, index, rows, i, columns, j, weight, constant, room, n, my, mx, heads, d, side,
                pixels, 3, 2, hidden, wide);
    check(x, n * m * hidden);
    const long width[] = {hidden, 5 * UNIT, UNIT};
    real *weights[] = {zeros(packs(width[0]) * width[1]), zeros(packs(width[1]) * width[2])};
    real *biases[] = {zeros(width[1]), zeros(width[2])}, *out = dirty(n * m * UNIT), *strip = dirty(3 * STRIP * hidden);
    perceptron(out, x, (const real *const *)weights, (const real *const *)biases, width, 2, n %% 2, n * m, strip);
    check(out, n * m * UNIT);
    void *all[] = {index, i, j, near, maps, values, room, rows, columns, weight, constant, x, weights[0], weights[1],
                   biases[0], biases[1], out, strip};
    for (unsigned k = 0; k < LENGTH(all); k++) free(all[k]);
}
static void convolution(long batch, long height, long width, long channels, long out_channels, long k) {
    if (channels %% LANES || out_channels %% LANES) return;
    const long parts = (k + 2) / 3, threads = 2, area = channels * out_channels, pixels = batch * height * width;
    real *x = zeros(pixels * channels), *out = dirty(pixels * out_channels), *weight = zeros(area * k * k);
    real *bias = zeros(out_channels), *kernel = dirty(36 * parts * parts * area);
    real *room = dirty(threads * 36 * TILES * (channels + out_channels));
    convolve(out, x, weight, bias, kernel, room, batch, height, width, channels, out_channels, k, channels,
             width * channels, height * width * channels, threads);
    check(out, pixels * out_channels);
    real *all[] = {x, out, weight, bias, kernel, room};
    for (unsigned at = 0; at < LENGTH(all); at++) free(all[at]);
}
int main(void) {
    const long cases[][5] = {%(decoder)s}, convolutions[][6] = {%(winograd)s};
    for (unsigned at = 0; at < LENGTH(cases); at++) {
        const long *is = cases[at];
        decode(is[0], is[1], is[2], is[3], is[4]);
    }
    for (unsigned at = 0; at < LENGTH(convolutions); at++) {
        const long *is = convolutions[at];
        convolution(is[0], is[1], is[2], is[3], is[4], is[5]);
    }
    return 0;
}
"""


@compiled
@pytest.mark.parametrize(
    'kind', ['-DREAL=float', '-DREAL=double', *(f'-DREAL=float -DBF16 {how}-DEMULATED' for how in ('', '-DAMX '))]
)
@pytest.mark.parametrize('processor, needs', [('x86-64', 'sse2'), ('x86-64-v3', 'avx2'), ('x86-64-v4', 'avx512f')])
def test_it_stays_within_its_arrays(tmp_path, kind, processor, needs):
    """The address sanitizer checks a program that calls all functions with arrays of exactly the needed size."""
    if not supported(needs):
        pytest.skip(f'this processor has no {needs}')
    decoders = [
        (n, my, mx, d, side)
        for n in (1, library.SIZES['GROUP'] + 1)
        for my, mx in ((1, 1), (3, 2), (4, 5))
        for d in (1, 14, 64, 79)
        for side in (3, 5, 9)
    ]
    convolutions = [
        (batch, height, width, *channels, k)
        for batch, height, width in ((1, 1, 1), (2, 13, 6), (1, 4, 24))
        for channels in ((16, 16), (24, 40), (32, 80), (80, 64))
        for k in (1, 3, 5, 9)
    ]
    cases = {
        name: ', '.join('{%s}' % ', '.join(map(str, case)) for case in of)
        for name, of in (('decoder', decoders), ('winograd', convolutions))
    }
    (tmp_path / 'main.c').write_text(MAIN % {'folder': library.SOURCES[0].parent, **cases})
    flags = [*library.DEFINED, *kind.split(), f'-march={processor}', '-fopenmp']
    watched = ['-fsanitize=address,undefined', '-fno-sanitize-recover']
    command = [*shlex.split(os.environ.get('CC') or 'cc'), '-x', 'c', *watched, *flags]
    (tmp_path / 'empty.c').write_text('int main(void) { return 0; }')

    def run(name):
        """The finished compilation if it failed, otherwise the finished run of the program."""
        compiling = [*command, tmp_path / f'{name}.c', '-o', tmp_path / name, '-lm']
        done = subprocess.run(compiling, capture_output=True, text=True)
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
            library.pointers(right, right, wrong)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_autocast_around_rendering_changes_nothing(precision):
    model, lr = built(TINY, dtype=torch.float32), torch.rand(2, 3, 6, 5)
    alone = model.render(lr, (11, 14), precision=precision)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model.render(lr, (11, 14), precision=precision), alone)


# ---------------------------------------------------------------- where there is none


@compiled
def test_what_is_compiled_is_kept(afresh, monkeypatch):
    assert library.compiled(torch.float32) is not None
    found = list((afresh / 'cache').rglob('*'))
    assert [path.suffix for path in found if path.is_file()] == ['.so']
    library.compiled.cache_clear()
    monkeypatch.setattr(subprocess, 'run', lambda *a, **k: pytest.fail('compiled a second time'))
    assert library.compiled(torch.float32) is not None


@compiled
@pytest.mark.parametrize('options', ['-pipe', '-x c++'])
def test_a_compiler_with_options_will_do_also_one_of_another_language(afresh, monkeypatch, options):
    monkeypatch.setenv('CC', f'{os.environ.get("CC") or "cc"} {options}')
    assert library.compiled(torch.float32) is not None


def kept(folder):
    (path,) = folder.rglob('*.so')
    return path


@compiled
@pytest.mark.parametrize(
    'damage', [lambda data: b'', lambda data: data[: len(data) // 2], lambda data: data[:-9] + b'x' + data[-8:]]
)
def test_a_damaged_file_is_never_loaded_but_made_anew(afresh, monkeypatch, damage):
    assert library.compiled(torch.float32) is not None
    path = kept(afresh)
    whole = path.read_bytes()
    path.unlink()  # it is mapped into memory
    path.write_bytes(damage(whole))
    seen, load = [], library.loaded
    monkeypatch.setattr(library, 'loaded', lambda path: seen.append(path.read_bytes()) or load(path))
    library.compiled.cache_clear()
    assert library.compiled(torch.float32) is not None
    assert damage(whole) not in seen and kept(afresh).read_bytes() != damage(whole)


@compiled
def test_a_file_that_cannot_be_loaded_is_made_anew(afresh, monkeypatch):
    load, tried = library.ctypes.CDLL, []

    def refusing_the_first(path):
        tried.append(path)
        if len(tried) == 1:
            raise OSError('version GLIBC_9.99 not found')
        return load(path)

    monkeypatch.setattr(library.ctypes, 'CDLL', refusing_the_first)
    assert library.compiled(torch.float32) is not None and len(tried) == 2


@compiled
def test_a_file_that_can_never_be_loaded(afresh, monkeypatch):
    monkeypatch.setattr(library.ctypes, 'CDLL', mock.Mock(side_effect=OSError('not permitted')))
    with pytest.warns(Note, match='more slowly: not permitted'):
        assert library.compiled(torch.float32) is None


@compiled
def test_the_folder_is_the_users_alone(afresh):
    assert library.compiled(torch.float32) is not None
    assert (afresh / 'cache' / 'msit').stat().st_mode & 0o777 == 0o700
    assert kept(afresh).stat().st_mode & 0o022 == 0


@compiled
@pytest.mark.parametrize('mode', [0o720, 0o702])
@pytest.mark.parametrize('what', ['folder', 'file'])
def test_what_others_may_write_to_is_refused(afresh, monkeypatch, mode, what):
    assert library.compiled(torch.float32) is not None
    (kept(afresh) if what == 'file' else kept(afresh).parent).chmod(mode)
    library.compiled.cache_clear()
    monkeypatch.setattr(library, 'loaded', lambda path: pytest.fail('it was loaded'))
    with pytest.warns(Note, match='others may write to'):
        assert library.compiled(torch.float32) is None


@compiled
@pytest.mark.parametrize('what', ['folder', 'file'])
def test_what_is_another_users_is_refused(afresh, monkeypatch, what):
    assert library.compiled(torch.float32) is not None
    path = kept(afresh) if what == 'file' else kept(afresh).parent
    stat = os.lstat if what == 'file' else os.stat

    def of_another(at, **options):
        found = stat(at, **options)
        return SimpleNamespace(st_uid=found.st_uid + 1, st_mode=found.st_mode) if Path(at) == path else found

    monkeypatch.setattr(store.os, stat.__name__, of_another)
    library.compiled.cache_clear()
    monkeypatch.setattr(library, 'loaded', lambda path: pytest.fail('it was loaded'))
    with pytest.warns(Note, match='another user'):
        assert library.compiled(torch.float32) is None


@compiled
def test_another_kind_of_processor_gets_code_of_its_own(afresh, monkeypatch):
    assert library.compiled(torch.float32) is not None
    first, kind = kept(afresh), library.processor()
    monkeypatch.setattr(library, 'processor', lambda: kind.replace('fpu', '').replace('fp ', ''))
    library.compiled.cache_clear()
    assert library.compiled(torch.float32) is not None
    assert len(set(afresh.rglob('*.so')) - {first}) == 1


@compiled
def test_a_compilation_that_fails_is_told_once_and_not_tried_again(afresh, monkeypatch):
    compiler, count = afresh / 'broken', afresh / 'count'
    compiler.write_text(f'#!/bin/sh\necho x >> {count}\necho "no vectors here" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CC', str(compiler))
    with pytest.warns(Note) as said:
        for _ in range(3):
            assert library.compiled(torch.float32) is None
    (note,) = {str(one.message) for one in said}
    log = Path(note.rpartition('see ')[2])
    assert '\n' not in note and 'no vectors here' in log.read_text()
    assert count.read_text().split() == ['x', 'x']  # with OpenMP and without


@compiled
@pytest.mark.parametrize(
    'right, wrong, works',
    [
        ('even_a - odd_a;\n    x[3', 'even_a + odd_a;\n    x[3', winograd.works),
        ('1. / 6, 1. / 24', '1. / 4, 1. / 24', msit_decoder.works),
    ],
)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_code_that_computes_something_else_is_not_used(afresh, monkeypatch, right, wrong, works, dtype):
    """As a compiler's fault would make it."""
    sources = []
    for path in library.SOURCES:
        sources.append(afresh / path.name)
        sources[-1].write_text(path.read_text().replace(right, wrong))
    assert any(ours.read_text() != path.read_text() for ours, path in zip(sources, library.SOURCES))
    monkeypatch.setattr(library, 'SOURCES', sources)
    with pytest.warns(Note, match='differs from that by torch'):
        assert not works(dtype)
    imnet, x, weight = MLP(1, 3, [4], 'gelu'), torch.rand(1, 32, 20, 20, dtype=dtype), torch.rand(32, 32, 3, 3)
    with torch.no_grad():
        used = winograd.is_faster(x, weight.to(dtype)), msit_decoder.usable_for(imnet, x, dtype)
    assert used == (works is not winograd.works, works is not msit_decoder.works) and not native.in_use(dtype)


@pytest.mark.filterwarnings('ignore::utils.Note')
@pytest.mark.parametrize('compiler', ['no-such-compiler', 'false', 'true', '"'])
def test_without_a_working_compiler_torch_renders(afresh, monkeypatch, compiler):
    model, lr = built(TINY), torch.rand(1, 3, 5, 6, dtype=torch.float64)
    want = model.render(lr, (11, 14))
    library.compiled.cache_clear()
    monkeypatch.setenv('CC', compiler)
    monkeypatch.setenv('XDG_CACHE_HOME', str(afresh / 'other'))
    assert library.compiled(torch.float64) is None
    monkeypatch.setattr(msit_decoder, 'colours', None)  # is not called
    assert (model.render(lr, (11, 14)) - want).abs().max() < 1e-12
    assert {path.suffix for path in (afresh / 'other').rglob('*') if path.is_file()} <= {'.log'}


@compiled
def test_a_compiler_without_openmp_will_do(afresh, monkeypatch):
    compiler = afresh / 'cc'
    refuses = '#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\n'
    compiler.write_text(f'{refuses}exec {os.environ.get("CC") or "cc"} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CC', str(compiler))
    assert library.compiled(torch.float64) is not None
    x, weight, bias = (torch.randn(*shape).double() for shape in ((1, 32, 9, 14), (48, 32, 3, 3), (48,)))
    expected = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    assert (winograd.winograd_conv2d(x, weight, bias) - expected).abs().max() <= 1e-10


@compiled
def test_threads_that_ask_at_once_all_get_it(afresh):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(library.compiled, [torch.float32] * 4))
    assert None not in found


@pytest.mark.filterwarnings('ignore::utils.Note')
def test_where_nothing_can_be_kept_there_is_none(afresh, monkeypatch):
    (afresh / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(afresh / 'file'))
    assert library.compiled(torch.float32) is None
    library.compiled.cache_clear()
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', mock.Mock(side_effect=RuntimeError('Could not determine home directory.')))
    assert library.compiled(torch.float32) is None


def test_an_mlp_of_a_users_own_is_torchs():
    """Compiled code stands for models/mlp.py, not for a class derived from it."""

    class Own(MLP):
        def forward(self, x):
            return self.after_first(self.layers[0](x))

        def after_first(self, x):
            return super().after_first(x.tanh())

    model, lr = built(TINY), torch.rand(1, 3, 5, 6, dtype=torch.float64)
    before = model.render(lr, (11, 14))
    model.imnet.__class__ = Own
    after = by_query(model, lr, (11, 14))
    assert (after - before).abs().max() > 1e-6 and (model.render(lr, (11, 14)) - after).abs().max() <= 1e-9


@pytest.mark.filterwarnings('ignore')  # that tracing is deprecated
@pytest.mark.parametrize('record', [torch.jit.trace, lambda encoder, _: torch.compile(encoder, backend='eager')])
def test_what_records_torchs_operations_sees_torchs(record):
    encoder, x = edsr_baseline(n_resblocks=1, n_feats=32).requires_grad_(False), torch.rand(2, 1, 3, 20, 20)
    with torch.no_grad():
        recorded = record(encoder, x[0])
        assert all((recorded(image) - encoder(image)).abs().max() < 1e-5 for image in x)


def test_half_precision_and_gradients_are_torchs():
    maps = torch.rand(2, 1, 9, 9, 4)
    assert not library.usable_on(maps)  # gradients may be wanted
    with torch.no_grad():
        assert library.usable_on(maps) == (library.compiled(torch.float32) is not None)
        assert not library.usable_on(maps.bfloat16()) and not library.usable_on(maps.to('meta'))
