"""The light encoder: what it is at first, what it is made of, and that its blocks learn."""

import pytest
import torch

import models
from utils import UserError


def encoder(n_blocks=3, n_feats=4, hidden=6):
    torch.manual_seed(0)
    return models.make({'name': 'light', 'args': {'n_blocks': n_blocks, 'n_feats': n_feats, 'hidden': hidden}}).double()


def test_blocks_change_little_at_first():
    model, x = encoder(), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    head = model.head(x)
    change = model.blocks(head) - head
    assert 0 < change.norm() < 0.2 * head.norm()
    assert torch.equal(model(x), head + model.tail(model.blocks(head)))


def test_every_parameter_learns():
    model, x = encoder(), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    target = torch.rand(2, 4, 9, 7, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = [parameter.clone() for parameter in model.parameters()]
    losses = []
    for _ in range(20):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all((parameter != old).any() for parameter, old in zip(model.parameters(), before))


def test_size():
    model = encoder(13, 32, 64)
    block = 2 * 32 * 64 * 9 + 32 + 64
    assert sum(p.numel() for p in model.parameters()) == (3 * 32 * 9 + 32) + 13 * block + (32 * 32 * 9 + 32)
    assert (model.out_dim, model.receptive_field) == (32, 28)


@pytest.mark.parametrize('args', [{'n_blocks': 0}, {'n_feats': 0}, {'hidden': 4.5}])
def test_sizes_that_make_no_sense_are_refused(args):
    with pytest.raises(UserError, match='light: '):
        models.make({'name': 'light', 'args': args})
