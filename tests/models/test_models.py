"""The registry and what is registered: gradients, sizes, reach, no state between calls; parts against plain loops."""

import itertools
import math

import pytest
import torch
from examples import DECODERS, ENCODERS, MLP, built, by_query, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import models
from models.layers.fem import FEM
from models.layers.msc import MSC
from models.layers.msno import MSNO
from models.layers.mssa import MSSA
from models.layers.sim import SIM
from models.registry import models as registry
from models.rendering import grid
from utils import UserError

PARTS = {'mlp', 'lmmlp', 'sinusoid'}
WITHOUT_PARAMETERS = {'bicubic'}
SPECS = {
    **{f'{decoder}, {encoder}': spec_of(decoder, encoder) for decoder in DECODERS for encoder in ENCODERS},
    'msit with RIM': spec_of('msit', rim=True),
    'msit without FEM and bias': spec_of('msit', fem=None, position_bias_spec=None),
    'msit, circular FEM': spec_of('msit', fem='circular'),
    'msit, circular FEM, rcan': spec_of('msit', 'rcan', fem='circular'),
}
LOCAL = {name: spec for name, spec in SPECS.items() if 'rcan' not in name}  # rcan sees the whole image
every_spec = pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS)
every_decoder = pytest.mark.parametrize(
    'spec',
    [*map(spec_of, DECODERS), spec_of('msit', rim=True), {'name': 'bicubic', 'args': {}}],
    ids=lambda spec: spec['name'],
)


def image(*size, batch=1, dtype=torch.float64):
    return torch.rand(batch, 3, *size, dtype=dtype)


# ---------------------------------------------------------------- the registry


def test_every_registered_model_is_tested_here():
    assert set(registry.entries) == {*ENCODERS, *DECODERS, *PARTS, *WITHOUT_PARAMETERS}
    for name in ENCODERS:
        assert hasattr(models.make({'name': name, 'args': ENCODERS[name]}), 'out_dim')


def test_specs_are_nested():
    model = models.make(spec_of('msit', 'rdn', channels=24, heads=3))
    assert len(model.encoder.blocks) == 2 and model.project.out_channels == 24 and model.mssa.heads == 3
    assert model.project.in_channels == model.encoder.out_dim  # derived, not stated
    assert model.imnet.layers[0].in_features == 9 * 24 + 2
    assert models.make({'name': 'edsr-baseline'}).out_dim == 64  # args may be left out


def test_a_name_is_registered_once():
    before = dict(registry.entries)
    with pytest.raises(ValueError, match="'rdn' is registered twice"):
        models.register('rdn')(nn.Identity)
    assert registry.entries == before


@pytest.mark.parametrize(
    'spec, said',
    [
        ({'name': 'edsr-basline'}, "unknown model 'edsr-basline', did you mean 'edsr-baseline'.*known: bicubic, edsr"),
        ({'name': 'zzz'}, "unknown model 'zzz' .known: bicubic, edsr"),
        ({'name': 'rdn', 'args': {'n_block': 3}}, "no argument 'n_block', did you mean 'n_blocks'.*known: growth, n_b"),
        (spec_of('msit', chanels=3), "no argument 'chanels', did you mean 'channels'"),
        (spec_of('msit', imnet_spec={'name': 'mlp', 'args': {**MLP['args'], 'in_dim': 3}}), "no argument 'in_dim'"),
        ({'name': 'msit', 'args': {'imnet_spec': MLP}}, "needs the argument 'encoder_spec'"),
        ('rdn', 'spec is'),
        ({'args': {}}, 'spec is'),
        ({'name': 'rdn', 'arg': {}}, 'spec is'),
        ({'name': 3}, 'spec is'),
        ({'name': 'rdn', 'args': [3]}, 'args is a mapping'),
    ],
)
def test_what_a_spec_cannot_say(spec, said):
    with pytest.raises(UserError, match=said):
        models.make(spec)


