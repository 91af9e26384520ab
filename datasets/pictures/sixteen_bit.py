"""PNG and TIFF images of 16 bits a sample, of which Pillow keeps 8 (of all but grey ones).

A sample is two bytes. Pillow keeps the high one; told the other byte order, it keeps the low one. It has no 16-bit mode
of grey with alpha, but the same four bytes a pixel are a plain RGBA image.
"""

import sys

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

# What Pillow calls the samples of a 16-bit PNG, and the raw modes in which it hands out all their bytes.
PNG_PASSES = {
    'I;16B': ['I;16B'],
    'LA;16B': ['RGBA'],
    'RGB;16B': ['RGB;16B', 'RGB;16L'],
    'RGBA;16B': ['RGBA;16B', 'RGBA;16L'],
}
NATIVE, SWAPPED = ('L', 'B') if sys.byteorder == 'little' else ('B', 'L')  # libtiff hands out native order
WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA = 256, 257, 258, 262, 277, 284, 338  # TIFF tags
PREMULTIPLIED = (1,)  # what `EXTRA` says of alpha that colour is multiplied by
Tile = getattr(ImageFile, '_Tile', lambda *values: values)  # a plain tuple before Pillow 11


class OddTiff(TiffImagePlugin.TiffImageFile):
    """A 16-bit TIFF of a kind that Pillow does not know, as one that it knows: grey with alpha as 8-bit RGBA, and of
    grey whose 0 is white, the negative."""

    def _setup(self):
        tags = self.tag_v2
        self.told = {tag: tags.get(tag) for tag in (BITS, PHOTOMETRIC, EXTRA)}
        if self.told[BITS] == (16,) and self.told[PHOTOMETRIC] == 0:
            tags[PHOTOMETRIC] = 1
        elif self.told[BITS] == (16, 16) and self.told[PHOTOMETRIC] == 1 and tags.get(PLANAR, 1) == 1:
            tags[BITS], tags[PHOTOMETRIC], tags[SAMPLES], tags[EXTRA] = (8, 8, 8, 8), 2, 4, (2,)
        else:
            raise SyntaxError('unknown')
        super()._setup()


def open_image(path, formats):
    """As `Image.open`; it opens every `OddTiff`, too."""
    try:
        return Image.open(path, formats=formats)
    except Image.UnidentifiedImageError:
        try:
            return OddTiff(path)
        except SyntaxError:
            pass
        raise


def tag(image, number):
    """What a TIFF image, open, has at a tag, or None; nothing of any other image."""
    if image.format != 'TIFF':
        return None
    told = getattr(image, 'told', {})
    return told[number] if number in told else image.tag_v2.get(number)


def raw_modes(image):
    """The raw modes in which an open, not yet loaded image gives all bytes of its 16-bit samples, one byte of each at a
    time; none of any other image."""
    if image.format == 'PNG' and len(image.tile) == 1:
        return PNG_PASSES.get(image.tile[0][3], [])
    if has_16_bits(image) and tag(image, PHOTOMETRIC) == 1 and image.mode == 'RGBA':
        return ['RGBA']
    if has_16_bits(image) and image.mode in ('RGB', 'RGBA') and tag(image, PLANAR) in (None, 1):
        layout = 'RGBX' if image.mode == 'RGB' and tag(image, SAMPLES) == 4 else image.mode
        return [f'{layout};16{NATIVE}', f'{layout};16{SWAPPED}']
    return []


def has_16_bits(image):
    """Whether an open image is a TIFF of 16 bits a sample."""
    return set(tag(image, BITS) or ()) == {16}


def read(path, formats):
    """The samples of the image at `path`, for which `raw_modes` has some: `(H, W, C)` uint16, and the loaded PIL image
    for its metadata."""
    with open_image(path, formats) as image:
        modes = raw_modes(image)
    passes = []
    for mode in modes:
        with open_image(path, formats) as image:
            if image.format == 'PNG':
                image.tile = [image.tile[0][:3] + (mode,)]
            else:
                through_libtiff(image, mode)
            image.load()
            passes.append(np.asarray(image))
    if modes == ['RGBA']:
        samples = passes[0].view('>u2' if image.format == 'PNG' else '=u2').astype(np.uint16)
    elif len(passes) == 1:
        samples = passes[0].astype(np.uint16)[..., None]
    else:
        samples = passes[0] * np.uint16(256) + passes[1]
    if tag(image, EXTRA) == PREMULTIPLIED:
        samples = divided(samples)
    return samples, image


def through_libtiff(image, mode):
    """Let libtiff decode an open TIFF image, uncompressed as it may be, and unpack what it gives by the raw `mode`."""
    extent = (0, 0, image.tag_v2[WIDTH], image.tag_v2[HEIGHT])
    image.tile = [Tile('libtiff', extent, 0, (mode, False, image.tag_v2.offset))]
    image.use_load_libtiff = True


def divided(samples):
    """`samples (H, W, C)` uint16, whose colour is multiplied by alpha, the last of them, without that."""
    colour, alpha = samples[..., :-1].astype(np.float64), samples[..., -1:]
    colour = (colour * 65535 / np.maximum(alpha, 1)).round().clip(0, 65535)
    return np.concatenate([colour.astype(np.uint16), alpha], axis=-1)
