"""What ImplicitModel asks of models and encoders, and what it refuses."""

import math
import warnings

import pytest
import torch
from conftest import TINY
from examples import BICUBIC, LIIF, LTE, built, by_query, close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import models
from models.registry import models as registry
from models.registry import register
from models.rendering import grid
from models.rendering.implicit import ImplicitModel
from models.rendering.memory import peak_floats
from models.rendering.windows import padded, windows
from utils import Note, UserError

ENCODED = [TINY, LIIF, LTE]
every_encoded = pytest.mark.parametrize('spec', ENCODED, ids=lambda spec: spec['name'])
every_model = pytest.mark.parametrize('spec', [*ENCODED, BICUBIC], ids=lambda spec: spec['name'])


@pytest.fixture
def encoders():
    """A place for encoders that a test registers."""
    before = dict(registry.entries)
    yield
    registry.entries.clear()
    registry.entries.update(before)


def with_encoder(spec, name, **args):
    return {**spec, 'args': {**spec['args'], 'encoder_spec': {'name': name, 'args': args}}}


@pytest.mark.parametrize('forgotten', ['encode', 'query', 'receptive_field'])
def test_what_a_model_forgets_is_named_at_construction(forgotten):
    own = {'encode': lambda self, lr: lr, 'query': lambda self, *a: None, 'receptive_field': 0}
    del own[forgotten]
    with pytest.raises(TypeError, match=forgotten):
        type('Model', (ImplicitModel,), own)()


class Encoder(nn.Module):
    """One convolution with options that an encoder must not have."""

    def __init__(self, **options):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, **options)

    def forward(self, x):
        return self.conv(x)


@every_encoded
@pytest.mark.parametrize('options', [{}, {'stride': 2}, {'padding': 3}, {'padding': 1, 'stride': 2}], ids=str)
def test_features_of_another_size_are_refused(encoders, spec, options):
    @register('odd')
    def odd():
        encoder = Encoder(**options)
        encoder.out_dim, encoder.receptive_field = 8, 1
        return encoder

    model = models.build(with_encoder(spec, 'odd')).eval()
    with pytest.raises(UserError, match='the encoder Encoder gives .* with the height and width of its input'):
        model.render(torch.rand(1, 3, 9, 12), (18, 24))
    with pytest.raises(UserError, match='with the height and width of its input'):
        model.encode(torch.rand(1, 3, 9, 12))


@every_encoded
@pytest.mark.parametrize('result', [lambda x: x, lambda x: (x,), lambda x: x[0]], ids=['channels', 'tuple', 'no batch'])
def test_features_of_another_kind_are_refused(encoders, spec, result):
    @register('odd')
    def odd():
        encoder = Encoder(padding=1)
        encoder.out_dim, encoder.receptive_field, encoder.forward = 8, 1, result
        return encoder

    with pytest.raises(UserError, match=r'the encoder Encoder gives .*, not \(2, 8, 9, 12\)'):
        models.build(with_encoder(spec, 'odd')).encode(torch.rand(2, 3, 9, 12))


@every_encoded
@pytest.mark.parametrize('lacking', [['out_dim'], ['receptive_field'], ['out_dim', 'receptive_field']])
def test_an_encoder_that_does_not_say_what_it_is_is_refused(encoders, spec, lacking):
    @register('odd')
    def odd():
        encoder = Encoder(padding=1)
        for name in {'out_dim', 'receptive_field'} - set(lacking):
            setattr(encoder, name, 8)
        return encoder

    with pytest.raises(UserError, match=f"'odd' is no encoder: it has no {' and no '.join(lacking)}"):
        models.build(with_encoder(spec, 'odd'))


class WindowEncoder(nn.Module):
    """Every pixel sees the mean of its window of `window x window`, in an image that is filled up by reflection, and
    of the window shifted by half of it, as window attention does."""

    def __init__(self, window=4):
        super().__init__()
        self.out_dim, self.window, self.receptive_field = 8, window, window + window // 2
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(self.conv(x), (0, -width % self.window, 0, -height % self.window), mode='reflect')
        half = self.window // 2
        for shift in 0, half:
            rolled = F.pad(x, (self.window - shift, self.window - shift) * 2) if shift else x
            mean = F.avg_pool2d(rolled, self.window)
            mean = mean.repeat_interleave(self.window, 2).repeat_interleave(self.window, 3)
            x = x + (mean[..., half : half + x.shape[2], half : half + x.shape[3]] if shift else mean)
        return x[..., :height, :width]


@every_encoded
@settings(max_examples=15)
@given(window=st.sampled_from([2, 4, 6]), height=st.integers(8, 30), width=st.integers(8, 30), tile=st.integers(3, 9))
def test_an_encoder_that_computes_in_windows_is_tiled_exactly(spec, window, height, width, tile):
    if 'window' not in registry.entries:
        register('window')(WindowEncoder)
    try:
        model = built(with_encoder(spec, 'window', window=window))
    finally:
        del registry.entries['window']
    lr, size = torch.rand(1, 3, height, width, dtype=torch.float64), (2 * height, math.ceil(1.5 * width))
    whole = model.render(lr, size, tile=max(height, width))
    assert (model.render(lr, size, tile=tile) - whole).abs().max() <= 1e-9


