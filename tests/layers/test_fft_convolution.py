"""Convolution by Fourier transforms against direct convolution, and when it is used."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers import convolution, fft_convolution
from models.layers.rim import RIMConv2d
from models.layers.rim import make_conv as layer

few = st.integers(1, 3)
side = st.integers(1, 70)


def problem(k, height, width, batch=1, channels=2, out_channels=3, dtype=torch.float64, seed=0):
    """A random image, kernels and bias, and the result of direct convolution."""
    torch.manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, dtype=dtype)
        for shape in ((batch, channels, height, width), (out_channels, channels, k, k), (out_channels,))
    )
    return (x, weight, bias), F.conv2d(x.double(), weight.double(), bias.double(), padding=k // 2)


def ways_taken(*arguments):
    """The output of `same_conv2d`, and whether Fourier transforms were used."""
    with mock.patch.object(fft_convolution, 'fft_conv2d', wraps=fft_convolution.fft_conv2d) as spectra:
        return convolution.same_conv2d(*arguments), spectra.called


@given(
    k=st.integers(0, 18).map(lambda r: 2 * r + 1),
    height=side,
    width=side,
    batch=few,
    channels=few,
    out_channels=few,
    length=st.sampled_from([8, 40, 128]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_spectra_convolve(length, **sizes):
    """Images of one and of several blocks, of complete and incomplete ones, smaller and larger than the kernel."""
    arguments, expected = problem(**sizes)
    with mock.patch.object(fft_convolution, 'LENGTH', length):
        got = fft_convolution.fft_conv2d(*arguments)
    assert got.shape == expected.shape and got.dtype == torch.float64
    assert (got - expected).abs().max() <= 1e-12 * (1 + expected.abs().max())


@pytest.mark.parametrize('size', [(48, 48), (200, 31)])
def test_in_float32_they_are_right_to_a_millionth_of_the_largest_value(size):
    arguments, expected = problem(33, *size, channels=16, dtype=torch.float32)
    with torch.no_grad():
        got, by_spectra = ways_taken(*arguments)
    assert by_spectra and got.dtype == torch.float32
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_an_image_with_the_channels_last_stays_so():
    (x, *rest), expected = problem(21, 64, 50)
    with torch.no_grad():
        got, by_spectra = ways_taken(x.contiguous(memory_format=torch.channels_last), *rest)
    assert by_spectra and got.is_contiguous(memory_format=torch.channels_last)
    assert (got - expected).abs().max() <= 1e-10


def test_where_direct_convolution_is_better_it_is_taken():
    with torch.no_grad():
        assert ways_taken(*problem(21, 64, 64)[0])[1]
        for k, height, width, channels in ((17, 400, 400, 2), (33, 20, 20, 2), (21, 64, 64, 400)):
            arguments, expected = problem(k, height, width, channels=channels)
            got, by_spectra = ways_taken(*arguments)
            assert not by_spectra and torch.equal(got, expected)
        half = [x.bfloat16() for x in problem(21, 64, 64)[0]]
        assert not ways_taken(*half)[1]
        single = [x.float() for x in problem(21, 64, 64)[0]]
        with torch.autocast('cpu', torch.bfloat16):
            got, by_spectra = ways_taken(*single)
        assert got.dtype == torch.bfloat16 and not by_spectra
    assert not ways_taken(*problem(21, 64, 64)[0])[1]  # gradients may be wanted


@pytest.mark.parametrize('rim', [False, True])
def test_layers_take_spectra_without_gradients_only(rim):
    torch.manual_seed(0)
    convolution = layer(2, 3, 21, rim).double()
    assert isinstance(convolution, RIMConv2d) == rim
    if rim:
        torch.nn.init.normal_(convolution.gain)
    x = torch.randn(1, 2, 64, 50, dtype=torch.float64)
    with mock.patch.object(fft_convolution, 'fft_conv2d', wraps=fft_convolution.fft_conv2d) as spectra:
        trained = convolution(x)
        assert not spectra.called
        with torch.no_grad():
            assert (convolution(x) - trained).abs().max() <= 1e-10
        assert spectra.called
