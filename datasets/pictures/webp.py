"""WebP files that lack their end although the image is complete."""

import struct

SIGNATURE = b'RIFF'
DESCRIPTIONS = (b'EXIF', b'XMP ')  # chunks that follow those of the image


def mended(content: bytes) -> tuple[bytes, list[str]]:
    """A WebP file without a description that is cut off, and the names of what is missing; unchanged where nothing is,
    or part of the image is.

    Source: RFC 9649, sections 2.3 to 2.7.
    """
    if content[8:12] != b'WEBP' or int.from_bytes(content[4:8], 'little') + 8 <= len(content):
        return content, []
    at = 12
    while at + 8 <= len(content):
        name, length = struct.unpack('<4sL', content[at : at + 8])
        end = at + 8 + length
        if end > len(content):
            if name not in DESCRIPTIONS:
                return content, []
            break
        at = end + length % 2  # of which the last byte may be missing: it says nothing
    content += bytes(max(at - len(content), 0))
    missing = [content[at : at + 4].decode('latin-1').strip()] if at + 4 <= len(content) else []
    return content[:4] + struct.pack('<L', at - 8) + content[8:at], missing
