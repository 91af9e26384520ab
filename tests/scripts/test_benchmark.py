"""scripts/benchmark.py: what it measures, and of which models. No test depends on a time."""

import json
import runpy
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TINY, refused
from examples import LIIF, LMLTE, LTE, built, by_query

import models
from models.layers import convolution
from models.native import library
from models.registry import models as registry

PROGRAM = 'scripts/benchmark.py'


@pytest.fixture
def benchmark(program):
    """`benchmark(*options)` runs the program on configs of MSIT, LIIF and LM-LTE and weights of LTE."""
    for name, spec in (('ours', TINY), ('liif', LIIF), ('lmlte', LMLTE)):
        Path(f'{name}.yaml').write_text(yaml.safe_dump({'model': spec}))
    models.save('lte.pth', models.build(LTE))

    def run(*options):
        return program(
            PROGRAM,
            '-device',
            'cpu',
            '-models',
            'ours.yaml',
            'liif.yaml',
            'lmlte.yaml',
            'lte.pth',
            'bicubic',
            '-inputs',
            '6x7',
            '-repeats',
            '2',
            '-turn',
            '0',
            *options,
        )

    return run


def test_all_models_are_measured_in_one_run(benchmark):
    status, out, err = benchmark('-scales', '2', '2x3.5', '-precision', 'fp32', 'bf16', '-output', 'rows.json')
    assert (status, err) == (0, '')
    rows = json.loads(Path('rows.json').read_text())['rows']
    names = ['ours.yaml', 'liif.yaml', 'lmlte.yaml', 'lte.pth', 'bicubic']
    assert [(row['scale'], row['model'], row['precision']) for row in rows] == [
        (scale, name, precision) for scale in ('2', '2x3.5') for name in names for precision in ('fp32', 'bf16')
    ]
    for row in rows:
        assert row['render seconds'] > 0
        assert ('query seconds' in row) == ('speedup' in row) == (row['precision'] == 'fp32')
        assert (row['render multiply-adds'] > 0) == (row['model'] != 'bicubic')
        shares = {part: row[f'{part} share'] for part in ('encoding', 'first layer', 'MLP', 'rest')}
        assert sum(shares.values()) == pytest.approx(1) and shares['rest'] > 0 and shares['encoding'] > 0
        assert (shares['first layer'] > 0) == (row['model'] == 'ours.yaml')
        assert (shares['MLP'] > 0) == (row['model'] != 'bicubic')
    caption, *lines = out.splitlines()
    assert 'cpu (' in caption and torch.__version__ in caption and 'GFLOP/s in bf16' in caption
    assert len(lines) == 2 + len(rows) and {line.count('|') for line in lines} == {16}
    for line, row in zip(lines[2:], rows):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[:5] == [row['model'], row['precision'], '6x7', row['scale'], f'{row["render seconds"]:.3f}']
        assert (cells[5] == '') == (row['precision'] == 'bf16')


def test_query_may_be_left_out(benchmark):
    status, out, _ = benchmark('-scales', '2', '-no-query', '-output', 'rows.json')
    assert status == 0
    assert not any('query seconds' in row for row in json.loads(Path('rows.json').read_text())['rows'])