@pytest.fixture
def own_encoder():
    """A new encoder, registered as the README says: a class with three attributes."""

    @models.register('own')
    class Own(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.out_dim, self.receptive_field, self.floats_per_pixel = width, 2, 2 * width
            self.conv = nn.Conv2d(3, width, 5, padding=2)

        def forward(self, x):
            return self.conv(x).relu()

    yield {'name': 'own', 'args': {'width': 7}}
    del registry.entries['own']


@pytest.mark.parametrize('decoder', DECODERS)
def test_an_encoder_is_added_by_registering_it(own_encoder, decoder):
    model, lr = built(spec_of(decoder) | {'args': {**DECODERS[decoder], 'encoder_spec': own_encoder}}), image(7, 9)
    assert (model.render(lr, (16, 11), tile=3) - by_query(model, lr, (16, 11))).abs().max() < 1e-9


# ---------------------------------------------------------------- gradients


def by_blocks(model, lr, size):
    """All pixels as training with `draw: block` queries them: `(B, 3, h, w)`, at scales where blocks are equal."""
    rows, columns = (grid.Blocks(*axis) for axis in zip(lr.shape[-2:], size))
    features = model.encode(lr)
    plan = model.plan(features, rows, columns, grid.relative_cell(lr.shape[-2:], size))
    i, j = torch.cartesian_prod(torch.arange(len(rows.pixels)), torch.arange(len(columns.pixels))).t()
    colour = model.query_blocks(features, plan, i[None], j[None])  # (B, P, my * mx, 3)
    colour = colour.reshape(len(lr), len(rows.pixels), len(columns.pixels), rows.size, columns.size, 3)
    return colour.permute(0, 5, 1, 3, 2, 4).reshape(len(lr), 3, *size)


def gradients(model, output):
    """The gradient of one loss at every parameter; a loss of that size reaches them all."""
    model.zero_grad()
    (output - 0.3).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@every_spec
def test_every_parameter_gets_a_gradient(spec):
    model = built(spec, seed=3).requires_grad_(True)
    lr = image(5, 6, batch=2)
    for name, gradient in gradients(model, by_query(model, lr, (10, 18))).items():
        assert gradient is not None and gradient.isfinite().all(), name
        if name != 'mssa.position_bias.proj.bias':  # a constant, which softmax does not see
            assert gradient.abs().max() > 0, name


@every_spec
def test_both_ways_of_training_have_the_same_gradient(spec):
    model = built(spec, seed=3).requires_grad_(True)
    lr = image(5, 6, batch=2)
    point_by_point = gradients(model, by_query(model, lr, (10, 18)))
    for name, gradient in gradients(model, by_blocks(model, lr, (10, 18))).items():
        torch.testing.assert_close(gradient, point_by_point[name], rtol=1e-9, atol=1e-12, msg=name)


@every_spec
def test_training_mode_has_finite_gradients(spec):
    model = built(spec, seed=3, dtype=torch.float32).train().requires_grad_(True)
    found = gradients(model, by_query(model, image(5, 6, batch=2, dtype=torch.float32), (7, 11), torch.float32))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


# ---------------------------------------------------------------- sizes as published


def conv(fan_in, fan_out, k, bias=True):
    """Parameters of a convolution."""
    return fan_in * fan_out * k * k + bias * fan_out


def linear(*sizes):
    """Parameters of linear layers one after the other."""
    return sum(conv(a, b, 1) for a, b in zip(sizes, sizes[1:]))


def count(spec):
    with torch.device('meta'):
        return sum(p.numel() for p in models.make(spec).parameters())


@pytest.mark.parametrize(
    'name, feats, blocks, published',
    [
        ('edsr-baseline', 64, 16, {2: 1_369_859, 3: 1_554_499, 4: 1_517_571}),
        ('edsr', 256, 32, {2: 40_729_603, 3: 43_680_003, 4: 43_089_923}),
    ],
)
def test_edsr_is_the_published_one_without_its_tail(name, feats, blocks, published):
    own = count({'name': name})
    assert own == conv(3, feats, 3) + (2 * blocks + 1) * conv(feats, feats, 3)
    upsampling = {2: conv(feats, 4 * feats, 3), 3: conv(feats, 9 * feats, 3), 4: 2 * conv(feats, 4 * feats, 3)}
    for scale, total in published.items():
        assert own + upsampling[scale] + conv(feats, 3, 3) == total


def test_rdn_is_the_published_one_without_its_tail():
    own = count({'name': 'rdn'})
    block = sum(conv(64 + 64 * c, 64, 3) for c in range(8)) + conv(64 + 8 * 64, 64, 1)
    assert own == conv(3, 64, 3) + conv(64, 64, 3) + 16 * block + conv(16 * 64, 64, 1) + conv(64, 64, 3)
    assert own + conv(64, 4 * 64, 3) + conv(64, 3, 3) == 22_123_395  # x2


def published(name, hidden, **args):
    imnet = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': hidden, 'act': 'gelu'}}
    return {'name': name, 'args': {'encoder_spec': {'name': 'edsr-baseline'}, 'imnet_spec': imnet, **args}}


def test_peers_have_their_published_sizes():
    """1.57 M and 1.71 M parameters with EDSR-baseline."""
    encoder = count({'name': 'edsr-baseline'})
    assert count(published('liif', [256] * 4)) == encoder + linear(9 * 64 + 4, *[256] * 4, 3) == 1_567_299
    assert (
        count(published('lte', [256] * 3))
        == encoder + 2 * conv(64, 256, 3) + 2 * 128 + linear(*[256] * 4, 3)
        == 1_714_243
    )


@pytest.mark.parametrize('rim', [False, True])
def test_msit_has_its_published_size(rim):
    """The parts of section 7 of the method, at C = 256, N = 16, M = 4, r = 3, 8 heads."""
    c, msno, mssa = 256, range(3, 34, 2), range(3, 10, 2)

    def multi_scale(kernels):
        chunk = c // len(kernels)
        trained = [10 * chunk * chunk + chunk if rim else conv(chunk, chunk, k) for k in kernels]  # A and b, or W
        return sum(trained)

    def sim(groups):
        return conv(c // groups, 2 * c // groups, 1, bias=False) * groups + 2 * c + 4 * c + conv(2 * c, c, 1)

    parts = {
        'encoder': count({'name': 'edsr-baseline'}),
        'project': conv(64, c, 1),
        'msno.msc': multi_scale(msno),
        'msno': 2 * conv(c, c, 1, bias=False) + sim(len(msno)) + conv(c, c, 1),
        'mssa.msc': multi_scale(mssa),
        'mssa.value': 10 * c * c + c if rim else conv(c, c, 3),
        'mssa': conv(c, c, 1) + sim(c // len(mssa)) + linear(64, 8),
        'imnet': linear(49 * c + 2, *[256] * 4, 3),
    }
    bias = {'name': 'sinusoid', 'args': {'features': 64}}
    assert count(published('msit', [256] * 4, position_bias_spec=bias, rim=rim)) == sum(parts.values())
    if not rim:
        stated = {
            'encoder': 1.22,
            'msno': 0.34,
            'msno.msc': 1.68,
            'mssa': 0.2,
            'mssa.msc': 0.67,
            'mssa.value': 0.59,
            'imnet': 3.41,
        }
        for name, millions in stated.items():
            assert parts[name] / 1e6 == pytest.approx(millions, abs=0.011), name


# ---------------------------------------------------------------- reach


def reach(function, height, width, channels=3):
    """The largest distance of a pixel that influences the value of `function` at the central pixel."""
    x = torch.rand(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    middle = height // 2, width // 2
    function(x)[:, :, middle[0], middle[1]].square().sum().backward()
    rows, columns = x.grad.abs().sum(dim=(0, 1)).nonzero().t()
    return int(torch.maximum((rows - middle[0]).abs(), (columns - middle[1]).abs()).max())


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=15)
def test_reach_of_encoders(depth, width, n_convs, seed):
    for spec in (
        {'name': 'edsr-baseline', 'args': {'n_resblocks': depth, 'n_feats': 4 * width}},
        {'name': 'edsr', 'args': {'n_resblocks': depth, 'n_feats': 4 * width}},
        {'name': 'light', 'args': {'n_blocks': depth, 'n_feats': 4 * width, 'hidden': 8}},
        {'name': 'rdn', 'args': {'n_blocks': depth, 'n_convs': n_convs, 'growth': width, 'n_feats': 8}},
    ):
        torch.manual_seed(seed)
        encoder = models.make(spec).double()
        for parameter in encoder.parameters():  # every path carries something
            parameter.data.abs_()
        side = 2 * encoder.receptive_field + 5
        assert reach(encoder, side, side + 2) == encoder.receptive_field


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([2, 4, 6]),
    st.integers(0, 99),
)
@settings(max_examples=15)
def test_reach_of_swinir(depths, window, seed):
    """The farthest of the features of a window's pixels sees as far as said."""
    torch.manual_seed(seed)
    args = {'embed_dim': 2, 'depths': depths, 'num_heads': [1] * len(depths), 'window_size': window}
    encoder = models.make({'name': 'swinir', 'args': args}).double()
    far = encoder.receptive_field
    x = image(window, 2 * (far + window)).requires_grad_(True)
    seen = []
    for pixel in range(far + 1, far + 1 + window):
        (gradient,) = torch.autograd.grad(encoder(x)[0, :, 0, pixel].square().sum(), x)
        columns = gradient[0].abs().amax(dim=(0, 1)).nonzero()
        seen.append(int((columns - pixel).abs().max()))
    assert max(seen) == far


def test_rcan_sees_the_whole_image():
    torch.manual_seed(0)  # a few channels, of which by chance none may be above 0
    encoder = models.make({'name': 'rcan', 'args': ENCODERS['rcan']}).double()
    x = image(4, 100).requires_grad_(True)
    (gradient,) = torch.autograd.grad(encoder(x)[0, :, 0, 0].sum(), x)
    assert (gradient[0].abs().amax(dim=0) > 0).all()


kernels = st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3)


@given(kernels, st.sampled_from([None, 'replicate', 'circular']), st.booleans(), st.integers(0, 9))
@settings(max_examples=25)
def test_reach_of_msno_and_mssa(sizes, fem, rim, seed):
    torch.manual_seed(seed)
    channels = 8 * len(sizes)
    msno, mssa = (
        MSNO(channels, sizes, fem, rim).double().eval(),
        MSSA(channels, 2, sizes, lambda heads: None, rim).double().eval(),
    )
    assert reach(msno, 15, 17, channels) == msno.receptive_field == max(sizes) // 2 + (fem is not None)
    assert reach(lambda z: torch.cat(mssa(z), dim=1), 15, 17, channels) == mssa.receptive_field


@pytest.mark.parametrize('spec', LOCAL.values(), ids=LOCAL)
def test_a_pixel_matters_as_far_as_said_and_no_farther(spec):
    """Outputs of LR pixels farther away do not change at all, and some of those at that distance do."""
    model = built(spec, seed=2)
    far, scale = model.receptive_field, 3
    side = 2 * far + 5
    lr = image(side, side)
    other = lr.clone()
    other[:, :, far + 2, far + 2] += 0.5
    changed = (model.render(lr, (scale * side,) * 2) != model.render(other, (scale * side,) * 2)).any(dim=1)[0]
    changed = changed.unflatten(1, (side, scale)).unflatten(0, (side, scale)).any(dim=3).any(dim=1)
    rows, columns = changed.nonzero().t()
    distance = torch.maximum((rows - far - 2).abs(), (columns - far - 2).abs())
    assert distance.max() == far


# ---------------------------------------------------------------- parts against plain loops

READS = {
    0: [(0, 1)],
    1: [(0, -1)],
    2: [(1, 0)],
    3: [(-1, 0)],
    4: [(0, 1), (-1, 1)],
    5: [(0, -1), (1, -1)],
    6: [(1, 0), (1, 1)],
    7: [(-1, 0), (-1, -1)],
}


@pytest.mark.parametrize('padding', ['replicate', 'circular'])
@given(channels=st.integers(1, 19), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=25)
def test_fem(padding, channels, height, width):
    x = torch.rand(2, channels, height, width)

    def at(b, c, i, j):
        if padding == 'circular':
            return x[b, c, i % height, j % width]
        return x[b, c, min(max(i, 0), height - 1), min(max(j, 0), width - 1)]

    result = FEM(channels, padding)(x)
    for b, c, i, j in itertools.product(range(2), range(channels), range(height), range(width)):
        assert result[b, c, i, j] == sum(at(b, c, i + dy, j + dx) for dy, dx in READS[c % 8])


def test_fem_of_what_is_padded_already():
    x = torch.rand(1, 9, 5, 6)
    assert torch.equal(FEM(9)(x, padded=True), FEM(9)(x)[:, :, 1:-1, 1:-1])
    assert not list(FEM(9).parameters()) and not FEM(9).state_dict()
    with pytest.raises(UserError, match="unknown padding 'circulr', did you mean 'circular'"):
        FEM(8, 'circulr')


@given(kernels, st.integers(1, 2), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=20)
def test_msc(sizes, chunk, height, width, seed):
    torch.manual_seed(seed)
    channels = chunk * len(sizes)
    msc, x = MSC(channels, sizes).double(), torch.rand(1, channels, height, width, dtype=torch.float64)
    result = msc(x)
    assert result.shape == x.shape
    c, i, j = (int(torch.randint(n, ())) for n in x.shape[1:])
    number, k = c // chunk, sizes[c // chunk]
    weight, total = msc.convs[number].weight[c % chunk], msc.convs[number].bias[c % chunk]
    for source, dy, dx in itertools.product(range(chunk), range(k), range(k)):
        y, z = i + dy - k // 2, j + dx - k // 2
        if 0 <= y < height and 0 <= z < width:
            total = total + weight[source, dy, dx] * x[0, number * chunk + source, y, z]
    assert result[0, c, i, j].item() == pytest.approx(total.item(), abs=1e-12)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=20)
