"""JPEG files whose last bytes are missing although the image is complete."""

import io
import re

import numpy as np
from PIL import Image

END = b'\xff\xd9'
TAILS = b'', b'\x55' * 64, b'\xaa' * 64  # tried in place of what is missing
NEXT_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')  # after the samples of a scan
START_OF_FRAME, START_OF_SCAN = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA


def without_its_end(content: bytes) -> Image.Image | None:
    """The loaded image of a JPEG file that lacks its end, or None if a pixel may depend on what is missing: the pixels
    must be the same whatever takes its place, and all scans must be there."""
    content = content.removesuffix(END[:1])
    if not has_all_scans(content):
        return None
    images = [Image.open(io.BytesIO(content + tail + END), formats=['JPEG']) for tail in TAILS]
    try:
        first, *others = map(np.asarray, images)
    except OSError:
        return None
    return images[0] if all(np.array_equal(first, other) for other in others) else None


def has_all_scans(content: bytes) -> bool:
    """Whether the scans that start in a JPEG file hold all bits of all coefficients. Source: ITU-T T.81, sections B.2
    and G.1."""
    at, missing = 2, {(0, 0)}  # missing: pairs of a component and a coefficient
    while at + 4 <= len(content):
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], 'big')
        segment = content[at + 4 : at + 2 + length]
        if marker in START_OF_FRAME and len(segment) > 5:
            missing = {(component, k) for component in segment[6 : 6 + 3 * segment[5] : 3] for k in range(64)}
        at += 2 + length
        if marker == START_OF_SCAN and segment:
            components, (first, last, approximation) = segment[1 : 2 * segment[0] : 2], segment[-3:]
            if approximation % 16 == 0:  # its low half: the bits that later scans add
                missing -= {(component, k) for component in components for k in range(first, last + 1)}
            found = NEXT_MARKER.search(content, at)
            at = found.start() if found else len(content)
    return not missing
