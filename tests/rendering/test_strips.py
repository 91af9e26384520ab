"""Encoding in strips is encoding the whole image, in little memory."""

import weakref

import pytest
import torch
from conftest import TINY
from examples import ENCODERS, built, by_query, spec_of
from hypothesis import given
from hypothesis import strategies as st

import models
from models.registry import make_encoder
from models.rendering import render as rendering
from models.rendering import strips
from models.rendering.memory import Counter
from models.rendering.tiles import largest_tile

WITH_STAGES = ['edsr-baseline', 'edsr', 'light', 'rdn']


def encoded(encoder, image, rows):
    """The strips of an encoder's features, of an image that is cut into strips of so many rows."""
    return strips.encode(encoder.stages(), iter(image.split(rows, dim=2)), image.shape[2], rows)


def encoder_of(name, device='cpu', **args):
    torch.manual_seed(0)
    return make_encoder({'name': name, 'args': ENCODERS[name] | args}).to(device, torch.float64).requires_grad_(False)


@given(st.sampled_from(WITH_STAGES), st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.integers(1, 2))
def test_strips_are_the_whole(name, height, width, rows, batch):
    encoder = encoder_of(name)
    image = torch.rand(batch, 3, height, width, dtype=torch.float64)
    assert (torch.cat(list(encoded(encoder, image, rows)), dim=2) - encoder(image)).abs().max() <= 1e-12


@given(st.data(), st.integers(1, 40), st.integers(1, 9), st.integers(0, 30))
def test_rows_are_had_as_they_are_asked_for(data, height, rows, top):
    """From top to bottom, some of them again and some not at all."""
    maps = torch.rand(2, 4, height, 5, dtype=torch.float64)
    part = strips.Strips(iter(maps.split(rows, dim=2)), top, top + height, 7)
    first = 0
    for _ in range(data.draw(st.integers(1, 6))):
        first = data.draw(st.integers(first, height - 1))
        last, told = data.draw(st.integers(first + 1, height + 3)), []
        end = part.end - top
        new = min(last, height) > end
        known = part.between(top + first, top + last, told.append)
        cut = known.cut(slice(top + first, top + last), slice(7, 20))
        assert torch.equal(cut, maps[:, :, first:last]) and known.left == 7
        assert told == sorted(told) and told[-1:] == [1] * new
        assert part.held.shape[2] < max(last, end) - first + 2 * rows  # above and below, less than a strip
    if first:
        with pytest.raises(ValueError, match='not held'):
            strips.Strips(iter([]), top + 1, top + 2, 0).between(top, top + 1)


@pytest.mark.parametrize('name', WITH_STAGES)
def test_the_margins_are_the_receptive_field(name):
    encoder = encoder_of(name)
    assert sum(stage.margin for stage in encoder.stages()) == encoder.receptive_field


@pytest.mark.parametrize('name', WITH_STAGES)
def test_no_more_is_held_than_is_said_whatever_the_height(name):
    args = {'rdn': {'n_feats': 8, 'growth': 8}, 'light': {'n_feats': 8, 'hidden': 16}}.get(name, {'n_feats': 8})
    encoder, width, rows = encoder_of(name, 'meta', **args), 16, 64
    peaks = []
    for height in (400, 800):
        image = torch.empty(1, 3, height, width, dtype=torch.float64, device='meta')
        with Counter() as counter:
            for strip in encoded(encoder, image, rows):
                del strip
        peaks.append(counter.peak / width - 3 * height)  # beside the image
    said = strips.floats_per_column(encoder.stages(), rows)
    assert peaks[0] == peaks[1] <= 1.5 * said and said <= 4 * peaks[0]


