"""Compiled code that multiplies in bfloat16: with the processor's instruction, where there is one, and emulated."""

import shutil
import subprocess
import threading

import pytest
import torch
from conftest import TINY
from decoding import LAYERS, SIZES, both, forget, problem
from examples import built
from hypothesis import given, settings
from hypothesis import strategies as st

from models import native
from models.mlp import MLP
from models.native import library, msit_decoder
from models.rendering import first_layer
from models.rendering.upscaler import Upscaler
from utils import Note

pytestmark = pytest.mark.skipif(library.compiled(torch.float32) is None, reason='no compiled code on this system')
BF16 = torch.bfloat16
ROUNDING = 2**-8  # of a number to bfloat16, at most, relative
some = st.integers(1, 6)
sizes = st.fixed_dictionaries({**SIZES, 'my': some, 'mx': some, 'd': st.integers(1, 35).map(lambda pairs: 2 * pairs)})


@pytest.fixture(scope='module', params=['emulated', 'instruction', 'emulated tiles', 'tiles'])
def way(request, tmp_path_factory):
    """bfloat16 in one of the ways, compiled anew."""
    emulated, tiles = 'emulated' in request.param, 'tiles' in request.param
    features = library.processor()
    if not emulated and 'avx512_bf16' not in features.split():
        pytest.skip('this processor does not multiply bfloat16')
    if not emulated and tiles and not ('amx_bf16' in features.split() and library.may_use_tiles()):
        pytest.skip('this processor has no tiles, or the system does not grant them')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        patch.setenv('MSIT_AMX', str(int(tiles)))
        added = ' avx512_bf16 amx_bf16' if tiles else ' avx512_bf16'
        patch.setattr(library, 'processor', lambda: features.replace(' amx_bf16', '') + added)
        if emulated:
            patch.setattr(library, 'may_use_tiles', lambda: True)
            patch.setattr(library, 'BF16', [*library.BF16, '-DEMULATED'])
            patch.setattr(library, 'AMX', [*library.AMX, '-DEMULATED'])
            patch.setattr(library, 'FLAGS', [flag.replace('native', 'x86-64-v3') for flag in library.FLAGS])
        forget()
        yield request.param
    forget()


