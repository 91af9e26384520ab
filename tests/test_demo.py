"""demo.py as users call it: what it writes and prints, and one line and status 2 for every mistake."""

import functools
import importlib.util
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

import models
from datasets.pictures import formats, jobs
from datasets.pictures.image_io import Picture, Writer, read_image, write_image
from datasets.pictures.resize import matlab_resize
from datasets.pictures.sizes import by_longest, by_resolution, by_scale, parse_scale
from models import native
from models.native import library
from models.rendering.render import check_options
from models.rendering.self_ensemble import render_ensemble
from models.rendering.upscaler import BYTES, Upscaler, joined
from models.rendering.zoom import FINE, first_scale, view, zoom
from models.weights import bundled
from utils import UserError

DEMO = Path(__file__).resolve().parent.parent / 'demo.py'
TINY = {
    'name': 'msit',
    'args': {
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [8]}},
        'channels': 8,
        'heads': 2,
        'radius': 1,
        'msno_kernels': [3, 5],
        'mssa_kernels': [3, 5],
    },
}


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    models.save(path, models.build(TINY))
    return path


@pytest.fixture
def demo(tmp_path, weights, monkeypatch, capfd):
    """`demo(*arguments)` runs the program in `tmp_path`, where `in.png` is, and returns status, stdout and stderr."""
    torch.manual_seed(1)
    write_image(tmp_path / 'in.png', Picture(torch.rand(3, 6, 5)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=weights):
        command = [DEMO, '-device', 'cpu', *(['-model', model] if model else []), *arguments]
        monkeypatch.setattr(sys, 'argv', [str(a) for a in command])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(DEMO), run_name='__main__')
        return stopped.value.code, *capfd.readouterr()

    return run


def refused(result, *said, left=('in.png',)):
    status, out, err = result
    assert status == 2 and out == '' and err.startswith('error: ') and err.count('\n') == 1, (out, err)
    for words in said:
        assert words in err
    assert sorted(p.name for p in Path().iterdir()) == sorted(left)


# ---------------------------------------------------------------- what it does


def test_result_is_what_the_model_renders(demo, weights):
    status, out, err = demo('-input', 'in.png', '-resolution', '13,9', '-output', 'out.png')
    assert (status, err) == (0, '')
    lr = read_image('in.png')[0].rgb
    expected = models.load(weights).render(lr[None], (13, 9))[0].clamp(0, 1)
    assert (read_image('out.png')[0].rgb - expected).abs().max() <= 0.5001 / 255
    facts = dict(line.split(None, 1) for line in out.splitlines())
    assert facts['output'] == 'out.png' and facts['input'].startswith('6 x 5') and facts['size'] == '13 x 9'
    assert facts['scale'] == '2.167 x 1.8' and facts['device'] == 'cpu' and float(facts['seconds']) >= 0
    assert facts['code'] == ('compiled' if native.in_use(torch.float32) else 'torch')


def test_without_a_compiler_the_summary_says_torch(demo, monkeypatch):
    monkeypatch.setattr(library, 'compiled', lambda dtype: None)
    status, out, err = demo('-input', 'in.png', '-output', 'out.png')
    assert (status, err) == (0, '') and 'code     torch' in out


@pytest.mark.parametrize(
    'options, size',
    [
        ([], (24, 20)),
        (['-scale', '3.7'], (22, 18)),
        (['--scale=2,3.5'], (12, 18)),
        (['-scale', '0.5'], (3, 2)),
        (['--resolution', '1,1'], (1, 1)),
        (['-resolution=7,31'], (7, 31)),
    ],
)
def test_size(demo, options, size):
    status, out, _ = demo('--input', 'in.png', *options, '--output', 'out.png')
    assert status == 0 and read_image('out.png')[0].rgb.shape[1:] == size
    assert f'size     {size[0]} x {size[1]}\n' in out


def test_one_pixel(demo):
    write_image('dot.png', Picture(torch.rand(3, 1, 1)))
    assert demo('-input', 'dot.png', '-scale', '3', '-output', 'out.png', '-compare', 'both.png')[0] == 0
    assert read_image('out.png')[0].rgb.shape == (3, 3, 3)


def test_comparison_picture(demo):
    status, out, err = demo('-input', 'in.png', '-scale', '5', '-output', 'out.png', '-compare', 'both.jpg')
    assert (status, err) == (0, '') and 'compare  both.jpg' in out
    with Image.open('both.jpg') as image:
        assert image.width > 3 * 300 and image.height > 2 * 300


def test_comparison_holds_bicubic_and_the_result(demo, monkeypatch):
    program = runpy.run_path(str(DEMO))
    seen = []
    monkeypatch.setitem(program['beside_bicubic'].__globals__, 'comparison', lambda *panels: seen.extend(panels))
    lr, sr = (torch.randint(0, 256, (3, *size)) / 255 for size in ((6, 5), (12, 15)))
    program['beside_bicubic'](Picture(lr), Picture(sr), 'MSIT')
    image = (lr * 255).round().permute(1, 2, 0).numpy()
    bicubic = matlab_resize(image, (12, 15), (2, 3), to_uint8=False)
    first, second = seen[1]
    assert first[0] == 'bicubic' and np.abs(first[1].permute(1, 2, 0).numpy() * 255 - bicubic).max() < 1e-3
    assert second[0] == 'MSIT' and torch.equal(second[1], sr)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_grey_and_alpha_stay_what_they_are(demo, weights, suffix):
    write_image('grey.png', Picture(torch.rand(1, 4, 4).repeat(3, 1, 1), torch.rand(1, 4, 4), grey=True))
    assert demo('-input', 'grey.png', '-scale', '2', '-output', f'out.{suffix}')[0] == 0
    source, result = read_image('grey.png')[0], read_image(f'out.{suffix}')[0]
    assert result.grey and result.alpha.shape == (1, 8, 8)
    expected = models.load(weights).render(source.alpha.repeat(3, 1, 1)[None], (8, 8))[0].mean(0).clamp(0, 1)
    assert (result.alpha[0] - expected).abs().max() <= 0.5001 / 255


