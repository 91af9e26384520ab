"""scripts/evaluate.py as users call it: its table and plot, what it does not recompute, processes, mistakes."""

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY, refused
from PIL import Image

import datasets
import models
import utils
from models.evaluation import loop, metrics

SCALES = ['2', '3.3', '2x1.5']
SETTINGS = {
    'x2': ['x2, LR by MATLAB bicubic', ' 2 pixels shaved'],
    'x3.3': ['x3.3, LR by PIL', ' 4 pixels shaved'],
    '2x1.5': ['x2 in height and x1.5 in width, LR by PIL', ' 2 pixels shaved'],
}


@pytest.fixture
def evaluate(program, photos):
    """`evaluate(*options)` runs scripts/evaluate.py beside three `photos` and the models a.pth and b.pth."""
    for path in sorted(photos.iterdir())[3:]:
        path.unlink()
    Image.open(photos / 'photo1.png').convert('L').crop((0, 0, 41, 37)).save(photos / 'photo1.png')
    for seed, name in enumerate(('a', 'b')):
        write_weights(f'{name}.pth', seed)

    def run(*options):
        return program('scripts/evaluate.py', '-device', 'cpu', *options)

    return run


def write_weights(path, seed):
    torch.manual_seed(seed)
    models.save(path, models.build(TINY))


def table(name='evaluation'):
    """The entries of table.json by model and scale."""
    results = json.loads(Path('save', name, 'table.json').read_text(), parse_constant=pytest.fail)
    return {(result['model'], result['scale']): result for result in results}


def without_seconds(results):
    """The part of `table()` that does not depend on the machine and its load."""
    return {
        key: {
            **result,
            'seconds': None,
            'images': [{**image, 'seconds': None, 'device': None} for image in result['images']],
        }
        for key, result in results.items()
    }


@pytest.fixture
def computed(monkeypatch):
    """A list that grows by a name for every image that is rendered and compared."""
    names, compute = [], loop.evaluate_image

    def count(model, item, *arguments):
        names.append(item['name'])
        return compute(model, item, *arguments)

    monkeypatch.setattr(loop, 'evaluate_image', count)
    return names


# ---------------------------------------------------------------- the table


