"""The attention weights that MSIT returns, against the golden values; the program that draws them."""

import json
import runpy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, refused
from examples import LIIF, built
from PIL import Image
from safetensors.torch import load_file

import models
from models.rendering import grid

GOLDEN = ROOT / 'tests/golden'


@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_weights_are_the_golden_ones(stage, tmp_path):
    spec = json.loads((GOLDEN / 'msit_configs.json').read_text())[stage]
    weights = load_file(GOLDEN / f'msit_{stage}_weights.safetensors')
    torch.save({'model': {**spec, 'sd': weights}}, tmp_path / 'model.pth')
    model = models.load(tmp_path / 'model.pth', torch.float64)
    golden = load_file(GOLDEN / f'msit_{stage}_tensors.safetensors')
    lr = golden['input'] * 0.5 + 0.5  # golden in the network's [-1, 1]
    weights = model.attention(model.encode(lr), golden['query_coord'])
    expected = golden['query_attention'].flatten(1, 2).transpose(1, 2)  # (Q, heads, K)
    assert weights.shape == (1, *expected.shape)
    assert (weights[0] - expected).abs().max() < 1e-9
    assert (weights.sum(-1) - 1).abs().max() < 1e-9


# ---------------------------------------------------------------- scripts/attention.py

PROGRAM = 'scripts/attention.py'


@pytest.fixture
def draw(program):
    """`draw(*options)` runs the program on photo.png, of 20 x 30 grey pixels, beside weights of an MSIT and a LIIF."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)).save('photo.png')
    for name, spec in (('msit.pth', TINY), ('liif.pth', LIIF)):
        models.save(name, models.build(spec))

    def run(*options):
        return program(
            PROGRAM, '-device', 'cpu', '-input', 'photo.png', '-model', 'msit.pth', '-output', 'drawn.png', *options
        )

    return run


@pytest.mark.parametrize('scale, pixel', [('4', '40,61'), ('3.3', '0,0'), ('2x3.5', '39,104')])
def test_a_figure_of_every_head(draw, scale, pixel):
    status, out, err = draw('-scale', scale, '-pixel', pixel)
    assert (status, err) == (0, '') and '2 heads, window of 3 x 3 LR pixels around row ' in out
    with Image.open('drawn.png') as figure:
        assert figure.size == (5 * 384, 360)  # the LR image and four columns of heads, in one row
        red, green, blue = np.asarray(figure).astype(int).transpose(2, 0, 1)
    assert (red - green - blue > 120).any() and (green + blue - red > 450).any()  # the window and the point


def test_the_weights_are_those_of_the_pixel():
    script = runpy.run_path(str(ROOT / PROGRAM))
    model, lr, size = built(TINY), torch.rand(3, 7, 9, dtype=torch.float64), (17, 30)
    every = model.attention(model.encode(lr[None]), grid.pixel_centres(*size)[None])[0].unflatten(-1, (3, 3))
    for y, x in ((0, 0), (16, 29), (5, 17)):
        assert (script['attention'](model, lr, (y, x), size) - every[y * size[1] + x]).abs().max() < 1e-12
        nearest, point = script['place']((y, x), (7, 9), size)
        exact = [Fraction((2 * i + 1) * m, 2 * n) - Fraction(1, 2) for i, m, n in zip((y, x), (7, 9), size)]
        assert nearest == [round(at) for at in exact] and point == pytest.approx([float(at) for at in exact])


def test_each_head_is_drawn_where_it_looks():
    """The panels of two heads that attend to one corner of the window each differ there and agree elsewhere."""
    script = runpy.run_path(str(ROOT / PROGRAM))
    weights = torch.zeros(2, 3, 3)
    weights[0, 0, 0] = weights[1, 2, 2] = 1
    drawn = script['draw'](torch.full((3, 12, 12), 0.5), weights, (6, 5), (6.2, 4.9)).astype(int)
    bright = drawn.sum(axis=-1)
    first, second = bright[:, 384:768], bright[:, 768:1152]
    differs = [np.argwhere(mask) for mask in (first > second + 100, second > first + 100)]
    assert (differs[0].mean(axis=0) < differs[1].mean(axis=0)).all()  # above and to the left


@pytest.mark.parametrize(
    'options, said',
    [
        (['-pixel', '80,3'], 'the pixel 80,3 is not inside the output of 80 x 120'),
        (['-pixel', '3'], "'3' is not a row"),
        (['-pixel', 'a,b'], "'a,b'"),
        ([], '-pixel'),
        (['-pixel', '3,3', '-scale', 'x'], "'x'"),
        (['-pixel', '3,3', '-input', 'none.png'], 'none.png: no such file'),
        (['-pixel', '3,3', '-model', 'none.pth'], 'none.pth: no such file'),
        (['-pixel', '3,3', '-model', 'liif.pth'], "liif.pth: a model of the kind 'liif' has no attention"),
        (['-pixel', '3,3', '-output', 'drawn.tga'], 'drawn.tga'),
        (['-pixel', '3,3', '-device', 'abacus'], 'abacus'),
    ],
)
def test_mistakes(draw, options, said):
    before = sorted(Path().rglob('*'))
    refused(draw('-scale', '4', *options), said)
    assert sorted(Path().rglob('*')) == before
