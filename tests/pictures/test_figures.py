"""The comparison figure: what it shows, for images of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.pictures import figures
from datasets.pictures.figures import comparison, error_map, most_detailed, strip


def test_columns_show_the_whole_image_and_the_part():
    lr, sr = torch.zeros(3, 40, 40), torch.zeros(3, 80, 80)
    lr[0], sr[2] = 1, 1  # red and blue
    lr[:, 10:20, 10:20] = sr[:, 20:40, 20:40] = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    picture = np.asarray(comparison(lr, [('ours', sr)], crop=(10, 10, 10, 10)))
    for colour in ([255, 0, 0], [0, 0, 255], [0, 255, 0], [0, 0, 0]):  # both images, the part, the labels
        assert (picture == colour).all(-1).any()
    part = picture[-figures.GAP - figures.PANEL : -figures.GAP, -figures.GAP - figures.PANEL : -figures.GAP]
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
    top, left = next(
        (top, left)
        for top in range(hr.shape[1] - height + 1)
        for left in range(hr.shape[2] - width + 1)
        if torch.equal(hr[:, top : top + height, left : left + width], truth)
    )
    assert torch.allclose(output, 1 - truth)
    y, x = ((torch.arange(n) + first + 0.5) / scale for n, first in ((height, top), (width, left)))
    inside = lr[:, y.long()[:, None], x.long()]
    assert (lr_panel == inside).float().mean() > 0.8  # but for roundings at fractional scales
    assert (bicubic - lr_panel).abs().mean() < 0.2


def test_errors_go_from_black_over_red_and_yellow_to_white():
    truth = torch.full((3, 1, 5), 0.5)
    largest = figures.LARGEST_ERROR
    image = truth + torch.tensor([0, -largest / 3, 2 * largest / 3, -largest, 2 * largest])
    expected = torch.tensor([[0.0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]])[:, None]
    assert (error_map(image, truth) - expected).abs().max() < 1e-5
    image = truth.clone()
    image[1, 0, 2] += largest / 2  # of one channel: a third of it
    assert error_map(image, truth)[:, 0, 2].tolist() == pytest.approx([0.5, 0, 0], abs=1e-5)


def test_with_the_truth_each_panel_has_its_errors_below():
    lr, truth = torch.full((3, 20, 20), 0.5), torch.full((3, 40, 40), 0.5)
    panels = [('right', truth), ('wrong', truth + 1.1 * figures.LARGEST_ERROR)]
    picture = np.asarray(comparison(lr, panels, crop=(5, 5, 10, 10), truth=truth))
    step = figures.PANEL + figures.GAP
    assert picture.shape[1] == 4 * step + figures.GAP  # input, two panels, the original
    below = picture[-figures.GAP - figures.PANEL : -figures.GAP]
    columns = [below[:, figures.GAP + k * step : k * step + step] for k in range(4)]
    assert (columns[1] == 0).all() and (columns[2] == 255).all()
    assert (columns[0] == 255).all() and (columns[3] == 255).all()  # nothing there
