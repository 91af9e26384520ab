"""test.py as users call it: its output, its configs, and one line and status 2 for every mistake."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY, refused
from PIL import Image

import datasets
import models
import utils
from datasets.pictures.image_io import read_image
from models.evaluation.loop import evaluate
from models.evaluation.metrics import psnr
from models.evaluation.sets import SCHEMA
from models.rendering.self_ensemble import render_ensemble
from utils import load_config

PROGRAM = ROOT / 'test.py'
CONFIGS = ROOT / 'configs/test'
FOLDERS = {
    'set5': 'data/Set5',
    'set14': 'data/Set14',
    'b100': 'data/B100',
    'urban100': 'data/Urban100',
    'div2k': 'data/DIV2K/DIV2K_valid_HR',
}
SCALES = {name: [2, 3, 4, 6, 8] for name in FOLDERS} | {'div2k': [2, 3, 4, 6, 12, 18, 24, 30]}


def config(scale=2, folder='photos', protocol='benchmark'):
    images = {'name': 'image-folder', 'args': {'root_path': folder}}
    return {'dataset': {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale}}, 'protocol': protocol}


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    models.save(path, models.build(TINY))
    return path


@pytest.fixture
def test(program, photos, weights):
    """`test(*options)` runs test.py beside `photos`, with `set.yaml` by default."""
    Image.fromarray(np.asarray(Image.open(photos / 'photo1.png').convert('L'))[:37]).save(photos / 'photo1.png')
    Path('set.yaml').write_text(yaml.safe_dump(config()))

    def run(*options, config='set.yaml', model=weights, device=('-device', 'cpu')):
        return program('test.py', '-config', config, '-model', model, *device, *options)

    return run


# ---------------------------------------------------------------- what it does


def test_results_are_those_of_the_evaluation(test, weights):
    status, out, err = test('-name', 'trial')
    assert (status, err) == (0, '')
    expected = evaluate(models.load(weights), datasets.make(config()['dataset']), 'benchmark', progress=False)
    results = json.loads(Path('save/trial/set.json').read_text())
    assert [image['name'] for image in results['images']] == [f'photo{k}' for k in range(5)]
    for got, image in zip([*results['images'], results], [*expected['images'], expected]):
        assert got['psnr'] == pytest.approx(image['psnr'], abs=1e-4)
        assert got['ssim'] == pytest.approx(image['ssim'], abs=1e-6) and got['seconds'] > 0
    assert (results['model'], results['config'], results['device']) == (str(weights), 'set.yaml', 'cpu')

    text = Path('save/trial/set.txt').read_text()
    assert out.startswith(text) and 'save/trial/set' in out[len(text) :]
    lines = text.splitlines()
    assert str(weights) in lines[0] and lines[1] == results['protocol']
    assert [line.split()[0] for line in lines[2:]] == ['image', *(f'photo{k}' for k in range(5)), 'average']
    for line, image in zip(lines[3:], [*results['images'], results]):
        assert [float(word) for word in line.split()[1:3]] == pytest.approx([image['psnr'], image['ssim']], abs=6e-4)
    assert sorted(p.name for p in Path('save/trial').iterdir()) == ['set.json', 'set.txt']


def test_images_are_kept_if_asked(test, weights):
    status, out, err = test('--save-images')
    assert (status, err) == (0, '') and 'images in save/tiny/set' in out
    assert sorted(p.name for p in Path('save/tiny/set').iterdir()) == [f'photo{k}.png' for k in range(5)]
    model, dataset = models.load(weights), datasets.make(config()['dataset'])
    for item in dataset:
        expected = model.render(item['lr'][None], item['hr'].shape[-2:])[0].clamp(0, 1)
        assert (read_image(f'save/tiny/set/{item["name"]}.png')[0].rgb - expected).abs().max() <= 0.5001 / 255


def test_ensemble(test, weights):
    status, out, err = test('-ensemble')
    assert (status, err) == (0, '') and 'self-ensemble of 8' in out.splitlines()[1]
    results = json.loads(Path('save/tiny/set.json').read_text())
    for item, image in zip(datasets.make(config()['dataset']), results['images']):
        sr = render_ensemble(models.load(weights), item['lr'][None], item['hr'].shape[-2:])[0].clamp(0, 1)
        assert image['psnr'] == pytest.approx(psnr(sr, item['hr'], 'benchmark', (2, 2)), abs=1e-4)


def test_eight_bits(test):
    values = []
    for options in ([], ['-eight-bit'], ['--eight-bit']):
        assert test(*options)[0] == 0
        values.append(json.loads(Path('save/tiny/set.json').read_text()))
    assert values[0]['psnr'] != values[1]['psnr'] == values[2]['psnr']
    assert values[0]['psnr'] == pytest.approx(values[1]['psnr'], abs=0.1)
    assert 'clamped float output' in values[0]['protocol'] and 'rounded to 8 bits' in values[1]['protocol']


@pytest.mark.parametrize(
    'scale, protocol, words',
    [
        (2, 'benchmark', ['x2, LR by MATLAB bicubic', 'PSNR on luma (Y)', ' 2 pixels shaved']),
        (1.7, 'div2k', ['x1.7, LR by PIL antialiased bicubic', 'PSNR on RGB', ' 8 pixels shaved']),
        ([2, 1.5], 'benchmark', ['x2 in height and x1.5 in width, LR by PIL', ' 2 pixels shaved']),
        ([2, 3], 'div2k', ['x2 in height and x3 in width, LR by PIL', '8 rows and 9 columns of pixels shaved']),
    ],
)
def test_caption_states_the_protocol(test, scale, protocol, words):
    Path('set.yaml').write_text(yaml.safe_dump(config(scale, protocol=protocol)))
    status, out, err = test()
    assert (status, err) == (0, '')
    for text in words:
        assert text in out.splitlines()[1]
    assert out.splitlines()[1].endswith(f'protocol {protocol}')


def test_lr_images_as_found(test):
    Path('lr').mkdir()
    for path in Path('photos').iterdir():
        with Image.open(path) as image:
            image.resize((image.width // 2, image.height // 2)).save(Path('lr', path.name))
    images = {'name': 'paired-image-folders', 'args': {'root_path_1': 'lr', 'root_path_2': 'photos'}}
    pairs = {'dataset': {'name': 'sr-evaluation-paired', 'args': {'dataset': images}}, 'protocol': 'div2k'}
    Path('set.yaml').write_text(yaml.safe_dump(pairs))
    status, out, err = test()
    assert (status, err) == (0, '') and 'LR images as found' in out and 'ceil(scale) + 6 pixels shaved' in out


def test_infinite_psnr_is_said_and_the_json_is_json(test, monkeypatch, weights):
    """A model that knows the answer: it returns images of one colour exactly, except for grey 128."""
    for k in range(2):
        Image.new('RGB', (30, 30), (255 * k,) * 3).save(f'photos/photo{k}.png')
    for k in (2, 3, 4):
        Path(f'photos/photo{k}.png').unlink()

    class Nearest(torch.nn.Module):
        def render(self, lr, size):
            return lr.mean().expand(1, 3, *size) if lr.mean() > 0.5 else torch.zeros(1, 3, *size) + 0.1

    monkeypatch.setattr(models, 'load', lambda path: Nearest())
    status, out, err = test()
    assert (status, err) == (0, '') and 'infinite for 1 of 2 images' in out

    def constant(name):
        raise AssertionError(f'{name} is not JSON')

    results = json.loads(Path('save/tiny/set.json').read_text(), parse_constant=constant)
    assert [math.isinf(float(image['psnr'])) for image in results['images']] == [False, True]
    assert results['psnr'] == results['images'][1]['psnr'] == 'inf' and results['ssim'] < 1


def test_from_another_folder(test, weights, tmp_path):
    """In a process of its own; a config beside its base, both found relative to the current folder."""
    Path('configs').mkdir()
    Path('configs/base.yaml').write_text(yaml.safe_dump(config()))
    Path('configs/set-3.yaml').write_text('base: base.yaml\ndataset: {args: {scale: 3}}\n')
    Path('elsewhere').mkdir()
    Path('elsewhere/photos').symlink_to(tmp_path / 'photos')
    command = [
        sys.executable,
        PROGRAM,
        '--config=../configs/set-3.yaml',
        '--model',
        weights,
        '--name',
        'a',
        '-device',
        'cpu',
    ]
    done = subprocess.run(command, cwd='elsewhere', capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and 'x3, LR by MATLAB' in done.stdout
    assert Path('elsewhere/save/a/set-3.json').is_file() and not Path('save').exists()


def test_results_are_replaced(test):
    assert test()[0] == 0
    first = Path('save/tiny/set.txt').read_text()
    Path('set.yaml').write_text(yaml.safe_dump(config(4)))
    assert test()[0] == 0 and Path('save/tiny/set.txt').read_text() != first


def test_help(program):
    status, out, err = program('test.py', '--help')
    assert (status, err) == (0, '')
    for option in ('config', 'model', 'name', 'save-images', 'eight-bit', 'ensemble', 'device', 'debug'):
        assert f'-{option}' in out


# ---------------------------------------------------------------- mistakes


@pytest.fixture
def refusal(test):
    """`refusal(words, *options)`: the program refuses, with these words, and leaves nothing behind."""

    def check(words, *options, **files):
        before = sorted(Path().rglob('*'))
        refused(test(*options, **files), *words)
        assert sorted(Path().rglob('*')) == before

    return check


@pytest.mark.parametrize(
    'options, words',
    [
        (['-device', 'abacus'], ['abacus']),
        (['-colour', '1'], ['-colour']),
        (['-save'], ['-save']),
        (['x'], ['x']),
        (['-eight-bit', 'false'], ['false']),
    ],
)
def test_options_that_make_no_sense(refusal, options, words):
    refusal(words, *options)


def test_missing_files(refusal, program):
    refusal(['none.yaml'], config='none.yaml')
    refusal(['none.pth', 'no such file'], model='none.pth')
    refused(program('test.py', '-config', 'set.yaml'), '-model')
    refused(program('test.py', '-model', 'tiny.pth'), '-config')


def without(path):
    """`config()` without the entry at `path`."""
    changed = inner = config()
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


@pytest.mark.parametrize(
    'content, words',
    [
        (config() | {'protocl': 'div2k'}, ["unknown key 'protocl'", "did you mean 'protocol'"]),
        (config(protocol='benchmrk'), ['set.yaml: unknown protocol', "'benchmrk'", "did you mean 'benchmark'"]),
        (config(protocol=['div2k']), ["['div2k']"]),
        (config(scale=0), ['positive']),
        (config(scale='big'), ["'big'"]),
        (config(scale=[2, 3, 4]), ['[2, 3, 4]']),
        (config(folder='nowhere'), ['nowhere', 'no such folder']),
        (without(['protocol']), ["'protocol' is missing"]),
        (without(['dataset']), ["'dataset' is missing"]),
        (without(['dataset', 'args', 'scale']), ["'scale'"]),
        (without(['dataset', 'name']), ['None', 'sr-evaluation']),
        (config() | {'dataset': 5}, ['mapping']),
        (config() | {'dataset': config()['dataset']['args']['dataset']}, ["'image-folder'", 'sr-evaluation']),
        (config() | {'dataset': {'name': 'sr-evaluatoin'}}, ["did you mean 'sr-evaluation'"]),
        (config() | {'dataset': {'name': 'sr-evaluation', 'args': {'scael': 2}}}, ["did you mean 'scale'"]),
        ([1], ['mapping']),
    ],
)
def test_configs_that_make_no_sense(refusal, content, words):
    Path('set.yaml').write_text(yaml.safe_dump(content))
    refusal(['set.yaml', *words])


def test_configs_that_are_no_yaml(refusal):
    Path('set.yaml').write_text('dataset: {name: [')
    refusal(['set.yaml', 'not valid YAML'])


@pytest.mark.parametrize(
    'scale, protocol, words',
    [
        (13, 'benchmark', ['photo1', '26 x 39', 'too small']),
        (8, 'div2k', ['photo1', '32 x 40', 'too small']),
        (40, 'benchmark', ['photo0', 'too small']),
        (50, 'benchmark', ['photo0', 'too small for scale 50 x 50']),
    ],
)
def test_images_too_small_for_the_shave(refusal, scale, protocol, words):
    Path('set.yaml').write_text(yaml.safe_dump(config(scale, protocol=protocol)))
    refusal(words, '-save-images')


def test_folders_of_images_that_do_not_do(refusal):
    Path('photos/photo3.png').write_bytes(Path('photos/photo3.png').read_bytes()[:200])
    Path('set.yaml').write_text(yaml.safe_dump(config()))
    refusal(['photo3.png'])
    for path in Path('photos').iterdir():
        path.unlink()
    refusal(['photos', 'no images'])


def test_files_that_are_no_images_are_left_out_and_told_by_number(test):
    for name in ('LICENSE.pdf', 'clip.mpg', 'notes.txt', 'figure.eps', 'Makefile', '.DS_Store'):
        Path('photos', name).write_bytes(b'no image')
    Path('photos/folder.png').mkdir()
    status, out, err = test()
    assert status == 0 and err == 'note: photos: left out 5 other files (.eps, .mpg, .pdf ...)\n'
    assert len(json.loads(Path('save/tiny/set.json').read_text())['images']) == 5
    for path in Path('photos').glob('*.png'):
        path.rmdir() if path.is_dir() else path.unlink()
    refused(test(), 'photos: no images in this folder but 5 other files (.eps')


@pytest.mark.parametrize('content', [b'', b'no image', b'%PDF-1.7', 'half'])
@pytest.mark.parametrize('name', ['broken.png', 'broken.jpg', 'broken.tif', 'broken.webp'])
def test_what_is_named_like_an_image_and_is_none_is_an_error(refusal, content, name):
    whole = Path('photos/photo0.png')
    Image.open(whole).save(f'photos/{name}')
    size = Path('photos', name).stat().st_size
    Path('photos', name).write_bytes(Path('photos', name).read_bytes()[: size // 2] if content == 'half' else content)
    refusal([f'photos/{name}: '])


def test_no_result_overwrites_another(test):
    """Images whose names differ in their endings alone."""
    Path('photos/photo0.jpg').write_bytes(Path('photos/photo1.png').read_bytes())
    Path('photos/photo0.jpg.png').write_bytes(Path('photos/photo2.png').read_bytes())
    status, out, err = test('-save-images')
    assert (status, err) == (0, '')
    names = [image['name'] for image in json.loads(Path('save/tiny/set.json').read_text())['images']]
    assert len(set(names)) == len(names) == 7 and {'photo1', 'photo2', 'photo0.png'} < set(names)
    assert sorted(path.name for path in Path('save/tiny/set').iterdir()) == sorted(f'{name}.png' for name in names)
    images = {name: read_image(f'save/tiny/set/{name}.png')[0].rgb for name in names}
    assert torch.equal(images['photo0.jpg'], images['photo1']) and torch.equal(
        images['photo0.jpg.png'], images['photo2']
    )


def test_progress_where_there_is_no_terminal(test, monkeypatch):
    """A clock that goes on by 4 seconds an image: a line every 10 seconds at most."""
    for k in range(5, 12):
        Path(f'photos/photo{k}.png').write_bytes(Path('photos/photo0.png').read_bytes())
    now, perform = [0.0], models.evaluation.loop.evaluate_image

    def slow(*arguments):
        now[0] += 4
        return perform(*arguments)

    monkeypatch.setattr(models.evaluation.loop, 'evaluate_image', slow)
    monkeypatch.setattr(utils.tqdm, '__init__', with_clock(utils.tqdm.__init__, lambda: now[0]))
    status, _, err = test()
    lines = err.splitlines()
    assert status == 0 and '\r' not in err and 2 <= len(lines) <= 12 * 4 // 10
    assert all('/12 [' in line and 's/image' in line for line in lines)


def with_clock(construct, clock):
    def init(self, *arguments, **options):
        construct(self, *arguments, **options)
        self._time, self.start_t, self.last_print_t = clock, clock(), clock()

    return init


def test_a_config_that_lacks_a_key_is_told_where_defaults_come_from(refusal):
    Path('set.yaml').write_text('protocol: benchmark\n')
    wanted = os.path.relpath(CONFIGS / 'set5.yaml', Path().resolve())
    refusal(["set.yaml: the key 'dataset' is missing", f'base: {wanted}'])
    Path('set.yaml').write_text(f'base: {wanted}\ndataset: {{args: {{scale: 4}}}}\n')
    assert set(load_config('set.yaml', SCHEMA)) == {'dataset', 'protocol'}


def test_weights_that_do_not_do(refusal, weights):
    content = torch.load(weights, weights_only=True)
    Path('half.pth').write_bytes(weights.read_bytes()[:3000])
    refusal(['half.pth'], model='half.pth')
    next(iter(content['model']['sd'].values())).fill_(math.nan)
    torch.save(content, 'nan.pth')
    refusal(['photo0', 'not finite'], model='nan.pth')
    del content['model']['sd'][next(iter(content['model']['sd']))]
    torch.save(content, 'other.pth')
    refusal(['other.pth', 'another architecture'], model='other.pth')


def test_results_that_cannot_be_written(refusal):
    Path('save').write_text('a file')
    refusal(['save', 'no folder'])
    Path('save').unlink()
    Path('save/tiny').mkdir(parents=True)
    Path('save/tiny/set').write_text('a file')
    refusal(['save/tiny/set', 'no folder'], '-save-images')


def test_earlier_results_survive_a_failure(test, refusal):
    assert test()[0] == 0
    kept = Path('save/tiny/set.json').read_bytes()
    Path('set.yaml').write_text(yaml.safe_dump(config(30)))
    refusal(['too small'])
    assert Path('save/tiny/set.json').read_bytes() == kept


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, PROGRAM, '-config', 'none.yaml', '-model', 'none.pth', '-debug']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'Traceback' in done.stderr and 'UserError' in done.stderr


# ---------------------------------------------------------------- the configs that come along


def test_every_set_has_its_scales():
    assert sorted(p.name for p in CONFIGS.iterdir()) == sorted(
        [f'{name}.yaml' for name in FOLDERS] + [f'test-{name}-{s}.yaml' for name in FOLDERS for s in SCALES[name]]
    )


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('test-*.yaml')), ids=lambda path: path.stem)
def test_configs_say_what_their_names_say(path):
    _, name, scale = path.stem.split('-')
    content = load_config(path, SCHEMA)
    assert content['protocol'] == ('div2k' if name == 'div2k' else 'benchmark')
    assert content['dataset']['name'] == 'sr-evaluation' and content['dataset']['args']['scale'] == int(scale)
    images = content['dataset']['args']['dataset']
    assert images['name'] == 'image-folder' and Path(images['args']['root_path']) == Path(FOLDERS[name])
    assert len(path.read_text().splitlines()) == 2  # the base, and what differs


@pytest.mark.parametrize('name', FOLDERS)
def test_configs_work_where_their_data_lie(program, photos, weights, name):
    folder = Path(FOLDERS[name])
    folder.parent.mkdir(parents=True)
    photos.rename(folder)
    result = program('test.py', '-config', CONFIGS / f'test-{name}-2.yaml', '-model', weights, '-device', 'cpu')
    assert result[0] == 0 and Path(f'save/tiny/test-{name}-2.json').is_file(), result