@every_model
def test_inputs_that_make_no_image_are_refused(spec):
    model = built(spec, dtype=torch.float32)
    good = torch.rand(1, 3, 6, 7)
    cases = [
        ((good * 255).byte(), 'divide 8-bit values by 255'),
        (good.long(), 'floating point'),
        (good[0], r'\(B, 3, H, W\)'),
        (good[:, :1], r'\(B, 3, H, W\)'),
        (good[:0], r'\(B, 3, H, W\)'),
        (good[..., :0], r'\(B, 3, H, W\)'),
        (good.numpy(), 'ndarray'),
        (None, 'NoneType'),
        ([good], 'list'),
        (good.to_sparse(), 'dense'),
        (good.masked_fill(good > 0.9, math.nan), 'not finite'),
        (good / 0, 'not finite'),
        (good.to('meta'), 'on meta'),
    ]
    for lr, said in cases:
        if spec is BICUBIC and said == 'on meta':
            continue  # it has no device of its own
        with pytest.raises(UserError, match=said):
            model.render(lr, (12, 14))
        if said != 'not finite':  # which `encode`, that training calls, does not look for
            with pytest.raises(UserError, match=said):
                model.encode(lr)


@every_model
@pytest.mark.parametrize('size', [12, None, (12.5, 14), ('a', 'b'), (12, 14, 3), (0, 14), (math.nan, 14)], ids=str)
def test_sizes_that_are_none_are_refused(spec, size):
    with pytest.raises(UserError, match='two whole numbers from 1 up'):
        built(spec, dtype=torch.float32).render(torch.rand(1, 3, 6, 7), size)


def test_an_image_in_other_units_is_told():
    model, lr = built(BICUBIC), torch.rand(1, 3, 6, 7)
    with pytest.warns(Note, match=r'is in \[0, 1\], this one reaches 255'):
        model.render(255 * lr / lr.max(), (12, 14))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.render(lr, (12, 14))


@every_encoded
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_an_image_of_another_precision_is_converted(spec, dtype):
    model, lr = built(spec, dtype=torch.float32), torch.rand(1, 3, 6, 7).to(dtype)
    image = model.render(lr, (12, 14))
    assert image.dtype == torch.float32 and torch.equal(image, model.render(lr.float(), (12, 14)))


@every_model
def test_points_that_are_none_are_refused(spec):
    model = built(spec, dtype=torch.float32)
    features = model.encode(torch.rand(2, 3, 6, 7))
    coord, cell = torch.rand(2, 5, 2), torch.tensor([0.1, 0.1])
    assert model.query(features, coord, cell).shape == (2, 5, 3)
    for points, size, said in (
        (coord[0], cell, 'coord is'),
        (coord[..., :1], cell, 'coord is'),
        (coord.long(), cell, 'coord is'),
        (coord[:, :0], cell, 'coord is'),
        (coord.numpy(), cell, 'coord is a tensor, not ndarray'),
        (coord, 0.1, 'cell is a tensor, not float'),
        (coord, cell[:1], 'cell is'),
        (coord, cell.expand(3, 2), 'cell is'),
        (coord, cell.long(), 'cell is'),
        (coord.to('meta'), cell, 'coord is on meta'),
    ):
        with pytest.raises(UserError, match=said):
            model.query(features, points, size)


@every_encoded
def test_a_model_in_training_mode_does_not_render(spec):
    model = built(spec).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match='training mode'):
        model.render(torch.rand(1, 3, 6, 7), (12, 14))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_numbers_that_an_encoder_holds_are_counted():
    encoder = models.make({'name': 'edsr-baseline', 'args': {'n_resblocks': 3, 'n_feats': 16}})
    # the outer skip, a block's input, and the two maps of an operation
    assert 4 * 16 <= peak_floats(encoder) < 5 * 16
    wide = nn.Sequential(nn.Conv2d(3, 100, 1), nn.Conv2d(100, 1, 1))
    assert peak_floats(wide) == 3 + 100


@every_encoded
def test_query_is_what_the_default_blocks_ask(spec):
    """The base class's `query_blocks` and a model's own give the same image."""
    model = built(spec)
    slow = type(
        type(model).__name__,
        (type(model),),
        {name: getattr(ImplicitModel, name) for name in ('plan', 'query_blocks', 'floats_per_block')},
    )
    lr = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    expected = by_query(model, lr, (13, 17))
    model.__class__ = slow
    assert (model.render(lr, (13, 17)) - expected).abs().max() <= 1e-9


def test_a_model_without_arguments_of_its_own_can_be_registered(encoders):
    register('plain')(
        type(
            'Plain',
            (ImplicitModel,),
            {
                'encode': lambda self, lr: lr,
                'query': lambda self, features, coord, cell: coord.new_full((*coord.shape[:2], 3), 0.25),
                'receptive_field': 0,
            },
        )
    )
    assert (models.build({'name': 'plain'}).render(torch.rand(1, 3, 4, 5), (7, 8)) == 0.25).all()
    with pytest.raises(UserError, match="has no argument 'width'"):
        models.build({'name': 'plain', 'args': {'width': 3}})


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


@every_encoded
def test_an_encoder_need_not_say_how_much_memory_it_takes(encoders, spec):
    @register('own')
    def own():
        encoder = Encoder(padding=1)
        encoder.out_dim, encoder.receptive_field = 8, 1
        return encoder

    model = built(with_encoder(spec, 'own'))
    lr = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    close(model.render(lr, (16, 18)), by_query(model, lr, (16, 18)))
    assert model.floats_per_pixel > 8


@every_encoded
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_features_of_another_precision_are_refused(encoders, spec, dtype):
    @register('odd')
    def odd():
        encoder = Encoder(padding=1)
        forward = encoder.forward
        encoder.out_dim, encoder.receptive_field, encoder.forward = 8, 1, lambda x: forward(x).to(dtype)
        return encoder

    model = models.build(with_encoder(spec, 'odd')).eval()
    with pytest.raises(UserError, match=f'the encoder Encoder gives {dtype}, the model has torch.float32'):
        model.render(torch.rand(1, 3, 9, 12), (18, 24))
