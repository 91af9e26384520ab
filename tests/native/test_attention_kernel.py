"""The kernel for attention and sum computes what torch does, in Triton's interpreter, and is used only where it is
switched on."""

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from conftest import ROOT, TINY
from examples import built, close, in_torch

from models.native import attention

pytestmark = pytest.mark.skipif(not attention.INSTALLED, reason='Triton is not installed')
IN_INTERPRETER = """
import torch
from models.native.attention import agrees, attend_and_add, by_torch

torch.manual_seed(0)
for n, m, k, d, hidden in ((2, 1, 9, 4, 3), (3, 5, 25, 8, 20), (2, 70, 9, 20, 70)):
    shapes = (n, m, hidden), (n, m, d), (k, n, d), (n, m, k), (k, n, hidden)
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    weight = torch.randn(shapes[0])
    found = []
    for function in (attend_and_add, by_torch):
        result = function(*given)
        found.append([result, *torch.autograd.grad(result, given, weight)])
    for name, ours, theirs in zip(('result', 'hidden', 'query', 'keys', 'bias', 'shared'), *found):
        assert (ours - theirs).abs().max() <= 1e-5 * (1 + theirs.abs().max()), (n, m, name)
with torch.inference_mode(), torch.autocast('cpu'):  # wherever it is asked for first
    assert agrees(torch.device('cpu'), torch.float32)
"""


def test_result_and_gradients_are_those_of_torch():
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', IN_INTERPRETER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_first_layer_is_the_same_with_it():
    model, lr = built(TINY), torch.rand(2, 3, 6, 7, dtype=torch.float64)
    with in_torch():
        expected = model.render(lr, (15, 16))
        kernel = mock.Mock(side_effect=attention.by_torch)
        with mock.patch.multiple(attention, usable_on=lambda query: True, attend_and_add=kernel):
            close(model.render(lr, (15, 16)), expected)
    assert kernel.called


def test_it_is_used_on_cuda_alone_if_it_is_switched_on_and_right(monkeypatch):
    on_cuda = mock.Mock(device=torch.device('cuda'), dtype=torch.float32)
    agrees = mock.Mock(return_value=True)
    monkeypatch.setattr(attention, 'agrees', agrees)
    monkeypatch.delenv('MSIT_TRITON', raising=False)
    assert not attention.usable_on(on_cuda) and not agrees.called
    monkeypatch.setenv('MSIT_TRITON', '1')
    assert attention.usable_on(on_cuda) and not attention.usable_on(torch.zeros(1))
    agrees.return_value = False
    assert not attention.usable_on(on_cuda)


def test_a_kernel_that_fails_or_is_wrong_does_not_agree(monkeypatch):
    cpu = torch.device('cpu')
    for wrong in (mock.Mock(side_effect=RuntimeError), lambda *given: attention.by_torch(*given) * 1.001):
        attention.agrees.cache_clear()
        monkeypatch.setattr(attention, 'attend_and_add', wrong)
        assert not attention.agrees(cpu, torch.float32)
    attention.agrees.cache_clear()
    monkeypatch.setattr(attention, 'attend_and_add', attention.by_torch)
    assert attention.agrees(cpu, torch.float32)
    attention.agrees.cache_clear()
