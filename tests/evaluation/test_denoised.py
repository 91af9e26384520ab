"""A model behind scikit-image's denoiser."""

import builtins
import warnings

import pytest
import torch

import models
from models.evaluation.denoised import Denoised, denoised
from utils import UserError

pytest.importorskip('skimage')
pytest.importorskip('pywt')


def ramp():
    y, x = torch.meshgrid(torch.linspace(0.2, 0.8, 48), torch.linspace(0.3, 0.6, 40), indexing='ij')
    return torch.stack([y, x, (x + y) / 2])


def test_noise_is_removed_and_what_has_none_is_kept():
    torch.manual_seed(0)
    noisy = ramp() + 0.04 * torch.randn(3, 48, 40)
    assert (denoised(noisy) - ramp()).square().mean() < 0.15 * 0.04**2
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert denoised(torch.full((3, 16, 16), 0.5)).allclose(torch.tensor(0.5))
    assert (denoised(ramp()) - ramp()).abs().max() < 0.01


def test_the_model_renders_what_is_denoised():
    torch.manual_seed(0)
    lr, model = torch.rand(2, 3, 20, 24), models.load('bicubic')
    expected = model.render(torch.stack([denoised(image) for image in lr]), (30, 41))
    assert Denoised(model).render(lr, (30, 41)).equal(expected)


def test_the_packages_that_are_missing_are_named(monkeypatch):
    imported = builtins.__import__
    monkeypatch.setattr(
        builtins,
        '__import__',
        lambda name, *more: imported('missing_' + name if name == 'pywt' else name, *more),
    )
    with pytest.raises(UserError, match='nlmeans.MODEL needs two packages: pip install scikit-image PyWavelets'):
        Denoised(models.load('bicubic'))