def test_sim(groups, chunk, seed):
    torch.manual_seed(seed)
    channels = groups * chunk
    sim = SIM(channels, groups).double().eval()
    for value in sim.norm.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    x = torch.rand(1, channels, 2, 3, dtype=torch.float64)
    result = sim(x)
    assert result.shape == x.shape
    hidden = []
    for c in range(2 * channels):
        group, norm = c // (2 * chunk), sim.norm
        value = sim.expand.bias[c] + sum(
            sim.expand.weight[c, s, 0, 0] * x[0, group * chunk + s, 1, 2] for s in range(chunk)
        )
        value = (value - norm.running_mean[c]) / torch.sqrt(norm.running_var[c] + 1e-5) * norm.weight[c] + norm.bias[c]
        hidden.append(0.5 * value.item() * (1 + math.erf(value.item() / math.sqrt(2))))
    for c in range(channels):
        expected = sim.project.bias[c] + sum(w * h for w, h in zip(sim.project.weight[c, :, 0, 0], hidden))
        assert result[0, c, 1, 2].item() == pytest.approx(expected.item(), abs=1e-12)


# ---------------------------------------------------------------- tiles


@every_spec
def test_tiles_are_the_whole(spec):
    """Also where most of the image is outside a tile and its margin, and windows do not divide the tile."""
    model, lr = built(spec, seed=4), image(61, 3, batch=2)
    assert model.receptive_field < 30
    assert (model.render(lr, (80, 4), tile=5) - by_query(model, lr, (80, 4))).abs().max() < 1e-9


