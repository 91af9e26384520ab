"""The interface of all models: what must be given, what is derived, and what an encoder has to keep to."""

import pytest
import torch
from conftest import TINY
from examples import BICUBIC, LIIF, LTE, built, by_query, close
from torch import nn

import models
from models.registry import models as registry
from models.rendering import grid
from models.rendering.implicit import ImplicitModel
from models.rendering.windows import padded, windows
from utils import UserError


class Nearest(ImplicitModel):
    """A decoder of `encode` and `query` alone, which sees the nearest LR pixel, the offset from it and the cell."""

    receptive_field = 1

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 5, 3, padding=1)
        self.encoder.out_dim, self.encoder.receptive_field = 5, 1
        self.imnet = nn.Linear(9, 3)

    def encode(self, lr):
        return self.encoded(lr)

    def query(self, features, coord, cell):
        size = features.shape[-2:]
        y, x, cell = grid.points(coord, cell, size)
        i, j = grid.nearest_pixel(y, size[0]), grid.nearest_pixel(x, size[1])
        latent = windows(padded(features, 0), i, j, 0)[0].unflatten(0, i.shape)
        told = torch.cat([latent, torch.stack([y - i, x - j], dim=-1), cell.expand(*i.shape, 2)], dim=-1)
        return self.imnet(told)


@pytest.mark.parametrize('size', [(7, 9), (14, 27), (16, 11), (3, 40)])
@pytest.mark.parametrize('tile', [None, 1, 3, 4])
def test_encode_and_query_are_enough(size, tile):
    torch.manual_seed(0)
    model, lr = Nearest().double().eval(), torch.rand(2, 3, 7, 9, dtype=torch.float64)
    close(model.render(lr, size, tile=tile), by_query(model, lr, size))


@pytest.mark.parametrize('size', [(12, 15), (4, 5), (36, 15)])
@pytest.mark.parametrize('tile', [1, 2, 3, 5])
def test_points_between_two_lr_pixels_belong_to_the_same_one_in_every_tile(size, tile):
    torch.manual_seed(0)
    model, lr = Nearest().double().eval(), torch.rand(2, 3, 8, 10, dtype=torch.float64)
    close(model.render(lr, size, tile=tile), by_query(model, lr, size))


@pytest.mark.parametrize('missing', ['receptive_field', 'encode', 'query'])
def test_what_is_forgotten_is_named(missing):
    given = {name: getattr(Nearest, name) for name in ('receptive_field', 'encode', 'query') if name != missing}
    with pytest.raises(TypeError, match=missing):
        type('Own', (ImplicitModel,), given)()


@pytest.mark.parametrize('spec', [TINY, LIIF, LTE, BICUBIC], ids=lambda spec: spec['name'])
def test_every_model_has_the_interface(spec):
    assert isinstance(built(spec), ImplicitModel)


class Plain(nn.Conv2d):
    """An encoder that says what it must; how it convolves is to be given."""

    receptive_field = 1

    def __init__(self, declared=4, **options):
        super().__init__(3, 4, 3, **options)
        self.out_dim = declared


@pytest.fixture
def own_encoder():
    @models.register('own')
    def own(stride=1, padding=1, declared=4):
        return Plain(declared, stride=stride, padding=padding)

    yield
    del registry.entries['own']


@pytest.mark.parametrize('spec', [TINY, LIIF, LTE], ids=lambda spec: spec['name'])
@pytest.mark.parametrize('args', [{'stride': 2}, {'padding': 0}, {'padding': 2}, {'declared': 3}])
def test_an_encoder_of_another_size_is_refused(own_encoder, spec, args):
    spec = {**spec, 'args': {**spec['args'], 'encoder_spec': {'name': 'own', 'args': args}}}
    lr = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    for act in (lambda model: model.render(lr, (16, 18)), lambda model: model.encode(lr)):
        with pytest.raises(UserError, match='encoder Plain gives .*not .*B, out_dim, H, W'):
            act(built(spec))


@pytest.mark.parametrize('spec', [TINY, LIIF, LTE], ids=lambda spec: spec['name'])
def test_an_encoder_without_a_size_of_its_own_for_memory(own_encoder, spec):
    """`floats_per_pixel` may be left out."""
    model = built({**spec, 'args': {**spec['args'], 'encoder_spec': {'name': 'own'}}})
    lr = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    close(model.render(lr, (16, 18)), by_query(model, lr, (16, 18)))
    assert model.floats_per_pixel > 4


def test_an_encoder_without_a_receptive_field_is_refused(own_encoder, monkeypatch):
    monkeypatch.delattr(Plain, 'receptive_field')
    with pytest.raises(UserError, match='receptive_field'):
        built({**LIIF, 'args': {**LIIF['args'], 'encoder_spec': {'name': 'own'}}})
