import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from datasets.degradations import (
    BLURS,
    CASES,
    NOISES,
    Blur,
    Compression,
    Degradation,
    Degradations,
    Noise,
    Reduction,
    Sharpening,
    case,
    demosaiced,
)
from datasets.image_folder import read_rgb
from datasets.pictures.resize import FILTERS, pil_resize
from datasets.reduction import reduced
from datasets.wrappers import Evaluation, Training
from models.training import stages
from utils import UserError

ALL = {
    'clean': 0.1,
    'blur': {'probability': 0.5, 'sigma': [0.3, 1.5], 'kinds': list(BLURS)},
    'resize': {'probability': 0.5, 'middle': [0.7, 1.5], 'filters': list(FILTERS)},
    'noise': {'probability': 0.5, 'sigma': [1, 12], 'kinds': list(NOISES)},
    'sharpen': {'probability': 0.5, 'amount': [0.2, 1.5], 'radius': [0.5, 2]},
    'jpeg': {'probability': 0.5, 'quality': [30, 90], 'subsampling': ['4:4:4', '4:2:0'], 'twice': 0.5},
    'webp': {'probability': 0.5, 'quality': [40, 80]},
}

PILLOW = [name for name, resample in FILTERS.items() if resample is not None]


class Photos:
    """Single images as a dataset gives them."""

    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]

    def name(self, i):
        return f'photo{i}'

    def size(self, i):
        return self.images[i].shape[:2]


@pytest.fixture(scope='module')
def photo():
    return read_rgb('tests/photos/chelsea.png')


def grey(value, height=64, width=64):
    return np.full((height, width, 3), value, np.uint8)


# ---------------------------------------------------------------- blur