def test_16_bits_in_16_bits_out(demo, weights):
    samples = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), np.uint16)
    lr = torch.from_numpy(samples.astype(np.float32) / 65535).permute(2, 0, 1)
    write_image('deep.png', Picture(lr, bits=16))
    status, _, err = demo('-input', 'deep.png', '-scale', '1.5', '-output', 'out.png')
    assert (status, err) == (0, '')
    expected = models.load(weights).render(lr[None], (8, 6))[0].clamp(0, 1)
    assert (read_image('out.png')[0].rgb - expected).abs().max() <= 1 / 65535


def test_opaque_stays_opaque(demo):
    write_image('opaque.png', Picture(torch.rand(3, 4, 4), torch.ones(1, 4, 4)))
    assert demo('-input', 'opaque.png', '-output', 'out.png')[0] == 0
    assert (read_image('out.png')[0].alpha == 1).all()


@pytest.mark.parametrize(
    'options, size',
    [
        (['-resolution', '12,'], (12, 10)),
        (['-resolution', ',9'], (11, 9)),
        (['-resolution', ' 9 , '], (9, 8)),
        (['-longest', '13'], (13, 11)),
        (['-longest', '1'], (1, 1)),
        (['-megapixels', '0.000270'], (18, 15)),
        (['-megapixels', '1e-9'], (1, 1)),
    ],
)
def test_size_with_the_ratio_kept(demo, options, size):
    assert demo('-input', 'in.png', *options, '-output', 'out.png', model='bicubic')[0] == 0
    assert read_image('out.png')[0].rgb.shape[1:] == size


@given(st.tuples(st.integers(1, 9999), st.integers(1, 9999)), st.integers(1, 9999))
def test_the_ratio_is_kept_as_well_as_whole_pixels_can(size, side):
    for wanted, at in (
        (by_resolution(f'{side},'), 0),
        (by_resolution(f',{side}'), 1),
        (by_longest(str(side)), int(size[1] > size[0])),
    ):
        result = [round(n) for n in wanted(size)]
        exact = side * size[1 - at] / size[at]
        assert result[at] == side and abs(result[1 - at] - max(1, exact)) <= 0.5


@pytest.mark.parametrize(
    'scale, beyond',
    [
        ('1', False),
        ('3', False),
        ('3.5', True),
        ('0.9', True),
        ('2,3.2', True),
        ('0.8,2', True),
    ],
)
def test_scales_beyond_the_trained_ones_are_noted(demo, weights, scale, beyond):
    models.save('trained.pth', models.load(weights), {'scale_min': 1, 'scale_max': 3})
    status, _, err = demo('-input', 'in.png', '-scale', scale, '-output', 'out.png', model='trained.pth')
    assert status == 0 and ('from 1 to 3' in err) == beyond and err.count('\n') == beyond


def test_scales_where_the_weights_do_not_tell(demo):
    assert 'from 1 to 8' in demo('-input', 'in.png', '-scale', '9', '-output', 'out.png')[2]
    assert demo('-input', 'in.png', '-scale', '9', '-output', 'cubic.png', model='bicubic')[2] == ''


@pytest.mark.parametrize('kind', [{}, {'tile': 3}, {'precision': 'bf16'}])
@pytest.mark.parametrize('ensemble', [False, True])
def test_options_reach_the_model(demo, weights, kind, ensemble):
    options = [word for name, value in kind.items() for word in (f'-{name}', value)] + ['-ensemble'] * ensemble
    assert demo('-input', 'in.png', '-scale', '2', '-output', 'out.png', *options)[0] == 0
    model = models.load(weights)
    render = functools.partial(render_ensemble, model) if ensemble else model.render
    expected = render(read_image('in.png')[0].rgb[None], (12, 10), **kind)[0].clamp(0, 1)
    assert (read_image('out.png')[0].rgb - expected).abs().max() <= 0.501 / 255


def test_quiet(demo):
    assert demo('-input', 'in.png', '-scale', '9', '-output', 'out.png', '-quiet') == (0, '', '')
    assert demo('-input', 'in.png', '-scale', '9', '-output', 'out/', '-quiet') == (0, '', '')
    refused(demo('-input', 'none.png', '-output', 'a.png', '-quiet'), left=['in.png', 'out.png', 'out'])


def test_what_is_lost_is_said(demo):
    write_image('deep.png', Picture(torch.rand(3, 4, 4), torch.rand(1, 4, 4), bits=16))
    status, _, err = demo('-input', 'deep.png', '-scale', '2', '-output', 'out.jpg')
    assert status == 0 and err.count('note: ') == err.count('\n') == 2


def test_from_another_folder(tmp_path, weights):
    """In a process of its own, with paths relative to the current folder."""
    write_image(tmp_path / 'in.png', Picture(torch.rand(3, 4, 4)))
    command = [sys.executable, DEMO, '-input', 'in.png', '-model', weights, '-scale', '2', '-output', 'out.png']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and (tmp_path / 'out.png').exists()


# ---------------------------------------------------------------- which weights


@pytest.fixture
def kinds(demo, monkeypatch, tmp_path):
    """Small weights for clean images and for photos in the place of the bundled ones, and files of both kinds."""
    for seed, name in enumerate(('light', 'photo')):
        torch.manual_seed(seed)
        models.save(tmp_path / f'{name}.pth', models.build(TINY))
        monkeypatch.setitem(bundled.BUNDLED, name, tmp_path / f'{name}.pth')
    monkeypatch.setattr(bundled.blended, '__defaults__', (tmp_path / 'light.pth', tmp_path / 'photo.pth'))
    Path('files').mkdir()
    with Image.open('in.png') as image:
        image.save('files/a.jpg')
        image.save('files/b.webp')
        image.save('files/c.webp', lossless=True)
        image.save('files/d.png')

    def output(path, *options):
        status, out, err = demo('-input', path, '-scale', '2', '-output', 'out.png', '-overwrite', *options, model=None)
        assert (status, err) == (0, ''), err
        (line,) = [line.split(None, 1)[1] for line in out.splitlines() if line.startswith('model ')]
        return read_image('out.png')[0].rgb, line

    return output


