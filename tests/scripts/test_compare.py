"""scripts/compare.py as users call it: its figure, the PSNR it prints, mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, refused
from PIL import Image

import models
from datasets.image_folder import read_rgb
from datasets.pictures import figures
from datasets.wrappers import evaluation_item
from models.evaluation.loop import evaluate_image

IMAGE = ROOT / 'tests/photos/chelsea.png'


@pytest.fixture
def compare(program):
    """`compare(*options)` runs scripts/compare.py on a part of a photo, beside the weights tiny.pth."""
    Image.open(IMAGE).crop((100, 80, 190, 150)).save('cat.png')
    torch.manual_seed(0)
    model = models.build(TINY)
    model.imnet.layers[-1].weight.data.mul_(10)  # as far from bilinear as to be seen
    models.save('tiny.pth', model)

    def run(*options):
        return program(
            'scripts/compare.py',
            '-device',
            'cpu',
            '-image',
            'cat.png',
            '-output',
            'figure.png',
            '-models',
            'bicubic',
            'tiny.pth',
            *options,
        )

    return run


@pytest.mark.parametrize('text, scale', [('3', (3, 3)), ('2.7', (2.7, 2.7)), ('2x3.5', (2, 3.5))])
@pytest.mark.parametrize('crop, ensemble', [(None, False), ((3, 5, 8, 10), True)])
def test_the_figure_is_that_of_the_outputs(compare, text, scale, crop, ensemble):
    options = (['-crop', ','.join(map(str, crop))] if crop else []) + ['-ensemble'] * ensemble
    status, out, err = compare('-scale', text, *options)
    assert (status, err) == (0, '')
    item = evaluation_item('cat', read_rgb(Path('cat.png')), scale)
    panels = []
    for label, where in (('bicubic', 'bicubic'), ('tiny', 'tiny.pth')):
        scores, sr = evaluate_image(models.load(where), item, 'benchmark', ensemble=ensemble)
        panels.append((f'{label}  {scores["psnr"]:.2f} dB', sr))
    assert out.splitlines()[:2] == [label for label, _ in panels] and 'written: figure.png' in out
    expected = np.asarray(figures.comparison(item['lr'], panels, crop, item['hr']))
    with Image.open('figure.png') as picture:
        assert np.abs(np.asarray(picture).astype(int) - expected).mean() < 0.01


@pytest.mark.parametrize(
    'options, said',
    [
        (['-scale', '3', '-crop', '3,5,8'], "'3,5,8' is not a top, left, height and width"),
        (['-scale', '3', '-crop', '0,5,0,8'], 'not a top, left'),
        (['-scale', '3', '-crop', '20,5,8,8'], '23 x 30'),
        (['-scale', '0'], "'0'"),
        (['-scale', '2xx'], "'2xx'"),
        ([], '-scale'),
        (['-scale', '25'], 'cat: an image of'),
        (['-scale', '90'], 'too small for scale'),
        (['-scale', '3', '-image', 'dog.png'], 'dog.png'),
        (['-scale', '3', '-models', 'none.pth'], 'none.pth: no such file'),
        (['-scale', '3', '-output', 'figure.tga'], 'figure.tga'),
        (['-scale', '3', '-output', 'none/f.png'], 'none'),
        (['-scale', '3', '-device', 'abacus'], 'abacus'),
    ],
)
def test_mistakes(compare, options, said):
    before = sorted(Path().rglob('*'))
    refused(compare(*options), said)
    assert sorted(Path().rglob('*')) == before
