"""Odd, damaged and hostile files, thousands of them: each gives a right image or one line of error, nothing else."""

import functools
import tempfile
from pathlib import Path

import odd_files
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from datasets.pictures.image_io import FORMATS, read_image, write_image
from models.rendering.upscaler import Upscaler
from utils import UserError

GOOD = (odd_files.whole, odd_files.shapes, odd_files.odd_alpha, odd_files.told_wrongly, odd_files.renamed_and_nested)
ANY = (
    odd_files.flipped,
    odd_files.truncated,
    odd_files.shifted,
    odd_files.sizes,
    odd_files.png_parts,
    odd_files.tiff_tags,
)
SUFFIXES = [suffix for suffix in FORMATS] + ['.gif', '.txt', '']
cases = functools.cache(lambda family: family())


@functools.cache
def upscaler():
    return Upscaler(models.load('bicubic'), torch.device('cpu'))


def feed(folder, content, number):
    """Read a file of `content`, render it larger and write it, by its `number` under some name and in some format, in
    `folder`, which it leaves empty. Returns None, or the error that it ends in."""
    source = folder / f'input{SUFFIXES[number % len(SUFFIXES)]}'
    target = folder / f'output{list(FORMATS)[number % len(FORMATS)]}'
    source.write_bytes(content)
    try:
        picture, notes = read_image(source)
        check(picture)
        size = tuple(min(n + 3, 40) for n in picture.rgb.shape[1:])
        result = upscaler()(picture, size)
        notes += write_image(target, result)
    except UserError as error:
        assert str(error).startswith(f'{source}: ') and '\n' not in str(error)
        assert list(folder.iterdir()) == [source]
        return error
    finally:
        source.unlink()
    assert all(note and '\n' not in note for note in notes)
    again, _ = read_image(target)
    assert again.rgb.shape[1:] == size and again.bits == min(picture.bits, FORMATS[target.suffix].bits)
    assert again.grey == (picture.grey and FORMATS[target.suffix].grey)
    assert list(folder.iterdir()) == [target]
    target.unlink()


def check(picture):
    rgb, alpha = picture.rgb, picture.alpha
    assert rgb.ndim == 3 and rgb.shape[0] == 3 and min(rgb.shape) > 0 and rgb.dtype == torch.float32
    assert 0 <= rgb.min() and rgb.max() <= 1
    assert alpha is None or alpha.shape == (1, *rgb.shape[1:]) and 0 <= alpha.min() and alpha.max() <= 1
    assert not picture.grey or torch.equal(rgb[0], rgb[1]) and torch.equal(rgb[0], rgb[2])
    assert picture.bits in (8, 16)


def name_of(family):
    return family.__name__


# ---------------------------------------------------------------- all of them


def test_there_are_many():
    contents = {content for family in (*GOOD, *ANY, odd_files.no_images) for content in cases(family).values()}
    assert len(contents) >= 1500


@pytest.mark.parametrize('family', GOOD, ids=name_of)
def test_odd_images_are_images(family, tmp_path):
    refused = {
        name: error
        for number, (name, content) in enumerate(cases(family).items())
        if (error := feed(tmp_path, content, number))
    }
    assert refused == {}


@pytest.mark.parametrize('family', ANY, ids=name_of)
def test_damaged_images_are_read_or_refused(family, tmp_path):
    for number, content in enumerate(cases(family).values()):
        feed(tmp_path, content, number)


def test_what_is_no_image_is_refused(tmp_path):
    read = [
        name
        for number, (name, content) in enumerate(cases(odd_files.no_images).items())
        if not feed(tmp_path, content, number)
    ]
    assert read == []


# ---------------------------------------------------------------- and whatever else may happen to a file


@st.composite
def damaged(draw):
    """The bytes of a good image with some overwritten, removed or inserted."""
    content = bytearray(draw(st.sampled_from(sorted(cases(odd_files.whole).values()))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 16))] = draw(st.binary(max_size=16))
    return bytes(content)


@settings(max_examples=500)
@given(damaged() | st.binary(max_size=200), st.integers(0, 100))
def test_any_damage_is_read_or_refused(content, number):
    with tempfile.TemporaryDirectory() as folder:
        feed(Path(folder), content, number)