def rendered(path, weights):
    image = read_image(path)[0].rgb
    model = weights if isinstance(weights, torch.nn.Module) else models.load(weights)
    return (model.render(image[None], (12, 10))[0].clamp(0, 1) * 255).round() / 255


def near(image, expected):
    return (image - expected).abs().max() <= 1.001 / 255


@pytest.mark.parametrize(
    'path, name, why',
    [
        ('files/a.jpg', 'photo', 'JPEG loses detail; -model light takes the file as it is'),
        ('files/b.webp', 'photo', 'WebP loses detail; -model light takes the file as it is'),
        ('files/c.webp', 'light', 'WebP loses nothing; -model photo removes noise and artefacts'),
        ('files/d.png', 'light', 'PNG loses nothing; -model photo removes noise and artefacts'),
    ],
)
def test_the_kind_of_file_decides_unless_the_user_does(kinds, path, name, why):
    image, line = kinds(path)
    assert line == f'{name} ({why})' and near(image, rendered(path, f'{name}.pth'))
    other = {'light': 'photo', 'photo': 'light'}[name]
    assert not near(image, rendered(path, f'{other}.pth'))
    image, line = kinds(path, '-model', other)
    assert line == other and near(image, rendered(path, f'{other}.pth'))
    assert kinds(path, '-model', 'bicubic')[1] == 'bicubic'


def test_the_dial_blends_the_two(kinds):
    outputs = {clean: kinds('files/a.jpg', '-clean', clean) for clean in ('0', '0.25', '1')}
    assert near(outputs['0'][0], rendered('files/a.jpg', 'light.pth'))
    assert near(outputs['1'][0], rendered('files/a.jpg', 'photo.pth'))
    light, photo = models.load('light.pth'), models.load('photo.pth')
    for own, other in zip(light.parameters(), photo.parameters()):
        own.data.lerp_(other.data, 0.25)
    assert near(outputs['0.25'][0], rendered('files/a.jpg', light))
    assert outputs['0.25'][1] == 'light and photo, 0.25 of photo'


def test_a_folder_says_how_many_went_which_way(demo, kinds):
    status, out, err = demo('-input', 'files', '-scale', '2', '-output', 'results', model=None)
    assert (status, err) == (0, '')
    assert [line for line in out.splitlines() if line.startswith(('photo', 'light'))] == [
        'photo (JPEG loses detail; -model light takes the file as it is): 1 image',
        'photo (WebP loses detail; -model light takes the file as it is): 1 image',
        'light (WebP loses nothing; -model photo removes noise and artefacts): 1 image',
        'light (PNG loses nothing; -model photo removes noise and artefacts): 1 image',
    ]
    for name, weights in (('a.jpg', 'photo.pth'), ('d.png', 'light.pth')):
        result = read_image(Path('results', name))[0].rgb
        assert (result - rendered(Path('files', name), weights)).abs().mean() < 0.05
    assert 'photo' not in demo('-input', 'files', '-output', 'more', '-quiet', model='bicubic')[1]


def test_mistakes_about_weights(demo, kinds):
    def check(*options, said):
        status, out, err = demo('-input', 'files/a.jpg', '-output', 'out.png', *options, model=None)
        assert status == 2 and out == '' and err.count('\n') == 1 and said in err, err

    check('-clean', '1.5', said="'1.5' is not a number from 0 to 1")
    check('-clean', 'nan', said="'nan' is not a number from 0 to 1")
    check('-clean', 'very', said="'very' is not a number from 0 to 1")
    check('-clean', '0.5', '-model', 'light', said='not allowed with')
    check('-model', 'foto', said='foto')
    models.save('photo.pth', models.build({**TINY, 'args': {**TINY['args'], 'channels': 16}}))
    check('-clean', '0.5', said='photo.pth: only models of one architecture can be averaged')
    assert not Path('out.png').exists()


def test_help(demo):
    status, out, err = demo('--help', model=None)
    assert (status, err) == (0, '')
    for option in (
        'input',
        'output',
        'format',
        'overwrite',
        'shard',
        'scale',
        'resolution',
        'longest',
        'megapixels',
        'compare',
        'zoom',
        'model',
        'clean',
        'ensemble',
        'precision',
        'tile',
        'device',
        'quiet',
        'debug',
    ):
        assert f'  -{option}' in out
    assert out.count('demo.py -input') == 7


@pytest.mark.parametrize('ensemble', [False, True])
@pytest.mark.parametrize('high', [1, 4, 17, 99])
def test_strips_are_the_whole(weights, monkeypatch, ensemble, high):
    picture = Picture(torch.rand(3, 8, 7), torch.rand(1, 8, 7))
    upscaler = Upscaler(models.load(weights), torch.device('cpu'), ensemble)
    whole = upscaler(picture, (41, 30))
    monkeypatch.setattr('models.rendering.upscaler.free_memory', lambda device: 2 * BYTES * 30 * (high + 0.5))
    strips = upscaler.strips((41, 30))
    assert [row for rows in strips for row in rows] == list(range(41)) and len(strips[0]) == min(high, 41)
    monkeypatch.setattr('models.rendering.render.free_memory', lambda device: 4e4 * high)
    bands = list(upscaler.bands(picture, (41, 30)))
    assert len(bands) == (len(strips) if ensemble or high < 6 else {17: 2, 99: 1}[high])  # an LR row makes 5 or 6
    together = joined(bands)
    for name in ('rgb', 'alpha'):
        assert (getattr(together, name) - getattr(whole, name)).abs().max() < 1e-5


@pytest.mark.parametrize('output', ['large.png', 'large.tif', 'large.jpg'])
def test_an_output_larger_than_memory_is_written_in_strips(demo, monkeypatch, output):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 7, 4), np.uint8)).save('in.png')
    command = '-input', 'in.png', '-resolution', '41,30', '-output'
    assert demo(*command, f'whole-{output}', model='bicubic')[0] == 0
    for module in 'upscaler', 'render':
        monkeypatch.setattr(f'models.rendering.{module}.free_memory', lambda device: 2 * BYTES * 30 * 4.5)
    written = []
    write = Writer.write
    monkeypatch.setattr(Writer, 'write', lambda self, rows: written.append(rows.shape[1]) or write(self, rows))
    assert demo(*command, output, model='bicubic')[0] == 0
    assert len(written) > 4 and sum(written) == 41
    assert torch.equal(read_image(output)[0].rgb, read_image(f'whole-{output}')[0].rgb)
    status, _, err = demo(*command, f'other-{output}', '-compare', 'both.png', model='bicubic')
    assert status == 2 and 'leave out -compare' in err and err.count('\n') == 1
    assert not Path(f'other-{output}').exists() and not Path('both.png').exists()


