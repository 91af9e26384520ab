"""How LR and output pixels correspond, against exact fractions."""

from fractions import Fraction
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.rendering import grid

lengths = st.integers(1, 300)


def exact_position(i, n_lr, n_out):
    return Fraction((2 * i + 1) * n_lr, 2 * n_out) - Fraction(1, 2)


@given(lengths, lengths)
def test_nearest_index_rounds_half_to_even(n_lr, n_out):
    index = grid.nearest_index(n_lr, n_out)
    assert index.tolist() == [round(exact_position(i, n_lr, n_out)) for i in range(n_out)]
    assert 0 <= index.min() and index.max() < n_lr


@given(lengths, lengths)
def test_nearest_pixel_agrees_at_pixel_centres_in_both_precisions(n_lr, n_out):
    expected = grid.nearest_index(n_lr, n_out)
    for dtype in (torch.float64, torch.float32):
        centres = grid.pixel_centres(n_out, 1)[:, 0].to(dtype)
        assert torch.equal(grid.nearest_pixel(((centres + 1) * n_lr - 1) / 2, n_lr), expected)


@given(lengths, lengths)
def test_blocks_hold_every_output_pixel_once(n_lr, n_out):
    blocks = grid.Blocks(n_lr, n_out)
    index = grid.nearest_index(n_lr, n_out)
    flat = blocks.output.flatten()
    assert flat[blocks.slots()].tolist() == list(range(n_out))
    for row, pixel in enumerate(blocks.pixels.tolist()):
        assert set(blocks.output[row].tolist()) == set((index == pixel).nonzero().flatten().tolist())
    for row, slot in ((0, 0), (-1, -1)):
        exact = exact_position(int(blocks.output[row, slot]), n_lr, n_out) - int(blocks.pixels[row])
        assert float(blocks.offset[row, slot]) == pytest.approx(float(exact), abs=1e-15)
    assert blocks.offset.abs().max() <= 0.5


@given(lengths, lengths, st.integers(1, 40), st.data())
def test_blocks_of_chosen_pixels(n_lr, n_out, fullest, data):
    """Those of all, the chosen ones picked out, and none fuller than wanted."""
    first = data.draw(st.integers(0, n_out - 1))
    chosen = range(first, data.draw(st.integers(first + 1, n_out)), data.draw(st.integers(1, 9)))
    blocks, all_ = grid.Blocks(n_lr, n_out, chosen, fullest), grid.Blocks(n_lr, n_out)
    slots = blocks.slots()
    assert blocks.output.flatten()[slots].tolist() == list(range(len(chosen))) and blocks.size <= fullest
    pixels = blocks.pixels.repeat_interleave(blocks.size)[slots]
    assert pixels.tolist() == grid.nearest_index(n_lr, n_out)[chosen.start : chosen.stop : chosen.step].tolist()
    offsets = all_.offset.flatten()[all_.slots()][chosen.start : chosen.stop : chosen.step]
    assert torch.equal(blocks.offset.flatten()[slots], offsets)


@given(lengths, lengths, st.data())
def test_a_part_of_blocks_is_that_part(n_lr, n_out, data):
    blocks = grid.Blocks(n_lr, n_out)
    first = data.draw(st.integers(0, len(blocks.pixels) - 1))
    last = data.draw(st.integers(first + 1, len(blocks.pixels)))
    part = blocks.part(first, last, origin=3)
    assert torch.equal(part.pixels + 3, blocks.pixels[first:last])
    assert torch.equal(part.offset, blocks.offset[first:last])
    chosen = part.output.flatten()[part.slots()]
    assert chosen.tolist() == list(range(int(part.output[0, 0]), int(part.output[-1, -1]) + 1))


def test_pixel_centres_and_cells():
    centres = grid.pixel_centres(2, 4).reshape(2, 4, 2)
    assert centres[:, 0, 0].tolist() == [-0.5, 0.5] and centres[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid.cell_size(2, 4).tolist() == [1, 0.5]
    assert grid.relative_cell((3, 5), (6, 5)).tolist() == [1, 2]


@given(st.floats(-0.5, 0.5, allow_nan=False))
def test_linear_weights_interpolate(offset):
    weight = grid.linear_weights(torch.tensor(offset, dtype=torch.float64))
    assert float(weight.sum()) == pytest.approx(1)
    assert float((weight * torch.tensor([-1.0, 0, 1])).sum()) == pytest.approx(offset)
    assert (weight >= 0).all()


def test_positions_are_in_float64_but_on_mps(monkeypatch):
    """There is no MPS here: its device is made to look like one that keeps what it is given."""
    positions = torch.rand(3, dtype=torch.float64)
    assert (
        torch.equal(grid.to_device('cpu', positions), positions)
        and grid.to_device('meta', positions).dtype == torch.float64
    )
    asked = mock.Mock()
    grid.to_device('mps', asked)
    asked.to.assert_called_once_with('mps', torch.float32)
