"""Downloads that continue where they were interrupted."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from utils import UserError

TIMEOUT = 60  # seconds without an answer
BLOCK = 2**16  # bytes


def download(url: str, path: Path) -> None:
    """Download an HTTP or HTTPS `url` to `path`, which exists only once it is complete.

    Until then its bytes are in `<path>.part`, and the server's name for this version of the file is in `<path>.tag`.
    Another call continues the download if the server still has that version, and otherwise starts again.
    Raises UserError if the server cannot be reached, refuses, or ends the transfer early.
    """
    part, tag = (path.with_name(path.name + ending) for ending in ('.part', '.tag'))
    known = tag.read_text(encoding='latin-1') if tag.is_file() else ''
    there = part.stat().st_size if known and part.is_file() else 0
    headers = {'Range': f'bytes={there}-', 'If-Range': known} if there else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                there = 0
                part.unlink(missing_ok=True)
                tag.write_text(version(response.headers), encoding='latin-1')
            size = there + int(response.headers['Content-Length']) if 'Content-Length' in response.headers else None
            bar = tqdm(desc=path.name, initial=there, total=size, unit='B', unit_scale=True)
            with bar, open(part, 'ab') as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if there and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            download(url, path)
            return
        raise UserError(f'{url}: the server answers {error.code} ({error.reason})') from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f'{url}: {getattr(error, "reason", error)}; run again to continue') from error
    if size not in (None, part.stat().st_size):
        raise UserError(f'{url}: ended after {part.stat().st_size:,} of {size:,} bytes; run again to continue')
    os.replace(part, path)
    tag.unlink()


def version(headers: Mapping[str, str]) -> str:
    """The server's name for the version of the file it sends, a value for If-Range (RFC 9110, section 13.1.5)."""
    etag = headers.get('ETag', '')
    return etag if etag.startswith('"') else headers.get('Last-Modified', '')
