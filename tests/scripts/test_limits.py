"""The figure of what the weights know and do not know."""

import pytest
import torch
from conftest import TINY
from PIL import Image

import models


@pytest.mark.parametrize('count', [1, 2])
def test_a_row_an_input_and_a_column_a_model(program, count):
    names = ['a', 'b'][:count]
    for name in names:
        torch.manual_seed(0)
        models.save(f'{name}.pth', models.build(TINY))
    files = [f'{name}.pth' for name in names]
    status, out, err = program('scripts/limits.py', '-models', *files, '-output', 'new/limits.png', '-device', 'cpu')
    lines = out.splitlines()
    assert (status, err) == (0, '') and len(lines) == 6 and lines[-1] == 'written: new/limits.png'
    bicubic = []
    for line, words in zip(lines, ('reduced by bicubic', 'JPEG', 'noise', 'blurred', 'noise, 25')):
        label, ours, *others = line.split('  ')
        assert words in label and ours.startswith('bicubic ')
        assert [other.split(' ')[0] for other in others] == names
        assert len({other.split(' ', 1)[1] for other in others}) == 1  # the same weights
        bicubic.append(float(ours.split(' ')[1]))
    assert bicubic[0] == max(bicubic) and bicubic[-1] == min(bicubic)
    with Image.open('new/limits.png') as image:
        assert image.width == (3 + count) * 250 + 10 and image.height == 5 * 232
