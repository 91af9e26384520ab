"""Rendering by LR pixel and by tile against point-by-point evaluation, as in the paper."""

import math
import os
import re
import signal
import sys
import threading
import time
import warnings
import weakref
from unittest import mock

import pytest
import torch
from conftest import TINY
from examples import built, by_query, in_torch, specs
from hypothesis import given, settings
from hypothesis import strategies as st

import models
import utils
from models.layers import fft_convolution
from models.native import library, winograd
from models.rendering import grid
from models.rendering import render as rendering
from utils import UserError

side = st.integers(1, 9)
extent = st.integers(1, 40)


@given(specs(), st.integers(1, 2), side, side, extent, extent, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_render_is_query_at_every_pixel(spec, batch, height, width, h, w, seed):
    model = built(spec, seed)
    lr = torch.rand(batch, 3, height, width, dtype=torch.float64)
    expected = by_query(model, lr, (h, w))
    assert (model.render(lr, (h, w)) - expected).abs().max() <= 1e-9
    assert (models.fold(model).render(lr, (h, w)) - expected).abs().max() <= 1e-9
    assert (model.render(lr, (h, w), tile=3) - expected).abs().max() <= 1e-9
    with in_torch():
        assert (model.render(lr, (h, w)) - expected).abs().max() <= 1e-9


@given(specs(), side, side, extent, extent, st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_render_is_query_in_float32(spec, height, width, h, w, seed):
    model = built(spec, seed, torch.float32)
    lr = torch.rand(1, 3, height, width)
    expected = by_query(model, lr, (h, w))
    assert (model.render(lr, (h, w)) - expected).abs().max() <= 1e-4
    with in_torch():
        assert (model.render(lr, (h, w)) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('scale', [1.5, 2.5, 0.5, 1, 3.5])
def test_ties_are_decided_alike(scale, dtype):
    """At these scales output pixels lie on the border of two LR pixels; coordinates of either precision decide as the
    table does."""
    model = built(TINY, dtype=dtype)
    lr = torch.rand(1, 3, 14, 22, dtype=dtype)
    size = (int(14 * scale), int(22 * scale))
    error = (model.render(lr, size) - by_query(model, lr, size, dtype)).abs().max()
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize('size', [(96, 60), (33, 70), (20, 11), (300, 31), (1, 1)])
@pytest.mark.parametrize('tile', [5, 20, 47, 500])
@pytest.mark.parametrize('fem', ['replicate', 'circular', None])
def test_tiles_are_the_whole(size, tile, fem):
    model = built({**TINY, 'args': {**TINY['args'], 'fem': fem}})
    lr = torch.rand(2, 3, 48, 30, dtype=torch.float64)
    assert (model.render(lr, size, tile=tile) - model.render(lr, size, tile=48)).abs().max() <= 1e-12


@pytest.mark.parametrize('fem', ['replicate', 'circular', None])
def test_tiles_may_be_single_pixels(fem):
    model = built({**TINY, 'args': {**TINY['args'], 'fem': fem}})
    lr = torch.rand(1, 3, 9, 12, dtype=torch.float64)
    assert (model.render(lr, (20, 17), tile=1) - model.render(lr, (20, 17), tile=12)).abs().max() <= 1e-12


@pytest.mark.parametrize('fem', ['replicate', 'circular', None])
@pytest.mark.parametrize('rim', [False, True])
def test_tiles_are_the_whole_whichever_way_kernels_are_applied(monkeypatch, fem, rim):
    """A large kernel is applied directly to a small tile and by spectra to a large one."""
    spec = {**TINY, 'args': {**TINY['args'], 'fem': fem, 'rim': rim, 'msno_kernels': [3, 21]}}
    model, lr = built(spec), torch.rand(2, 3, 40, 70, dtype=torch.float64)
    with mock.patch.object(fft_convolution, 'fft_conv2d', None):
        monkeypatch.setattr(fft_convolution, 'SMALLEST_WORK', torch.inf)
        direct = model.render(lr, (60, 90))
    monkeypatch.setattr(fft_convolution, 'SMALLEST_WORK', 21 * 21 * 2000)
    monkeypatch.setattr(fft_convolution, 'LENGTH', 64)
    with mock.patch.object(fft_convolution, 'fft_conv2d', wraps=fft_convolution.fft_conv2d) as spectra:
        assert (model.render(lr, (60, 90), tile=5) - direct).abs().max() <= 1e-12
        assert not spectra.called
        for tile in (None, 30):
            assert (model.render(lr, (60, 90), tile=tile) - direct).abs().max() <= 1e-12
        assert spectra.called


@pytest.mark.skipif(library.compiled(torch.float64) is None, reason='no compiled code on this system')
@pytest.mark.parametrize('fem', ['replicate', 'circular'])
@pytest.mark.parametrize('rim', [False, True])
def test_tiles_are_the_whole_where_winograds_method_is_used(fem, rim):
    args = {
        **TINY['args'],
        'fem': fem,
        'rim': rim,
        'channels': 64,
        'heads': 2,
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 32}},
    }
    model, lr = built({**TINY, 'args': args}), torch.rand(2, 3, 40, 50, dtype=torch.float64)
    with in_torch():
        expected = model.render(lr, (60, 90))
    with mock.patch.object(winograd, 'winograd_conv2d', wraps=winograd.winograd_conv2d) as used:
        for tile in (None, 30, 17):
            assert (model.render(lr, (60, 90), tile=tile) - expected).abs().max() <= 1e-12
        assert {call.args[1].shape[-1] for call in used.call_args_list} == {3, 5}


@pytest.mark.parametrize('size', [(40, 50), (97, 120), (160, 200)])
def test_render_is_query_at_the_published_channels(size):
    """In float32, with Winograd's method in encoder, MSNO and MSSA where it can be."""
    args = {
        **TINY['args'],
        'channels': 128,
        'mssa_kernels': [3, 5, 7, 9],
        'msno_kernels': [3, 33],
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256, 256], 'act': 'gelu'}},
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 3}},
    }
    model, lr = built({**TINY, 'args': args}, dtype=torch.float32), torch.rand(2, 3, 40, 50)
    expected = by_query(model.double(), lr.double(), size)
    assert (model.float().render(lr, size) - expected).abs().max() <= 1e-4