def test_hardly_any_row_is_computed_twice():
    computed = []

    def step(*maps):
        computed.append(maps[0].shape[2])
        return maps

    stages = [strips.Stage(step, margin, 3) for margin in (2, 0, 1, 2)]
    rows = strips.rows_per_strip(stages, 50, 100, 0)
    list(strips.encode(stages, iter(torch.rand(1, 3, 2000, 50).split(rows, dim=2)), 2000, rows))
    assert rows == 2 * strips.MARGINS and 1 <= sum(computed) / (4 * 2000) < 1 + 2 / strips.MARGINS


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 9), st.integers(1, 2000))
def test_the_largest_tiles_that_fit(height, width, margin, most):
    def fits(h, w):
        return h * w <= most

    def extent(high, wide):
        return min(high + 2 * margin, height), min(wide + 2 * margin, width)

    def read(high, wide):
        """How many pixels all tiles read."""
        return (height + 2 * margin * (-(-height // high) - 1)) * (width + 2 * margin * (-(-width // wide) - 1))

    size = largest_tile(height, width, margin, fits)
    others = [(-(-height // n), width) for n in range(1, height + 1) if fits(*extent(-(-height // n), width))]
    if fits(*extent(*size)):
        assert all(read(*size) <= read(*other) for other in others)
    else:
        assert size == (16, 16) and not others


@pytest.mark.parametrize('fem', ['replicate', 'circular'])
@pytest.mark.parametrize('encoder', ['light', 'rdn'])
def test_regions_and_tiles_are_the_whole(monkeypatch, fem, encoder):
    """With so little memory that the image is encoded in several regions, each in strips and decoded in tiles."""
    model, lr = built(spec_of('msit', encoder, fem=fem)), torch.rand(2, 3, 60, 50, dtype=torch.float64)
    expected = by_query(model, lr, (75, 80))
    monkeypatch.setattr(rendering, 'STRIP_CPU', 60)
    monkeypatch.setattr(rendering, 'USEFUL', 1)
    monkeypatch.setattr(rendering, 'USEFUL_MARGINS', 1)
    monkeypatch.setattr(strips, 'MARGINS', 2)
    regions, encoded = set(), []
    encode = strips.encode
    for floats in (1e4, 3e4, 1e6):
        monkeypatch.setattr(rendering.Rendering, 'floats', lambda self: floats)
        monkeypatch.setattr(strips, 'encode', lambda *a: encoded.append(a) or encode(*a))
        assert (model.render(lr, (75, 80)) - expected).abs().max() <= 1e-9
        regions.add(len(encoded))
        encoded.clear()
    assert len(regions) > 1 and min(regions) == 1


def test_the_encoder_of_a_model_that_takes_no_maps_is_not_run_in_strips():
    model = built(TINY)
    assert model.stages()

    class Own(type(model)):
        def encode(self, lr):
            return super().encode(lr)

    model.__class__ = Own
    lr = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    assert model.stages() == [] and (model.render(lr, (20, 20)) - by_query(model, lr, (20, 20))).abs().max() <= 1e-9


def test_a_reduction_is_encoded_once(monkeypatch):
    model, encoded = models.build(TINY).eval(), []
    encode = strips.encode
    monkeypatch.setattr(strips, 'encode', lambda *a: encoded.append(a) or encode(*a))
    model.render(torch.rand(1, 3, 30, 30), (4, 5))
    assert len(encoded) == 1


@pytest.mark.parametrize('fem', ['replicate', 'circular'])
def test_no_row_is_encoded_again_for_the_next_tiles(monkeypatch, fem):
    """Nor are the features of the whole image held, unless what lies beyond one border is at the other."""
    model, lr = built(spec_of('msit', 'light', fem=fem)), torch.rand(1, 3, 90, 20, dtype=torch.float64)
    expected = model.render(lr, (99, 30))
    monkeypatch.setattr(rendering, 'HIGH', 20)
    monkeypatch.setattr(rendering, 'HIGH_MARGINS', 0)
    monkeypatch.setattr(rendering, 'STRIP_CPU', 1)
    monkeypatch.setattr(strips, 'MARGINS', 1)
    parts, heights, begin, between = [], [], model.strip_maps, strips.Strips.between
    monkeypatch.setattr(model, 'strip_maps', lambda *given: parts.append(given) or begin(*given))

    def watched(*given):
        known = between(*given)
        heights.append(known.maps.shape[2])
        return known

    monkeypatch.setattr(strips.Strips, 'between', watched)
    assert (model.render(lr, (99, 30)) - expected).abs().max() <= 1e-12
    assert len(parts) == 1 and len(heights) > 3
    assert set(heights) == {90} if fem == 'circular' else max(heights) < 60


def test_the_features_of_one_tile_are_held_at_a_time(monkeypatch):
    """Where tiles of a given size lie side by side, each with features of its own."""
    model, there, most = built(spec_of('msit', 'light')), weakref.WeakSet(), []
    begin, encode = model.strip_maps, model.encode_part

    def made(*given):
        there.add(part := begin(*given))
        return part

    def counted(*given):
        most.append(sum(part.held is not None for part in there))
        return encode(*given)

    monkeypatch.setattr(model, 'strip_maps', made)
    monkeypatch.setattr(model, 'encode_part', counted)
    model.render(torch.rand(1, 3, 8, 60, dtype=torch.float64), (9, 70), tile=8)
    assert len(most) == 8 and max(most) == 1