@pytest.fixture
def afresh(way, monkeypatch, tmp_path):
    """Nothing compiled yet, and nothing left of it afterwards."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


@given(**LAYERS, sizes=sizes)
@settings(max_examples=100, deadline=None)
def test_it_is_as_close_to_float32_as_the_rounding_of_factors_allows(way, sizes, act, hidden_list):
    plan, features, *rest = problem(**sizes, dtype=torch.float32)
    (hidden, colour), (here, colour_here) = both(plan, features, *rest, act=act, hidden_list=hidden_list, factors=BF16)
    plan.layer = plan.layer._replace(weight=plan.layer.weight.abs(), constant=0 * plan.layer.constant)
    features.value = features.value.abs()
    with torch.no_grad():
        terms = first_layer.before_activation(plan, features, *rest)  # the sums of the absolute values
    # the value, its weight, the attention and the product of the first two are rounded
    assert ((here - hidden).abs() <= 4.1 * ROUNDING * terms + 1e-5).all()
    assert (colour_here - colour).abs().max() <= 0.05 * (1 + colour.abs().max() + hidden.abs().max() / 10)


@given(sizes=sizes, chosen=st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_numbers_of_few_digits_are_exact(way, sizes, chosen):
    """All of the attention is on one LR pixel of the window, and all factors are small whole numbers."""
    plan, features, *rest = problem(**sizes, dtype=torch.float32)
    layer, window = plan.layer, (2 * sizes['radius'] + 1) ** 2
    bias = torch.full_like(layer.row_bias, -1e4)
    bias[..., chosen % window] = 0
    plan.layer = layer._replace(
        row_bias=bias,
        column_bias=0 * layer.column_bias,
        weight=layer.weight.sign() * (layer.weight.abs() > 0.3),
        constant=layer.constant.round(),
    )
    features.query_key, features.value = 0 * features.query_key, features.value.sign()
    (hidden, _), (here, _) = both(plan, features, *rest, factors=BF16)
    assert (here - hidden).abs().max() <= 1e-30 and (hidden == hidden.round()).all()  # the others weigh e^-87, not 0


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=90), st.integers(1, 90), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_layer_of_small_whole_numbers_is_exact(way, numbers, columns, seed):
    x = torch.tensor(numbers, dtype=torch.float32)
    imnet = MLP(1, columns, [len(x)], 'relu')
    weight = torch.randint(-9, 10, (columns, len(x)), generator=torch.Generator().manual_seed(seed)).float()
    with torch.no_grad():
        imnet.layers[2].weight.copy_(weight)
        imnet.layers[2].bias.copy_(torch.arange(columns))
        got = after_first(imnet, x)
    assert torch.equal(got, weight @ x.relu() + torch.arange(columns))


def after_first(imnet, x):
    """The layers after the first for what that gives, `x (hidden,)`."""
    bias = torch.zeros(1, 1, 1, 9)
    layers = msit_decoder.layers(imnet, torch.zeros(1, 9, 2, len(x), dtype=BF16), x, bias, bias)
    blocks = layers.constant.reshape(-1, 1, 1, library.SIZES['COLUMNS']).contiguous()
    return msit_decoder.perceptron(layers, blocks, BF16)[0, 0, : len(imnet.layers[2].bias)]


@given(st.lists(st.floats(-300, 300, width=32) | st.floats(-9, 9, width=32), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_gelu(way, numbers):
    x = torch.tensor(numbers)
    imnet = MLP(1, len(x), [len(x)], 'gelu')
    with torch.no_grad():
        imnet.layers[2].weight.copy_(torch.eye(len(x)))
        imnet.layers[2].bias.zero_()
        got = after_first(imnet, x)
    expected = torch.nn.functional.gelu(x.double())
    tolerance = ROUNDING * (expected.abs() + 2e-4) + torch.where(x.abs() <= 8, 2e-4, 5e-5 * x.abs())
    assert ((got - expected).abs() <= 1.001 * tolerance).all()


def test_numbers_that_are_not_finite_are_seen(way):
    """Also NaN of all bits: adding to them when rounding would give 0."""
    plan, features, *rest = problem(2, 8, 1, 40, 2, 3, 3, 3, torch.float32, seed=0)
    all_bits = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    for value in (torch.nan, torch.inf, -torch.inf, *all_bits):
        for maps in (features.query_key, features.value):
            before, maps[0, 0, 0, 0, 0] = maps[0, 0, 0, 0, 0].clone(), value
            (there, _), (here, _) = both(plan, features, *rest, factors=BF16)
            assert torch.equal(here.isfinite(), there.isfinite()) and not there.isfinite().all()
            maps[0, 0, 0, 0, 0] = before


# ---------------------------------------------------------------- rendering


@pytest.mark.parametrize('size', [(9, 11), (13, 24), (40, 17)])
def test_rendering_is_within_50_db_of_float32_and_encodes_in_it(way, monkeypatch, size):
    model, lr = built(TINY, dtype=torch.float32), torch.rand(2, 3, 9, 11)
    exact = model.render(lr, size)
    assert Upscaler(model, torch.device('cpu'), precision='bf16').code == 'compiled'
    seen, encode = [], model.encode_part
    monkeypatch.setattr(model, 'encode_part', lambda *given: seen.append(encode(*given)) or seen[-1])
    rendered = model.render(lr, size, precision='bf16')
    assert seen[0].value.dtype == torch.float32
    assert -10 * (rendered - exact).square().mean().log10() > 50 and not torch.equal(rendered, exact)
    assert (model.render(lr, size, precision='bf16', tile=4) - rendered).abs().max() < 1e-3


@pytest.mark.parametrize('change', ['an odd number of channels', 'an MLP of its own', 'float64', 'no instruction'])
def test_what_compiled_code_cannot_do_torch_does(afresh, monkeypatch, change):
    model, lr = built(TINY, dtype=torch.float64 if change == 'float64' else torch.float32), torch.rand(1, 3, 5, 6)
    if change == 'an odd number of channels':
        changed = {**TINY, 'args': {**TINY['args'], 'channels': 2 * 3, 'heads': 2}}
        model = built(changed, dtype=torch.float32)
    elif change == 'an MLP of its own':
        model.imnet.__class__ = type('Own', (MLP,), {})
    elif change == 'no instruction':
        monkeypatch.setattr(library, 'processor', lambda: 'avx512f')
    monkeypatch.setattr(model, 'for_decoding_in', lambda *_: pytest.fail('for compiled code'))
    assert Upscaler(model, torch.device('cpu'), precision='bf16').code == 'torch'
    model.render(lr, (9, 9), precision='bf16')


def test_a_model_in_bf16_is_torchs(way):
    model, lr = built(TINY, dtype=BF16), torch.rand(1, 3, 5, 6)
    assert Upscaler(model, torch.device('cpu')).code == 'torch' and not native.in_use(BF16)
    for precision in 'fp32', 'bf16':
        assert model.render(lr, (9, 9), precision=precision).dtype == BF16


@pytest.mark.parametrize('value', [torch.nan, torch.finfo(torch.float32).max])
def test_what_is_not_finite_is_rendered_again_from_the_same_features(way, monkeypatch, value):
    model, lr = built(TINY, dtype=torch.float32), torch.rand(1, 3, 9, 11)
    model.imnet.layers[2].bias.data[0] = value
    encoded, strips = [], model.strip_maps
    monkeypatch.setattr(model, 'strip_maps', lambda *given: encoded.append(given) or strips(*given))
    exact = model.render(lr, (13, 17))
    encoded.clear()
    with pytest.warns(UserWarning, match='not finite'):
        assert torch.equal(model.render(lr, (13, 17), precision='bf16').nan_to_num(), exact.nan_to_num())
    assert len(encoded) == 1


@pytest.mark.parametrize('threads', [1, 2])
def test_one_way_is_chosen_for_all_threads(way, monkeypatch, threads):
    """While torch compiles the caller of `render`, compiled code is not usable in the caller's thread."""
    model, lr = built(TINY, dtype=torch.float32), torch.rand(1, 3, 6, 7)
    exact, before = model.render(lr, (11, 12)), torch.get_num_threads()
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: threading.current_thread() is threading.main_thread())
    torch.set_num_threads(threads)
    try:
        difference = model.render(lr, (11, 12), precision='bf16') - exact
    finally:
        torch.set_num_threads(before)
    assert -10 * difference.square().mean().log10() > 50