@pytest.mark.parametrize('kind', BLURS)
@pytest.mark.parametrize('scale', [(1, 1), (2, 2), (4, 4), (3, 2)])
@pytest.mark.parametrize('angle', [0, 90, 30])
def test_the_kernel_of_a_blur_has_its_standard_deviation_in_lr_pixels(kind, scale, angle):
    blur = Blur(kind, 1.5, 0.5 if kind == 'anisotropic' else 1, angle)
    kernel = blur.kernel(scale)
    y, x = ((np.arange(n) - n // 2) / s for n, s in zip(kernel.shape, scale))
    along = x * np.cos(np.radians(angle)) + y[:, None] * np.sin(np.radians(angle))
    across = y[:, None] * np.cos(np.radians(angle)) - x * np.sin(np.radians(angle))
    short = {'anisotropic': 0.75, 'motion': 0}.get(kind, 1.5)
    tolerance = {'motion': 0.5, 'defocus': 0.1}.get(kind, 0.02) / min(scale)  # for their edges fade over a pixel
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    assert (kernel * along).sum() == pytest.approx(0, abs=1e-9) == (kernel * across).sum()
    assert np.sqrt((kernel * along**2).sum()) == pytest.approx(1.5, abs=tolerance)
    assert np.sqrt((kernel * across**2).sum()) == pytest.approx(short, abs=tolerance)


@pytest.mark.parametrize('kind', BLURS)
def test_a_blur_is_the_mirrored_convolution_with_its_kernel(kind, photo):
    image, blur = photo[:40, :30], Blur(kind, 0.8, 0.5, 20)
    direct = ndimage.convolve(image.astype(float), blur.kernel((3, 2))[..., None], mode='reflect')
    assert np.abs(blur(image, (3, 2)).astype(float) - direct).max() <= 0.501
    assert (blur(grey(77), (2, 2)) == 77).all()


def test_a_blur_wider_than_the_image_is_possible():
    assert (Blur('isotropic', 3)(grey(9, 2, 1), (4, 4)) == 9).all()


# ---------------------------------------------------------------- reduction


@pytest.mark.parametrize('first', PILLOW)
@pytest.mark.parametrize('second', PILLOW)
def test_a_reduction_takes_two_steps_with_a_size_between(first, second, photo):
    image = photo[:96, :90]
    between = Image.fromarray(image).resize((36, 38), FILTERS[first])  # 1.2 times 30 x 32, rounded
    expected = np.asarray(between.resize((30, 32), FILTERS[second]))
    assert np.array_equal(Reduction((first, second), 1.2)(image, (32, 30)), expected)
    assert np.array_equal(Reduction((first, second))(image, (32, 30)), Reduction(('area', second))(image, (32, 30)))


def test_the_size_between_is_at_most_that_of_the_image(photo):
    image = photo[:40, :40]
    direct = np.asarray(Image.fromarray(image).resize((39, 39), FILTERS['lanczos']))
    assert np.array_equal(Reduction(('area', 'lanczos'), 1.5)(image, (39, 39)), direct)
    assert Reduction(middle=0.1)(grey(1, 8, 8), (2, 2)).shape == (2, 2, 3)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize('kind', NOISES)
def test_noise_has_its_standard_deviation_no_bias_and_a_seed(kind):
    image = grey(128, 200, 200)
    noise = Noise(kind, 10, seed=3)(image).astype(float) - 128
    assert abs(noise.mean()) < 0.2
    assert np.array_equal(Noise(kind, 10, seed=3)(image), Noise(kind, 10, seed=3)(image))
    assert not np.array_equal(Noise(kind, 10, seed=3)(image), Noise(kind, 10, seed=4)(image))
    assert noise.std() == pytest.approx(10, rel=0.03) if kind != 'demosaic' else 5 < noise.std() < 10
    neighbours = np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1]
    channels = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert neighbours > 0.4 if kind == 'demosaic' else abs(neighbours) < 0.03
    assert channels == pytest.approx(1) if kind == 'grey' else abs(channels) < 0.03


def test_the_variance_of_poisson_noise_grows_with_the_signal():
    dark, light = (Noise('poisson', 4)(grey(value, 200, 200)).astype(float).std() for value in (32, 128))
    assert light / dark == pytest.approx(2, rel=0.05)
    assert (Noise('poisson', 4)(grey(0)) == 0).all()


def test_demosaicing_keeps_what_the_mosaic_holds_and_interpolates_the_rest():
    mosaic = np.random.default_rng(0).normal(size=(8, 10, 3)).astype(np.float32)
    full = demosaiced(mosaic)
    red, green, blue = np.moveaxis(full, -1, 0)
    assert np.allclose(red[::2, ::2], mosaic[::2, ::2, 0]) and np.allclose(blue[1::2, 1::2], mosaic[1::2, 1::2, 2])
    assert np.allclose(green[::2, 1::2], mosaic[::2, 1::2, 1])
    assert red[2, 3] == pytest.approx((mosaic[2, 2, 0] + mosaic[2, 4, 0]) / 2, abs=1e-6)
    assert red[3, 3] == pytest.approx(mosaic[2:5:2, 2:5:2, 0].mean(), abs=1e-6)
    around = mosaic[2, 4, 1], mosaic[4, 4, 1], mosaic[3, 3, 1], mosaic[3, 5, 1]
    assert green[3, 4] == mosaic[3, 4, 1] or green[3, 4] == pytest.approx(np.mean(around), abs=1e-6)
    assert np.allclose(demosaiced(np.ones((7, 9, 3), np.float32)), 1)


# ---------------------------------------------------------------- sharpening and compression


def test_sharpening_makes_halos_at_edges_and_leaves_areas():
    image = grey(60)
    image[:, 32:] = 180
    sharp = Sharpening(1.0, 1.5)(image)
    assert sharp.max() > 190 and sharp.min() < 50
    assert (sharp[:, :20] == 60).all() and (sharp[:, -20:] == 180).all()
    assert np.array_equal(Sharpening(0.0, 1.0)(image), image)


@pytest.mark.parametrize('codec, options', [('jpeg', {'subsampling': 2}), ('webp', {})])
def test_compression_is_that_of_the_codec(codec, options, photo):
    image, file = photo[:50, :70], io.BytesIO()
    Image.fromarray(image).save(file, codec, quality=55, **options)
    assert np.array_equal(Compression(codec, 55)(image), np.asarray(Image.open(file).convert('RGB')))


def test_subsampling_blurs_colour_only(photo):
    image = photo[:64, :64].copy()
    image[..., 0] = np.random.default_rng(0).integers(60, 200, (64, 64))
    full, half = (Compression('jpeg', 95, subsampling)(image).astype(float) for subsampling in ('4:4:4', '4:2:0'))
    assert np.abs(half - image).mean() > 3 * np.abs(full - image).mean()


@pytest.mark.parametrize('offset', [0, 3, 7, 8, 13])
def test_the_blocks_of_a_codec_begin_where_the_offset_says(offset):
    """JPEG of low quality jumps from block to block, and seldom within one."""
    image = grey(0)
    image[:] = (np.arange(64) * 2 + 40)[:, None, None]
    image[..., 0] += np.arange(64, dtype=np.uint8)
    jumps = np.abs(np.diff(Compression('jpeg', 5, offset=(offset, offset))(image).astype(float), axis=0)).mean((1, 2))
    by_phase = [jumps[phase::8].mean() for phase in range(8)]
    assert (int(np.argmax(by_phase)) + 1 + offset) % 8 == 0


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(0, 15), columns=st.integers(0, 15), height=st.integers(1, 20), width=st.integers(1, 20))
def test_compression_keeps_the_size(rows, columns, height, width):
    image = grey(50, height, width)
    for codec in ('jpeg', 'webp'):
        assert np.abs(Compression(codec, 90, offset=(rows, columns))(image).astype(int) - 50).max() <= 3