def test_what_sees_the_whole_image_encodes_it_once(monkeypatch):
    model, lr, seen = built(spec_of('liif', 'rcan')), image(9, 11), []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, 'forward', lambda x: seen.append(x.shape) or forward(x))
    model.render(lr, (13, 15), tile=2)
    assert seen == [(1, 3, 9, 11)]


def test_an_image_too_large_to_be_encoded_as_a_whole_is_one_line(monkeypatch):
    def forward(x):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')

    model = built(spec_of('liif', 'rcan'))
    monkeypatch.setattr(model.encoder, 'forward', forward)
    with pytest.raises(UserError, match='encoding the image of 9 x 11 pixels, as a whole .* takes more memory'):
        model.render(image(9, 11), (13, 15))


def test_a_decoder_that_takes_no_maps_is_told_with_such_an_encoder():
    class Plain(type(built(spec_of('liif')))):
        def encode(self, lr):
            return super().encode(lr)

    lr = image(5, 6)
    for encoder in ('edsr', 'rcan'):
        model = Plain(**spec_of('liif', encoder)['args']).double().eval()
        if encoder == 'rcan':
            with pytest.raises(UserError, match='RCAN encodes .* the encode of Plain takes no maps'):
                model.render(lr, (8, 9))
        else:
            assert model.render(lr, (8, 9)).shape == (1, 3, 8, 9)


