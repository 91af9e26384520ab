"""`query` and `render` against the plain-loop oracle, at random sizes, at borders and at ties."""

from fractions import Fraction

import oracle
import torch
from examples import built, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rendering import grid


def nearest_by_fractions(i, n_lr, n_out):
    """The LR pixel nearest to output pixel `i`, ties to even, in exact arithmetic."""
    return min(max(round(Fraction((2 * i + 1) * n_lr, 2 * n_out) - Fraction(1, 2)), 0), n_lr - 1)


@given(
    specs(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.data()
)
@settings(max_examples=40, deadline=None)
def test_pixels(spec, height, width, h, w, seed, data):
    model = built(spec, seed)
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    maps = model.mssa(model.msno(model.project(model.encoder(image * 2 - 1))))
    query_key, value = (oracle.number(m[0]) for m in maps)
    coord, cell = grid.pixel_centres(h, w), grid.cell_size(h, w)
    rendered, queried = model.render(image, (h, w)), model.query(model.encode(image), coord[None], cell)
    for _ in range(2):
        i, j = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
        nearest = nearest_by_fractions(i, height, h), nearest_by_fractions(j, width, w)
        p = (-1 + (2 * i + 1) / h, -1 + (2 * j + 1) / w)
        expected = oracle.render_point(
            model, oracle.number(image[0] * 2 - 1), query_key, value, p, (2 / h, 2 / w), nearest
        )
        expected = torch.tensor(expected, dtype=torch.float64) * 0.5 + 0.5
        assert (rendered[0, :, i, j] - expected).abs().max() <= 1e-9
        assert (queried[0, i * w + j] - expected).abs().max() <= 1e-9


@given(specs(), st.integers(1, 5), st.integers(1, 5), st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_point(spec, height, width, y, x, seed):
    model = built(spec, seed)
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    maps = model.mssa(model.msno(model.project(model.encoder(image * 2 - 1))))
    query_key, value = (oracle.number(m[0]) for m in maps)
    coord = torch.tensor([[[y, x]]], dtype=torch.float64)
    nearest = [int(grid.nearest_pixel(((c + 1) * n - 1) / 2, n)) for c, n in zip(coord[0, 0], (height, width))]
    expected = oracle.render_point(
        model, oracle.number(image[0] * 2 - 1), query_key, value, (y, x), (0.3, 0.5), nearest
    )
    queried = model.query(model.encode(image), coord, torch.tensor([0.3, 0.5], dtype=torch.float64))
    assert (queried[0, 0] - (torch.tensor(expected, dtype=torch.float64) * 0.5 + 0.5)).abs().max() <= 1e-9
