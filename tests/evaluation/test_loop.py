"""The evaluation loop: what it passes to the model, and how it measures the output."""

import math
import time

import pytest
import torch

from models import device
from models.evaluation.loop import evaluate
from models.evaluation.metrics import psnr, ssim
from utils import UserError


class Answers:
    """A dataset of random images of several sizes, and the 'model' whose output for image `k` is `answers[k]`."""

    def __init__(self, scale=(2.0, 2.5)):
        generator = torch.Generator().manual_seed(0)
        self.items = [
            {
                'name': f'image{k}',
                'lr': torch.full((3, 9, 8), k / 10),
                'scale': scale,
                'hr': torch.randint(0, 256, (3, 30 + k, 33), generator=generator) / 255,
            }
            for k in range(3)
        ]
        self.answers = [item['hr'] + 0.2 * torch.randn(item['hr'].shape, generator=generator) for item in self.items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]

    def render(self, lr, size):
        k = round(10 * lr.mean().item())
        assert lr.shape == (1, 3, 9, 8) and tuple(size) == (30 + k, 33)
        return self.answers[k][None]


@pytest.mark.parametrize('protocol', ['benchmark', 'div2k'])
@pytest.mark.parametrize('eight_bit', [False, True])
def test_values_are_those_of_the_clamped_outputs(protocol, eight_bit):
    data = Answers()
    results = evaluate(data, data, protocol, progress=False, eight_bit=eight_bit)
    assert len(results['images']) == 3
    for answer, item, image in zip(data.answers, data.items, results['images']):
        output = answer.clamp(0, 1)
        if eight_bit:
            output = (output * 255).round() / 255
        assert image['name'] == item['name'] and image['seconds'] >= 0
        assert image['psnr'] == psnr(output, item['hr'], protocol, (2, 2.5))
        assert image['ssim'] == ssim(output, item['hr'], protocol, (2, 2.5))


def test_average_is_the_mean_of_the_images_values():
    data = Answers()
    results = evaluate(data, data, 'benchmark', progress=False)
    for key in ('psnr', 'ssim', 'seconds'):
        assert results[key] == pytest.approx(sum(image[key] for image in results['images']) / 3)


def test_equal_images_are_infinite_and_so_is_the_average():
    data = Answers()
    data.answers[1] = data.items[1]['hr']
    results = evaluate(data, data, 'benchmark', progress=False, eight_bit=True)
    assert [math.isinf(image['psnr']) for image in results['images']] == [False, True, False]
    assert results['psnr'] == math.inf and results['ssim'] < 1


def test_outputs_are_handed_out_as_compared():
    data, seen = Answers(), {}
    evaluate(data, data, 'benchmark', progress=False, eight_bit=True, each=seen.__setitem__)
    assert list(seen) == ['image0', 'image1', 'image2']
    for answer, output in zip(data.answers, seen.values()):
        assert torch.equal(output, (answer.clamp(0, 1) * 255).round() / 255)


def test_the_device_is_waited_for_before_every_clock_reading(monkeypatch):
    data, events = Answers(), []
    render = data.render
    monkeypatch.setattr(data, 'render', lambda *a: events.append('render') or render(*a))
    monkeypatch.setattr(device, 'synchronize', lambda device: events.append('wait'))
    monkeypatch.setattr(time, 'perf_counter', lambda: events.append('clock') or 0.0)
    evaluate(data, data, 'benchmark', progress=False)
    assert events == ['wait', 'clock', 'render', 'wait', 'clock'] * 3


def test_the_device_that_is_waited_for_is_the_one_in_use(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)
    monkeypatch.setattr(torch.mps, 'synchronize', lambda: waited.append('mps'))
    for name in ('cpu', 'cuda:1', 'mps'):
        device.synchronize(torch.device(name))
    assert waited == [torch.device('cuda:1'), 'mps']


def test_an_output_that_is_not_finite_shows():
    data = Answers()
    data.answers[1][:, 15, 15] = math.nan
    results = evaluate(data, data, 'benchmark', progress=False)
    assert [math.isnan(image['psnr']) for image in results['images']] == [False, True, False]
    assert math.isnan(results['psnr']) and math.isnan(results['ssim'])


def test_the_image_that_is_too_small_is_named():
    data = Answers((15, 2))
    with pytest.raises(UserError, match='image0: .*30 x 33 pixels is too small'):
        evaluate(data, data, 'benchmark', progress=False)