# ---------------------------------------------------------------- whole degradations


def test_the_steps_come_in_the_order_of_a_camera(photo):
    hr = photo[:96, :96]
    blur, reduction = Blur('defocus', 0.7), Reduction(('area', 'lanczos'), 1.3)
    after = (Noise('gaussian', 6, 1), Sharpening(0.5, 1.0), Compression('jpeg', 50, '4:4:4', (2, 3)))
    lr = reduction(blur(hr, (3, 3)), (32, 32))
    for step in after:
        lr = step(lr)
    assert np.array_equal(Degradation(blur, reduction, after).reduce(hr, (32, 32)), lr)
    assert np.array_equal(Degradation().reduce(hr, (32, 32)), pil_resize(hr, (32, 32)))


def test_a_degradation_says_what_it_does():
    degradation = Degradation(Blur('motion', 0.7, angle=30.0), None, (Noise('grey', 5.25, 7), Compression('jpeg', 60)))
    assert str(degradation) == (
        'blur (kind motion, sigma 0.7, angle 30); noise (kind grey, sigma 5.25); compression (codec jpeg, quality 60)'
    )
    assert str(Degradation()) == 'clean'


def psnr(lr, clean):
    return -10 * np.log10(np.square(lr / 255 - clean / 255).mean())


def test_the_cases_of_the_test_bed_are_as_bad_as_their_names_say(photo):
    clean, _ = reduced(photo, 3)
    loss = {name: psnr(Evaluation(Photos(photo), 3, name)[0]['lr'].permute(1, 2, 0).numpy() * 255, clean)
            for name in CASES if name != 'clean'}  # fmt: skip
    assert loss['jpeg40'] < loss['jpeg60'] < loss['jpeg80']
    assert loss['twice-jpeg'] < loss['jpeg60'] and loss['noise5+jpeg70'] < loss['jpeg80']
    assert loss['noise8'] == pytest.approx(20 * np.log10(255 / 8), abs=0.2)
    assert loss['blur1+jpeg75'] < loss['jpeg80']
    with pytest.raises(UserError, match="unknown degradation 'jpeg61', did you mean 'jpeg60'"):
        case('jpeg61')
    with pytest.raises(UserError, match='unknown degradation'):
        Evaluation(Photos(photo), 3, ['jpeg60'])


@pytest.mark.parametrize('scale', [2, (3, 2.5)])
def test_an_evaluation_is_degraded_around_the_reduction_of_the_protocol(scale, photo):
    photo = photo[:101, :90]
    item, plain = (Evaluation(Photos(photo), scale, name)[0] for name in ('blur1+jpeg75', 'clean'))
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    lr = Compression('jpeg', 75)(reduced(Blur('isotropic', 1)(photo, pair), scale)[0])
    assert np.array_equal(item['lr'].permute(1, 2, 0).numpy(), lr.astype(np.float32) / 255)
    assert item['hr'].equal(plain['hr']) and item['lr'].shape == plain['lr'].shape


# ---------------------------------------------------------------- at random


def drawn(spec, n=300):
    degradations = Degradations(spec)
    return [degradations.draw(np.random.default_rng(k)) for k in range(n)]


def test_a_degradation_is_a_function_of_its_random_numbers():
    assert drawn(ALL, 50) == drawn(ALL, 50)
    assert len(set(map(str, drawn(ALL, 50)))) > 40


def test_numbers_and_names_stay_in_their_ranges_and_reach_them():
    all_drawn = drawn(ALL, 1500)
    blurs = [d.blur for d in all_drawn if d.blur]
    assert {blur.kind for blur in blurs} == set(BLURS)
    assert 0.3 <= min(b.sigma for b in blurs) < 0.35 and 1.45 < max(b.sigma for b in blurs) <= 1.5
    assert all((b.ratio < 1) == (b.kind == 'anisotropic') for b in blurs)
    reductions = [d.reduction for d in all_drawn if d.reduction]
    assert {name for r in reductions for name in r.filters} == set(FILTERS)
    middles = [r.middle for r in reductions if r.middle is not None]
    assert 0.4 < len(middles) / len(reductions) < 0.6 and 0.7 <= min(middles) and max(middles) <= 1.5
    after = [step for d in all_drawn for step in d.after]
    noises = [step for step in after if isinstance(step, Noise)]
    assert {noise.kind for noise in noises} == set(NOISES) and len({noise.seed for noise in noises}) > len(noises) - 5
    jpegs = [step for step in after if isinstance(step, Compression) and step.codec == 'jpeg']
    assert {jpeg.subsampling for jpeg in jpegs} == {'4:4:4', '4:2:0'}
    assert (min(j.quality for j in jpegs), max(j.quality for j in jpegs)) == (30, 90)
    assert {j.offset[0] for j in jpegs} == {j.offset[1] for j in jpegs} == set(range(16))
    webps = [step for step in after if isinstance(step, Compression) and step.codec == 'webp']
    assert (min(w.quality for w in webps), max(w.quality for w in webps)) == (40, 80)


def test_steps_are_as_frequent_as_their_probability():
    all_drawn = drawn({'clean': 0.25, 'noise': ALL['noise'] | {'probability': 0.4}, 'jpeg': ALL['jpeg']}, 2000)
    share = [np.mean([bool(d.after) and isinstance(d.after[k], Noise) for d in all_drawn]) for k in (0,)]
    assert share[0] == pytest.approx(0.75 * 0.4, abs=0.03)
    codecs = [sum(isinstance(step, Compression) for step in d.after) for d in all_drawn]
    assert np.mean([n > 0 for n in codecs]) == pytest.approx(0.75 * 0.5, abs=0.03)
    assert np.mean([n == 2 for n in codecs]) == pytest.approx(0.75 * 0.25, abs=0.03)
    assert not any(d.blur or d.reduction for d in all_drawn)


def test_certain_and_impossible_steps():
    assert set(drawn({'clean': 1, 'jpeg': ALL['jpeg']}, 20)) == {Degradation()}
    assert set(drawn({'jpeg': ALL['jpeg'] | {'probability': 0}}, 20)) == {Degradation()}
    assert all(len(d.after) == 2 for d in drawn({'jpeg': ALL['jpeg'] | {'probability': 1, 'twice': 1}}, 20))
    without = {key: value for key, value in ALL['jpeg'].items() if key != 'twice'}
    assert all(len(d.after) == 1 for d in drawn({'jpeg': without | {'probability': 1}}, 20))