def test_threads_share_the_work():
    model = built(TINY)
    lr = torch.rand(2, 3, 20, 30, dtype=torch.float64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = model.render(lr, (41, 77))
        torch.set_num_threads(3)
        assert (model.render(lr, (41, 77)) - alone).abs().max() <= 1e-12
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@given(specs(), st.integers(1, 2), side, side, extent, extent, st.sampled_from([None, 3]), st.sampled_from([1e2, 1e4]))
@settings(max_examples=40, deadline=None)
def test_bands_are_the_whole(spec, batch, height, width, h, w, tile, floats):
    model = built(spec)
    lr = torch.rand(batch, 3, height, width, dtype=torch.float64)
    whole = model.render(lr, (h, w))
    with mock.patch.object(rendering.Rendering, 'floats', lambda self: floats):
        bands = list(model.render_bands(lr, (h, w), tile=tile))
    assert len(bands) <= height and (torch.cat(bands, dim=2) - whole).abs().max() <= 1e-9


def test_bands_are_made_when_they_are_asked_for_and_not_kept(monkeypatch):
    model, encode, encoded = built(TINY), None, []
    monkeypatch.setattr(rendering, 'HIGH', 8)
    monkeypatch.setattr(rendering, 'HIGH_MARGINS', 0)
    encode = model.encode_part
    monkeypatch.setattr(model, 'encode_part', lambda *given: encoded.append(given) or encode(*given))
    bands = model.render_bands(torch.rand(1, 3, 60, 9, dtype=torch.float64), (120, 20))
    assert not encoded
    kept = weakref.ref(next(bands))
    before = len(encoded)
    assert next(bands).shape[2] < 120 and kept() is None and len(encoded) > before > 0
    bands.close()


@given(st.data(), side, side, extent, extent, st.sampled_from(['replicate', 'circular']), st.sampled_from([None, 3]))
@settings(max_examples=40, deadline=None)
def test_a_part_is_cut_from_the_whole(data, height, width, h, w, fem, tile):
    model = built({**TINY, 'args': {**TINY['args'], 'fem': fem}})
    lr = torch.rand(1, 3, height, width, dtype=torch.float64)
    firsts = [data.draw(st.integers(0, n - 1)) for n in (h, w)]
    rows, columns = (range(first, data.draw(st.integers(first + 1, n))) for first, n in zip(firsts, (h, w)))
    part = model.render(lr, (h, w), tile=tile, part=(rows, columns))
    whole = model.render(lr, (h, w))[:, :, rows.start : rows.stop, columns.start : columns.stop]
    assert part.shape == whole.shape and (part - whole).abs().max() <= 1e-12


def test_steps_make_larger_pixels():
    model = built(TINY)
    lr = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    part = model.render(lr, (5 * 13, 3 * 25), part=(range(2, 5 * 13, 5), range(1, 3 * 25, 3)))
    assert (part - model.render(lr, (13, 25))).abs().max() <= 1e-12


def test_one_pixel_at_a_very_large_scale_takes_little_memory(monkeypatch):
    model, most = built(TINY), []
    query = model.query_blocks
    monkeypatch.setattr(model, 'query_blocks', lambda *a: most.append(query(*a)) or most[-1])
    assert model.render(torch.rand(1, 3, 1, 1, dtype=torch.float64), (2, 1000)).shape == (1, 3, 2, 1000)
    assert max(out.shape[2] for out in most) <= 2 * rendering.FULLEST


def test_a_part_that_is_not_inside():
    rows = range(0, 4), range(-1, 2), range(3, 3), range(3, 0, -1)
    for part in zip(rows, (range(0, 6), range(5), range(5), range(5))):
        with pytest.raises(UserError, match='part'):
            built(TINY).render(torch.rand(1, 3, 2, 2, dtype=torch.float64), (4, 5), part=part)


def test_a_batch_is_its_images():
    model = built(TINY)
    lr = torch.rand(3, 3, 8, 9, dtype=torch.float64)
    whole = model.render(lr, (19, 20))
    for image, expected in zip(lr, whole):
        assert (model.render(image[None], (19, 20))[0] - expected).abs().max() <= 1e-12


def test_chunks_do_not_matter(monkeypatch):
    model = built(TINY)
    lr = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    whole = model.render(lr, (19, 30))
    for chunk in (1, 600, 2000, 1e6):
        monkeypatch.setattr(rendering, 'CHUNK_CPU', chunk)
        assert (model.render(lr, (19, 30)) - whole).abs().max() <= 1e-12


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_tile_that_does_not_fit_is_cut(monkeypatch, error):
    model = built(TINY)
    lr = torch.rand(1, 3, 40, 60, dtype=torch.float64)
    expected = model.render(lr, (90, 100))
    encode, refused = model.encode_part, []

    def small_memory(lr, y, x, *maps):
        if lr[0, 0, y, x].numel() > 1500:
            refused.append((y, x))
            raise error
        return encode(lr, y, x, *maps)

    monkeypatch.setattr(model, 'encode_part', small_memory)
    assert (model.render(lr, (90, 100)) - expected).abs().max() <= 1e-12
    assert refused


def test_memory_that_does_not_suffice_at_all_is_said(monkeypatch):
    model = built(TINY)

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(model, 'encode_part', no_memory)
    with pytest.raises(UserError, match='needs more memory'):
        model.render(torch.rand(1, 3, 40, 40, dtype=torch.float64), (50, 50))


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    model = built(TINY)

    def broken(*_):
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(model, 'encode_part', broken)
    with pytest.raises(RuntimeError, match='shapes'):
        model.render(torch.rand(1, 3, 4, 4, dtype=torch.float64), (5, 5))


def test_the_tile_is_as_large_as_free_memory_allows(monkeypatch):
    model, sizes = built({**TINY, 'args': {**TINY['args'], 'msno_kernels': [101]}}), []
    image = rendering_of(model, 500, 400)
    for free in (2**24, 2**26, 2**30):
        monkeypatch.setattr(rendering, 'free_memory', lambda device: free + image.held)
        sizes.append(image.tile_size((500, 400)))
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] and sizes[-1] == (500, 400)