def test_onnxruntime_beside_render(benchmark):
    for package in ('onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    options = ('-scales', '2', '-no-query', '-onnx', '-output', 'rows.json')
    status, out, err = benchmark('-models', 'liif.yaml', 'lmlte.yaml', 'bicubic', *options)
    assert (status, err) == (0, '')
    rows = json.loads(Path('rows.json').read_text())['rows']
    assert [row.get('onnxruntime seconds', 0) > 0 for row in rows] == [True, False, False]  # not of each kind
    assert out.splitlines()[1].count('onnxruntime s') == 1 and {line.count('|') for line in out.splitlines()[1:]} == {
        17
    }


def test_whole_photos(benchmark):
    status, out, err = benchmark('-photo', '20x30', '-scales', '2', '1.5', '-output', 'rows.json')
    assert (status, err) == (0, '')
    rows = json.loads(Path('rows.json').read_text())['rows']
    assert {row['scale'] for row in rows} == {'2', '1.5'} and {row['input'] for row in rows} == {'20x30'}
    for row in rows:
        assert row['seconds a megapixel'] > 0
        assert row['encoded'] is None if row['model'] == 'bicubic' else row['encoded'] == pytest.approx(1)
    assert len(out.splitlines()) == 3 + len(rows)


def test_how_often_a_pixel_is_encoded():
    times_encoded, model = runpy.run_path(str(ROOT / PROGRAM))['times_encoded'], built(TINY)
    lr = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    with times_encoded(model, 144) as times:
        model.render(lr, (24, 24), tile=6)
    margin = model.receptive_field + 1
    assert 1 < sum(times) and sum(times) == pytest.approx((2 * min(6 + margin, 12) / 12) ** 2, rel=0.3)
    with times_encoded(models.load('bicubic'), 144) as times:
        pass
    assert sum(times) == 0


def test_multiply_adds_and_all_pixels():
    script = runpy.run_path(str(ROOT / PROGRAM))
    a, b, into = torch.rand(2, 3, 5), torch.rand(2, 5, 7), torch.rand(2, 3, 7)
    for work, expected in (
        (lambda: a @ b, 2 * 3 * 5 * 7),
        (lambda: into.clone().baddbmm_(a, b), 2 * 3 * 5 * 7),
        (lambda: torch.nn.functional.conv2d(torch.rand(1, 2, 8, 9), torch.rand(4, 2, 3, 3)), 4 * 2 * 9 * 6 * 7),
    ):
        assert script['multiply_adds'](work) == expected
    x, weight = torch.rand(2, 48, 17, 24), torch.rand(32, 48, 5, 5)
    seen = script['multiply_adds'](lambda: convolution.same_conv2d(x, weight, torch.rand(32)))
    assert seen == 2 * 17 * 24 * 25 * 48 * 32  # gradients may be wanted
    with torch.no_grad():
        seen = script['multiply_adds'](lambda: convolution.same_conv2d(x, weight, torch.rand(32)))
    if library.compiled(torch.float32) is not None:
        assert seen == (2 * 5 * 6) * 36 * 4 * 48 * 32  # tiles, points, parts of the kernel, channels
    counts = [
        script['multiply_adds'](partial(built(TINY).render, torch.rand(1, 3, 4, 5, dtype=torch.float64), size))
        for size in ((4, 5), (8, 10))
    ]
    # of 60 more pixels, queries and logits of 8 channels each, the results of 2 heads, the MLP and the bilinear image,
    # and of 9 more rows and columns the position bias: also where compiled code does it
    assert counts[1] - counts[0] == 60 * (9 * 8 + 9 * 8 + 9 * 2 * 8 + 8 * 8 + 8 * 3 + 9 * 3) + 9 * (3 * 4 * 2)
    model, lr = built(LIIF), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    script['by_query'].__globals__['CHUNK'] = 13
    every = script['by_query'](model, lr, (9, 7)).transpose(1, 2).reshape(2, 3, 9, 7)
    assert (every - by_query(model, lr, (9, 7))).abs().max() < 1e-12


@pytest.mark.parametrize('part, name', [('encoding', 'encode_part'), ('rest', 'skip')])
def test_what_takes_longest_has_the_largest_share(part, name, monkeypatch):
    parts_of_render, model = runpy.run_path(str(ROOT / PROGRAM))['parts_of_render'], built(TINY)
    function = getattr(model, name)
    monkeypatch.setattr(model, name, lambda *arguments: (time.sleep(0.5), function(*arguments))[1])
    work = partial(model.render, torch.rand(1, 3, 4, 5, dtype=torch.float64), (8, 10))
    work()  # what is compiled when it is first needed
    shares = parts_of_render(work, model, torch.device('cpu'))
    assert max(shares, key=shares.get) == part and sum(shares.values()) == pytest.approx(1)


def test_a_turn_is_of_several_runs_and_gives_their_median(monkeypatch):
    """By a clock that only the work moves: 8 s for the first run, 1 s for each of the others."""
    median_seconds, runs = runpy.run_path(str(ROOT / PROGRAM))['median_seconds'], []
    monkeypatch.setattr(time, 'perf_counter', lambda: sum(runs))

    def work():
        runs.append(1 if runs else 8)

    assert median_seconds(work, torch.device('cpu'), 12) == 1 and len(runs) == 5
    assert median_seconds(work, torch.device('cpu')) == 1 and len(runs) == 6


@pytest.mark.parametrize(
    'options, said',
    [
        (['-models', 'none'], 'train_none.yaml'),
        (['-models', 'none.pth'], 'none.pth: no such file'),
        (['-inputs', '3x3x3'], "'3x3x3'"),
        (['-scales', 'big'], "'big'"),
        (['-scales', '0'], "'0'"),
        (['-repeats', '0'], 'from 1 up'),
        (['-turn', '-1'], 'seconds'),
        (['-turn', 'inf'], 'seconds'),
        (['-precision', 'int4'], 'int4'),
        (['-device', 'abacus'], 'abacus'),
    ],
)
def test_mistakes(benchmark, options, said):
    refused(benchmark(*options), said)


# ---------------------------------------------------------------- the table of methods


def rows_of(text):
    """The cells of Markdown tables by the first one of each row."""
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:1] == '|']
    return {name: cells for name, *cells in lines}