# ---------------------------------------------------------------- no state, no memory, batches, flips


def snapshot(model):
    """All that a module and its parts hold: their attributes, and copies of parameters and buffers."""
    attributes = {
        name: {key: dict(value) if isinstance(value, dict) else value for key, value in vars(part).items()}
        for name, part in model.named_modules()
    }
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return attributes, {name: tensor.clone() for name, tensor in tensors}


@every_decoder
def test_calls_leave_no_trace(spec):
    model = built(spec)
    attributes, tensors = snapshot(model)
    a, b = image(5, 6), image(9, 4)
    coord, cell = torch.rand(1, 7, 2, dtype=torch.float64) * 2 - 1, grid.cell_size(11, 13)
    given_before = [t.clone() for t in (a, b, coord, cell)]
    features = model.encode(a)
    first, rendered = model.query(features, coord, cell), model.render(a, (11, 13))
    model.render(b, (3, 20), tile=2)
    others = model.encode(b)
    other = model.query(others, coord, cell)  # two images in flight
    assert torch.equal(model.query(features, coord, cell), first)
    assert torch.equal(model.query(others, coord, cell), other)
    assert torch.equal(model.query(model.encode(a), coord, cell), first)
    assert torch.equal(model.render(a, (11, 13)), rendered)
    after, now = snapshot(model)
    assert after == attributes and all(torch.equal(now[name], tensors[name]) for name in tensors)
    assert all(torch.equal(*pair) for pair in zip(given_before, (a, b, coord, cell)))