def test_a_band_is_no_higher_than_memory_allows(monkeypatch):
    """At least a row of LR pixels, at most a row of tiles; where the output is held anyway, it does not count."""
    model, heights = built(TINY), []
    image = rendering_of(model, 300, 200, scale=8)
    image.held = None
    for free in (1e6, 1e8, 1e9, 1e12):
        monkeypatch.setattr(rendering, 'free_memory', lambda device: free)
        bands = [band.rows for band in image.bands()]
        assert [row for rows in bands for row in range(*rows)] == list(range(300))
        heights.append(max(bottom - top for top, bottom in bands))
        assert heights[-1] == 1 or heights[-1] * 8 * 8 * 200 * rendering.WRITTEN * 4 <= free / 2
    assert heights == sorted(heights) and heights[0] == 1 and heights[-1] > 64
    monkeypatch.setattr(rendering, 'free_memory', lambda device: 1e6)
    image.held = 1
    assert max(bottom - top for band in image.bands() for top, bottom in [band.rows]) >= rendering.SMALLEST_TILE


def rendering_of(model, height, width, scale=2, dtype=torch.float32):
    """The rendering of an image that takes no memory."""
    lr = torch.zeros((), dtype=dtype).expand(1, 3, height, width)
    axes = [grid.Blocks(n, scale * n) for n in (height, width)]
    held = 3 * scale * height * scale * width * lr.element_size()
    return rendering.Rendering(model, lr, axes, torch.ones(2), 'fp32', None, held, None)


