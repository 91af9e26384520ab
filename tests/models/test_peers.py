"""LIIF, LTE and bicubic: golden values, plain loops, every way of rendering, MATLAB's rule, a step of training."""

import json
import math

import oracle
import pytest
import torch
import yaml
from conftest import ROOT, refused
from examples import BICUBIC, LIIF, LMLIIF, LMLTE, LTE, LTE_FAST, built, by_query, close
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

import datasets
import models
import train
from datasets.pictures.resize import matlab_resize
from models.evaluation.loop import evaluate
from models.rendering import grid
from models.training.run import Run
from models.weights.published import ENCODER_NAMES, encoder_spec, rename

GOLDEN = ROOT / 'tests' / 'golden'
BENCHMARK = ROOT.parent / 'shared' / 'data' / 'benchmark'
TRAINED = [LIIF, LTE, LTE_FAST, LMLIIF, LMLTE]
every_peer = pytest.mark.parametrize('spec', [*TRAINED, BICUBIC], ids=lambda spec: spec['name'])
side = st.integers(1, 7)
extent = st.integers(1, 24)


# ---------------------------------------------------------------- golden values


@pytest.fixture(params=['liif', 'lte', 'ltep', 'lmliif', 'lmlte'], scope='module')
def golden(request, tmp_path_factory):
    """`(model, tensors)`: the golden weights, loaded in float64 from a file in the published format."""
    published = json.loads((GOLDEN / f'{request.param}_config.json').read_text())
    path = tmp_path_factory.mktemp('golden') / 'published.pth'
    torch.save({'model': {**published, 'sd': load_file(GOLDEN / f'{request.param}_weights.safetensors')}}, path)
    model = models.load(path, torch.float64)
    assert model.spec['name'] == published['name']
    return model, load_file(GOLDEN / f'{request.param}_tensors.safetensors')


def test_golden_features(golden):
    model, expected = golden
    close(model.encoder(expected['input']), expected['encoder_out'])


def test_golden_outputs_by_render_and_by_query(golden):
    model, expected = golden
    lr = (expected['input'] + 1) / 2
    outputs = [name for name in expected if name.startswith('output_')]
    assert len(outputs) == 4
    for name in outputs:
        size = tuple(map(int, name.removeprefix('output_').split('x')))
        close(model.render(lr, size) * 2 - 1, expected[name])
        close(by_query(model, lr, size) * 2 - 1, expected[name])