def test_every_value_is_that_of_the_evaluation(evaluate):
    status, out, err = evaluate('-models', 'a.pth', 'bicubic', '-sets', 'photos', '-scales', *SCALES)
    assert (status, err) == (0, '')
    results = table()
    assert list(results) == [(model, scale) for scale in SETTINGS for model in ('a', 'bicubic')]
    for (model, scale), result in results.items():
        images = {'name': 'image-folder', 'args': {'root_path': 'photos'}}
        number = [float(s) for s in scale.lstrip('x').split('x')]
        dataset = datasets.make(
            {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': [number[0], number[-1]]}}
        )
        expected = loop.evaluate(models.load('a.pth' if model == 'a' else model), dataset, 'benchmark', progress=False)
        assert [image['name'] for image in result['images']] == ['photo0', 'photo1', 'photo2']
        for got, image in zip([*result['images'], result], [*expected['images'], expected]):
            assert got['psnr'] == pytest.approx(image['psnr'], abs=1e-4)
            assert got['ssim'] == pytest.approx(image['ssim'], abs=1e-6) and got['seconds'] > 0
        assert all(words in result['setting'] for words in SETTINGS[scale])
        assert result['set'] == 'photos' and 'PSNR on luma (Y)' in result['protocol']
        assert result['parameters'] == sum(p.numel() for p in models.load('a.pth').parameters()) * (model == 'a')
    assert sorted(path.name for path in Path('save/evaluation').iterdir()) == [
        'cells',
        'psnr.png',
        'table.csv',
        'table.json',
        'table.md',
    ]


def test_markdown_and_csv_say_the_same(evaluate):
    _, out, _ = evaluate('-models', 'a.pth', 'bicubic', '-sets', 'photos', '-scales', *SCALES, '-name', 'trial')
    results, text = table('trial'), Path('save/trial/table.md').read_text()
    assert out.startswith(text.rstrip()) and 'written to save/trial: table.md, table.csv, table.json, psnr.png' in out
    lines = text.splitlines()
    parameters = results['a', 'x2']['parameters']
    assert lines[0] == f'| set | scale | a ({parameters:,} parameters) | bicubic (0 parameters) |'
    for line, scale in zip(lines[2:5], SETTINGS):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[:2] == ['photos', scale]
        for cell, model in zip(cells[2:], ('a', 'bicubic')):
            result = results[model, scale]
            assert cell == f'{result["psnr"]:.2f} / {result["ssim"]:.4f} / {result["seconds"]:.3g}'
    caption = '\n'.join(lines[5:])
    for words in [
        'PSNR (dB) / SSIM / seconds',
        'cpu (threads: ',
        'clamped float output',
        'luma (Y)',
        'cell of the output',
        *sum(SETTINGS.values(), []),
    ]:
        assert words in caption
    rows = list(csv.DictReader(io.StringIO(Path('save/trial/table.csv').read_text())))
    assert [(row['model'], row['scale']) for row in rows] == list(results)
    for row, result in zip(rows, results.values()):
        for key, value in row.items():
            assert value == str(result[key]), key


def test_the_plot_shows_all_models_and_sets_over_scale(evaluate, photos):
    photos.rename('first')
    Path('second').mkdir()
    Image.open('first/photo0.png').save('second/photo0.png')
    options = ['-models', 'a.pth', 'b.pth', 'bicubic', '-sets', 'first', 'second', '-name', 'plot', '-scales']
    assert 'psnr.png' not in evaluate(*options, '2')[1] and not Path('save/plot/psnr.png').exists()
    assert 'psnr.png' in evaluate(*options, '1', '2', '2.5', '2x3')[1]  # at x1 bicubic's is infinite
    with Image.open('save/plot/psnr.png') as picture:
        assert picture.size == (2 * 5 * 150, 4 * 150)
        colours = {tuple(colour) for colour in np.asarray(picture.convert('RGB')).reshape(-1, 3)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours  # three lines


def test_options_are_in_the_caption(evaluate, computed):
    options = ['-models', 'a.pth', '-sets', 'photos', '-scales', '2']
    values = []
    for more, words in (
        ([], 'clamped float output'),
        (['-eight-bit'], 'rounded to 8 bits'),
        (['-ensemble'], 'self-ensemble of 8'),
    ):
        status, out, _ = evaluate(*options, *more)
        assert status == 0 and words in out
        values.append(table()['a', 'x2']['psnr'])
    assert len(set(values)) == 3 and len(computed) == 9


def test_infinite_values_are_said(evaluate):
    Image.new('RGB', (30, 31)).save('photos/black.png')
    status, out, err = evaluate('-models', 'a.pth', 'bicubic', '-sets', 'photos', '-scales', '2')
    assert (status, err) == (0, '')
    assert 'bicubic on photos at x2: PSNR is infinite for 1 of 4 images, equal to the original, and so on' in out
    assert '| inf / 0.' in out and out.count('infinite') == 1
    result = table()['bicubic', 'x2']
    assert [image['psnr'] for image in result['images']].count('inf') == 1 and result['psnr'] == 'inf'
    assert ',inf,0.' in Path('save/evaluation/table.csv').read_text()


def test_other_files_are_left_out_and_damaged_images_named(evaluate, photos):
    options = ['-models', 'bicubic', '-sets', 'photos', '-scales', '2', '3']
    (photos / 'LICENSE.pdf').write_bytes(b'%PDF-1.7')
    (photos / 'clip.mpg').write_bytes(b'film')
    status, _, err = evaluate(*options)
    assert (status, err) == (0, 'note: photos: left out 2 other files (.mpg, .pdf)\n')
    assert len(table()['bicubic', 'x2']['images']) == 3
    (photos / 'photo1.png').write_bytes((photos / 'photo1.png').read_bytes()[:150])
    status, out, err = evaluate(*options)
    assert status == 2 and err.splitlines()[-1].startswith('error: photos: photos/photo1.png: ')


def test_progress_where_there_is_no_terminal(evaluate, monkeypatch):
    monkeypatch.setattr(utils, 'EVERY', 0)
    status, _, err = evaluate('-models', 'bicubic', '-sets', 'photos', '-scales', '2')
    lines = err.splitlines()
    assert status == 0 and '\r' not in err and 1 <= len(lines) <= 4
    assert all('/3 [' in line for line in lines)


def test_lr_images_that_are_there(evaluate, photos):
    Path('lr').mkdir()
    for path in photos.iterdir():
        with Image.open(path) as image:
            image.crop((0, 0, 36, 36)).save(path)
            image.resize((18, 18)).save(Path('lr', f'{path.stem}x2.png'))
    write_pairs()
    status, out, _ = evaluate('-models', 'bicubic', '-sets', 'pairs.yaml', '-scales', '2')
    assert status == 0 and 'LR images as found' in out and 'ceil(scale) + 6 pixels' in out and 'RGB' in out
    refused(
        evaluate('-models', 'bicubic', '-sets', 'pairs.yaml', '-scales', '3'),
        'pairs.yaml: photo0: the LR image is of scale x2, not x3',
    )
    refused(
        evaluate('-models', 'bicubic', '-sets', 'pairs.yaml', '-scales', '2', '-degrade', 'jpeg40'),
        'pairs.yaml: -degrade goes with LR images that are made here, not with those of a set of pairs',
    )


def write_pairs():
    images = {'name': 'paired-image-folders', 'args': {'root_path_1': 'lr', 'root_path_2': 'photos'}}
    content = {'dataset': {'name': 'sr-evaluation-paired', 'args': {'dataset': images}}, 'protocol': 'div2k'}
    Path('pairs.yaml').write_text(yaml.safe_dump(content))


# ---------------------------------------------------------------- other metrics, other programs' images


@pytest.fixture
def packages(monkeypatch):
    """`packages('pyiqa')`: only these are installed, stand-ins in which a metric is the mean distance, or 7 without an
    original."""

    def distance(sr, hr):
        assert sr.shape == hr.shape == (1, 3, *sr.shape[2:]) and min(sr.min(), hr.min()) >= 0
        return (sr - hr).abs().mean()

    def create_metric(name, device):
        return {'lpips': distance, 'dists': lambda *pair: 2 * distance(*pair), 'niqe': lambda sr: torch.tensor(7.0)}[
            name
        ]

    made = {
        'pyiqa': types.SimpleNamespace(create_metric=create_metric),
        'piq': types.SimpleNamespace(LPIPS=lambda: lambda *pair: 3 * distance(*pair)),
    }

    def install(*names):
        for name, module in made.items():
            monkeypatch.setitem(sys.modules, name, module if name in names else None)

    install()
    return install


def test_other_metrics_stand_in_the_table(evaluate, packages, computed):
    packages('pyiqa')
    options = ['-models', 'a.pth', 'bicubic', '-sets', 'photos', '-scales', '2']
    status, out, err = evaluate(*options, '-metrics', 'psnr', 'lpips', 'niqe')
    assert (status, err) == (0, '') and 'PSNR (dB) / LPIPS / NIQE / seconds' in out
    assert 'LPIPS, of which less is better: pyiqa , AlexNet, on RGB.' in out
    result = table()['bicubic', 'x2']
    images = {'name': 'image-folder', 'args': {'root_path': 'photos'}}
    dataset = datasets.make({'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': 2}})
    for k, image in enumerate(result['images']):
        sr = models.load('bicubic').render(dataset[k]['lr'][None], dataset[k]['hr'].shape[-2:])[0].clamp(0, 1)
        inner = (sr - dataset[k]['hr'])[:, 2:-2, 2:-2]  # the protocol's border left out
        assert image['lpips'] == pytest.approx(inner.abs().mean().item(), rel=1e-5) and image['niqe'] == 7
    assert result['lpips'] == pytest.approx(np.mean([image['lpips'] for image in result['images']]))
    cell = table_of(out)[2].split('|')[4]
    assert cell.split(' / ')[:3] == [f' {result["psnr"]:.2f}', f'{result["lpips"]:.4f}', '7.0000']
    row = next(csv.DictReader(io.StringIO(Path('save/evaluation/table.csv').read_text())))
    assert float(row['lpips']) == table()['a', 'x2']['lpips'] and row['ssim']
    assert len(computed) == 6
    packages('piq')
    status, out, _ = evaluate(*options, '-metrics', 'lpips')  # by another package: computed again
    assert status == 0 and len(computed) == 12 and 'piq , VGG' in out
    assert table()['bicubic', 'x2']['lpips'] == pytest.approx(3 * result['lpips'])
    assert evaluate(*options)[0] == 0 and 'lpips' not in table()['bicubic', 'x2']  # without it, as ever


@pytest.mark.parametrize(
    'installed, metric, said',
    [
        ([], 'lpips', 'lpips needs the package pyiqa or piq: pip install pyiqa'),
        (['piq'], 'niqe', 'niqe needs the package pyiqa: pip install pyiqa'),
        (['pyiqa'], 'lpipss', "unknown metric 'lpipss', did you mean 'lpips'"),
    ],
)
def test_metrics_that_cannot_be_had(refusal, packages, installed, metric, said):
    packages(*installed)
    refusal([said], '-metrics', metric)


def test_weights_of_a_metric_that_cannot_be_downloaded(refusal, packages, monkeypatch):
    def fail(name, device):
        raise URLError('no internet')

    packages('pyiqa')
    monkeypatch.setattr(sys.modules['pyiqa'], 'create_metric', fail)
    refusal(['lpips: the weights that pyiqa needs cannot be loaded', 'no internet'], '-metrics', 'lpips')


@pytest.fixture
def others(evaluate, photos):
    """Bicubic outputs at x2 in the folder `theirs`, of images of odd sizes, one of them not cropped."""
    Path('theirs').mkdir()
    for path in photos.iterdir():
        with Image.open(path).convert('RGB') as image:
            half = image.resize((image.width // 2, image.height // 2))
            larger = half.resize((2 * half.width, 2 * half.height))
            if path.stem == 'photo1':
                larger = Image.fromarray(np.pad(larger, ((0, 1), (0, 1), (0, 0))))
            larger.save(Path('theirs', f'{path.stem}_x2.png'))
    return evaluate


OTHERS = ['-outputs', 'theirs', '-references', 'photos', '-scales', '2']


def test_images_of_another_program_enter_the_same_table(others, computed):
    status, out, err = others(*OTHERS, '-models', 'bicubic')
    assert (status, err) == (0, '') and 'images as found in theirs' in out
    assert table_of(out)[0] == '| set | scale | bicubic (0 parameters) | theirs |'
    assert table_of(out)[2].rstrip(' |').endswith(' / -') and len(computed) == 3
    result = table()['theirs', 'x2']
    for image in result['images']:
        sr, hr = (
            np.asarray(Image.open(path).convert('RGB'))
            for path in (f'theirs/{image["name"]}_x2.png', f'photos/{image["name"]}.png')
        )
        h, w = (n // 2 * 2 for n in hr.shape[:2])
        sr, hr = (torch.from_numpy(x[:h, :w].copy()).permute(2, 0, 1) / 255 for x in (sr, hr))
        assert image['psnr'] == pytest.approx(metrics.psnr(sr, hr, 'benchmark', (2, 2)), abs=1e-9)
    assert result['parameters'] is None and 'seconds' not in result
    alone = others(*OTHERS)
    assert alone[0] == 0 and table_of(alone[1])[0] == '| set | scale | theirs |'


@pytest.mark.parametrize(
    'options, said',
    [
        (['-outputs', 'theirs', '-scales', '2'], '-outputs, a folder of images, and -references'),
        ([*OTHERS, '3'], '-outputs are of one scale, not of 2'),
        ([*OTHERS, '-sets', 'photos'], 'one of -sets and'),
        (['-scales', '2', '-sets', 'photos'], 'nothing to evaluate'),
        (['-models', 'bicubic', '-scales', '2'], 'one of -sets and'),
        (['-outputs', 'theirs', '-references', 'set5', '-scales', '2'], 'set5: no such folder'),
        (['-outputs', 'photos', '-references', 'theirs', '-scales', '2'], 'photos: no output for 3 of the 3 images'),
        (
            ['-outputs', 'theirs', '-references', 'photos', '-scales', '3'],
            'theirs/photo0_x2.png: 40 x 44 pixels, where',
        ),
    ],
)
def test_outputs_that_do_not_go_with_their_references(others, options, said):
    if options[-1] == '3' and 'photos' in options:  # at x3 the original is cropped to another size
        Image.new('RGB', (40, 38)).save('theirs/photo0_x2.png')
        said = said.replace('40 x 44', '38 x 40')
    refused(others(*options), said)


# ---------------------------------------------------------------- nothing twice


def test_degraded_images(evaluate, computed):
    """Each degradation is a row, whose caption says what was done; known entries of clean images stay known."""
    options = '-models', 'bicubic', '-sets', 'photos', '-scales', '2'
    assert evaluate(*options)[:1] == (0,)
    computed.clear()
    status, out, err = evaluate(*options, '-degrade', 'clean', 'jpeg40', 'noise8')
    assert (status, err) == (0, '') and len(computed) == 6
    lines = out.splitlines()
    assert [line.split(' | ')[0] for line in lines[2:5]] == ['| photos', '| photos, jpeg40', '| photos, noise8']
    assert '- x2, LR by MATLAB bicubic, 2 pixels shaved' in lines
    settings = 'jpeg40: compression (codec jpeg, quality 40)', 'noise8: noise (kind gaussian, sigma 8)'
    for setting in settings:
        assert f'- x2, LR by MATLAB bicubic and {setting}, 2 pixels shaved' in lines
    results = json.loads(Path('save/evaluation/table.json').read_text())
    assert [result['degrade'] for result in results] == ['clean', 'jpeg40', 'noise8']
    clean, jpeg, noise = (result['psnr'] for result in results)
    assert clean > max(jpeg, noise)
    spec = {
        'name': 'sr-evaluation',
        'args': {
            'dataset': {'name': 'image-folder', 'args': {'root_path': 'photos'}},
            'scale': 2,
            'degrade': 'noise8',
        },
    }
    expected = loop.evaluate(models.load('bicubic'), datasets.make(spec), 'benchmark', progress=False)
    assert noise == pytest.approx(expected['psnr'], abs=1e-6)


def test_a_model_behind_a_denoiser(evaluate, computed):
    pytest.importorskip('skimage')
    pytest.importorskip('pywt')
    options = '-sets', 'photos', '-scales', '2', '-degrade', 'noise8', '-models'
    status, out, err = evaluate(*options, 'nlmeans+bicubic', 'bicubic', 'nlmeans+a.pth')
    assert (status, err) == (0, '')
    denoised, plain, _ = json.loads(Path('save/evaluation/table.json').read_text())
    assert denoised['psnr'] != plain['psnr'] and denoised['identity'] == 'nlmeans+bicubic'
    computed.clear()
    assert evaluate(*options, 'nlmeans+a.pth')[0] == 0 and not computed
    refused(evaluate(*options, 'nlmeans+missing.pth'), 'missing.pth')


def test_finished_cells_are_not_computed_again(evaluate, computed, photos):
    def run(*more, models=('a.pth', 'b.pth'), scales=('2', '3')):
        computed.clear()
        assert evaluate('-models', *models, '-sets', 'photos', '-scales', *scales, *more)[0] == 0
        return len(computed)

    assert run() == 2 * 2 * 3
    first, text = table(), Path('save/evaluation/table.md').read_text()
    assert run() == 0
    assert table() == first and Path('save/evaluation/table.md').read_text() == text
    assert run(models=('b.pth',)) == 0 and list(table()) == [('b', 'x2'), ('b', 'x3')]
    assert run(scales=('2', '2.5', '3')) == 2 * 3  # one scale more
    assert run(models=('a.pth', 'b.pth', 'bicubic')) == 2 * 3  # one model more
    assert run('-name', 'elsewhere') == 2 * 2 * 3
    Path('a.pth').rename('c.pth')
    assert run(models=('c.pth', 'b.pth')) == 0 and table()['c', 'x2']['psnr'] == first['a', 'x2']['psnr']
    write_weights('b.pth', 5)
    assert run(models=('c.pth', 'b.pth')) == 2 * 3  # other weights of the same name
    assert table()['b', 'x2']['psnr'] != first['b', 'x2']['psnr']
    Image.open(photos / 'photo0.png').rotate(90).save(photos / 'photo0.png')
    assert run(models=('c.pth', 'b.pth')) == 2 * 2 * 3  # other images
    Path('set.yaml').write_text(
        yaml.safe_dump(
            {
                'protocol': 'div2k',
                'dataset': {
                    'name': 'sr-evaluation',
                    'args': {'dataset': {'name': 'image-folder', 'args': {'root_path': 'photos'}}},
                },
            }
        )
    )
    computed.clear()
    assert evaluate('-models', 'c.pth', '-sets', 'set.yaml', '-scales', '1.2')[0] == 0 and len(computed) == 3


def test_what_is_interrupted_goes_on(evaluate, computed, monkeypatch):
    options = ['-models', 'a.pth', 'b.pth', '-sets', 'photos', '-scales', '2', '3']
    compute = loop.evaluate_image

    def interrupted(*arguments):
        if len(computed) == 7:  # in the third cell
            raise KeyboardInterrupt
        return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, 'evaluate_image', interrupted)
        status, out, err = evaluate(*options)
    assert (status, out, err) == (130, '', 'interrupted\n')
    assert len(list(Path('save/evaluation/cells').iterdir())) == 2 and not Path('save/evaluation/table.md').exists()
    computed.clear()
    assert evaluate(*options)[0] == 0 and len(computed) == 2 * 3
    interrupted_once = table()
    assert evaluate(*options, '-name', 'at-once')[0] == 0
    assert without_seconds(table('at-once')) == without_seconds(interrupted_once)


def test_a_damaged_cell_is_named(evaluate):
    options = ['-models', 'bicubic', '-sets', 'photos', '-scales', '2']
    evaluate(*options)
    (cell,) = Path('save/evaluation/cells').iterdir()
    cell.write_text('{"psnr": 3')
    refused(evaluate(*options), cell.name, 'remove it')


def test_processes_share_the_work_with_the_same_result(evaluate):
    options = ['-models', 'a.pth', 'bicubic', '-sets', 'photos', '-scales', '2', '3.3']
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node',
        '2',
        str(ROOT / 'scripts/evaluate.py'),
        *options,
        '-device',
        'cpu',
        '-name',
        'shared',
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(Path('save/shared/table.md').read_text().rstrip())  # once, by one of them
    assert evaluate(*options)[0] == 0
    alone, shared = without_seconds(table()), without_seconds(table('shared'))
    assert list(alone) == list(shared)
    for key, result in shared.items():
        for got, image in zip([result, *result['images']], [alone[key], *alone[key]['images']]):
            assert got['psnr'] == pytest.approx(image['psnr'], abs=1e-4)
            assert got['ssim'] == pytest.approx(image['ssim'], abs=1e-6)


# ---------------------------------------------------------------- mistakes


@pytest.fixture
def refusal(evaluate):
    """`refusal(words, model=, set=, scale=)`: one line with these words, no number, nothing left behind."""

    def check(words, *options, model='a.pth', set='photos', scale='2'):
        before = sorted(Path().rglob('*'))
        refused(evaluate('-models', 'bicubic', model, '-sets', set, '-scales', '2', scale, *options), *words)
        assert sorted(Path().rglob('*')) == before

    return check


def test_mistakes(refusal):
    refusal(['set55', "did you mean 'set5'", 'b100, div2k'], set='set55')
    refusal(['nowhere.yaml', 'cannot read'], set='nowhere.yaml')
    refusal(['none.pth', 'no such file'], model='none.pth')
    refusal(["'big'", '2x3.5'], scale='big')
    refusal(["'2xx'"], scale='2xx')
    refusal(["'0'", 'positive'], scale='0')
    refusal(['abacus'], '-device', 'abacus')
    refusal(["unknown degradation 'jpeg41', did you mean 'jpeg40'"], '-degrade', 'clean', 'jpeg41')
    refusal(['-colour'], '-colour', '3')
    Path('folder').mkdir()
    refusal(['folder', 'no images'], set='folder')
    Path('save').write_text('a file')
    refusal(['save', 'no folder'])


def test_an_image_too_small_for_the_shave(refusal):
    refusal(['photos: photo1', '26 x 39', 'too small'], scale='13')
    refusal(['photos: photo0', 'too small for scale 50 x 50'], scale='50')


def test_weights_that_lack_what_the_model_needs(refusal):
    content = torch.load('b.pth', weights_only=True)
    lacking = next(name for name in content['model']['sd'] if name.startswith('msno'))
    del content['model']['sd'][lacking]
    torch.save(content, 'b.pth')
    refusal(['b.pth', 'lacks', lacking], model='b.pth')
    del content['model']['args']['imnet_spec']
    torch.save(content, 'b.pth')
    refusal(['b.pth', "'imnet_spec'"], model='b.pth')


def test_values_that_are_not_finite(evaluate):
    content = torch.load('b.pth', weights_only=True)
    next(iter(content['model']['sd'].values())).fill_(float('nan'))
    torch.save(content, 'b.pth')
    refused(
        evaluate('-models', 'bicubic', 'b.pth', '-sets', 'photos', '-scales', '2'),
        'b on photos at x2: photo0',
        'not finite',
    )
    assert len(list(Path('save/evaluation').rglob('*.*'))) == 1  # bicubic's cell, which is done


def test_folders_of_lr_and_hr_images_that_do_not_match(refusal, photos):
    Path('lr').mkdir()
    write_pairs()
    for k in range(5):
        Image.new('RGB', (20, 20)).save(f'lr/photo{k}x2.png')
    refusal(['pairs.yaml', 'no HR image for 2 of the 5 LR images', 'photo3x2.png, photo4x2.png'], set='pairs.yaml')
    for k in (1, 3, 4):
        Path(f'lr/photo{k}x2.png').unlink()
    refusal(['pairs.yaml', 'no LR image for 1 of the 3 HR images', 'photo1.png'], set='pairs.yaml')
    Image.new('RGB', (7, 25)).save('lr/photo1x2.png')
    refusal(['pairs.yaml', 'photo1', '25 x 7 does not belong to an HR image of 37 x 41'], set='pairs.yaml')


@pytest.mark.skipif(sys.platform == 'darwin', reason='names are UTF-8 there')
def test_a_name_that_is_not_utf_8(evaluate, photos):
    os.rename(photos / 'photo0.png', os.fsdecode(os.fsencode(photos) + b'/\xff\xfe.png'))
    status, out, err = evaluate('-models', 'bicubic', '-sets', 'photos', '-scales', '2')
    assert (status, err) == (0, '') and '| photos | x2 |' in out
    again = evaluate('-models', 'bicubic', '-sets', 'photos', '-scales', '2')
    assert again[0] == 0 and table_of(again[1]) == table_of(out)


def table_of(out):
    return [line for line in out.splitlines() if line.startswith('|')]


def test_a_set_of_photos_that_need_a_package(refusal):
    for kind, package in (('heic', 'pillow-heif'), ('jxl', 'pillow-jxl-plugin')):
        if importlib.util.find_spec(package.replace('-', '_').removesuffix('_plugin')) is None:
            Path(kind).mkdir()
            Path(kind, f'a.{kind}').write_text('x')
            refusal([f'no images in this folder but 1 other file (.{kind})', f'needs the package {package}'], set=kind)