GB = 2**30
PUBLISHED = {
    'rdn': [(1000, 1000, 4, 1.15), (3000, 4000, 8, 1.5)],
    'edsr-baseline': [(1000, 1000, 4, 1.15), (3000, 4000, 8, 1.5)],
}


@pytest.mark.parametrize('encoder', PUBLISHED)
def test_published_sizes_encode_hardly_any_pixel_twice(monkeypatch, encoder):
    """By calculation: how many pixels the encoder, and MSNO and MSSA see, and what is held for them."""
    with torch.device('meta'):
        args = {**TINY['args'], 'encoder_spec': {'name': encoder}, 'channels': 256, 'radius': 3}
        args |= {'msno_kernels': list(range(3, 34, 2)), 'mssa_kernels': [3, 5, 7, 9]}
        model = models.build({**TINY, 'args': args})
    for height, width, gigabytes, most in PUBLISHED[encoder]:
        image = rendering_of(model, height, width)
        monkeypatch.setattr(rendering, 'free_memory', lambda device: gigabytes * GB + image.held)
        encoded = seen = 0
        for region in image.regions():
            extent = with_margins(region, model.receptive_field, height, width)
            rows = rendering.strips.rows_per_strip(image.stages, extent[1], image.strip, image.floats() / 2)
            encoding = extent[1] * rendering.strips.floats_per_column(image.stages, rows)
            between = extent[1] * rendering.strips.floats_per_column(image.stages, 0)
            encoded += math.prod(extent) * (1 + 2 / rendering.strips.MARGINS)
            for row, _ in image.rows_of_tiles(region):
                known = extent[1] * (row[0][1] - row[0][0] + 2 * image.margin + rows) * model.encoder.out_dim
                assert 4 * (2 * known + encoding) <= gigabytes * GB
                for tile in row:
                    pixels = math.prod(with_margins(tile, image.margin, height, width))
                    each = model.floats_per_pixel - model.encoder_floats()
                    assert 4 * (known + between + pixels * each) <= gigabytes * GB
                    seen += pixels
        assert encoded <= most * height * width and seen <= most * height * width


def with_margins(region, margin, height, width):
    top, bottom, left, right = region
    return min(bottom + margin, height) - max(top - margin, 0), min(right + margin, width) - max(left - margin, 0)


def test_bf16_is_close_and_falls_back_where_it_is_not_finite(monkeypatch):
    model = built(TINY, dtype=torch.float32)
    lr = torch.rand(1, 3, 16, 16)
    exact, half = model.render(lr, (40, 40)), model.render(lr, (40, 40), precision='bf16')
    assert 0 < (exact - half).square().mean() <= 1e-5  # 50 dB
    blocks = model.query_blocks

    def overflowing(features, *arguments):
        colour = blocks(features, *arguments)
        return colour / 0 if features.value.dtype == torch.bfloat16 else colour

    monkeypatch.setattr(model, 'query_blocks', overflowing)
    with pytest.warns(UserWarning, match='not finite'):
        assert torch.equal(model.render(lr, (40, 40), precision='bf16'), exact)


