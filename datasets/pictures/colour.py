"""How an image's numbers become colours: ICC profiles, and the labels that PNG has besides."""

import io
import struct
from typing import BinaryIO

import torch
from PIL import Image, ImageCms

from utils import UserError

# Chunks of PNG and their lengths in bytes. A dict from these names to their data is called `labels`.
SIZES = {'cICP': 4, 'mDCV': 24, 'cLLI': 8, 'sRGB': 1, 'gAMA': 4, 'cHRM': 32}
NAMES = {'cICP': 'the colour space (cICP)', 'gAMA': 'the gamma', 'cHRM': 'the primaries (cHRM)'}
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # of white, red, green and blue
SRGB_GAMMA = 45455
# Code points (ITU-T H.273) of the primaries and of the transfer function that count as sRGB: its own, those that look
# the same, and unknown ones.
SRGB_PRIMARIES, SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13)


def png_labels(file: BinaryIO) -> tuple[dict[str, bytes], list[str]]:
    """The `labels` of an open PNG `file`, and the names of those that are damaged.

    Source: PNG specification, third edition, sections 5.3 and 11.3.2.
    """
    labels, damaged = {}, []
    file.seek(8)
    while len(begin := file.read(8)) == 8:
        length, name = struct.unpack('>L4s', begin)
        name = name.decode('latin-1')
        if name in ('IDAT', 'IEND'):
            break
        if name not in SIZES or name in labels:
            file.seek(length + 4, 1)
            continue
        data = file.read(min(length, 64))
        file.seek(length - len(data) + 4, 1)
        if length != SIZES[name] or name == 'gAMA' and not any(data):
            damaged.append(name)
        else:
            labels[name] = data
    return labels, damaged


def container_labels(begin: bytes) -> dict[str, bytes]:
    """The `labels` of an AVIF or HEIC file that begins with these bytes: its colour space if that is not sRGB. Source:
    ISO/IEC 14496-12, section 12.1.5."""
    at = begin.find(b'colrnclx')
    if at < 0 or len(begin) < at + 12:
        return {}
    primaries, transfer = struct.unpack('>HH', begin[at + 8 : at + 12])
    if max(primaries, transfer) > 255 or is_srgb(primaries, transfer):
        return {}
    return {'cICP': bytes([primaries, transfer, 0, 1])}  # RGB, full range: as the samples are decoded


def bmp_colours(file: BinaryIO, begin: bytes) -> tuple[bytes | None, dict[str, bytes], list[str]]:
    """The colour profile or None, the `labels` and notes of an open BMP file that starts with the bytes `begin`; Pillow
    leaves them out. Source: Windows GDI, BITMAPV4HEADER and BITMAPV5HEADER."""
    size, kind = begin[14:18], begin[70:74]
    if size == b'\x7c\0\0\0' and kind == b'DEBM':  # a profile is embedded
        offset, length = struct.unpack('<LL', begin[126:134])
        file.seek(14 + offset)
        return file.read(length), {}, []
    if size == b'\x7c\0\0\0' and kind == b'KNIL':  # a profile is linked
        return None, {}, ['not kept: the name of a file with its colour profile']
    if size not in (b'\x6c\0\0\0', b'\x7c\0\0\0') or kind != bytes(4) or len(begin) < 122:
        return None, {}, []
    *xyz, red, green, blue = struct.unpack('<12L', begin[74:122])  # of the primaries, 2.30 bits; the gammas, 16.16 bits
    labels, notes = {}, []
    if red == green == blue != 0:
        labels['gAMA'] = struct.pack('>L', min(round(1e5 * 2**16 / red), 2**31 - 1))
    elif red or green or blue:
        notes.append('not kept: the gammas of its three colours')
    colours = [xyz[i : i + 3] for i in (0, 3, 6)]
    if all(map(sum, colours)):
        white = list(map(sum, zip(*colours)))
        labels['cHRM'] = struct.pack('>8L', *(round(1e5 * v / sum(c)) for c in (white, *colours) for v in c[:2]))
    return None, labels, notes


def is_srgb(primaries: int, transfer: int) -> bool:
    return primaries in SRGB_PRIMARIES and transfer in SRGB_TRANSFERS


def unlike_srgb(labels: dict[str, bytes], icc: bytes | None) -> list[str]:
    """In which respects, in words, the `labels` of an image with the profile `icc` (or None) differ from sRGB. A label
    that is overruled by the profile or by another label does not count."""
    if 'cICP' in labels:
        primaries, transfer, _, full = labels['cICP']
        return [] if is_srgb(primaries, transfer) and full else [NAMES['cICP']]
    if icc or 'sRGB' in labels:
        return []
    found = []
    if 'gAMA' in labels and abs(struct.unpack('>L', labels['gAMA'])[0] - SRGB_GAMMA) > 500:
        found.append(NAMES['gAMA'])
    if 'cHRM' in labels:
        chromaticities = struct.unpack('>8L', labels['cHRM'])
        if max(abs(a - b) for a, b in zip(chromaticities, SRGB_CHROMATICITIES)) > 500:
            found.append(NAMES['cHRM'])
    return found


def to_srgb(rgb: torch.Tensor, icc: bytes) -> torch.Tensor:
    """`rgb (3, H, W)`, clamped to [0, 1], from the colour profile `icc` (RGB or grey) to sRGB, in steps of 1/255.

    Raises UserError if the profile cannot be applied.
    """
    from torchvision.transforms.functional import to_pil_image, to_tensor  # here, as that takes two seconds

    image = to_pil_image(rgb.clamp(0, 1))
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if profile.profile.xcolor_space.strip() == 'GRAY':
            image = image.getchannel(0)
        srgb = ImageCms.createProfile('sRGB')
        return to_tensor(ImageCms.profileToProfile(image, profile, srgb, outputMode='RGB'))
    except (ImageCms.PyCMSError, OSError, ImportError, ValueError) as error:
        raise UserError('the colour profile cannot be applied: shown as if it were sRGB') from error


def cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    """A CMYK image as RGB, and a note. If its colour profile `icc` works, it is converted by that to sRGB."""
    if icc:
        try:
            srgb = ImageCms.createProfile('sRGB')
            converted = ImageCms.profileToProfile(image, io.BytesIO(icc), srgb, outputMode='RGB')
            return converted or image, 'CMYK is converted to sRGB by its colour profile'
        except (ImageCms.PyCMSError, OSError, ImportError):
            pass
    return image.convert('RGB'), 'CMYK is converted to RGB without a colour profile'
