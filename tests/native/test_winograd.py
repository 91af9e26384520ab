"""Convolution by Winograd's method against direct convolution, and when it is used."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models import rdn
from models.layers import convolution
from models.layers.rim import make_conv as layer
from models.native import library, winograd

pytestmark = pytest.mark.skipif(library.compiled(torch.float32) is None, reason='no compiled code on this system')
LANES = winograd.lanes(torch.float64) if library.compiled(torch.float64) else 8
channels = st.integers(1, 18).map(lambda n: n * LANES)
side = st.integers(1, 21)
LAYOUTS = {
    'first': lambda x: x,
    'last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'some of more': lambda x: torch.cat([x, x, x], 1).contiguous(memory_format=torch.channels_last).chunk(3, 1)[1],
    'expanded': lambda x: x[:1].contiguous(memory_format=torch.channels_last).expand_as(x),
    'a crop': lambda x: F.pad(x, (2, 1, 1, 3)).contiguous(memory_format=torch.channels_last)[:, :, 1:-3, 2:-1],
}


def problem(k, height, width, batch=1, channels=64, out_channels=64, dtype=torch.float64, layout='last', seed=0):
    """A random image, kernels and bias, and the result of direct convolution in float64."""
    make = torch.Generator().manual_seed(seed)
    shapes = (batch, channels, height, width), (out_channels, channels, k, k), (out_channels,)
    x, weight, bias = (torch.randn(*shape, dtype=dtype, generator=make) for shape in shapes)
    x = LAYOUTS[layout](x)
    return (x, weight, bias), F.conv2d(x.double(), weight.double(), bias.double(), padding=k // 2)


@given(
    k=st.sampled_from([1, 3, 5, 7, 9, 11]),
    height=side,
    width=side,
    batch=st.integers(1, 3),
    channels=channels,
    out_channels=channels,
    threads=st.sampled_from([1, 3]),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_it_convolves(threads, **sizes):
    arguments, expected = problem(**sizes)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = winograd.winograd_conv2d(*arguments)
    finally:
        torch.set_num_threads(before)
    assert got.shape == expected.shape and got.dtype == torch.float64
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert (got - expected).abs().max() <= 1e-13 * expected.abs().max()


@pytest.mark.parametrize('k', [3, 5, 7, 9])
@pytest.mark.parametrize('size', [(48, 48), (150, 31)])
def test_in_float32_it_is_right_to_a_hundred_thousandth_of_the_largest_value(k, size):
    arguments, expected = problem(k, *size, dtype=torch.float32)
    got = winograd.winograd_conv2d(*arguments)
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_is_not_a_number_stays_where_it_is():
    (x, *rest), expected = problem(3, 24, 24)
    x[0, 5, 11, 13] = torch.nan
    got = winograd.winograd_conv2d(x, *rest)
    assert got[..., 10:13, 12:15].isnan().all()
    assert (got - expected).abs()[..., :4, :].max() <= 1e-10  # another tile


def taken(*arguments):
    """Whether `same_conv2d` uses Winograd's method; if so, its result is checked."""
    with mock.patch.object(winograd, 'winograd_conv2d', wraps=winograd.winograd_conv2d) as used:
        got = convolution.same_conv2d(*arguments)
    if used.called:
        expected = F.conv2d(*arguments, padding=arguments[1].shape[-1] // 2)
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    return used.called


def test_where_it_is_faster_it_is_taken():
    def is_faster(*sizes, dtype=torch.float32, **options):
        return taken(*problem(*sizes, dtype=dtype, **options)[0])

    assert not is_faster(3, 16, 16, layout='first')  # gradients may be wanted
    with torch.no_grad():
        assert all(is_faster(k, 16, 16) for k in (3, 5, 7, 9)) and is_faster(3, 16, 16, channels=32, out_channels=48)
        assert is_faster(3, 16, 16, dtype=torch.float64)
        assert not is_faster(1, 16, 16) and not is_faster(11, 16, 16)
        assert not is_faster(3, 15, 16)
        assert is_faster(3, 16, 16, channels=16) and is_faster(9, 16, 16, channels=16)
        assert not is_faster(5, 16, 16, channels=16) and not is_faster(7, 16, 16, channels=16)
        narrow = winograd.lanes(torch.float32) < 16  # than AVX-512's
        assert all(is_faster(k, 16, 16, channels=24) == narrow for k in (3, 5, 7, 9))
        assert not is_faster(3, 16, 16, channels=15) and not is_faster(3, 16, 16, channels=42)
        assert not is_faster(3, 16, 16, out_channels=3)
        x, weight, bias = problem(3, 16, 16, dtype=torch.float32)[0]
        assert not taken(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
        with torch.autocast('cpu', torch.bfloat16):
            assert not taken(x, weight, bias)
        with mock.patch.object(library, 'compiled', return_value=None):
            assert not taken(x, weight, bias)


@pytest.mark.parametrize('rim', [False, True])
def test_layers_take_it_without_gradients_only(rim):
    torch.manual_seed(0)
    convolution_layer = layer(32, 32, 5, rim).double()
    if rim:
        torch.nn.init.normal_(convolution_layer.gain)
    x = torch.randn(1, 32, 20, 30, dtype=torch.float64)
    with mock.patch.object(winograd, 'winograd_conv2d', wraps=winograd.winograd_conv2d) as used:
        trained = convolution_layer(x)
        assert not used.called
        with torch.no_grad():
            assert (convolution_layer(x) - trained).abs().max() <= 1e-12
        assert used.called


def test_an_encoder_of_it_is_the_same():
    encoder, lr = rdn.RDN(n_blocks=2, n_convs=2, growth=32, n_feats=32).double(), torch.rand(2, 3, 20, 17).double()
    expected = encoder(lr)
    with torch.no_grad():
        assert (encoder(lr) - expected).abs().max() <= 1e-12