@every_decoder
def test_images_of_a_batch_do_not_see_each_other(spec):
    model = built(spec)
    lr = image(5, 6, batch=3)
    coord, cell = torch.rand(3, 7, 2, dtype=torch.float64) * 2 - 1, grid.cell_size(11, 13)
    together, queried = model.render(lr, (11, 13)), model.query(model.encode(lr), coord, cell)
    for k in range(3):
        one = slice(k, k + 1)
        assert (model.render(lr[one], (11, 13)) - together[one]).abs().max() < 1e-12
        assert (model.query(model.encode(lr[one]), coord[one], cell) - queried[one]).abs().max() < 1e-12


@pytest.mark.parametrize('name', ENCODERS)
@pytest.mark.parametrize('axis', [-1, -2])
def test_an_encoder_with_mirrored_kernels_sees_the_mirrored_image(name, axis):
    encoder = models.make({'name': name, 'args': ENCODERS[name]}).double()
    x = image(8, 12) * 2 - 1  # whole windows of attention
    expected = encoder(x).flip(axis)
    for key, parameter in encoder.named_parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.flip(axis)
        if key.endswith('relative_position_bias_table'):
            side = math.isqrt(len(parameter))  # (side, side, heads): the offsets along y and x
            parameter.data = parameter.data.unflatten(0, (side, side)).flip(axis - 1).flatten(0, 1)
    assert (encoder(x.flip(axis)) - expected).abs().max() < 1e-12


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 15), st.integers(1, 15))
def test_bicubic_of_a_mirrored_image_is_mirrored(height, width, h, w):
    model, lr = models.load('bicubic'), image(height, width)
    expected = model.render(lr, (h, w))
    for axes in ((-1,), (-2,), (-1, -2)):
        assert (model.render(lr.flip(axes), (h, w)).flip(axes) - expected).abs().max() < 1e-9
    assert (model.render(lr.transpose(-1, -2), (w, h)).transpose(-1, -2) - expected).abs().max() < 1e-9


