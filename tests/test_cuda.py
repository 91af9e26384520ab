"""What holds on a CPU holds on a GPU too; skipped if there is no GPU."""

import copy

import pytest
import torch
from conftest import TINY, refused
from torch.nn import functional as F

import models
from models.rendering import grid

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA device')
PUBLISHED = {
    'name': 'msit',
    'args': {
        'encoder_spec': {'name': 'edsr-baseline', 'args': {}},
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256] * 4, 'act': 'gelu'}},
        'position_bias_spec': {'name': 'sinusoid', 'args': {'features': 64}},
    },
}
PEER = {
    'encoder_spec': TINY['args']['encoder_spec'],
    'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [16, 16]}},
}
SPECS = {
    'tiny': TINY,
    'rim': {**TINY, 'args': {**TINY['args'], 'rim': True}},
    'published': PUBLISHED,
    'liif': {'name': 'liif', 'args': PEER},
    'lte': {'name': 'lte', 'args': {**PEER, 'hidden_dim': 16}},
}


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 has 10 bits of mantissa; float32 is compared with float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(name):
    """The same model on the CPU and on the GPU."""
    torch.manual_seed(0)
    model = models.build(SPECS[name]).eval().requires_grad_(False)
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize('name', SPECS)
@pytest.mark.parametrize('size', [(48, 60), (77, 101), (13, 190)])
def test_render_is_that_of_the_cpu(name, size):
    model, there = pair(name)
    lr = torch.rand(2, 3, 24, 30)
    expected = model.render(lr, size)
    assert (there.render(lr.cuda(), size).cpu() - expected).abs().max() <= 1e-4
    assert (there.render(lr.cuda(), size, tile=11).cpu() - expected).abs().max() <= 1e-4


@pytest.mark.parametrize('name', SPECS)
def test_query_is_that_of_the_cpu(name):
    model, there = pair(name)
    lr, coord = torch.rand(2, 3, 17, 23), torch.rand(2, 40, 2, dtype=torch.float64) * 2 - 1
    cell = grid.cell_size(40, 50)
    got = there.query(there.encode(lr.cuda()), coord.cuda(), cell.cuda()).cpu()
    assert (got - model.query(model.encode(lr), coord, cell)).abs().max() <= 1e-4


@pytest.mark.parametrize('name', ['tiny', 'published'])
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_is_close(name, precision):
    _, there = pair(name)
    lr = torch.rand(1, 3, 40, 40, device='cuda')
    exact, half = (there.render(lr, (90, 100), precision=p) for p in ('fp32', precision))
    assert -10 * (half.clamp(0, 1) - exact.clamp(0, 1)).square().mean().log10() >= 50


def test_gradients_are_those_of_the_cpu():
    model, there = pair('rim')
    lr, coord = torch.rand(2, 3, 12, 12, dtype=torch.float64), torch.rand(2, 30, 2, dtype=torch.float64) * 2 - 1
    for part in (model, there):
        part.double().train().requires_grad_(True)
        device = next(part.parameters()).device
        rgb = part.query(part.encode(lr.to(device)), coord.to(device), grid.cell_size(24, 24).to(device))
        F.l1_loss(rgb, torch.zeros_like(rgb)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), there.parameters()):
        assert (ours.grad - theirs.grad.cpu()).abs().max() <= 1e-9, name


def test_a_device_that_is_not_there_is_refused(program, photos, tmp_path):
    photo = photos / 'photo0.png'
    refused(program('demo.py', '-input', photo, '-output', tmp_path / 'out.png', '-device', 'cuda:99'), 'cuda:99')
