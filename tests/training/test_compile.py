"""`compile: true`: the parts of a model that are compiled have no graph breaks, and inductor computes what they do."""

import shutil

import pytest
import torch
from conftest import TINY
from torch import nn

import models
from models.layers.fem import FEM
from models.training.run import Run

PARTS = {'encoder': 3, 'project': 8, 'msno': 8, 'mssa': 8, 'imnet': 3 * 3 * 8 + 2}  # of a model, and their inputs


def test_the_parts_of_a_model_have_no_graph_breaks():
    model = models.build(TINY).train()
    assert PARTS.keys() == dict(model.named_children()).keys()
    for name, width in PARTS.items():
        x = torch.rand(2, width) if name == 'imnet' else torch.rand(1, width, 12, 12)
        told = torch._dynamo.explain(getattr(model, name))(x)
        assert told.graph_count == 1 and told.graph_break_count == 0, (name, told.break_reasons)


@pytest.mark.skipif(not shutil.which('g++'), reason='inductor needs a C++ compiler')
def test_inductor_computes_the_same_loss_and_gradients(config, tmp_path):
    stage = {**config['stages']['stage1'], 'rim': True}
    found = []
    for compiled in (False, True):
        choices = {'compile': compiled, 'draw': 'pixel', 'stages': {'stage1': stage}}
        run = Run({**config, **choices}, tmp_path, torch.device('cpu'))
        run.begin_stage()
        with run.batches() as batches:
            (loss,) = run.objective(*run.next_batches(batches)).values()
        loss.backward()
        gradients = [weight.grad.flatten() for weight in run.model.parameters() if weight.grad is not None]
        found.append((float(loss.detach()), torch.cat(gradients)))
    (expected, gradient), (loss, other) = found
    assert loss == pytest.approx(expected, rel=1e-5) and gradient.norm() > 0
    assert (gradient - other).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize('padding', ['replicate', 'circular'])
def test_fem_continues_an_image_as_padding_does(padding):
    fem, found = FEM(8, padding).double(), []
    for whole in (True, False):
        x = torch.rand(2, 8, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        y = fem(x) if whole else fem(nn.functional.pad(x, (1, 1, 1, 1), mode=padding), padded=True)
        (y * torch.arange(y.numel()).reshape(y.shape)).sum().backward()
        found.append((y.detach(), x.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