def test_golden_points(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    coord, cell = expected['query_coord'], expected['query_cell']
    for form in (cell[:, 0], cell) if (cell == cell[:, :1]).all() else (cell,):
        close(model.query(features, coord, form) * 2 - 1, expected['query_rgb'])


@pytest.mark.parametrize('golden', ['ltep', 'lmliif', 'lmlte'], indirect=True)
def test_golden_output_with_a_clamped_cell(golden):
    """Beyond x4 published scripts give the cell of x4."""
    model, expected = golden
    lr = (expected['input'] + 1) / 2
    cell = grid.cell_size(*(4 * n for n in lr.shape[-2:]))
    rgb = model.query(model.encode(lr), grid.pixel_centres(66, 54)[None], cell)
    close(rgb.transpose(1, 2).reshape(1, 3, 66, 54) * 2 - 1, expected['clamped_output_66x54'])


@pytest.mark.parametrize('golden', ['lmliif', 'lmlte'], indirect=True)
def test_golden_modulations(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    cell = expected['query_cell'][0, 0] * torch.tensor(features.size)
    output = model.hypernet_output(features.told, cell)
    close(output.permute(0, 3, 1, 2), expected['modulations'])


@pytest.mark.parametrize('golden', ['ltep'], indirect=True)
def test_golden_waves_of_lte_fast(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    close(features.amplitude.permute(0, 3, 1, 2), expected['coef'])
    close(features.frequency.permute(0, 3, 1, 2), expected['freq'])


@pytest.mark.parametrize('name', ['rcan', 'swinir'])
def test_golden_encoders(name):
    """The golden features of SwinIR are not cropped; a small image is one window."""
    spec = json.loads((GOLDEN / f'{name}_encoder_config.json').read_text())
    weights = load_file(GOLDEN / f'{name}_encoder_weights.safetensors')
    state = rename({f'encoder.{key}': value for key, value in weights.items()}, ENCODER_NAMES)
    encoder = models.make(encoder_spec(spec)).double().eval()
    encoder.load_state_dict({key.removeprefix('encoder.'): value for key, value in state.items()})
    expected = load_file(GOLDEN / f'{name}_encoder_tensors.safetensors')
    for ending in ('', '_small') if name == 'swinir' else ('',):
        x = expected[f'input{ending}']
        close(encoder(x), expected[f'encoder_out{ending}'][:, :, : x.shape[2], : x.shape[3]])


# ---------------------------------------------------------------- plain loops


def local_ensemble(at, size):
    """Of a point `at` (y, x), in LR pixels, four times an LR pixel (y, x), the offset from its centre, an LR pixel
    counting 2, and the weight; as LIIF's published code: from the point half a pixel up or down and left or right, the
    nearest pixel that there is, weighed with the area to the pixel diagonally opposite."""
    found = []
    for up in (-1, 1):
        for left in (-1, 1):
            pixel = [min(max(round(a + 0.5 * step), 0), n - 1) for a, step, n in zip(at, (up, left), size)]
            found.append((pixel, [2 * (a - p) for a, p in zip(at, pixel)]))
    areas = [abs(dy * dx) + 1e-9 for _, (dy, dx) in found]
    return [(*corner, area / sum(areas)) for corner, area in zip(found, reversed(areas))]


def liif_point(model, lr, at, cell):
    """LIIF's colour at a point, in the network's scale."""
    maps, size = oracle.number(model.encoder(lr)[0]), lr.shape[-2:]
    colour = [0.0] * 3
    for (y, x), offset, weight in local_ensemble(at, size):
        told = [
            plane[y + dy][x + dx] if 0 <= y + dy < size[0] and 0 <= x + dx < size[1] else 0.0
            for plane in maps
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        said = oracle.mlp(model, told + offset + cell)
        colour = [c + weight * s for c, s in zip(colour, said)]
    return colour


def lte_point(model, lr, at, cell):
    """LTE's colour at a point, in the network's scale."""
    maps = model.encoder(lr)
    amplitude, frequency = (oracle.number(conv(maps)[0]) for conv in (model.coef, model.freq))
    phase = [sum(w * c for w, c in zip(row, cell)) for row in oracle.number(model.phase.weight)]
    colour = [0.0] * 3
    for (y, x), (dy, dx), weight in local_ensemble(at, lr.shape[-2:]):
        angle = [
            math.pi * (frequency[2 * k][y][x] * dy + frequency[2 * k + 1][y][x] * dx + phase[k])
            for k in range(len(phase))
        ]
        waves = [math.cos(a) for a in angle] + [math.sin(a) for a in angle]
        said = oracle.mlp(model, [amplitude[k][y][x] * wave for k, wave in enumerate(waves)])
        colour = [c + weight * s for c, s in zip(colour, said)]
    coord = torch.tensor([(2 * a + 1) / n - 1 for a, n in zip(at[::-1], lr.shape[:1:-1])], dtype=torch.float64)
    added = F.grid_sample(lr, coord.view(1, 1, 1, 2), padding_mode='border', align_corners=False)
    return [c + a for c, a in zip(colour, added.flatten().tolist())]


@pytest.mark.parametrize('spec, by_loops', [(LIIF, liif_point), (LTE, lte_point)], ids=['liif', 'lte'])
@given(height=side, width=side, y=st.floats(-1, 1), x=st.floats(-1, 1), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_any_point_by_plain_loops(spec, by_loops, height, width, y, x, seed):
    size, coord = (height, width), (y, x)
    at = [((c + 1) * n - 1) / 2 for c, n in zip(coord, size)]
    assume(all(abs(a - round(a)) > 1e-6 for a in at))  # at a centre what is beside it weighs nothing
    model, lr = built(spec, seed), torch.rand(1, 3, height, width, dtype=torch.float64)
    cell = torch.tensor([0.3, 0.5], dtype=torch.float64)
    rgb = model.query(model.encode(lr), torch.tensor([[coord]], dtype=torch.float64), cell)
    expected = by_loops(model, lr * 2 - 1, at, [0.3 * height, 0.5 * width])
    assert (rgb[0, 0] * 2 - 1 - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-9


# ---------------------------------------------------------------- every way of rendering


@every_peer
@given(
    batch=st.integers(1, 2),
    height=side,
    width=side,
    h=extent,
    w=extent,
    tile=st.integers(1, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_render_is_query_at_every_pixel(spec, batch, height, width, h, w, tile, seed):
    model, lr = built(spec, seed), torch.rand(batch, 3, height, width, dtype=torch.float64)
    expected = by_query(model, lr, (h, w))
    assert (model.render(lr, (h, w)) - expected).abs().max() < 1e-9
    assert (model.render(lr, (h, w), tile=tile) - expected).abs().max() < 1e-9


@every_peer
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize('scale', [0.4, 0.5, 1, 1.5, 2, 2.5, 3.3, 4, (2, 3.5)])
def test_points_at_centres_and_between_them_are_taken_alike(spec, dtype, tolerance, scale):
    """Some of these scales put output pixels on centres of LR pixels, or exactly between two."""
    model, lr = built(spec, dtype=dtype), torch.rand(1, 3, 10, 14, dtype=dtype)
    size = tuple(round(n * s) for n, s in zip((10, 14), scale if isinstance(scale, tuple) else (scale, scale)))
    error = (model.render(lr, size) - by_query(model, lr, size, dtype)).abs().max()
    assert error < tolerance


@every_peer
def test_a_part_is_cut_from_the_whole(spec):
    model, lr = built(spec), torch.rand(1, 3, 8, 9, dtype=torch.float64)
    rows, columns = range(3, 20, 4), range(5, 30)
    whole = model.render(lr, (25, 31))
    # a range's step makes its pixels larger, and the cell with them
    parts = [model.render(lr, (25, 31), part=(range(y, y + 1), columns)) for y in rows]
    assert (torch.cat(parts, dim=2) - whole[:, :, 3:20:4, 5:30]).abs().max() < 1e-9


# ---------------------------------------------------------------- bicubic


@given(height=side, width=side, h=extent, w=extent)
@settings(max_examples=60)
def test_bicubic_is_that_of_matlab(height, width, h, w):
    lr = torch.rand(1, 3, height, width, dtype=torch.float64)
    expected = matlab_resize(lr[0].permute(1, 2, 0).numpy(), (h, w), (h / height, w / width), to_uint8=False)
    close(models.load('bicubic').render(lr, (h, w))[0].permute(1, 2, 0), torch.from_numpy(expected))


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason='the benchmark photographs are not beside this checkout')
@pytest.mark.parametrize('scale, published', [(2, 33.68), (3, 30.41), (4, 28.43)])
def test_bicubic_has_its_published_figures(scale, published):
    images = {'name': 'image-folder', 'args': {'root_path': str(BENCHMARK / 'Set5')}}
    dataset = datasets.make({'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale}})
    results = evaluate(models.load('bicubic'), dataset, 'benchmark', progress=False)
    assert results['psnr'] == pytest.approx(published, abs=0.0051)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize('draw', ['pixel', 'block'])
@pytest.mark.parametrize('spec', TRAINED, ids=lambda spec: spec['name'])
def test_a_step_of_training_moves_every_parameter(program, config, tmp_path, spec, draw):
    stage = {'rim': False, 'scales': [1, 3], 'steps': 1, 'lr': 1e-3}
    config.update(model=spec, stages={'stage1': stage}, ema_decay=None, draw=draw)
    (tmp_path / 'peer.yaml').write_text(yaml.safe_dump(config))
    assert program('train.py', '-config', 'peer.yaml', '-device', 'cpu')[0] == 0
    run = Run(train.read_training_config('peer.yaml'), tmp_path, torch.device('cpu'))
    run.begin_stage()
    trained = models.load('save/peer/stage1.pth')
    assert trained.spec == spec and trained.meta['step'] == 1
    for (name, before), after in zip(run.model.named_parameters(), trained.parameters()):
        assert after.isfinite().all() and not torch.equal(before, after), name


def test_what_cannot_be_trained(program, config, tmp_path):
    for spec, rim, said in ((LIIF, True, "'liif' has no argument 'rim'"), (BICUBIC, False, "'bicubic' has nothing")):
        config['model'], config['stages'] = spec, {'stage1': {**config['stages']['stage1'], 'rim': rim}}
        (tmp_path / 'peer.yaml').write_text(yaml.safe_dump(config))
        refused(program('train.py', '-config', 'peer.yaml', '-device', 'cpu'), said)
        assert not (tmp_path / 'save').exists()
