"""Self-ensemble: the mean of eight renderings, which commutes with flips and transpositions, at any size."""

import pytest
import torch
from conftest import TINY
from examples import BICUBIC, LIIF, LTE, built
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.rendering.self_ensemble import render_ensemble

SIDES = st.integers(2, 9)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return models.build(TINY).double().eval()


def symmetries():
    """The eight transforms of an image `(B, C, H, W)`, written out, each with its inverse."""

    def quarter(k):
        return lambda image: image.rot90(k, (-2, -1))

    def mirrored(k):
        return lambda image: image.rot90(k, (-2, -1)).flip(-1)

    def unmirrored(k):
        return lambda image: image.flip(-1).rot90(-k, (-2, -1))

    return [(quarter(k), quarter(-k)) for k in range(4)] + [(mirrored(k), unmirrored(k)) for k in range(4)]


@settings(max_examples=12, deadline=None)
@given(height=SIDES, width=SIDES, h=st.integers(1, 25), w=st.integers(1, 25), batch=st.integers(1, 2))
def test_mean_of_the_eight(model, height, width, h, w, batch):
    lr = torch.rand(batch, 3, height, width, dtype=torch.float64)
    outputs = []
    for there, back in symmetries():
        size = (h, w) if upright(there) else (w, h)
        outputs.append(back(model.render(there(lr).contiguous(), size)))
    ensemble = render_ensemble(model, lr, (h, w))
    assert ensemble.shape == (batch, 3, h, w)
    assert (ensemble - torch.stack(outputs).mean(0)).abs().max() < 1e-10


def upright(transform):
    """Whether `transform` keeps height and width."""
    return transform(torch.empty(1, 1, 2, 1)).shape[-2:] == (2, 1)


@settings(max_examples=8, deadline=None)
@given(height=SIDES, width=SIDES, h=st.integers(1, 25), w=st.integers(1, 25), which=st.integers(0, 7))
def test_equivariant(model, height, width, h, w, which):
    lr = torch.rand(1, 3, height, width, dtype=torch.float64)
    there, _ = symmetries()[which]
    turned = render_ensemble(model, there(lr).contiguous(), (h, w) if upright(there) else (w, h))
    assert (turned - there(render_ensemble(model, lr, (h, w)))).abs().max() < 1e-10


@pytest.mark.parametrize('spec', [LIIF, LTE, BICUBIC], ids=lambda spec: spec['name'])
def test_of_the_peers(spec):
    model, lr = built(spec), torch.rand(1, 3, 6, 5, dtype=torch.float64)
    ensemble = render_ensemble(model, lr, (13, 17))
    assert (render_ensemble(model, lr.flip(-1), (13, 17)) - ensemble.flip(-1)).abs().max() < 1e-10
    assert (render_ensemble(model, lr.mT.contiguous(), (17, 13)).mT - ensemble).abs().max() < 1e-10
    change = (model.render(lr, (13, 17)) - ensemble).abs().max()
    assert change < 1e-10 if spec is BICUBIC else change > 1e-6  # bicubic is so without it


def test_a_part_is_cut_from_the_whole(model):
    lr = torch.rand(1, 3, 5, 7, dtype=torch.float64)
    whole, rows, columns = render_ensemble(model, lr, (23, 18)), range(4, 20, 3), range(1, 9)
    part = render_ensemble(model, lr, (23, 18), part=(rows, columns))
    single = torch.cat([render_ensemble(model, lr, (23, 18), part=(range(y, y + 1), columns)) for y in rows], dim=2)
    assert (single - whole[:, :, 4:20:3, 1:9]).abs().max() < 1e-10 and part.shape == single.shape
    thirds = render_ensemble(model, lr, (3 * 23, 3 * 18), part=(range(1, 3 * 23, 3), range(1, 3 * 18, 3)))
    assert (thirds - whole).abs().max() < 1e-10


def test_options_reach_the_model(model):
    lr = torch.rand(1, 3, 20, 18, dtype=torch.float64)
    assert (render_ensemble(model, lr, (30, 41), tile=7) - render_ensemble(model, lr, (30, 41))).abs().max() < 1e-9
    with pytest.raises(TypeError, match='colour'):
        render_ensemble(model, lr, (30, 41), colour='red')


def test_one_rendering_is_not_equivariant(model):
    """Otherwise the tests above would show nothing."""
    lr = torch.rand(1, 3, 8, 6, dtype=torch.float64)
    assert (model.render(lr.flip(-1), (13, 17)) - model.render(lr, (13, 17)).flip(-1)).abs().max() > 1e-6
