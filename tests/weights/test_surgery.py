"""A model whose encoder was deepened computes the same, and its new blocks learn; the average of models has the average
of their weights."""

import pytest
import torch
from conftest import TINY
from examples import BICUBIC, LIIF, built
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.weights.surgery import average, deepened
from utils import UserError


@settings(max_examples=10)
@given(added=st.integers(0, 4), rim=st.booleans(), seed=st.integers(0, 99))
def test_a_deeper_model_computes_the_same(added, rim, seed):
    torch.manual_seed(seed)
    model = models.build({**TINY, 'args': {**TINY['args'], 'rim': rim}}).double().eval()
    model.meta = {'stage': 'first'}
    deeper = deepened(model, 1 + added)
    lr = torch.rand(1, 3, 7, 6, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(deeper.render(lr, (15, 11)), model.render(lr, (15, 11)))
    assert len(deeper.encoder.body) == len(model.encoder.body) + added
    assert deeper.encoder.receptive_field == model.encoder.receptive_field + 2 * added
    assert deeper.meta == model.meta and not deeper.training and next(deeper.parameters()).dtype == torch.float64
    assert models.fitted(deeper.spec, deeper.state_dict(), torch.float64).spec == deeper.spec


def test_added_blocks_learn():
    torch.manual_seed(0)
    deeper = deepened(models.build(TINY).train(), 3)
    optimizer = torch.optim.SGD(deeper.parameters(), lr=0.1)
    added = [parameter for block in deeper.encoder.body[1:3] for parameter in block.parameters()]
    before = [parameter.detach().clone() for parameter in added]
    for _ in range(2):
        optimizer.zero_grad()
        deeper.encoder(torch.rand(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, added))


@pytest.mark.parametrize(
    'encoder_spec, said',
    [
        ({'name': 'edsr-baseline', 'args': {'n_resblocks': 3, 'n_feats': 8}}, '3 residual blocks already, more than 2'),
        ({'name': 'rdn', 'args': {'n_blocks': 2, 'n_convs': 2, 'growth': 4, 'n_feats': 8}}, 'no EDSR encoder'),
    ],
)
def test_what_cannot_be_made_deeper(encoder_spec, said):
    with pytest.raises(UserError, match=said):
        deepened(models.build({**TINY, 'args': {**TINY['args'], 'encoder_spec': encoder_spec}}), 2)


# ---------------------------------------------------------------- averages


def random_model(seed, spec=TINY):
    return built(spec, seed)


@settings(max_examples=10)
@given(shares=st.lists(st.floats(0, 9), min_size=1, max_size=4).filter(lambda shares: sum(shares) > 0.1))
def test_an_average_is_the_weighted_mean_of_all_parameters_and_statistics(shares):
    several = [random_model(seed) for seed in range(len(shares))]
    states, result = [model.state_dict() for model in several], average(several, shares)
    assert result.spec == TINY and not result.training
    for key, value in result.state_dict().items():
        expected = sum(share * state[key].double() for share, state in zip(shares, states)) / sum(shares)
        assert (value - expected).abs().max() <= (1e-12 if value.is_floating_point() else 0.5), key
    assert any('running_var' in key for key in states[0])


def test_of_equal_models_the_average_is_the_same():
    model = random_model(0).float()
    for shares in (None, [3, 1, 2]):
        result = average([model] * 3, shares)
        assert next(result.parameters()).dtype == torch.float32
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in result.state_dict().items())


def test_shares_of_one_and_none_give_that_model_and_two_are_between():
    a, b = random_model(1), random_model(2)
    lr = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    assert torch.equal(average([a, b], [1, 0]).render(lr, (8, 9)), a.render(lr, (8, 9)))
    assert torch.equal(average([a, b], [0, 2]).render(lr, (8, 9)), b.render(lr, (8, 9)))
    weight = average([a, b], [0.25, 0.75]).project.weight
    assert torch.allclose(weight, 0.25 * a.project.weight + 0.75 * b.project.weight, rtol=0, atol=1e-15)


def test_rim_is_folded_before():
    """What RIM computes is no linear function of its parameters, so kernels are averaged."""
    a, b = (built({**TINY, 'args': {**TINY['args'], 'rim': True}}, seed) for seed in (1, 2))
    kernel = average([a, b]).mssa.value.weight
    expected = (models.fold(a).mssa.value.weight + models.fold(b).mssa.value.weight) / 2
    assert torch.allclose(kernel, expected, rtol=0, atol=1e-15)
    assert (a.mssa.value.weight + b.mssa.value.weight - 2 * kernel).abs().max() > 1e-3


def test_the_card_has_what_all_have_in_common():
    a, b = random_model(1), random_model(2)
    a.meta = {'data': 'photos', 'stage': 'one', 'scale_min': 1, 'scale_max': 3}
    b.meta = {'data': 'photos', 'stage': 'two', 'scale_min': 1.5, 'scale_max': 8}
    assert average([a, b]).meta == {'data': 'photos', 'scale_min': 1.5, 'scale_max': 3}
    b.meta |= {'scale_min': 4}
    assert average([a, b]).meta == {'data': 'photos'}


@pytest.mark.parametrize(
    'specs, shares, said',
    [
        ([TINY, LIIF], None, 'number 2 is of another than the first'),
        ([TINY, {**TINY, 'args': {**TINY['args'], 'fem': None}}], None, 'another'),  # of the same shapes
        ([TINY, TINY], [1], '1 shares for 2 models'),
        ([TINY, TINY], [0, 0], 'not all 0'),
        ([TINY, TINY], [2, -1], 'from 0 up'),
        ([TINY, TINY], [float('nan'), 1], 'from 0 up'),
        ([BICUBIC], None, 'no weights'),
        ([], None, 'models'),
    ],
)
def test_what_cannot_be_averaged(specs, shares, said):
    with pytest.raises(UserError, match=said):
        average([random_model(0, spec) for spec in specs], shares)
