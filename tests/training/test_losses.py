"""The losses by plain loops, what they compare, their gradients, sums of several, and what a config may name."""

import cmath
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.training.losses import WeightedSum, check_loss, losses
from utils import UserError

OWN = sorted(set(losses.entries) - {'lpips'})


def sample(seed, side=3, batch=2):
    torch.manual_seed(seed)
    return (torch.rand(batch, side * side, 3, dtype=torch.float64) for _ in range(2))


def by_loops(name, colour, target):
    """A loss of `(B, side^2, 3)` in plain Python."""
    patches = list(zip(colour.tolist(), target.tolist()))
    differences = [[a - b for p, q in zip(*patch) for a, b in zip(p, q)] for patch in patches]
    if name == 'l1':
        return mean([abs(d) for patch in differences for d in patch])
    if name == 'rmse':
        return mean([math.sqrt(mean([d * d for d in patch]) + 1e-8) for patch in differences])
    if name == 'charbonnier':
        return mean([math.sqrt(d * d + 1e-6) for patch in differences for d in patch])
    amplitudes, phases = [], []
    side = math.isqrt(colour.shape[1])
    for patch in patches:
        for channel in range(3):
            for v in range(side):
                for u in range(side // 2 + 1):
                    a, b = (transform([pixel[channel] for pixel in image], side, v, u) for image in patch)
                    amplitudes.append(abs(abs(a) - abs(b)))
                    phases.append(abs(cmath.phase(a * b.conjugate())) if min(abs(a), abs(b)) > 1e-6 else 0)
    return mean(amplitudes) / 2 + mean(phases) / 2


def mean(values):
    return sum(values) / len(values)


def transform(pixels, side, v, u):
    """A coefficient of the orthonormal Fourier transform of a square image, row by row."""
    waves = [cmath.exp(-2j * math.pi * (v * y + u * x) / side) for y in range(side) for x in range(side)]
    return sum(p * w for p, w in zip(pixels, waves)) / side


@pytest.mark.parametrize('name', OWN)
@given(seed=st.integers(0, 99), side=st.integers(1, 5))
@settings(max_examples=15)
def test_every_loss_by_plain_loops(name, seed, side):
    colour, target = sample(seed, side)
    (value,) = WeightedSum(name)(colour, target).values()
    assert float(value) == pytest.approx(by_loops(name, colour, target), rel=1e-4, abs=1e-5)  # fft: in float32


@pytest.mark.parametrize('name', OWN)
def test_colours_that_are_met_exactly_have_a_finite_gradient(name):
    target = torch.zeros(2, 16, 3)
    target[:, :, 1] = 0.5
    target[:, ::3, 2] = 1
    colour = target.clone().requires_grad_(True)
    (value,) = WeightedSum(name)(colour, target).values()
    value.backward()
    assert float(value.detach()) < 2e-3 and colour.grad.isfinite().all() and colour.grad.abs().max() < 1


@pytest.mark.parametrize('name', OWN)
def test_the_gradient_is_that_of_differences(name):
    colour, target = sample(3)
    colour.requires_grad_(True)
    part = WeightedSum(name)

    def total(c):
        return sum(part(c, target).values())

    (gradient,) = torch.autograd.grad(total(colour), colour)
    direction = torch.rand_like(colour) - 0.5
    step = 1e-3  # fft is in float32
    along = (total(colour + step * direction) - total(colour - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(along.detach()), rel=0.02, abs=1e-3)


def test_several_losses_have_their_weights():
    colour, target = sample(1)
    weighted = WeightedSum({'l1': 1, 'fft': 0.05, 'charbonnier': 2})(colour, target)
    assert list(weighted) == ['l1', 'fft', 'charbonnier']
    for name, weight in (('l1', 1), ('fft', 0.05), ('charbonnier', 2)):
        assert torch.equal(weighted[name], weight * sum(WeightedSum(name)(colour, target).values()))


def test_a_plain_l1_is_torchs_to_the_last_bit():
    colour, target = sample(2)
    assert torch.equal(sum(WeightedSum('l1')(colour, target).values()), nn.functional.l1_loss(colour, target))


def test_lpips_is_given_images_in_its_scale(monkeypatch):
    given = []

    class Net(nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, a, b):
            given.append((a, b))
            return self.weight * (a - b).square().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, 'lpips', SimpleNamespace(LPIPS=Net))
    colour, target = sample(0, side=4)
    part = WeightedSum({'lpips': 0.5})
    value = part(colour.requires_grad_(True), target)['lpips']
    ((a, b),) = given
    assert a.shape == b.shape == (2, 3, 4, 4)
    assert torch.equal(b[1, :, 2, 3], target[1, 2 * 4 + 3] * 2 - 1)
    assert float(value.detach()) == pytest.approx(0.5 * 4 * float((colour - target).detach().square().mean()))
    assert not any(parameter.requires_grad for parameter in part.parameters())


def test_lpips_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(UserError, match='pip install lpips'):
        WeightedSum('lpips')


def test_a_loss_is_added_by_registering_it():
    @losses.register('own')
    class Own(nn.Module):
        of_images = False

        def forward(self, colour, target):
            return (colour - target).abs().max()

    try:
        colour, target = sample(0)
        assert WeightedSum('own')(colour, target)['own'] == (colour - target).abs().max()
    finally:
        del losses.entries['own']


@pytest.mark.parametrize('draw', ['pixel', 'block'])
def test_what_compares_images_needs_them(draw):
    check_loss({'l1': 1}, draw)
    check_loss({'l1': 1, 'fft': 1}, 'patch')
    with pytest.raises(UserError, match=f"the loss 'fft' compares images: it needs the draw patch, not {draw}"):
        check_loss({'l1': 1, 'fft': 1}, draw)


def test_a_stage_with_several_losses_is_trained_and_logged(program, config, tmp_path):
    config.update(draw='patch', queries=36)
    config['stages'] = {'stage1': {**config['stages']['stage1'], 'loss': {'l1': 1, 'fft': 0.05}}}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    assert program('train.py', '-config', 'run.yaml', '-device', 'cpu')[0] == 0
    log = [json.loads(line) for line in (tmp_path / 'save/run/log.jsonl').read_text().splitlines()]
    (entry,) = [entry for entry in log if 'loss' in entry]
    assert entry['loss l1'] > 0 and entry['loss fft'] > 0
    assert entry['loss'] == pytest.approx(entry['loss l1'] + entry['loss fft'])


def test_a_stage_whose_loss_does_not_go_with_the_draw_is_refused(program, config, tmp_path):
    config['stages']['stage2']['loss'] = {'fft': 1}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu'), "stage 'stage2'", 'needs the draw patch')
    assert not (tmp_path / 'save').exists()