def millions(module):
    return f'{sum(p.numel() for p in module.parameters()) * 1e-6:.2f}'


def test_methods_are_encoders_and_decoders(program):
    for name, spec in (('ours', TINY), ('lmlte', LMLTE)):
        Path(f'{name}.yaml').write_text(yaml.safe_dump({'model': spec}))
    options = ['-methods', 'ours.yaml', 'lmlte.yaml', '-encoders', 'light', '-inputs', '5x6']
    status, out, err = program(PROGRAM, *options)
    assert (status, err) == (0, '')
    rows = rows_of(out)
    assert list(rows)[0] == 'encoder' and [name for name in rows if name[0] not in 'ed-'] == ['light', 'msit', 'lmlte']
    light = models.make({'name': 'light'})
    assert rows['light'][0] == millions(light)
    convolutions = [m for m in light.modules() if isinstance(m, torch.nn.Conv2d)]  # too few pixels for fast ones
    count = sum(m.weight.numel() for m in convolutions) * 5 * 6
    assert rows['light'][1] == f'{count * 1e-9:.1f}'
    wide = {**LMLTE['args'], 'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1}}}
    model = models.build({**LMLTE, 'args': wide})
    decoder = [module for name, module in model.named_children() if name != 'encoder']
    assert rows['lmlte'][0] == millions(torch.nn.ModuleList(decoder))


def test_the_table_in_the_readme_is_that_of_what_is_registered():
    rows = rows_of((ROOT / 'models/README.md').read_text().partition('# Adding')[0])
    script = runpy.run_path(str(ROOT / PROGRAM))
    with torch.device('meta'):
        made = {name: models.make({'name': name}) for name in script['ENCODERS']}
        for config in script['METHODS']:
            model = models.build(script['spec_in'](config))
            assert model.encoder.out_dim == 64
            made[model.spec['name']] = torch.nn.ModuleList(m for n, m in model.named_children() if n != 'encoder')
    parts = {'mlp', 'lmmlp', 'sinusoid', 'bicubic'}
    assert set(registry.entries) - parts == set(made)
    assert {name: cells[0] for name, cells in rows.items() if name in made} == {k: millions(v) for k, v in made.items()}


def test_the_table_of_methods_is_one_of_a_cpu(program):
    refused(program(PROGRAM, '-methods', '-device', 'cuda'), 'seconds of a CPU core, not of cuda')
    refused(program(PROGRAM, '-methods', '-encoders', 'edsr-basline'), "did you mean 'edsr-baseline'")
