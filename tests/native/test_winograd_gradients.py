"""Gradients of convolutions by Winograd's method against those of direct ones, and when they are taken."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers import convolution
from models.native import library, winograd

pytestmark = pytest.mark.skipif(library.compiled(torch.float32) is None, reason='no compiled code on this system')
channels = st.sampled_from([16, 32, 48, 64, 80])
side = st.integers(1, 21)


def problem(batch=1, channels=32, out_channels=32, height=16, width=16, dtype=torch.float64, layout='last', seed=0):
    """Image, kernels and bias, of which gradients are wanted, and the gradient of the result."""
    make = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, channels, height, width),
        (out_channels, channels, 3, 3),
        (out_channels,),
        (batch, out_channels, height, width),
    )
    x, weight, bias, gradient = (torch.randn(*shape, dtype=dtype, generator=make) for shape in shapes)
    if layout == 'last':
        x, gradient = (image.contiguous(memory_format=torch.channels_last) for image in (x, gradient))
    return [tensor.requires_grad_() for tensor in (x, weight, bias)], gradient


def results(convolve, arguments, gradient):
    out = convolve(*arguments)
    return out, *torch.autograd.grad(out, [x for x in arguments if x.requires_grad], gradient)


def direct(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


def largest_error(got, expected):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    return ((got - expected).abs().max() / expected.abs().max()).item()


@given(
    height=side,
    width=side,
    batch=st.integers(1, 3),
    channels=channels,
    out_channels=channels,
    threads=st.sampled_from([1, 3]),
    layout=st.sampled_from(['first', 'last']),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_gradients_are_right(threads, **sizes):
    arguments, gradient = problem(**sizes)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = results(winograd.WinogradConv2d.apply, arguments, gradient)
    finally:
        torch.set_num_threads(before)
    assert all(largest_error(*pair) <= 1e-12 for pair in zip(got, results(direct, arguments, gradient)))


def test_in_float32_they_are_right_to_a_hundred_thousandth_of_the_largest_value():
    arguments, gradient = problem(8, 64, 48, 32, 32, dtype=torch.float32)
    expected = results(direct, [x.detach().double().requires_grad_() for x in arguments], gradient.double())
    for one, other in zip(results(winograd.WinogradConv2d.apply, arguments, gradient), expected):
        assert largest_error(one.double(), other) <= 1e-5


def test_only_what_is_wanted_is_computed():
    (x, weight, bias), gradient = problem()
    for wanted in ([x], [weight], [bias]):
        for tensor in (x, weight, bias):
            tensor.requires_grad_(any(tensor is one for one in wanted))
        got, expected = (results(way, (x, weight, bias), gradient) for way in (winograd.WinogradConv2d.apply, direct))
        assert len(got) == 2 and all(largest_error(*pair) <= 1e-12 for pair in zip(got, expected))


def test_the_same_sums_give_the_same_bits():
    (x, *_), gradient = problem(3, height=40, width=40, dtype=torch.float32)
    once, again = (winograd.gradient_of_weight(x.detach(), gradient) for _ in range(2))
    assert torch.equal(once, again)


def taken(*arguments):
    """Whether `convolution.same_conv2d` takes Winograd's method with gradients, whose result is then right."""
    with mock.patch.object(winograd.WinogradConv2d, 'apply', wraps=winograd.WinogradConv2d.apply) as used:
        got = convolution.same_conv2d(*arguments)
    k = arguments[1].shape[-1]
    assert largest_error(got, F.conv2d(*arguments, padding=k // 2)) <= 1e-4
    return used.called


def test_where_it_is_faster_it_is_taken():
    def pays(**sizes):
        return taken(*problem(dtype=torch.float32, **sizes)[0])

    assert pays() and pays(channels=64, out_channels=48, batch=2)
    assert not pays(layout='first')  # large kernels would be slow with what comes out
    assert pays(channels=16) and not pays(channels=8) and not pays(out_channels=15) and not pays(height=15)
    (x, weight, bias), _ = problem(dtype=torch.float32)
    assert not taken(x, torch.randn(32, 32, 5, 5), bias)
    with torch.no_grad():
        assert not taken(x, weight, bias)  # but the method without gradients
    with torch.autocast('cpu', torch.bfloat16), mock.patch.object(winograd.WinogradConv2d, 'apply') as used:
        convolution.same_conv2d(x, weight, bias)
    assert not used.called
