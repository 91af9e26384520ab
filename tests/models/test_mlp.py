"""The MLP's layers: the convolution that replaces a matrix product on CPUs with AVX-512, forced on any machine."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from models import mlp

precise = dict(rtol=1e-5, atol=1e-5)
as_convolution = mock.patch.multiple(mlp, AVX512=True, FEWEST_ROWS=1)


def layer_and_input(in_features, out_features, shape, seed=0, bias=True):
    torch.manual_seed(seed)
    layer = mlp.Linear(in_features, out_features, bias)
    return layer, torch.randn(*shape, in_features, requires_grad=True)


def ways_taken(layer, x):
    """The output, and whether it came from a convolution."""
    with mock.patch.object(F, 'conv2d', wraps=F.conv2d) as conv:
        return layer(x), conv.called


@as_convolution
@example(20, 1, [25, 25, 28], True, 75)
@given(
    st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 30), max_size=3), st.booleans(), st.integers(0, 99)
)
def test_is_the_linear_layer_with_its_gradients(in_features, out_features, shape, bias, seed):
    layer, x = layer_and_input(in_features, out_features, shape, seed, bias)
    said, by_convolution = ways_taken(layer, x)
    expected = F.linear(x, layer.weight, layer.bias)
    assert by_convolution
    torch.testing.assert_close(said, expected, **precise)
    upstream = torch.randn_like(expected)
    leaves = [x, *layer.parameters()]
    terms = upstream.abs().sum()  # the sums that the gradients are may cancel out
    for got, wanted in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (said, expected))):
        assert (got - wanted).norm() <= 1e-5 * wanted.norm() + 1e-7 * terms


@as_convolution
def test_rows_that_do_not_lie_one_after_the_other():
    layer, x = layer_and_input(6, 5, (7, 4))
    for view in (x.transpose(0, 1), x[::2], x[..., :1].expand_as(x)):
        torch.testing.assert_close(layer(view), F.linear(view, layer.weight, layer.bias), **precise)


@as_convolution
@pytest.mark.parametrize('shape', [(0,), (2, 0)])
def test_no_rows_at_all(shape):
    layer, x = layer_and_input(6, 5, shape)
    assert layer(x).shape == (*shape, 5)


@as_convolution
def test_other_precisions_go_to_the_matrix_product():
    layer, x = layer_and_input(6, 5, (7,))
    for dtype in (torch.float64, torch.bfloat16):
        assert ways_taken(layer.to(dtype), x.to(dtype))[1] is False
    with torch.autocast('cpu', torch.bfloat16):
        said, by_convolution = ways_taken(layer.float(), x)
    assert said.dtype == torch.bfloat16 and not by_convolution


def test_without_avx512_and_for_few_rows_the_matrix_product_is_taken():
    many = layer_and_input(6, 5, (mlp.FEWEST_ROWS,))
    with mock.patch.object(mlp, 'AVX512', False):
        assert ways_taken(*many)[1] is False
    with mock.patch.object(mlp, 'AVX512', True):
        assert ways_taken(*many)[1] is True
        assert ways_taken(*layer_and_input(6, 5, (mlp.FEWEST_ROWS - 1,)))[1] is False
