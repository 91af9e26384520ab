"""scripts/average.py as people call it: the mean of weight files, what it tells, mistakes."""

from pathlib import Path

import pytest
import torch
from conftest import TINY, refused
from examples import LIIF, built

import models


@pytest.fixture
def average(program):
    """`average(*arguments)` runs scripts/average.py beside a.pth and b.safetensors, and liif.pth of another kind."""
    models.save('a.pth', built(TINY, 1, torch.float32), {'scale_min': 1, 'scale_max': 3, 'data': 'photos'})
    models.save('b.safetensors', built(TINY, 2, torch.float32), {'scale_min': 1, 'scale_max': 4, 'data': 'photos'})
    models.save('liif.pth', built(LIIF, 3, torch.float32))
    return lambda *arguments: program('scripts/average.py', *arguments)


@pytest.mark.parametrize(
    'shares, share, told',
    [([], 0.5, '0.5 a.pth + 0.5 b.safetensors'), (['-shares', 3, 1], 0.75, '0.75 a.pth + 0.25 b.safetensors')],
)
@pytest.mark.parametrize('output', ['new/mean.pth', 'mean.safetensors'])
def test_the_file_holds_the_mean(average, shares, share, told, output):
    status, out, err = average('a.pth', 'b.safetensors', *shares, '-output', output)
    assert (status, err) == (0, '') and out == f'{told}\nwritten: {output}\n'
    mean, a, b = (models.load(name) for name in (output, 'a.pth', 'b.safetensors'))
    for key, value in mean.state_dict().items():
        expected = share * a.state_dict()[key].double() + (1 - share) * b.state_dict()[key].double()
        assert value.dtype == a.state_dict()[key].dtype and torch.equal(value, expected.to(value.dtype))
    assert mean.spec == TINY and mean.meta == {'scale_min': 1, 'scale_max': 3, 'data': 'photos', 'average': told}


def test_a_file_of_half_the_size_computes_in_float32(average):
    status, out, _ = average('a.pth', '-half', '-output', 'half.pth')
    assert status == 0 and out.startswith('1 a.pth\n')
    stored = torch.load('half.pth', weights_only=True)['model']['sd']
    assert {value.dtype for value in stored.values()} <= {torch.float16, torch.int64}
    half, whole = models.load('half.pth'), models.load('a.pth')
    for key, value in whole.state_dict().items():
        found = half.state_dict()[key]
        assert found.dtype == value.dtype and torch.equal(
            found, value.half().to(value.dtype) if value.is_floating_point() else value
        )
    lr = torch.rand(1, 3, 6, 7)
    assert (half.render(lr, (9, 15)) - whole.render(lr, (9, 15))).abs().max() < 1e-2


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['a.pth', 'liif.pth'], 'of another than the first'),
        (['a.pth', 'none.pth'], 'none.pth: no such file'),
        (['a.pth', 'b.safetensors', '-shares', '1'], '1 shares for 2 models'),
        (['a.pth', 'b.safetensors', '-shares', '1', '-2'], 'from 0 up'),
        (['a.pth', 'b.safetensors', '-shares', 'x', '1'], "'x'"),
        (['a.pth', '-output', 'mean.txt'], 'mean.txt'),
        (['a.pth', '-output', 'a.pth/mean.pth'], 'no folder'),
        (['bicubic'], 'no weights'),
        ([], 'MODEL'),
    ],
)
def test_mistakes(average, arguments, said):
    before = sorted(Path().rglob('*'))
    refused(average('-output', 'mean.pth', *arguments), said)
    assert sorted(Path().rglob('*')) == before
