"""The bundled weights on the bundled photos."""

import hashlib
import runpy
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import models
from datasets.degradations import case
from datasets.pictures.resize import matlab_resize
from datasets.reduction import reduced
from datasets.wrappers import evaluation_item
from models.evaluation.metrics import psnr
from models.weights import bundled


@pytest.fixture(scope='module')
def model():
    return models.load(ROOT / 'modelzoo/EDSR_light_MSIT.pth')


def tensor(image):
    """`(H, W, 3)`, 0..255, to `(3, H, W)` float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1).clamp(0, 1)


@pytest.mark.parametrize('scale', [2, 3, 3.3, 4, 6])
@pytest.mark.parametrize('photo', sorted(ROOT.glob('tests/photos/*.png')), ids=lambda path: path.stem)
def test_better_than_bicubic(model, photo, scale):
    """By 0.4 dB of luma at least, on a 192 x 192 part."""
    lr, hr = reduced(np.asarray(Image.open(photo))[60:252, 60:252], scale)
    size, factors = hr.shape[:2], (hr.shape[0] / lr.shape[0], hr.shape[1] / lr.shape[1])
    bicubic = tensor(matlab_resize(lr, size, factors, to_uint8=False))
    result = model.render(tensor(lr)[None], size)[0].clamp(0, 1)
    ours, theirs = (psnr(image, tensor(hr), 'benchmark', factors) for image in (result, bicubic))
    assert ours > theirs + 0.4


@pytest.mark.parametrize('photo', sorted(ROOT.glob('tests/photos/*.png')), ids=lambda path: path.stem)
def test_bf16_is_close(model, photo):
    lr = tensor(np.asarray(Image.open(photo))[76:108, 76:108])[None]
    exact, half = (model.render(lr, (105, 100), precision=precision).clamp(0, 1) for precision in ('fp32', 'bf16'))
    assert 50 <= -10 * (exact - half).square().mean().log10() < 120


@pytest.mark.parametrize('name', ['jpeg60', 'noise8', 'noise5+jpeg70'])
def test_those_for_photos_are_the_better_ones_for_photos(model, name):
    """On average over the bundled photos: better than bicubic by 0.4 dB, and than the weights for clean images."""
    contenders = {'bicubic': models.load('bicubic'), 'light': model, 'photo': models.load(bundled.PHOTO)}
    values = {contender: [] for contender in contenders}
    for photo in sorted(ROOT.glob('tests/photos/*.png')):
        item = evaluation_item(photo.stem, np.asarray(Image.open(photo))[60:252, 60:252], (3.0, 3.0), case(name))
        for contender, render in contenders.items():
            sr = render.render(item['lr'][None], item['hr'].shape[-2:])[0].clamp(0, 1)
            values[contender].append(psnr(sr, item['hr'], 'benchmark', item['scale']))
    means = {contender: sum(of_photos) / len(of_photos) for contender, of_photos in values.items()}
    assert means['photo'] > means['bicubic'] + 0.4 and means['photo'] > means['light'] + 0.4, means


def test_blends_lead_from_one_to_the_other(model):
    photo, lr = models.load(bundled.PHOTO), torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    ends = model.render(lr, (20, 20)), photo.render(lr, (20, 20))
    between = [bundled.blended(clean).render(lr, (20, 20)) for clean in (0, 0.25, 0.5, 0.75, 1)]
    assert between[0].equal(ends[0]) and between[-1].equal(ends[1])
    distances = [(image - ends[0]).square().mean() for image in between]
    assert distances == sorted(distances) and distances[0] == 0


@pytest.mark.parametrize('name', ['EDSR_light_MSIT', 'photo_MSIT'])
def test_their_card_names_them(name):
    content = (ROOT / f'modelzoo/{name}.pth').read_bytes()
    assert hashlib.sha256(content).hexdigest() in (ROOT / f'modelzoo/{name}.md').read_text(encoding='utf-8')
    assert len(content) <= 4e6


def test_demo_takes_them_by_default(tmp_path, monkeypatch, capsys):
    command = ['demo.py', '-input', ROOT / 'scripts/demo.png', '-scale', '1.5', '-output', tmp_path / 'out.png']
    monkeypatch.setattr(sys, 'argv', list(map(str, command)))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'demo.py'), run_name='__main__')
    assert not stopped.value.code and 'size     255 x 255' in capsys.readouterr().out
