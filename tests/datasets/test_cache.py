"""Images that are decoded once: the same pixels, nothing decoded or copied again, and where the cache is."""

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import image_folder
from datasets.cache import fcntl
from datasets.image_folder import ImageFolder
from datasets.wrappers import Training
from utils import UserError


def test_all_caches_give_the_same_images(photos):
    Image.fromarray(np.full((41, 50), 7, np.uint8)).save(photos / 'grey.png')
    plain, *cached = (ImageFolder(photos, cache=cache, repeat=2) for cache in ('none', 'in_memory', 'bin', 'bin'))
    for folder in cached:
        assert len(folder) == len(plain) == 12
        for i in range(12):
            assert folder[i].dtype == np.uint8 and np.array_equal(folder[i], plain[i])
            assert folder.size(i) == plain.size(i) == plain[i].shape[:2] and folder.name(i) == plain.name(i)


def test_an_image_is_decoded_once_and_again_when_it_changes(photos, monkeypatch):
    decoded = []
    read = image_folder.read_rgb
    monkeypatch.setattr(image_folder, 'read_rgb', lambda file: decoded.append(file.name) or read(file))
    for _ in range(2):
        ImageFolder(photos, cache='bin')[0]
    assert decoded == [f'photo{k}.png' for k in range(5)]
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(photos / 'photo2.png')
    assert ImageFolder(photos, cache='bin')[2].shape == (30, 30, 3) and len(decoded) == 10


def test_a_sample_decodes_nothing_and_hands_workers_no_pixels(photos, monkeypatch):
    Image.fromarray(np.zeros((400, 500, 3), np.uint8)).save(photos / 'large.png')
    samples = Training(ImageFolder(photos, cache='bin'), 1, 2, batch_size=2, steps=2, patch=12, queries=32)
    monkeypatch.setattr(image_folder, 'read_rgb', None)
    assert len(pickle.dumps(samples)) < 3000
    copy = pickle.loads(pickle.dumps(samples))
    assert all(np.array_equal(copy[3][key], samples[3][key]) for key in samples[3])
    assert isinstance(samples.dataset[0], np.memmap)


def test_without_a_cache_no_image_is_decoded_to_learn_its_size(photos, monkeypatch):
    monkeypatch.setattr(image_folder, 'read_rgb', None)
    Training(ImageFolder(photos), 1, 2, batch_size=2, steps=2, patch=12)
    with pytest.raises(UserError, match='photo0: an image of 40 x 44 pixels is smaller than the 48 x 48'):
        Training(ImageFolder(photos), 1, 4, batch_size=2, steps=2, patch=12)


def test_the_cache_of_a_folder_that_cannot_be_written_lies_in_the_current_one(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forbid(monkeypatch, photos / '.cache')
    images = ImageFolder(photos, cache='bin')
    assert not (photos / '.cache').exists() and len(list((tmp_path / '.cache').iterdir())) == 2
    monkeypatch.chdir(photos)
    assert np.array_equal(images[1], ImageFolder(photos)[1])


def test_a_cache_that_can_be_nowhere_is_told(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forbid(monkeypatch, photos / '.cache', tmp_path / '.cache')
    with pytest.raises(UserError, match='neither in .*photos/.cache .Read-only.* nor in .cache .Read-only'):
        ImageFolder(photos, cache='bin')


def forbid(monkeypatch, *folders):
    """As on a read-only file system, these `folders` cannot be made."""
    make = Path.mkdir

    def mkdir(self, *arguments, **options):
        if self.absolute() in folders:
            raise OSError(30, 'Read-only file system')
        return make(self, *arguments, **options)

    monkeypatch.setattr(Path, 'mkdir', mkdir)


def test_a_file_that_is_no_image_leaves_no_cache(photos):
    (photos / 'photo9.png').write_bytes((photos / 'photo0.png').read_bytes()[:200])
    with pytest.raises(UserError, match='photo9.png: '):
        ImageFolder(photos, cache='bin')
    assert not list((photos / '.cache').iterdir())


def test_a_cache_whose_pixels_were_deleted_is_made_again(photos):
    images = ImageFolder(photos, cache='bin')
    images.images.file.unlink()
    assert np.array_equal(ImageFolder(photos, cache='bin')[3], ImageFolder(photos)[3])


@pytest.mark.parametrize(
    'damage',
    [
        lambda file, index: file.write_bytes(file.read_bytes()[:-100]),
        lambda file, index: file.write_bytes(b''),
        lambda file, index: file.write_bytes(file.read_bytes() + b'0'),
        lambda file, index: index.write_text(index.read_text()[:20]),
        lambda file, index: index.write_bytes(b'\xff\x00'),
        lambda file, index: index.write_text('{"of": null, "shapes": [[40, 44, 3], 7]}'),
        lambda file, index: index.write_text('7'),
    ],
)
def test_a_damaged_cache_is_decoded_anew_with_one_note(photos, damage, capsys):
    ImageFolder(photos, cache='bin')
    (file,), (index,) = (list((photos / '.cache').glob(kind)) for kind in ('*.bin', '*.json'))
    damage(file, index)
    images = ImageFolder(photos, cache='bin')
    assert all(np.array_equal(images[i], ImageFolder(photos)[i]) for i in range(5))
    assert capsys.readouterr().err == f'{file}: damaged, the images are decoded anew\n'
    ImageFolder(photos, cache='bin')
    assert capsys.readouterr().err == ''


def caches(photos):
    return len(list((photos / '.cache').glob('*.bin')))


def test_a_superseded_cache_goes_and_one_of_other_images_stays(photos):
    ImageFolder(photos, cache='bin')
    ImageFolder(photos, first_k=2, cache='bin')
    assert caches(photos) == 2
    shutil.copy(photos / 'photo0.png', photos / 'photo7.png')
    assert len(ImageFolder(photos, cache='bin')) == 6 and caches(photos) == 2
    (photos / 'photo7.png').unlink()
    assert len(ImageFolder(photos, cache='bin')) == 5 and caches(photos) == 2
    assert len(list((photos / '.cache').iterdir())) == 4


@pytest.mark.skipif(fcntl is None, reason='no locks')
def test_a_superseded_cache_that_is_used_stays_until_it_is_not(photos):
    used = ImageFolder(photos, cache='bin')
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(photos / 'photo2.png')
    ImageFolder(photos, cache='bin')
    assert caches(photos) == 2
    assert pickle.loads(pickle.dumps(used.images))[2].shape == (40, 44, 3)
    del used
    ImageFolder(photos, cache='bin')
    assert caches(photos) == 1


def test_what_was_left_half_written_goes_when_it_is_old(photos):
    (photos / '.cache').mkdir()
    old, new = (photos / '.cache' / f'.{name}.1.partial.bin' for name in ('old', 'new'))
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    ImageFolder(photos, cache='bin')
    assert not old.exists() and new.exists()