# ---------------------------------------------------------------- many images


@pytest.fixture
def album(demo):
    """`tree` holds images in folders, and what is none of them; returns a function that lists the files of a folder."""
    for name in (
        'a.png',
        'b.jpg',
        'c.GIF',
        'deep/a.png',
        'deep/er/d.webp',
        '.hidden.png',
        '.git/x.png',
        '__MACOSX/y.png',
    ):
        path = Path('tree', name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 4, 3), len(name), np.uint8)).save(path)
    for name in ('Thumbs.db', 'notes.txt', 'deep/.DS_Store', 'deep/desktop.ini'):
        Path('tree', name).write_text('no image')

    def files(folder):
        return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())

    return files


ALL = ['a.png', 'b.jpg', 'c.png', 'deep/a.png', 'deep/er/d.webp']


def test_folder(demo, album):
    status, out, err = demo('-input', 'tree', '-scale', '2', '-output', 'out', model='bicubic')
    assert (status, err) == (0, '') and album('out') == ALL
    assert out.splitlines()[0].startswith('[1/5] out/a.png  6 x 8') and out.splitlines()[-1].startswith('5 of 5 images')
    assert 'left out: 1' in out
    assert all(read_image(Path('out', name))[0].rgb.shape == (3, 6, 8) for name in ALL)


def test_folder_in_one_format_with_comparisons(demo, album):
    assert demo('-input', 'tree/', '-output', 'out', '-format', 'tiff', '-compare', 'both', model='bicubic')[0] == 0
    assert album('out') == [str(Path(name).with_suffix('.tiff')) for name in ALL] == album('both')


def test_output_inside_the_input_is_not_an_input(demo, album):
    for _ in range(2):
        assert demo('-input', 'tree', '-output', 'tree/large', '-compare', 'tree/both', model='bicubic')[0] == 0
        assert album('tree/large') == ALL == album('tree/both')


def test_pattern_and_several(demo, album):
    """A pattern that the shell has left alone; folders keep their names when they are not the only input."""
    assert demo('-input', 'tree/*', 'in.png', 'in.png', '-output', 'out', model='bicubic')[0] == 1
    assert album('out') == ['a.png', 'b.jpg', 'c.png', 'deep/a.png', 'deep/er/d.webp', 'in.png']
    assert demo('-input', 'tree/**/a.p?g', '-output', 'two', model='bicubic')[0] == 2
    assert demo('-input', 'tree/deep/*/*', '-output', 'one.png', model='bicubic')[0] == 0
    Path('odd[1].png').write_bytes(Path('in.png').read_bytes())
    assert demo('-input', 'odd[1].png', '-output', 'odd.png', model='bicubic')[0] == 0


def test_two_inputs_of_one_output_are_refused(demo, album):
    Path('tree/b.png').write_bytes(Path('tree/a.png').read_bytes())
    status, out, err = demo('-input', 'tree', '-format', 'png', '-output', 'out')
    assert status == 2 and err.count('\n') == 1 and 'tree/b.jpg' in err and 'tree/b.png' in err
    assert not Path('out').exists()
    status, _, err = demo('-input', 'tree/a.png', 'tree/deep/a.png', '-output', 'out')
    assert status == 2 and 'tree/a.png' in err and 'tree/deep/a.png' in err
    assert 'different files' in demo('-input', 'tree', '-output', 'out', '-compare', 'out')[2]
    assert 'already the file of' in demo('-input', 'tree/b.jpg', 'tree/b.png', '-output', 'tree', '-format', 'png')[2]


def test_one_bad_file_does_not_stop_the_others(demo, album):
    Path('tree/bad.png').write_bytes(Path('tree/a.png').read_bytes()[:40])
    Path('tree/deep/bad.jpg').write_text('text')
    status, out, err = demo('-input', 'tree', 'none.png', '-output', 'out', '-scale', '2', model='bicubic')
    lines = err.splitlines()
    assert status == 1 and len(lines) == 3 and '5 of 8 images' in out
    for line, name in zip(lines, ('tree/bad.png', 'tree/deep/bad.jpg', 'none.png')):
        assert line.startswith(f'failed: {name}: ')
    assert album('out') == [f'tree/{name}' for name in ALL]


def test_a_run_goes_on_where_it_stopped(demo, album):
    command = ['-input', 'tree', '-output', 'out']
    Path('out/deep').mkdir(parents=True)
    Path('out/deep/a.png').write_text('made before')
    status, out, _ = demo(*command, model='bicubic')
    assert status == 0 and album('out') == ALL and '4 of 5 images' in out and '1 were there already' in out
    assert Path('out/deep/a.png').read_text() == 'made before'
    assert '0 of 5 images' in demo(*command, model='bicubic')[1]
    assert '5 of 5 images' in demo(*command, '-overwrite', model='bicubic')[1]
    assert read_image('out/deep/a.png')[0].rgb.shape == (3, 12, 16)


def test_shards_divide_the_work(demo, album):
    shares = []
    for i in range(1, 4):
        assert demo('-input', 'tree', '-output', f'out{i}', '-shard', f'{i}/3', model='bicubic')[0] == 0
        shares.append(album(f'out{i}'))
    assert sorted(sum(shares, [])) == ALL and [len(share) for share in shares] == [2, 2, 1]
    assert '0 of 0 images' in demo('-input', 'in.png', '-output', 'none/', '-shard', '2/2', model='bicubic')[1]


def test_a_note_is_said_once_and_counted(demo, album):
    status, _, err = demo('-input', 'tree', '-scale', '9', '-output', 'out')
    lines = [line for line in err.splitlines() if 'trained' in line]
    assert status == 0 and len(lines) == 2 and 'tree/a.png' in lines[0] and lines[1].endswith('of 5 images')