# ---------------------------------------------------------------- any sizes


@st.composite
def odd_specs(draw):
    """Models of any sizes that fit together."""

    def number(most):
        return draw(st.integers(1, most))

    reduction = number(3)
    heads = [number(2) for _ in range(number(2))]
    encoders = {
        'edsr-baseline': {'n_resblocks': number(2), 'n_feats': number(5), 'res_scale': 0.3},
        'rdn': {'n_blocks': number(2), 'n_convs': number(3), 'growth': number(3), 'n_feats': number(5)},
        'rcan': {
            'n_resgroups': number(2),
            'n_resblocks': number(2),
            'n_feats': reduction * number(2),
            'reduction': reduction,
        },
        'swinir': {
            'embed_dim': 2 * number(3),
            'depths': [number(3) for _ in heads],
            'num_heads': heads,
            'window_size': 2 * number(2),
            'mlp_ratio': draw(st.sampled_from([0.5, 1, 2])),
        },
    }
    encoder = draw(st.sampled_from(list(encoders)))
    hidden = draw(st.lists(st.integers(1, 5), max_size=2))
    name = draw(st.sampled_from(list(DECODERS)))
    args = {'encoder_spec': {'name': encoder, 'args': encoders[encoder]}}
    if name in ('msit', 'liif', 'lte'):
        args['imnet_spec'] = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': hidden}}
    if name in ('lte', 'lte-fast', 'lmlte'):
        args['hidden_dim'] = 2 * number(4)
    if name == 'lte-fast':
        args['num_layer'] = number(3)
    if name in ('lmliif', 'lmlte'):
        args['imnet_spec'] = {'name': 'lmmlp', 'args': {'hidden_dim': 2 * number(3), 'hidden_depth': number(3)}}
        args['hypernet_spec'] = {'name': 'mlp', 'args': {'hidden_list': hidden}}
    if name == 'msit':
        msno, mssa, heads = draw(kernels), draw(kernels), number(3)
        bias = {'name': 'sinusoid', 'args': {'features': 4 + 4 * number(3), 'max_exponent': number(10)}}
        args |= {
            'msno_kernels': msno,
            'mssa_kernels': mssa,
            'heads': heads,
            'radius': number(2),
            'channels': math.lcm(len(msno), len(mssa), heads) * number(2),
            'rim': draw(st.booleans()),
            'fem': draw(st.sampled_from([None, 'replicate', 'circular'])),
            'position_bias_spec': draw(st.sampled_from([None, bias])),
        }
    return {'name': name, 'args': args}


@given(odd_specs(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=40)
def test_any_sizes_that_fit_together(spec, height, width, h, w):
    model, lr = built(spec), image(height, width)
    rendered = model.render(lr, (h, w))
    assert rendered.shape == (1, 3, h, w) and rendered.isfinite().all()
    assert (rendered - by_query(model, lr, (h, w))).abs().max() < 1e-9
