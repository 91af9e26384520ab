"""Lay out image sets under data/: the HR images, and their LR images at x2, x3 and x4 by MATLAB's bicubic.

    python scripts/prepare_data.py set5 set14 b100 -from ~/Downloads/benchmark.tar
    python scripts/prepare_data.py urban100 -from ~/photos/Urban100
    python scripts/prepare_data.py div2k -from https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip

A source is a folder, a zip or tar archive (also compressed), or the URL of an archive. Existing files are kept, and an
interrupted run continues when it is started again. scripts/README.md says where each set can be obtained.
"""

import argparse
import contextlib
import hashlib
import io
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.image_folder import is_image_name, list_images, read_rgb  # noqa: E402
from datasets.preparation.archives import Damaged, open_files  # noqa: E402
from datasets.preparation.download import download  # noqa: E402
from datasets.reduction import reduced  # noqa: E402
from utils import Parser, UserError, atomic_path, check_folder, error_prefix, run_main  # noqa: E402

Images = dict[str, Callable[[], bytes]]  # names of images, and functions that return the bytes of their files


class Part(NamedTuple):
    """A folder of HR images and their LR images."""

    hr: str  # the HR folder, relative to the root
    lr: str  # the folder of the LR images, relative to the root
    size: int  # number of images
    known_as: tuple[str, ...]  # names of the HR folder in archives, in lower case


SCALES = (2, 3, 4)
SETS = {
    'set5': [Part('Set5', 'Set5/LR_bicubic', 5, ('set5',))],
    'set14': [Part('Set14', 'Set14/LR_bicubic', 14, ('set14',))],
    # the 100 test images of BSDS300, which are also the 100 validation images of BSDS500
    'b100': [Part('B100', 'B100/LR_bicubic', 100, ('b100', 'bsd100', 'bsds100', 'bsds300', 'bsds500'))],
    'urban100': [Part('Urban100', 'Urban100/LR_bicubic', 100, ('urban100',))],
    'div2k': [
        Part('DIV2K/DIV2K_train_HR', 'DIV2K/DIV2K_train_LR_bicubic', 800, ('div2k_train_hr',)),
        Part('DIV2K/DIV2K_valid_HR', 'DIV2K/DIV2K_valid_LR_bicubic', 100, ('div2k_valid_hr',)),
    ],
}
FOLDERS = {name: part for parts in SETS.values() for part in parts for name in part.known_as}