def test_folders_in_the_way(demo, album):
    Path('file').write_text('')
    refused(demo('-input', 'tree', '-output', 'file/'), 'file', left=['in.png', 'tree', 'file'])
    refused(demo('-input', 'tree', '-output', 'file/out'), 'file', left=['in.png', 'tree', 'file'])
    Path('empty/.git').mkdir(parents=True)
    refused(demo('-input', 'empty', '-output', 'out'), 'empty: no images', left=['in.png', 'tree', 'file', 'empty'])
    Path('out').mkdir()
    Path('out/deep').write_text('')
    status, _, err = demo('-input', 'tree', '-output', 'out', model='bicubic')
    assert status == 1 and err.count('failed: ') == err.count('\n') == 2
    assert album('out') == ['a.png', 'b.jpg', 'c.png', 'deep']


# ---------------------------------------------------------------- zoom


def test_zoom_is_an_animation(demo, monkeypatch):
    write_image('rgba.png', Picture(torch.rand(3, 11, 9), torch.rand(1, 11, 9)))
    status, out, err = demo('-input', 'rgba.png', '-zoom', '7,2', '-output', 'zoom.gif', model='bicubic')
    assert (status, err) == (0, '') and 'scale    1 to 16' in out and 'size     10 x 8' in out
    with Image.open('zoom.gif') as image:
        assert image.n_frames == 81 and image.size == (8, 10) and image.info['loop'] == 0
    status, out, _ = demo('-input', 'rgba.png', '-zoom', '7,2', '-output', 'big.gif', '-scale', '2', model='bicubic')
    assert 'scale    2 to 32' in out and 'size     22 x 18' in out


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['-zoom', '6,0'], 'row 6, column 0'),
        (['-zoom', '0,5'], 'row 0, column 5'),
        (['-zoom', '1,1', '-compare', 'both.png'], 'compare'),
        (['-zoom', '1,1', '-format', 'png'], 'format'),
        (['-zoom', '1,1', '-shard', '1/2'], 'shard'),
    ],
)
def test_zooms_that_make_no_sense(demo, arguments, said):
    refused(demo('-input', 'in.png', '-output', 'out.gif', *arguments), said)


def test_zoom_has_one_input_and_one_output(demo):
    refused(demo('-input', 'in.png', '.', '-output', 'out.gif', '-zoom', '1,1'), 'one image')
    refused(demo('-input', 'in.png', '-output', 'out', '-zoom', '1,1'), 'one file')
    refused(demo('-input', 'in.png', '-output', 'no/out.gif', '-zoom', '1,1'), 'no folder')
    Path('out.gif').write_text('')
    refused(demo('-input', 'in.png', '-output', 'out.gif', '-zoom', '1,1'), 'exists', left=['in.png', 'out.gif'])


