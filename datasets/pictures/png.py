"""PNG files that lack their end or have damaged descriptions although the image is complete."""

import struct
import zlib

SIGNATURE = b'\x89PNG\r\n\x1a\n'


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file: its length, name, data and checksum."""
    return struct.pack('>L4s', len(data), name) + data + struct.pack('>L', zlib.crc32(data, zlib.crc32(name)))


def mended(content: bytes) -> tuple[bytes, list[str], bool]:
    """A PNG file without the chunks that are not needed for its pixels and whose checksums are wrong, and with an end;
    the names of these chunks; and whether the end was there. Whether all pixels are there, its decoder says.

    Source: PNG specification, third edition, sections 5.3 to 5.5 and 13.2.
    """
    view, at = memoryview(content), len(SIGNATURE)
    parts, damaged, whole = [view[:at]], [], False
    while at + 8 <= len(view) and not whole:
        length, name = struct.unpack('>L4s', view[at : at + 8])
        data, end = view[at + 8 : at + 8 + length], at + 12 + length
        if end > len(view):
            if name == b'IDAT':
                parts.append(memoryview(chunk(name, bytes(data))))
            break
        ancillary = name.isalpha() and name[:1].islower()
        if ancillary and zlib.crc32(data, zlib.crc32(name)) != int.from_bytes(view[end - 4 : end], 'big'):
            damaged.append(name.decode('latin-1'))
        else:
            parts.append(view[at:end])
        at, whole = end, name == b'IEND'
    if not whole:
        parts.append(memoryview(chunk(b'IEND', b'')))
    return b''.join(parts) if damaged or not whole else content, damaged, whole
