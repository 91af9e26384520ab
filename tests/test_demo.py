"""demo.py as people call it: what it writes and prints, and one line and status 2 for every mistake."""
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from datasets import png16
from datasets.image_io import Picture, read_image, write_image
from datasets.resize import matlab_resize

DEMO = Path(__file__).resolve().parent.parent / 'demo.py'
TINY = {'name': 'msit', 'args': {
    'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8}},
    'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [8]}},
    'channels': 8, 'heads': 2, 'radius': 1, 'msno_kernels': [3, 5], 'mssa_kernels': [3, 5],
}}


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


@pytest.mark.parametrize('options, size', [
    ([], (24, 20)), (['-scale', '3.7'], (22, 18)), (['--scale=2,3.5'], (12, 18)), (['-scale', '0.5'], (3, 2)),
    (['--resolution', '1,1'], (1, 1)), (['-resolution=7,31'], (7, 31)),
])
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
    program['beside_bicubic'](Picture(lr), Picture(sr))
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
    Path('deep.png').write_bytes(png16.encode(samples))
    status, _, err = demo('-input', 'deep.png', '-scale', '1.5', '-output', 'out.png')
    assert (status, err) == (0, '')
    lr = torch.from_numpy(samples.astype(np.float32) / 65535).permute(2, 0, 1)
    expected = models.load(weights).render(lr[None], (8, 6))[0].clamp(0, 1)
    assert (read_image('out.png')[0].rgb - expected).abs().max() <= 1 / 65535


def test_what_is_lost_is_said(demo):
    write_image('deep.png', Picture(torch.rand(3, 4, 4), torch.rand(1, 4, 4), bits=16))
    status, _, err = demo('-input', 'deep.png', '-scale', '2', '-output', 'out.jpg')
    assert status == 0 and err.count('note: ') == err.count('\n') == 2


def test_from_another_folder(tmp_path, weights):
    """As a process of its own, started elsewhere, with the paths of the file's own folder."""
    write_image(tmp_path / 'in.png', Picture(torch.rand(3, 4, 4)))
    command = [sys.executable, DEMO, '-input', 'in.png', '-model', weights, '-scale', '2', '-output', 'out.png']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and (tmp_path / 'out.png').exists()
    assert runpy.run_path(str(DEMO))['BUNDLED'].parent == DEMO.parent / 'modelzoo'


def test_help(demo):
    status, out, err = demo('--help', model=None)
    assert (status, err) == (0, '')
    for option in ('input', 'output', 'model', 'scale', 'resolution', 'compare', 'device', 'debug'):
        assert f'-{option}' in out


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize('scale, said', [
    ('0', 'positive'), ('nan', 'positive'), ('inf', 'positive'), ('-2', 'positive'), ('2,-1', 'positive'),
    ('', 'positive'),
    ('big', "'big'"), ('1,2,3', "'1,2,3'"), ('1e308', '1,000,000,000'), ('1e5', '1,000,000,000'),
    ('0.01', 'nothing would be left'), ('1e300,1e-300', 'nothing would be left'),
])
def test_scales_that_make_no_sense(demo, scale, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', '-scale', scale), said)


@pytest.mark.parametrize('resolution, said', [
    ('0,5', "'0,5'"), ('5', "'5'"), ('5,x', "'5,x'"), ('5,-5', "'5,-5'"), ('1.5,2', "'1.5,2'"), ('5,5,5', "'5,5,5'"),
    ('9' * 5000 + ',1', 'resolution'), ('100000,100000', '1,000,000,000'),
])
def test_resolutions_that_make_no_sense(demo, resolution, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', '-resolution', resolution), said)


@pytest.mark.parametrize('options, said', [
    (['-scale', '2', '-resolution', '5,5'], 'not allowed'), (['-scal', '2'], '-scal'), (['-color'], '-color'),
    (['stray'], 'stray'), (['-device', 'abacus'], 'abacus'),
])
def test_options_that_make_no_sense(demo, options, said):
    refused(demo('-input', 'in.png', '-output', 'out.png', *options), said)


@pytest.mark.parametrize('arguments, said', [
    ([], '-input'), (['-input', 'in.png'], '-output'),
    (['-input', 'none.png', '-output', 'out.png'], 'none.png: no such file'),
    (['-input', '.', '-output', 'out.png'], 'not an image'),
    (['-input', 'in.png', '-output', 'out.gif'], "'.gif'"),
    (['-input', 'in.png', '-output', 'no/out.png'], 'no folder'),
    (['-input', 'in.png', '-output', 'out.png', '-compare', 'both'], 'both'),
    (['-input', 'in.png', '-output', './in.png'], 'different files'),
    (['-input', 'in.png', '-output', 'a.png', '-compare', 'a.png'], 'different files'),
])
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
    refused(demo('-input', 'in.png', '-output', 'out.png', model='none.pth'), left=['in.png', 'out.png'])
    assert Path('out.png').read_bytes() == b'kept'


def test_memory_that_does_not_suffice(weights, monkeypatch):
    program = runpy.run_path(str(DEMO))
    model = models.load(weights)

    def render(lr, size):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(model, 'render', render)
    with pytest.raises(Exception, match=re.escape('90 x 80 pixels need more memory')) as caught:
        program['super_resolve'](model, Picture(torch.rand(3, 9, 8)), (90, 80))
    assert type(caught.value).__name__ == 'UserError'


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, DEMO, '-input', 'none.png', '-output', 'out.png', '-debug']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and 'Traceback' in done.stderr