def test_mp4_without_its_package(demo, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    refused(demo('-input', 'in.png', '-output', 'out.mp4', '-zoom', '1,1'), 'imageio-ffmpeg')


@given(st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.integers(1, 60)] * 2), st.data())
def test_views_stay_inside_and_close_in_on_the_point(lr_size, frame, data):
    at = [data.draw(st.integers(0, n - 1)) for n in lr_size]
    first, seen = first_scale(lr_size, frame), []
    for depth in (1, 1.7, 5, 16):
        size, part = view(lr_size, frame, at, first * depth)
        check_options(torch.zeros(1, 3, *lr_size), size, None, 'fp32', part)
        assert tuple(map(len, part)) == frame and all(chosen.step == FINE for chosen in part)
        edges = [
            ((chosen[0] - FINE // 2) * n / fine, (chosen[-1] + 1 + FINE // 2) * n / fine)
            for chosen, n, fine in zip(part, lr_size, size)
        ]
        for (low, high), n, n_out, i in zip(edges, lr_size, frame, at):
            slack = 2 * n / (n_out * FINE)
            assert -1e-9 <= low <= i + 0.5 + slack and i + 0.5 - slack <= high <= n + 1e-9
            if low > slack and high < n - slack:
                assert (low + high) / 2 == pytest.approx(i + 0.5, abs=slack)
        seen.append(edges)
    for wide, close in zip(seen, seen[1:]):
        assert all(a[0] <= b[0] + 1e-2 * n and b[1] <= a[1] + 1e-2 * n for a, b, n in zip(wide, close, lr_size))


def test_first_frame_is_the_image_and_the_last_is_the_point():
    lr, model = torch.rand(3, 12, 10), models.load('bicubic')
    frames = list(zoom(Upscaler(model, torch.device('cpu')).image, lr, (12, 10), (4, 5), 16, 3))
    assert [frame.shape for frame in frames] == [(3, 12, 10)] * 3
    assert (frames[0] - lr).abs().max() < 1e-5
    whole = model.render(lr[None], (16 * 12, 16 * 10))[0]
    assert (frames[2] - whole[:, 66:78, 83:93]).abs().max() < 1e-5


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    'scale, said',
    [
        ('0', 'positive'),
        ('nan', 'positive'),
        ('inf', 'positive'),
        ('-2', 'positive'),
        ('2,-1', 'positive'),
        ('', 'positive'),
        ('big', "'big'"),
        ('1,2,3', "'1,2,3'"),
        ('1e308', '1,000,000,000'),
        ('1e5', '1,000,000,000'),
        ('0.01', 'nothing would be left'),
        ('1e300,1e-300', 'nothing would be left'),
    ],
)
def test_scales_that_make_no_sense(demo, scale, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', '-scale', scale), said)


@pytest.mark.parametrize(
    'resolution, said',
    [
        ('0,5', "'0,5'"),
        ('5', "'5'"),
        ('5,x', "'5,x'"),
        ('5,-5', "'5,-5'"),
        ('1.5,2', "'1.5,2'"),
        ('5,5,5', "'5,5,5'"),
        (',', "','"),
        ('0,', "'0,'"),
        (',-3', "',-3'"),
        ('9' * 5000 + ',1', 'resolution'),
        ('100000,100000', '1,000,000,000'),
        ('9' * 999 + ',', '1,000,000,000'),
    ],
)
def test_resolutions_that_make_no_sense(demo, resolution, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', '-resolution', resolution), said)


@pytest.mark.parametrize(
    'options, said',
    [
        (['-scale', '2', '-resolution', '5,5'], 'not allowed'),
        (['-scal', '2'], '-scal'),
        (['-color'], '-color'),
        (['-stray', 'x'], 'stray'),
        (['-device', 'abacus'], 'abacus'),
        (['-scale', '2', '-longest', '9'], 'not allowed'),
        (['-longest', '0'], "'0'"),
        (['-longest', '2.5'], "'2.5'"),
        (['-longest', '99999999'], '1,000,000,000'),
        (['-megapixels', '-1'], "'-1'"),
        (['-megapixels', 'nan'], "'nan'"),
        (['-megapixels', '2000'], '1,000,000,000'),
        (['-megapixels', '1e308'], "'1e308'"),
        (['-tile', '0'], "'0'"),
        (['-tile', '2.5'], "'2.5'"),
        (['-precision', 'fp8'], 'fp8'),
        (['-precision', 'fp16'], 'CUDA'),
        (['-format', 'gif'], 'gif'),
        (['-format', 'jpg'], 'out.png'),
        (['-shard', '1/2'], 'folder'),
        (['-shard', '0/2'], "'0/2'"),
        (['-shard', '3/2'], "'3/2'"),
        (['-shard', '2'], "'2'"),
        (['-zoom', '1,1'], "'.png'"),
        (['-zoom', '-1,1'], 'zoom'),
    ],
)
def test_options_that_make_no_sense(demo, options, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', *options), said)


@pytest.mark.parametrize(
    'arguments, said',
    [
        ([], '-input'),
        (['-input', 'in.png'], '-output'),
        (['-input', 'none.png', '-output', 'out.png'], 'none.png: no such file'),
        (['-input', '.', '-output', 'out.png'], 'need a folder'),
        (['-input', 'in.png', 'too.png', '-output', 'out.png'], 'need a folder'),
        (['-input', '', '-output', 'out.png'], 'no name'),
        (['-input', '*.tif', '-output', 'out'], '*.tif: no file matches'),
        (['-input', '.', '-output', '.'], 'and of their results'),
        (['-input', 'in.png', '-output', '.'], 'different files'),
        (['-input', 'in.png', '-output', 'out.png', '-compare', '.'], "extension ''"),
        (['-input', 'in.png', '-output', 'out.gif'], "'.gif'"),
        (['-input', 'in.png', '-output', 'no/out.png'], 'no folder'),
        (['-input', 'in.png', '-output', 'out.png', '-compare', 'both'], 'both'),
        (['-input', 'in.png', '-output', './in.png'], 'different files'),
        (['-input', 'in.png', '-output', 'a.png', '-compare', 'a.png'], 'different files'),
    ],
)
def test_files_that_do_not_do(demo, arguments, said):
    before = Path('in.png').read_bytes()
    refused(demo(*arguments), said)
    assert Path('in.png').read_bytes() == before


def test_input_that_is_no_image(demo):
    Path('text.png').write_text('no image\n')
    refused(demo('-input', 'text.png', '-output', 'out.png'), 'text.png', left=['in.png', 'text.png'])
    Path('half.png').write_bytes(Path('in.png').read_bytes()[:-30])
    refused(demo('-input', 'half.png', '-output', 'out.png'), 'half.png', left=['in.png', 'text.png', 'half.png'])


def test_weights_that_do_not_do(demo):
    refused(demo('-input', 'in.png', '-output', 'out.png', model='none.pth'), 'none.pth')
    refused(demo('-input', 'in.png', '-output', 'out.png', model='in.png'), 'in.png')


def test_weights_that_give_no_numbers(demo, weights, tmp_path):
    content = torch.load(weights, weights_only=True)
    next(iter(content['model']['sd'].values())).fill_(float('nan'))
    torch.save(content, 'nan.pth')
    refused(demo('-input', 'in.png', '-output', 'out.png', model='nan.pth'), 'not finite', left=['in.png', 'nan.pth'])


def test_an_existing_result_survives_a_failure(demo):
    Path('out.png').write_bytes(b'kept')
    command = ['-input', 'in.png', '-output', 'out.png']
    refused(demo(*command), 'out.png: exists already', '-overwrite', left=['in.png', 'out.png'])
    refused(demo(*command, '-overwrite', model='none.pth'), 'none.pth', left=['in.png', 'out.png'])
    assert Path('out.png').read_bytes() == b'kept'
    assert demo(*command, '-overwrite')[0] == 0 and read_image('out.png')[0].rgb.shape[1:] == (24, 20)
    refused(demo(*command[:3], 'a.png', '-compare', 'out.png'), 'out.png: exists', left=['in.png', 'out.png'])


def test_memory_that_does_not_suffice(monkeypatch):
    upscaler = Upscaler(models.load('bicubic'), torch.device('cpu'))

    def render_bands(lr, size):
        yield torch.zeros(1, 3, 1, 80)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(upscaler.model, 'render_bands', render_bands)
    with pytest.raises(UserError, match=re.escape('90 x 80 pixels need more memory')):
        upscaler(Picture(torch.rand(3, 9, 8)), (90, 80))


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, DEMO, '-input', 'none.png', '-output', 'out.png', '-debug']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'Traceback' in done.stderr


# ---------------------------------------------------------------- names, folders and what cannot be read


def status_of(folder, *options, **more):
    """The exit status of `processes.demo`."""
    process = processes.start(processes.demo, folder, *options, **more)
    process.join()
    return process.exitcode


def save(path, size=(3, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


@pytest.mark.parametrize('encoding', ['cp1252', 'ascii', 'utf-8'])
def test_names_that_the_terminal_cannot_print(tmp_path, encoding):
    names = ['図.png', 'Grüße.png', 'a\nb.png', os.fsdecode(b'\xff.png')]
    for name in names:
        save(tmp_path / 'in' / name)
    (tmp_path / 'in' / '写真.jpg').write_text('no image')
    status = status_of(tmp_path, '-input', 'in', '-output', 'out', encoding=encoding)
    said, failed = ((tmp_path / name).read_bytes() for name in ('stdout', 'stderr'))
    assert status == 1 and b'4 of 5 images' in said and failed.startswith(b'failed: ') and failed.count(b'\n') == 1
    assert len(said.splitlines()) == 5 + 1  # a line for each file, and the end
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(names)


@pytest.mark.parametrize('letter', ['x', 'ü', '写', '🖼'])
@pytest.mark.parametrize('length', [200, 241, 255])
def test_long_names(demo, letter, length):
    name = letter * ((length - 4) // len(letter.encode()))
    name = name + 'x' * (length - 4 - len(name.encode())) + '.jpg'
    assert len(name.encode()) == length
    save(Path('tree', name))
    status, _, err = demo('-input', 'tree', '-output', 'out', model='bicubic')
    assert (status, err) == (0, '') and os.listdir('out') == [name]
    assert demo('-input', f'tree/{name}', '-output', name, model='bicubic')[0] == 0 and os.path.exists(name)


def test_names_that_are_too_long(demo):
    name = 'x' * 251 + '.jpg'
    save(Path('tree', name))
    save(Path('tree/a.jpg'))
    status, _, err = demo('-input', 'tree', '-output', 'out', '-format', 'webp', model='bicubic')
    assert status == 1 and err.startswith('failed: ') and err.count('\n') == 1 and os.listdir('out') == ['a.webp']
    for arguments in (['-input', 'x' * 300, '-output', 'a.png'], ['-input', 'in.png', '-output', 'x' * 300 + '.png']):
        status, out, err = demo(*arguments, model='bicubic')
        assert status == 2 and err.startswith('error: ') and err.count('\n') == 1


def test_names_of_jpeg_are_kept(demo):
    for name in ('a.jfif', 'b.jpe', 'c.JPEG'):
        save(Path('tree', name))
    assert demo('-input', 'tree', '-output', 'out', model='bicubic')[0] == 0
    assert sorted(os.listdir('out')) == ['a.jfif', 'b.jpe', 'c.JPEG']
    assert all(path.read_bytes()[:2] == b'\xff\xd8' for path in Path('out').iterdir())


def test_a_dash_is_no_file(demo):
    refused(demo('-input', 'in.png', '-output', '-'), 'not to stdout')
    refused(demo('-input', 'in.png', '-output', 'a.png', '-compare', '-'), 'not to stdout')
    refused(demo('-input', '-', '-output', 'a.png'), 'not from stdin')
    assert demo('-input', 'in.png', '-output', './-/', model='bicubic')[0] == 0 and os.listdir('-') == ['in.png']


def test_links_that_lead_nowhere_do_not_stop_the_others(demo):
    save(Path('tree/a.png'))
    Path('tree/loop.png').symlink_to('loop.png')
    Path('tree/loop').symlink_to('loop')
    Path('tree/one.png').symlink_to('two.png')
    Path('tree/two.png').symlink_to('one.png')
    Path('tree/gone.png').symlink_to('nowhere.png')
    Path('tree/deep').symlink_to('.')
    os.mkfifo('tree/pipe.png')
    status, out, err = demo('-input', 'tree', '-output', 'out', model='bicubic')
    assert status == 1 and '1 of 6 images' in out and os.listdir('out') == ['a.png']
    assert [line.split(':')[1].strip() for line in err.splitlines()] == [
        f'tree/{name}.png' for name in ('gone', 'loop', 'one', 'pipe', 'two')
    ]
    refused(demo('-input', 'tree/loop', '-output', 'b.png'), 'a link', left=['in.png', 'tree', 'out'])
    refused(demo('-input', 'tree/a.png', '-output', 'tree/loop/'), 'loop', left=['in.png', 'tree', 'out'])


def test_folders_that_cannot_be_read_do_not_stop_the_others(demo, monkeypatch):
    for name in ('a.png', 'closed/b.png', 'open/c.png'):
        save(Path('tree', name))
    Path('empty').mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    status, out, err = demo('-input', 'tree', '-output', 'out', model='bicubic')
    assert status == 1 and err == 'failed: tree/closed: cannot be read (Permission denied)\n' and '2 of 2 images' in out
    status, out, err = demo('-input', 'tree/open', 'tree/closed', 'empty', '-output', 'two', model='bicubic')
    assert status == 1 and err.count('failed: ') == 2 and '1 of 1 images' in out and 'empty: no images' in err
    status, out, err = demo('-input', 'tree/closed', '-output', 'three', model='bicubic')
    assert status == 2 and err == 'error: tree/closed: cannot be read (Permission denied)\n'


def test_a_file_that_may_not_be_opened_does_not_stop_the_others(demo, monkeypatch):
    save(Path('tree/a.png'))
    save(Path('tree/b.png'))

    def refuse(path, *arguments, **options):
        if os.fspath(path) == os.path.join('tree', 'a.png'):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return open(path, *arguments, **options)

    monkeypatch.setattr('datasets.pictures.image_io.open', refuse, raising=False)
    status, out, err = demo('-input', 'tree', '-output', 'out', model='bicubic')
    assert status == 1 and err == 'failed: tree/a.png: cannot be read (Permission denied)\n' and '1 of 2' in out


def test_files_left_out_are_named_by_kind_and_number(demo, monkeypatch):
    lacking = {name: formats.OPTIONAL[name] for name in ('HEIF', 'JXL')}
    monkeypatch.setattr(jobs, 'LACKING', lacking)
    monkeypatch.setattr(jobs, 'readable_suffixes', lambda: {'.png', '.jpg'})
    for name in ('a.heic', 'b.HEIC', 'c.heic', 'd.jxl', 'e.txt', 'f.txt', 'LICENSE', '.hidden'):
        Path('phone', name).parent.mkdir(exist_ok=True)
        Path('phone', name).write_text('x')
    said = 'phone: no images in this folder that can be read: 3 .heic (HEIC needs the package pillow-heif), 2 .txt'
    refused(demo('-input', 'phone', '-output', 'out'), said, left=['in.png', 'phone'])
    save(Path('phone/g.png'))
    status, out, err = demo('-input', 'phone', '-output', 'out', model='bicubic')
    last = out.splitlines()[-1]
    assert (status, err) == (0, '') and '3 .heic (HEIC needs the package pillow-heif), 2 .txt' in last
    assert '1 .jxl (JPEG XL needs the package pillow-jxl-plugin)' in last and '1 without extension' in last


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    'number, suffix', [(signal.SIGTERM, 'png'), (signal.SIGHUP, 'tif'), (signal.SIGINT, 'jpg')], ids=str
)
def test_a_signal_leaves_no_partial_file(tmp_path, number, suffix):
    save(tmp_path / 'in.png')
    process = processes.start(processes.demo, tmp_path, 'in.png', '-o', f'out.{suffix}', until=number)
    while not (tmp_path / 'begun').exists():
        assert process.is_alive(), (tmp_path / 'stderr').read_text()
        time.sleep(0.01)
    assert list(tmp_path.glob(f'.out.*.partial.{suffix}'))
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert (tmp_path / 'stderr').read_text() == ('interrupted\n' if number == signal.SIGINT else '')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['begun', 'in.png', 'stderr', 'stdout']


@pytest.mark.parametrize('output', ['out.png', 'out/'])
def test_a_closed_pipe_and_a_full_disk_behind_stdout(tmp_path, output):
    save(tmp_path / 'in.png')
    command = ['-input', 'in.png', '-output', output, '-overwrite']
    full = '/dev/full'
    assert status_of(tmp_path, *command, stdout=None) == 141 and (tmp_path / 'stderr').read_text() == ''
    assert status_of(tmp_path, *command, stdout=full) == 2
    assert (tmp_path / 'stderr').read_text() == 'error: stdout cannot be written (No space left on device)\n'
    assert status_of(tmp_path, '-help', stdout=None) == 141 and (tmp_path / 'stderr').read_text() == ''
    assert status_of(tmp_path, '-help', stdout=full) == 2
    assert (tmp_path / 'stderr').read_text() == 'error: stdout cannot be written (No space left on device)\n'
    written = sorted(path.name for path in tmp_path.rglob('*') if path.is_file())
    assert written == sorted(['in.png', 'stderr', 'in.png' if output == 'out/' else 'out.png'])


# ---------------------------------------------------------------- habits


@pytest.mark.parametrize(
    'arguments',
    [
        ['in.png', '-o', 'out.png'],
        ['-o', 'out.png', 'in.png'],
        ['-i', 'in.png', '-o', 'out.png'],
        ['--output', 'out.png', '--i', 'in.png'],
        ['-quiet', 'in.png', '-output', 'out.png', '-overwrite'],
        ['-o=out.png', '-overwrite', 'in.png'],
    ],
)
def test_inputs_need_no_option(demo, arguments):
    status, _, err = demo(*arguments, '-scale', '2', model='bicubic')
    assert (status, err) == (0, '') and read_image('out.png')[0].rgb.shape[1:] == (12, 10)


def test_inputs_with_and_without_option_are_one_list(demo):
    write_image('b.png', Picture(torch.rand(3, 2, 2)))
    assert demo('in.png', '-o', 'out', '-i', 'b.png', model='bicubic')[0] == 0
    assert sorted(os.listdir('out')) == ['b.png', 'in.png']


@pytest.mark.parametrize('text', ['2x', '2', '2X', '2.0', '2,2', '2x2'])
def test_scales_as_people_write_them(demo, text):
    assert demo('in.png', '-o', 'out.png', '-scale', text, model='bicubic')[0] == 0
    assert read_image('out.png')[0].rgb.shape[1:] == (12, 10)


@given(*[st.floats(0.01, 99, allow_nan=False).map(lambda value: round(value, 3))] * 2)
def test_one_parser_of_scales(y, x):
    for text in (f'{y},{x}', f'{y}x{x}', f'{y} X {x}'):
        assert parse_scale(text) == (y, x) and by_scale(text)((10, 20)) == (10 * y, 20 * x)
    assert by_scale(f'{y}x')((10, 20)) == (10 * y, 20 * y)


@pytest.mark.parametrize(
    'text', ['1920x1080', '1920X1080', '1920 x 1080', '1920×1080', '1920*1080', '1920:1080', '1920 1080']
)
def test_a_resolution_in_which_the_order_is_unclear(demo, text):
    said = repr(text), 'the height, a comma, the width', '1080,1920 is an image 1920 wide and 1080 high'
    refused(demo('-input', 'in.png', '-output', 'out.png', '-resolution', text), *said)


def test_comparison_and_zoom_are_srgb(demo, monkeypatch):
    program = runpy.run_path(str(DEMO))
    seen = program['seen']
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, 2, 2)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    assert (seen(Picture(red, icc=srgb)) - red).abs().max() < 2.5 / 255 and seen(Picture(red)) is red
    with pytest.warns(UserWarning, match='cannot be applied'):
        assert seen(Picture(red, icc=b'x' * 200)) is red
    write_image('p.png', Picture(torch.rand(3, 4, 4), icc=srgb[:128] + b'\xff' * 300))
    status, _, err = demo('p.png', '-o', 'a.png', '-compare', 'both.png', model='bicubic')
    assert status == 0 and err == 'note: the colour profile cannot be applied: shown as if it were sRGB\n'
    write_image('hdr.png', Picture(torch.rand(3, 4, 4), labels={'cICP': bytes([9, 16, 0, 1])}))
    status, _, err = demo('hdr.png', '-o', 'b.png', '-compare', 'b.jpg', model='bicubic')
    assert status == 0 and err.count('cICP') == err.count('\n') == 1 and 'JPEG' in err
    status, _, err = demo('hdr.png', '-o', 'b.gif', '-zoom', '1,1', '-resolution', '4,4', model='bicubic')
    assert status == 0 and err.count('cICP') == err.count('\n') == 1


def test_starting_loads_only_what_every_image_needs():
    """torchvision and SciPy's parts take three seconds and 200 MB; they are loaded when they are used."""
    code = "import demo, sys; print(*{'torchvision', 'scipy.signal', 'scipy.ndimage', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, '-c', code], cwd=Path(DEMO).parent, stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == []
