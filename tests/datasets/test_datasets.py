"""Folders of images and the LR/HR pairs made of them."""

import json
import math
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets.image_folder import ImageFolder, PairedImageFolders
from datasets.pictures.resize import pil_resize
from datasets.reduction import reduced
from datasets.wrappers import Evaluation, PairedEvaluation, Training
from utils import Note, UserError

QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_image(seed, *size):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def save(folder, name, pixels, **options):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name, **options)


@pytest.fixture
def folder(tmp_path):
    """Three random images, `img_1.png`, `img_2.png` and `img_10.png`, of 20 x 24 pixels."""
    for k in (10, 2, 1):
        save(tmp_path / 'images', f'img_{k}.png', random_image(k, 20, 24, 3))
    return tmp_path / 'images'


def names(dataset):
    return [dataset.name(i) for i in range(len(dataset))]


# ---------------------------------------------------------------- image-folder


def test_images_come_in_natural_order_without_hidden_and_other_files(folder):
    save(folder / '.cache', 'img_3.png', random_image(3, 4, 4, 3))
    save(folder / 'LR', 'img_4.png', random_image(4, 4, 4, 3))
    save(folder, '.img_5.png', random_image(5, 4, 4, 3))
    (folder / 'notes.txt').write_text('no image')
    dataset = datasets.make({'name': 'image-folder', 'args': {'root_path': str(folder)}})
    assert names(dataset) == ['img_1', 'img_2', 'img_10']
    for i, k in enumerate((1, 2, 10)):
        assert np.array_equal(dataset[i], random_image(k, 20, 24, 3)) and dataset[i].dtype == np.uint8
    for i in (3, -1):
        with pytest.raises(IndexError):
            dataset[i]


@pytest.mark.parametrize('ending', ['.png', '.PNG', '.bmp', '.tif', '.webp', '.ppm'])
def test_lossless_formats(tmp_path, ending):
    pixels = random_image(0, 7, 9, 3)
    save(tmp_path, f'image{ending}', pixels, **({'lossless': True} if ending == '.webp' else {}))
    assert np.array_equal(ImageFolder(tmp_path)[0], pixels)


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    save(tmp_path, 'image.jpg', random_image(0, 16, 24, 3))
    assert np.array_equal(ImageFolder(tmp_path)[0], np.asarray(Image.open(tmp_path / 'image.jpg')))


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = random_image(0, 7, 9)
    save(tmp_path, '8.png', grey)
    save(tmp_path, '16.png', grey.astype(np.uint16) * 257)
    save(tmp_path, '16.tif', grey.astype(np.uint16) * 257)
    save(tmp_path, 'alpha.png', np.stack([grey, random_image(1, 7, 9)], axis=-1))
    for image in ImageFolder(tmp_path):
        assert image.dtype == np.uint8 and np.array_equal(image, np.stack([grey] * 3, axis=-1))


def test_one_bit_images_are_black_and_white(tmp_path):
    mask = random_image(0, 7, 9) > 127
    save(tmp_path, 'mask.png', mask)
    assert np.array_equal(ImageFolder(tmp_path)[0], np.stack([mask * np.uint8(255)] * 3, axis=-1))


def test_16_bits_are_rounded_to_8(tmp_path):
    save(tmp_path, 'image.png', np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16))
    assert ImageFolder(tmp_path)[0][0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]


def test_16_bit_rgb(tmp_path):
    pixels = random_image(0, 5, 6, 3)
    rows = b''.join(b'\0' + row.tobytes() for row in (pixels.astype('>u2') * 257).astype('>u2'))
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', 6, 5, 16, 2, 0, 0, 0)), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    encoded = [
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (tmp_path / 'image.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(encoded))
    assert np.array_equal(ImageFolder(tmp_path)[0], pixels)


def test_alpha_is_dropped_and_a_palette_is_looked_up(tmp_path):
    pixels = random_image(0, 7, 9, 4)
    pixels[..., 3] |= 1
    save(tmp_path, '1.png', pixels)
    colours = Image.fromarray(pixels[..., :3]).quantize(8)
    colours.save(tmp_path / '2.png')
    colours.save(tmp_path / '3.gif')
    alpha, palette, gif = ImageFolder(tmp_path)
    assert np.array_equal(alpha, pixels[..., :3])
    assert np.array_equal(palette, np.asarray(colours.convert('RGB'))) and np.array_equal(gif, palette)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r'nowhere: no such folder'):
        ImageFolder(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/notes.txt').write_text('no image')
    with pytest.raises(UserError, match=r'empty: no images in this folder'):
        ImageFolder(tmp_path / 'empty')


@pytest.mark.parametrize('data', [b'', b'no image', 'half'])
def test_a_damaged_image_is_named(folder, data):
    whole = (folder / 'img_2.png').read_bytes()
    (folder / 'img_2.png').write_bytes(whole[: len(whole) // 2] if data == 'half' else data)
    with pytest.raises(UserError, match=r'img_2\.png: '):
        ImageFolder(folder)[1]
    for cache in ('in_memory', 'bin'):
        with pytest.raises(UserError, match=r'img_2\.png: '):
            ImageFolder(folder, cache=cache)


@pytest.mark.parametrize('cache', ['none', 'in_memory', 'bin'])
def test_first_images_lists_and_repetition(folder, tmp_path, cache):
    assert names(ImageFolder(folder, first_k=2, cache=cache)) == ['img_1', 'img_2']
    assert names(ImageFolder(folder, first_k=9, cache=cache)) == ['img_1', 'img_2', 'img_10']
    repeated = ImageFolder(folder, first_k=2, repeat=3, cache=cache)
    assert names(repeated) == ['img_1', 'img_2'] * 3
    assert np.array_equal(repeated[5], random_image(2, 20, 24, 3))
    (tmp_path / 'list.txt').write_text('img_10.png\n\n  img_1.png \n')
    (tmp_path / 'list.json').write_text(json.dumps(['img_10.png', 'img_1.png']))
    for file in ('list.txt', 'list.json'):
        listed = ImageFolder(folder, split_file=tmp_path / file, cache=cache)
        assert names(listed) == ['img_10', 'img_1'] and np.array_equal(listed[0], random_image(10, 20, 24, 3))
    assert names(ImageFolder(folder, split_file=str(tmp_path / 'list.txt'), first_k=1, cache=cache)) == ['img_10']


@pytest.mark.parametrize(
    'name, text, said',
    [
        ('list.txt', 'img_1.png\nimg_7.png', r'images: lacks 1 of the 2 images that .*list\.txt names: img_7\.png'),
        ('list.txt', '\n', r'list\.txt: not a list of file names'),
        ('list.json', '{"train": []}', r'list\.json: not a list of file names'),
        ('list.json', '[1, 2]', r'list\.json: not a list of file names'),
        ('list.json', '[', r'list\.json: not a list of file names'),
        ('list.txt', None, r'list\.txt: cannot read the list of images'),
    ],
)
def test_bad_lists_are_refused(folder, tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        ImageFolder(folder, split_file=tmp_path / name)


@pytest.mark.parametrize(
    'args, said',
    [
        ({'root_path': 5}, 'root_path is the path of a file or folder, not 5'),
        ({'root_path': None}, 'root_path is the path'),
        ({'root_path': ['a']}, 'root_path is the path'),
        ({'split_file': 5}, 'split_file is the path'),
        ({'first_k': 'x'}, "first_k is a whole number from 1 up, not 'x'"),
        ({'first_k': 0}, 'first_k'),
        ({'first_k': -1}, 'first_k'),
        ({'first_k': 1.5}, 'first_k'),
        ({'first_k': True}, 'first_k'),
        ({'repeat': 0}, 'repeat is a whole number'),
        ({'repeat': None}, 'repeat'),
        ({'repeat': [1]}, 'repeat'),
        ({'cache': 'disk'}, "unknown cache 'disk'"),
        ({'cache': None}, 'unknown cache'),
        ({'cache': ['bin']}, 'cache'),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(folder, args, said):
    with pytest.raises(UserError, match=f'image-folder: .*{said}'):
        datasets.make({'name': 'image-folder', 'args': {'root_path': str(folder)} | args})


# ---------------------------------------------------------------- paired-image-folders


@pytest.fixture
def pairs(folder, tmp_path):
    """A folder of LR images at x2 for `folder`, with one name of each kind."""
    for k, name in ((1, 'img_1.png'), (2, 'img_2x2.png'), (10, 'img_10_x2.bmp')):
        save(tmp_path / 'lr', name, reduced(random_image(k, 20, 24, 3), 2)[0])
    return tmp_path / 'lr'


@pytest.mark.parametrize('cache', ['none', 'in_memory', 'bin'])
def test_pairs_are_matched_by_name(folder, pairs, cache):
    spec = {'name': 'paired-image-folders', 'args': {'root_path_1': str(pairs), 'root_path_2': str(folder)}}
    spec['args'] |= {'cache': cache, 'repeat': 2}
    dataset = datasets.make(spec)
    assert names(dataset) == ['img_1', 'img_2', 'img_10'] * 2
    for i, (lr, hr) in enumerate(dataset):
        assert np.array_equal(hr, random_image((1, 2, 10)[i % 3], 20, 24, 3))
        assert np.array_equal(lr, reduced(hr, 2)[0])
    with pytest.raises(IndexError):
        dataset[6]


def test_pairs_of_a_list_or_of_the_first(folder, pairs, tmp_path):
    (tmp_path / 'list.txt').write_text('img_10.png')
    listed = PairedImageFolders(pairs, folder, split_file=tmp_path / 'list.txt')
    assert names(listed) == ['img_10'] and np.array_equal(listed[0][0], reduced(listed[0][1], 2)[0])
    assert names(PairedImageFolders(pairs, folder, first_k=2)) == ['img_1', 'img_2']


def test_folders_that_do_not_match_are_told(folder, pairs, tmp_path):
    save(pairs, 'img_11.png', random_image(0, 4, 4, 3))
    with pytest.raises(UserError, match=r'images: no HR image for 1 of the 4 LR images of .*lr: img_11\.png'):
        PairedImageFolders(pairs, folder)
    (pairs / 'img_11.png').unlink()
    (pairs / 'img_2x2.png').unlink()
    with pytest.raises(UserError, match=r'lr: no LR image for 1 of the 3 HR images of .*images: img_2\.png'):
        PairedImageFolders(pairs, folder)
    with pytest.raises(UserError, match='nowhere: no such folder'):
        PairedImageFolders(tmp_path / 'nowhere', folder)
    for args, said in (
        ({'root_path_1': 5}, 'root_path_1'),
        ({'root_path_2': None}, 'root_path_2'),
        ({'first_k': 'x'}, 'first_k'),
        ({'repeat': 'x'}, 'repeat'),
        ({'split_file': 5}, 'split_file'),
    ):
        with pytest.raises(UserError, match=said):
            datasets.make(
                {'name': 'paired-image-folders', 'args': {'root_path_1': str(pairs), 'root_path_2': str(folder)} | args}
            )


def test_pairs_whose_names_differ_in_their_endings(tmp_path):
    for k, ending in enumerate(('png', 'bmp', 'tif')):
        save(tmp_path / 'hr', f'a.{ending}', random_image(k, 20, 24, 3))
        save(tmp_path / 'lr', f'a{"x2" * (k > 0)}.{ending}', reduced(random_image(k, 20, 24, 3), 2)[0])
    dataset = PairedImageFolders(tmp_path / 'lr', tmp_path / 'hr')
    assert sorted(names(dataset)) == ['a.bmp', 'a.png', 'a.tif']
    for lr, hr in dataset:
        assert np.array_equal(lr, reduced(hr, 2)[0])
    (tmp_path / 'lr/a.png').rename(tmp_path / 'lr/a.webp')
    (tmp_path / 'lr/ax2.bmp').unlink()
    with pytest.raises(UserError, match='hr: a.bmp, a.png would all belong to the LR image a.webp of'):
        PairedImageFolders(tmp_path / 'lr', tmp_path / 'hr')


def test_names_of_images_in_folders_of_a_list_are_their_own(folder, tmp_path):
    save(folder / 'more', 'img_1.png', random_image(5, 4, 4, 3))
    (tmp_path / 'list.txt').write_text('img_1.png\nmore/img_1.png\nimg_2.png\nimg_1.png')
    listed = ImageFolder(folder, split_file=tmp_path / 'list.txt')
    assert names(listed) == ['img_1.png', 'more_img_1.png', 'img_2', 'img_1.png']


def test_a_note_tells_what_is_left_out(folder):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ImageFolder(folder)
    for name in ('LICENSE.pdf', 'clip.mpg', 'Makefile', '.hidden'):
        (folder / name).write_bytes(b'no image')
    with pytest.warns(Note, match='images: left out 3 other files .\\.mpg, \\.pdf, no ending'):
        assert len(ImageFolder(folder)) == 3


# ---------------------------------------------------------------- evaluation


def pixels(tensor):
    """`(3, H, W)` float32 in [0, 1] as `(H, W, 3)` uint8, which it must be exactly."""
    assert tensor.dtype == torch.float32
    whole = (tensor * 255).round()
    assert torch.equal(whole / 255, tensor)
    return whole.byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize('scale', [2, 3, 4, 6, 1, 2.5, 3.3, [2, 3.5]])
def test_evaluation_degrades_by_the_protocol(folder, scale):
    images = {'name': 'image-folder', 'args': {'root_path': str(folder)}}
    dataset = datasets.make({'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': scale}})
    assert len(dataset) == 3
    for i, k in enumerate((1, 2, 10)):
        item = dataset[i]
        lr, hr = reduced(random_image(k, 20, 24, 3), scale)
        assert np.array_equal(pixels(item['lr']), lr) and np.array_equal(pixels(item['hr']), hr)
        assert item['scale'] == (tuple(scale) if isinstance(scale, list) else (scale, scale))
        assert dataset.measure(i) == (item['name'], tuple(item['hr'].shape[1:]), item['scale'])
        assert item['name'] == f'img_{k}'


@pytest.mark.parametrize('scale', [0, -1, 'x', None, [2], {}, float('nan')])
def test_evaluation_refuses_scales_that_make_no_sense(folder, scale):
    with pytest.raises(UserError, match='a scale is a positive number'):
        Evaluation(ImageFolder(folder), scale)


def test_evaluation_names_an_image_that_is_too_small(folder):
    dataset = Evaluation(ImageFolder(folder), 21)
    for access in (dataset.measure, dataset.__getitem__):
        with pytest.raises(UserError, match='img_1: an image of 20 x 24 pixels is too small for scale 21'):
            access(0)


@pytest.mark.parametrize(
    'size, lr_size, scale, hr_size',
    [
        ((20, 24), (10, 12), (2, 2), (20, 24)),
        ((21, 25), (10, 12), (2, 2), (20, 24)),
        ((23, 26), (7, 8), (3, 3), (21, 24)),
        ((20, 24), (20, 24), (1, 1), (20, 24)),
        ((20, 25), (8, 10), (2.5, 2.5), (20, 25)),
    ],
)
def test_paired_evaluation_finds_the_scale_in_the_sizes(tmp_path, size, lr_size, scale, hr_size):
    save(tmp_path / 'hr', 'a.png', random_image(1, *size, 3))
    save(tmp_path / 'lr', 'a.png', random_image(2, *lr_size, 3))
    folders = {'root_path_1': str(tmp_path / 'lr'), 'root_path_2': str(tmp_path / 'hr')}
    spec = {'name': 'paired-image-folders', 'args': folders}
    dataset = datasets.make({'name': 'sr-evaluation-paired', 'args': {'dataset': spec}})
    (item,) = dataset
    assert (item['name'], item['scale']) == ('a', scale)
    assert np.array_equal(pixels(item['lr']), random_image(2, *lr_size, 3))
    assert np.array_equal(pixels(item['hr']), random_image(1, *size, 3)[: hr_size[0], : hr_size[1]])
    assert dataset.measure(0) == ('a', hr_size, scale)


@pytest.mark.parametrize('size, lr_size', [((20, 24), (40, 48)), ((20, 24), (10, 6)), ((20, 24), (24, 20))])
def test_paired_evaluation_refuses_images_that_do_not_belong_together(tmp_path, size, lr_size):
    save(tmp_path / 'hr', 'a.png', random_image(1, *size, 3))
    save(tmp_path / 'lr', 'a.png', random_image(2, *lr_size, 3))
    with pytest.raises(UserError, match=f'a: an LR image of {lr_size[0]} x {lr_size[1]} does not belong'):
        PairedEvaluation(PairedImageFolders(tmp_path / 'lr', tmp_path / 'hr'))[0]


def test_wrappers_refuse_datasets_of_another_kind(folder, pairs):
    images = {'name': 'image-folder', 'args': {'root_path': str(folder)}}
    both = {'name': 'paired-image-folders', 'args': {'root_path_1': str(pairs), 'root_path_2': str(folder)}}
    wrapped = {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': 2}}
    training = {'scale_min': 1, 'scale_max': 1, 'batch_size': 1, 'steps': 1, 'patch': 4}
    for name, dataset, args, said in (
        ('sr-evaluation', both, {'scale': 2}, 'single images is needed, which PairedImageFolders is not'),
        ('sr-evaluation', wrapped, {'scale': 2}, 'single images is needed'),
        ('sr-evaluation-paired', images, {}, 'pairs of images is needed, which ImageFolder is not'),
        ('sr-training', both, training, 'single images is needed'),
        ('sr-training', 'image-folder', training, 'a dataset spec is {name, args}'),
        ('sr-evaluation', 5, {'scale': 2}, 'a dataset spec is'),
        ('sr-evaluation-paired', None, {}, 'a dataset spec is'),
    ):
        with pytest.raises(UserError, match=said):
            datasets.make({'name': name, 'args': {'dataset': dataset} | args})


# ---------------------------------------------------------------- training


class Gradient:
    """Two images in which the value of a pixel is its position: (y, x, number of the image)."""

    def __init__(self, height=40, width=50):
        y, x = np.mgrid[:height, :width].astype(np.uint8)
        self.images = [np.stack([y, x, np.full_like(y, k)], axis=-1) for k in range(2)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]

    def size(self, i):
        return self.images[i].shape[:2]

    def name(self, i):
        return f'gradient{i}'


def training(dataset=None, **args):
    args = {'scale_min': 1, 'scale_max': 4, 'batch_size': 3, 'steps': 5, 'patch': 8, 'queries': 50} | args
    return Training(dataset or Gradient(), **args)


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in ('lr', 'hr', 'index'))


@QUICK
@given(
    n=st.integers(0, 14),
    seed=st.integers(0, 99),
    draw=st.sampled_from(['pixel', 'block', 'patch']),
    augment=st.booleans(),
    shrink=st.sampled_from([1, 0.5]),
)
def test_a_sample_is_a_function_of_its_number(n, seed, draw, augment, shrink):
    samples, again = (training(seed=seed, queries=49, draw=draw, augment=augment, shrink=shrink) for _ in range(2))
    for other in range(14, n, -1):
        samples[other]  # whatever was taken before
    assert same(samples[n], again[n])
    assert not same(samples[n], training(seed=seed + 1, queries=49, draw=draw, augment=augment, shrink=shrink)[n])


@QUICK
@given(
    n=st.integers(0, 14),
    patch=st.integers(1, 10),
    queries=st.integers(1, 2000),
    draw=st.sampled_from(['pixel', 'block', 'patch']),
    scales=st.tuples(st.floats(1, 4), st.floats(1, 4)).map(sorted),
)
def test_what_a_sample_is(n, patch, queries, draw, scales):
    low, high = scales
    if draw == 'patch':
        queries = math.isqrt(queries) ** 2
    sample = training(scale_min=low, scale_max=high, patch=patch, queries=queries, draw=draw, augment=False)[n]
    lr, hr, index = sample['lr'], sample['hr'], sample['index']
    side = hr.shape[1]
    assert lr.dtype == hr.dtype == torch.uint8 and index.dtype == torch.int64
    assert lr.shape == (3, patch, patch) and hr.shape == (3, side, side)
    assert round(patch * low) <= side <= round(patch * high)
    assert np.array_equal(lr.permute(1, 2, 0), pil_resize(hr.permute(1, 2, 0).numpy(), (patch, patch)))
    top, left, number = hr[:, 0, 0].tolist()
    assert np.array_equal(hr.permute(1, 2, 0), Gradient()[number][top : top + side, left : left + side])
    if draw == 'patch':
        inner = min(math.isqrt(queries), side)
        y, x = index.reshape(inner, inner) // side, index.reshape(inner, inner) % side
        assert (y.diff(dim=0) == 1).all() and (y.diff(dim=1) == 0).all()
        assert (x.diff(dim=0) == 0).all() and (x.diff(dim=1) == 1).all()
        assert index.min() >= 0 and index.max() < side**2
    elif draw == 'pixel':
        assert len(index) == queries and (queries > side**2 or len(set(index.tolist())) == queries)
        assert index.min() >= 0 and index.max() < side**2
    else:
        assert len(set(index.tolist())) == len(index) == min(max(round(queries * (patch / side) ** 2), 1), patch**2)
        assert index.min() >= 0 and index.max() < patch**2


def test_a_step_has_one_scale_and_an_epoch_every_image_once():
    samples = training(steps=40)
    assert len(samples) == 120
    items = [samples[n] for n in range(120)]
    sides = [item['hr'].shape[1] for item in items]
    assert all(len(set(sides[n : n + 3])) == 1 for n in range(0, 120, 3))
    assert min(sides) < 14 and max(sides) > 26 and len(set(sides)) > 10
    images = [item['hr'][2, 0, 0].item() for item in items]
    assert all(sorted(images[n : n + 2]) == [0, 1] for n in range(0, 120, 2))
    assert len({tuple(images[n : n + 2]) for n in range(0, 120, 2)}) == 2  # in changing order
    assert len({tuple(item['hr'][:2].amin((1, 2)).tolist()) for item in items}) > 60  # and from changing places


def test_augmentation_flips_and_transposes_and_does_nothing_else():
    seen = set()
    for n in range(120):
        samples = training(steps=40)
        item = samples[n]
        y, x, number = item['hr'].int()
        transposed = bool((y[0] != y[0, 0]).any())
        if transposed:
            y, x = y.T, x.T
        flips = (y[0, 0] > y[-1, 0]).item(), (x[0, 0] > x[0, -1]).item()
        seen.add((transposed, *flips))
        part = Gradient()[int(number[0, 0])][y.min() : y.max() + 1, x.min() : x.max() + 1]
        part = part[::-1] if flips[0] else part
        part = part[:, ::-1] if flips[1] else part
        part = part.transpose(1, 0, 2) if transposed else part
        assert np.array_equal(item['hr'].permute(1, 2, 0), part)
        assert np.array_equal(item['lr'].permute(1, 2, 0), pil_resize(np.ascontiguousarray(part), (8, 8)))
    assert len(seen) == 8


def test_loader_workers_give_the_same_samples(folder):
    images = {'name': 'image-folder', 'args': {'root_path': str(folder), 'cache': 'bin'}}
    samples = datasets.make(
        {
            'name': 'sr-training',
            'args': {
                'dataset': images,
                'scale_min': 2,
                'scale_max': 2,
                'batch_size': 2,
                'steps': 2,
                'patch': 8,
                'queries': 9,
            },
        }
    )
    batches = torch.utils.data.DataLoader(samples, batch_size=2, num_workers=1)
    taken = [{key: batch[key][k] for key in batch} for batch in batches for k in range(2)]
    assert len(taken) == 4 and all(same(taken[n], samples[n]) for n in range(4))


def test_an_image_smaller_than_the_largest_crop_is_named(tmp_path):
    save(tmp_path, 'large.png', random_image(0, 33, 40, 3))
    save(tmp_path, 'narrow.png', random_image(1, 90, 31, 3))
    args = {'batch_size': 1, 'steps': 1, 'patch': 8, 'scale_min': 1}
    said = 'narrow: an image of 90 x 31 pixels is smaller than the 32 x 32 that a patch of 8 takes at scale 4'
    with pytest.raises(UserError, match=said):
        Training(ImageFolder(tmp_path), scale_max=4, **args)
    assert Training(ImageFolder(tmp_path), scale_max=3.9, **args)[0]['lr'].shape == (3, 8, 8)


@pytest.mark.parametrize('shrink, smallest', [(0.1, 0.4), (0.6, 0.6), (1, 1)])  # 0.4: a whole image, 40 pixels high
def test_half_of_the_samples_are_cut_from_a_reduced_image(shrink, smallest):
    """The slope of the colours of `Gradient` shows by how much a crop was reduced."""
    samples = training(shrink=shrink, scale_min=2, scale_max=2, patch=8, batch_size=4, steps=50, augment=False)
    factors = []
    for n in range(len(samples)):
        hr = samples[n]['hr'].float()
        assert hr.shape == (3, 16, 16)
        factors.append(13 / float(hr[0, 14, 8] - hr[0, 1, 8]))
    assert sum(factor < 1 for factor in factors) == 0 if shrink == 1 else 60 < sum(f < 1 for f in factors) < 130
    assert max(factors) == 1 and smallest - 0.02 < min(factors) < smallest + 0.06


@pytest.mark.parametrize(
    'args, said',
    [
        ({'draw': 'line'}, 'draw is one of pixel, block, patch'),
        ({'draw': None}, 'draw is one of'),
        ({'draw': 'patch', 'queries': 5}, 'the draw patch needs queries that are a square number, not 5'),
        ({'scale_min': 0.5}, 'scales from 0.5 to 4 make no sense'),
        ({'scale_min': 5}, 'scales from 5 to 4'),
        ({'scale_max': float('nan')}, 'scale_max is a number, not nan'),
        ({'scale_max': float('inf')}, 'scale_max is a number, not inf'),
        ({'scale_max': 'x'}, "scale_max is a number, not 'x'"),
        ({'scale_min': None}, 'scale_min is a number'),
        ({'batch_size': 0}, 'batch_size is a whole number from 1 up, not 0'),
        ({'steps': -1}, 'steps is a whole number'),
        ({'patch': 'x'}, 'patch is a whole number'),
        ({'queries': 2.5}, 'queries is a whole number'),
        ({'seed': -1}, 'seed is a whole number from 0 up'),
        ({'seed': 'x'}, 'seed'),
        ({'augment': 'no'}, 'augment'),
        ({'shrink': 0}, 'shrink is above 0 and at most 1, not 0'),
        ({'shrink': 1.5}, 'shrink is above 0'),
        ({'shrink': 'x'}, 'shrink is a number'),
    ],
)
def test_training_arguments_that_make_no_sense_are_refused(args, said):
    with pytest.raises(UserError, match=f'sr-training: {said}'):
        training(**args)
