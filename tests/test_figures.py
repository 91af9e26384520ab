"""The comparison picture: what it shows, for any size of image."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from datasets import figures
from datasets.figures import comparison, most_detailed, strip


def test_columns_show_the_whole_image_and_the_part():
    lr, sr = torch.zeros(3, 40, 40), torch.zeros(3, 80, 80)
    lr[0], sr[2] = 1, 1                                                     # red and blue
    lr[:, 10:20, 10:20] = sr[:, 20:40, 20:40] = torch.tensor([0., 1., 0.]).view(3, 1, 1)
    picture = np.asarray(comparison(lr, [('ours', sr)], crop=(10, 10, 10, 10)))
    for colour in ([255, 0, 0], [0, 0, 255], [0, 255, 0], [0, 0, 0]):       # both images, the part, the labels
        assert (picture == colour).all(-1).any()
    part = picture[-figures.GAP - figures.PANEL:-figures.GAP, -figures.GAP - figures.PANEL:-figures.GAP]
    assert (part == [0, 255, 0]).all()


@settings(max_examples=15, deadline=None)
@given(*[st.integers(1, 40)] * 4)
def test_any_size(height, width, h, w):
    picture = comparison(torch.rand(3, height, width), [('a', torch.rand(3, h, w)), ('b', torch.randn(3, h, w))])
    assert picture.width <= 3 * (figures.PANEL + figures.GAP) + figures.GAP
    assert picture.height <= figures.TEXT + 2 * figures.PANEL + 4 * figures.GAP


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_the_part_lies_in_the_image(height, width):
    top, left, rows, columns = most_detailed(torch.rand(3, height, width))
    assert 0 <= top <= height - rows and 0 <= left <= width - columns and 1 <= max(rows, columns) <= figures.CROP


def test_the_part_is_where_the_detail_is():
    lr = torch.full((3, 60, 90), 0.5)
    lr[:, 40:50, 70:80] = torch.rand(3, 10, 10)
    top, left, height, width = most_detailed(lr)
    assert top <= 40 and top + height >= 50 and left <= 70 and left + width >= 80


def test_inputs_are_left_alone():
    lr, sr = torch.randn(3, 8, 8), torch.randn(3, 16, 16)
    copies = lr.clone(), sr.clone()
    comparison(lr, [('a', sr)])
    assert torch.equal(lr, copies[0]) and torch.equal(sr, copies[1])


def test_label_that_is_wider_than_its_image_is_not_cut():
    narrow = comparison(torch.rand(3, 100, 1), [('a long name of some method', torch.rand(3, 100, 1))])
    wide = comparison(torch.rand(3, 100, 1), [('a long name of some method, and more of it', torch.rand(3, 100, 1))])
    assert wide.width > narrow.width > 200


@pytest.mark.parametrize('scale', [2, 3.3])
def test_a_strip_shows_the_same_part_of_all_four_images(scale):
    torch.manual_seed(0)
    lr = torch.rand(3, 40, 60)
    hr = torch.rand(3, round(40 * scale), round(60 * scale))
    lr_panel, bicubic, output, truth = strip(lr, 1 - hr, hr).chunk(4, dim=2)
    height, width = truth.shape[1:]
    top, left = next((top, left) for top in range(hr.shape[1] - height + 1) for left in range(hr.shape[2] - width + 1)
                     if torch.equal(hr[:, top:top + height, left:left + width], truth))
    assert torch.allclose(output, 1 - truth)
    y, x = ((torch.arange(n) + first + 0.5) / scale for n, first in ((height, top), (width, left)))
    inside = lr[:, y.long()[:, None], x.long()]
    assert (lr_panel == inside).float().mean() > 0.8            # but for roundings at fractional scales
    assert (bicubic - lr_panel).abs().mean() < 0.2