def parse() -> argparse.Namespace:
    parser = Parser('Lay out image sets under data/, with LR images at x2, x3 and x4.')
    parser.add_argument('sets', nargs='+', choices=SETS, metavar='SET', help=', '.join(SETS))
    parser.add_argument(
        '-from',
        nargs='+',
        default=[],
        dest='sources',
        metavar='SOURCE',
        help='folders, zip or tar archives, or URLs of archives; not needed for sets that are in place already',
    )
    parser.add_argument(
        '-sha256', nargs='+', default=[], metavar='HEX', help='checksums of the sources, all of them archives'
    )
    parser.add_argument(
        '-root', type=Path, default=ROOT / 'data', metavar='FOLDER', help='where to lay the sets out (default: data/)'
    )
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    check_folder(args.root)
    if args.sha256 and len(args.sha256) != len(args.sources):
        raise UserError(f'{len(args.sha256)} checksums were given for {len(args.sources)} sources')
    sets = {name: SETS[name] for name in args.sets}
    parts = [part for name in sets for part in SETS[name]]
    try:
        if not all(whole(part, args.root) for part in parts):
            lay_out_hr(sets, args.sources, args.sha256 or [None] * len(args.sources), args.root)
        for part in parts:
            if whole(part, args.root):
                lay_out_lr(part, args.root)
                print(f'{args.root / part.hr}: {part.size} images, LR images in {args.root / part.lr}')
            else:
                print(f'{args.root / part.hr}: skipped, as no source has images of it')
    except Damaged as error:
        if args.root / 'downloads' in error.path.parents:
            error.path.unlink()
        raise
    except OSError as error:
        raise UserError(f'{error.filename or args.root}: {error.strerror or error}') from error


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder; none if there is no such folder."""
    try:
        return list_images(folder)
    except UserError:
        return []


def whole(part: Part, root: Path) -> bool:
    """Whether all HR images of a part are in place."""
    return len(images_in(root / part.hr)) == part.size


# ---------------------------------------------------------------- sources


def local(source: str, checksum: str | None, root: Path) -> Path:
    """The path of a source. A URL is downloaded first, to `root / 'downloads'`, where later runs find it.

    Raises UserError if a `checksum` is given and is not the file's SHA-256 in hexadecimal digits.
    """
    url = urlsplit(source)
    if url.scheme in ('http', 'https'):
        name = PurePosixPath(unquote(url.path)).name or 'download'
        path = root / 'downloads' / hashlib.sha256(source.encode()).hexdigest()[:8] / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            download(source, path)
    else:
        path = Path(url2pathname(url.path) if url.scheme == 'file' else source)
    if checksum:
        found = sha256(path)
        if found != checksum.lower():
            raise Damaged(path, f'the SHA-256 is {found}, not {checksum.lower()}')
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    if not path.is_file():
        raise UserError(f'{path}: not a file, so it has no checksum')
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def hr_images(files: Images) -> dict[Part | None, dict[str, Images]]:
    """The HR images among the `files` of `open_files`: `{part: {folder: {name: function that reads it}}}`.

    The part is the one whose name the folder or one of its parents has, or None. The name of an image is that of its
    file without the ending; for `img_001_SRF_4_HR.png` it is `img_001`.
    """
    found: dict[Part | None, dict[str, Images]] = {}
    for file, read in files.items():
        path = PurePosixPath(file)
        folders = [folder.lower() for folder in path.parts[:-1]]
        name, *kind = re.split(r'(?<=.)_SRF_\d+_(?=.)', path.stem, maxsplit=1)
        hidden = any(part.startswith('.') for part in path.parts) or '__macosx' in folders
        low = kind not in ([], ['HR']) or any(re.search('(^|_)lr(_|$)', folder) for folder in folders)
        if is_image_name(path.name) and not hidden and not low:
            part = next((FOLDERS[folder] for folder in reversed(folders) if folder in FOLDERS), None)
            found.setdefault(part, {}).setdefault(str(path.parent), {})[name] = read
    return found


def images_of(part: Part, sources: list[dict[Part | None, dict[str, Images]]], unnamed: bool) -> Images | None:
    """The images of `part` in `sources`, a list of results of `hr_images`.

    They come from the first folder with one of the part's names and the right number of images. With `unnamed`, folders
    of any other name are tried if no source has a folder of the part's name. Returns None if there is no folder to try.
    Raises UserError if none of the folders tried has the right number of images.
    """
    known, other = ([item for found in sources for item in sorted(found.get(key, {}).items())] for key in (part, None))
    folders = known or (other if unnamed else [])
    for _, images in folders:
        if len(images) == part.size:
            return images
    if folders:
        folder, images = max(folders, key=lambda item: len(item[1]))
        raise UserError(f'{part.hr}: {part.size} images are expected, {folder} has {len(images)}')
    return None


# ---------------------------------------------------------------- layout


def lay_out_hr(sets: dict[str, list[Part]], sources: list[str], checksums: list[str | None], root: Path) -> None:
    """Copy the HR images of `sets` that are not in place yet from the `sources` to their folders.

    Nothing is written before a source is known for every image. Raises UserError for a set that no source has.
    """
    paths = [local(source, checksum, root) for source, checksum in zip(sources, checksums)]
    with contextlib.ExitStack() as stack:
        given = [hr_images(stack.enter_context(open_files(path))) for path in paths]
        plan: dict[Part, Images] = {}
        for name, parts in sets.items():
            lacking = [part for part in parts if not whole(part, root)]
            found = {part: images_of(part, given, unnamed=len(sets) == len(parts) == 1) for part in lacking}
            if lacking == parts and not any(found.values()):
                raise UserError(
                    f'{name}: there are no images of it in {root} or in the sources given by -from; '
                    'scripts/README.md says where they can be obtained'
                )
            plan |= {part: images for part, images in found.items() if images}
        for part, images in plan.items():
            others = [file.name for file in images_in(root / part.hr) if file.stem not in images]
            if others:
                raise UserError(f'{root / part.hr}: has images that the source does not have ({", ".join(others[:3])})')
        for part, images in plan.items():
            take(images, root / part.hr)


def take(images: Images, folder: Path) -> None:
    """Write `images` to `folder`: all of them, or none if one cannot be read.

    Until all are written they are kept in a folder beside it, where an interrupted run finds them.
    """
    waiting = folder.with_name(f'.{folder.name}.partial')
    waiting.mkdir(parents=True, exist_ok=True)
    for file in waiting.iterdir():
        if file.stem not in images:
            file.unlink()
    there = {file.stem for place in (folder, waiting) for file in images_in(place)}
    try:
        for name, read in tqdm(images.items(), folder.name):
            if name not in there:
                with atomic_path(waiting / f'{name}.png') as temporary:
                    temporary.write_bytes(png(read(), f'{folder.name}: {name}'))
    except (UserError, OSError):
        shutil.rmtree(waiting)
        raise
    folder.mkdir(exist_ok=True)
    for file in waiting.iterdir():
        file.replace(folder / file.name)
    waiting.rmdir()


def png(data: bytes, name: str) -> bytes:
    """An image file converted to a PNG, grey or RGB; returned as it is if it is one already.

    Raises UserError, which names `name`, if `data` is not a complete image.
    """
    rgb = read_rgb(io.BytesIO(data), name)
    with Image.open(io.BytesIO(data)) as image:
        if image.format == 'PNG' and image.mode in ('L', 'RGB'):
            return data
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, 'PNG')
    return encoded.getvalue()


def lay_out_lr(part: Part, root: Path) -> None:
    """Make the LR images of a part that do not exist yet: `X2/<name>x2.png` and so on."""
    for file in tqdm(images_in(root / part.hr), part.lr):
        targets = {scale: root / part.lr / f'X{scale}' / f'{file.stem}x{scale}.png' for scale in SCALES}
        lacking = {scale: target for scale, target in targets.items() if not target.is_file()}
        if lacking:
            rgb = read_rgb(file)
        for scale, target in lacking.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with error_prefix(file), atomic_path(target) as temporary:
                Image.fromarray(reduced(rgb, scale)[0]).save(temporary)


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
