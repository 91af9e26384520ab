"""A model whose encoder was deepened computes the same, and its new blocks learn."""

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.weights.surgery import deepened
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