def training(photo, **args):
    plan = {'scale_min': 1, 'scale_max': 4, 'batch_size': 2, 'steps': 8, 'patch': 16, 'queries': 20, 'shrink': 0.5}
    return Training(Photos(photo), **plan | args)


def test_training_samples_differ_from_plain_ones_in_their_lr_image_only(photo):
    plain, samples = training(photo), training(photo, degrade=ALL)
    different = 0
    for n in reversed(range(len(plain))):
        assert all(samples[n][key].equal(plain[n][key]) for key in ('hr', 'index'))
        degradation = Degradations(ALL).draw(np.random.default_rng((0, 3, n)))
        lr = degradation.reduce(np.ascontiguousarray(plain[n]['hr'].permute(1, 2, 0)), (16, 16))
        assert np.array_equal(samples[n]['lr'].permute(1, 2, 0), lr)
        different += not samples[n]['lr'].equal(plain[n]['lr'])
    assert different > 8
    clean = training(photo, degrade={'clean': 1})
    assert all(clean[n]['lr'].equal(plain[n]['lr']) for n in range(len(plain)))


@pytest.mark.parametrize(
    'spec, said',
    [
        ({}, 'degrade is a mapping of clean, blur'),
        ('jpeg60', 'degrade is a mapping of clean, blur'),
        ({'blurr': {}}, "degrade: unknown key 'blurr', did you mean 'blur'"),
        ({3: {}}, 'degrade: unknown key 3'),
        ({'clean': 1.5}, 'degrade: clean: a probability is a number from 0 to 1, not 1.5'),
        ({'clean': True}, 'degrade: clean: a probability'),
        ({'jpeg': 60}, 'degrade: jpeg: a mapping of probability, quality, subsampling, twice, not 60'),
        ({'jpeg': {'probability': 1, 'qualty': [1, 2]}}, "degrade: jpeg: unknown key 'qualty', did you mean 'quality'"),
        ({'webp': {'probability': 1}}, "degrade: webp: the key 'quality' is missing"),
        ({'webp': {'quality': [1, 2]}}, "degrade: webp: the key 'probability' is missing"),
        ({'webp': {'probability': 'often', 'quality': [1, 2]}}, 'degrade: webp: probability: a probability'),
        ({'webp': {'probability': 1, 'quality': [60, 40]}}, 'degrade: webp: quality is .smallest, largest., from 1 to'),
        ({'webp': {'probability': 1, 'quality': [60, 101]}}, 'degrade: webp: quality is'),
        ({'webp': {'probability': 1, 'quality': 60}}, 'degrade: webp: quality is'),
        ({'webp': {'probability': 1, 'quality': [60, float('nan')]}}, 'degrade: webp: quality is'),
        ({'noise': ALL['noise'] | {'kinds': ['gauss']}}, "noise: kinds: unknown 'gauss', did you mean 'gaussian'"),
        ({'noise': ALL['noise'] | {'kinds': []}}, 'noise: kinds is a list of some of gaussian, grey'),
        ({'noise': ALL['noise'] | {'kinds': [['grey']]}}, 'noise: kinds: unknown'),
        ({'jpeg': ALL['jpeg'] | {'twice': 2}}, 'degrade: jpeg: twice: a probability'),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec, said):
    for user in (
        Degradations,
        lambda spec: stages.check_stage({'rim': False, 'scales': [1, 2], 'lr': 1, 'steps': 1, 'degrade': spec}),
    ):
        with pytest.raises(UserError, match=said) as error:
            user(spec)
        assert '\n' not in str(error.value)


def test_a_step_that_is_null_is_left_out():
    assert 'blur' not in Degradations(ALL | {'blur': None}).steps