@pytest.mark.parametrize(
    'arguments, said',
    [
        (dict(size=(0, 5)), 'output size'),
        (dict(size=(5, -1)), 'output size'),
        (dict(size=(2.5, 3)), 'output size'),
        (dict(size=(5, 5), tile=0), 'tile'),
        (dict(size=(5, 5), precision='fp8'), 'precision'),
        (dict(size=(5, 5), precision='fp16'), 'precision'),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        built(TINY).render(torch.rand(1, 3, 4, 4, dtype=torch.float64), **arguments)


@pytest.mark.parametrize('way', ['render', 'render_bands'])
def test_no_tile_of_bicubic_is_of_no_size(way):
    with pytest.raises(UserError, match='tile'):
        list(getattr(models.load('bicubic'), way)(torch.rand(1, 3, 4, 4), (8, 8), tile=0))


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(UserError, match='LR image'):
        built(TINY).render(torch.rand(3, 4, 4, dtype=torch.float64), (5, 5))


def test_progress_is_shown_on_long_work_only(monkeypatch, capsys):
    model = built(TINY)
    lr = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    model.render(lr, (9, 9), progress=True)
    assert capsys.readouterr().err == ''
    bar = rendering.tqdm
    at_once = {'delay': 0, 'mininterval': 0}
    monkeypatch.setattr(rendering, 'tqdm', lambda *args, **kwargs: bar(*args, **kwargs | at_once))
    monkeypatch.setattr(rendering, 'CHUNK_CPU', 1)
    model.render(lr, (9, 9), progress=True)  # a single tile
    shown = [int(percent) for percent in re.findall(r'(\d+)%', capsys.readouterr().err)]
    assert shown == sorted(shown) and len({percent // 10 for percent in shown}) > 5


def test_a_log_gets_a_line_from_time_to_time(monkeypatch, capsys):
    model, clock = built(TINY), [0.0]
    monkeypatch.setattr(rendering, 'CHUNK_CPU', 1)
    monkeypatch.setattr('tqdm.std.time', lambda: clock[0])
    blocks = model.query_blocks

    def slow(*arguments):
        clock[0] += 1
        return blocks(*arguments)

    monkeypatch.setattr(model, 'query_blocks', slow)
    model.render(torch.rand(1, 3, 8, 8, dtype=torch.float64), (9, 9), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 64 / utils.EVERY and all(re.fullmatch(r'\d+% rendered, .* left', line) for line in lines)


def test_where_no_progress_is_shown_no_thread_waits_to_show_it(monkeypatch):
    monkeypatch.setattr(threading.Timer, 'start', lambda self: pytest.fail('a timer was started'))
    built(TINY).render(torch.rand(1, 3, 8, 8, dtype=torch.float64), (9, 9))


@pytest.mark.parametrize('threads', [1, 3])
def test_an_interrupt_stops_all_threads_at_once(monkeypatch, threads):
    """Ctrl-C reaches the thread that waits: the others do what they are at, and no more."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may have it ignored
    model, lr = built(TINY), torch.rand(1, 3, 40, 40, dtype=torch.float64)
    monkeypatch.setattr(rendering, 'CHUNK_CPU', 1)
    blocks, done = model.query_blocks, []

    def interrupted(*arguments):
        done.append(threading.get_ident())
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return blocks(*arguments)

    monkeypatch.setattr(model, 'query_blocks', interrupted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with pytest.raises(KeyboardInterrupt):
            model.render(lr, (80, 80))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
        signal.signal(signal.SIGINT, handler)
    assert len(done) < 200  # of 1600


def test_progress_is_shown_before_the_first_block_is_done(monkeypatch, capsys):
    model = built(TINY)
    monkeypatch.setattr(rendering, 'DELAY', 0.1)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    encode = model.strip_maps
    said = []

    def slow(*arguments):
        time.sleep(0.5)
        said.append(capsys.readouterr().err)
        return encode(*arguments)

    monkeypatch.setattr(model, 'strip_maps', slow)
    model.render(torch.rand(1, 3, 8, 8, dtype=torch.float64), (9, 9), progress=True)
    assert '  0%' in said[0]
    capsys.readouterr()
    model.render(torch.rand(1, 3, 8, 8, dtype=torch.float64), (9, 9))
    assert said[1] == ''


@pytest.mark.parametrize('size', [(60, 90), (13, 15), (1500, 7)])
@pytest.mark.parametrize('tile', [None, 17])
@pytest.mark.parametrize('trouble', [None, 'memory', 'not finite'])
def test_progress_ends_when_all_is_done(monkeypatch, size, tile, trouble):
    model, calls, ends = built(TINY, dtype=torch.float32), [], []

    class Bar(rendering.tqdm):
        def close(self):
            ends.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(rendering, 'tqdm', Bar)
    blocks = model.query_blocks

    def failing(features, *arguments):
        colour = blocks(features, *arguments)
        calls.append(features)
        if trouble == 'memory' and len(calls) == 2:
            raise MemoryError
        return colour / 0 if trouble == 'not finite' and features.value.dtype == torch.bfloat16 else colour

    monkeypatch.setattr(model, 'query_blocks', failing)
    monkeypatch.setattr(rendering, 'CHUNK_CPU', 1e3)
    with warnings.catch_warnings(record=True):
        model.render(
            torch.rand(1, 3, 40, 60),
            size,
            tile=tile,
            progress=True,
            precision='bf16' if trouble == 'not finite' else 'fp32',
        )
    n, total = ends[-1]
    assert n == total > 0 and len(calls) > 2