@pytest.mark.filterwarnings('default')
def test_wrong_code_is_not_used(afresh, monkeypatch):
    folder = afresh / 'sources'
    folder.mkdir()
    for path in library.SOURCES:
        wrong = path.read_text(encoding='utf-8').replace('(rounded(second) &', '(rounded(first) &')
        (folder / path.name).write_text(wrong, encoding='utf-8')
    monkeypatch.setattr(library, 'SOURCES', [folder / path.name for path in library.SOURCES])
    with pytest.warns(Note, match='decoding by compiled code differs'):
        assert not msit_decoder.works(BF16)
    assert msit_decoder.works(torch.float32)


@pytest.mark.parametrize('features', ['avx512_bf16', 'avx512_bf16 amx_bf16'])
@pytest.mark.parametrize('granted', [False, True])
@pytest.mark.parametrize('wanted', [False, True])
def test_tiles_are_used_where_all_agree(afresh, monkeypatch, features, granted, wanted):
    chosen = []
    monkeypatch.setenv('MSIT_AMX', '1' if wanted else '')
    monkeypatch.setattr(library, 'processor', lambda: features)
    monkeypatch.setattr(library, 'compiled_with', chosen.append)
    monkeypatch.setattr(library, 'may_use_tiles', lambda: granted)
    library.compiled_bf16()
    assert chosen == [library.AMX if granted and wanted and 'amx_bf16' in features else library.BF16]


def test_no_system_grants_tiles_that_are_not_there():
    assert library.may_use_tiles() <= ('amx_bf16' in library.processor().split())


@pytest.mark.parametrize('target', ['cooperlake', 'sapphirerapids'])
@pytest.mark.parametrize('compiler', ['gcc', 'clang'])
def test_code_with_the_instruction_compiles(tmp_path, compiler, target):
    """Also where it cannot be run. Without the instruction it would not."""
    if not shutil.which(compiler) or library.ARM:
        pytest.skip(f'no {compiler} for x86-64')
    flags = [flag.replace('native', target) for flag in library.FLAGS]
    flags += library.BF16 if target == 'cooperlake' else library.AMX
    sources = [str(path) for path in library.SOURCES if path.suffix == '.c']
    command = [compiler, *flags, '-Wall', *sources]
    done = subprocess.run([*command, '-o', str(tmp_path / 'code.so'), '-lm'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_compiler_without_the_instruction_is_not_used(afresh, monkeypatch):
    for name in 'BF16', 'AMX':
        monkeypatch.setattr(library, name, [flag for flag in getattr(library, name) if flag != '-DEMULATED'])
    monkeypatch.setattr(library, 'FLAGS', [flag.replace('native', 'x86-64-v3') for flag in library.FLAGS])
    with pytest.warns(Note, match='does not compile it'):
        assert library.compiled_bf16() is None
