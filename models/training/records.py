"""What a run keeps in its folder besides weights: whole files or none, and one line where they cannot be written."""

import contextlib
import errno
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from models.training import parallel
from utils import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error that `path` cannot be written, as on a full disk, into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    except RuntimeError as error:  # torch.save, which does not say why
        if 'inline_container' not in str(error) and 'Parent directory' not in str(error):
            raise
        raise UserError(f'{path}: cannot be written; is the disk full, or read-only?') from error


class Log:
    """The file `path`, to which rank 0 adds one JSON object a line. All ranks call its methods."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, **entry: Any) -> None:
        """Add a line with the time and `entry`, all of it or nothing. Raises UserError if it cannot be written."""
        line = (json.dumps({'time': time.strftime('%Y-%m-%dT%H:%M:%S'), **entry}) + '\n').encode()
        with parallel.together():
            if parallel.rank() > 0:
                return
            with writing(self.path), open(self.path, 'ab', buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(size)
                    raise

    def mend(self) -> None:
        """Remove an unfinished last line, left when the run was killed while writing it."""
        with parallel.together():
            if parallel.rank() > 0 or not self.path.exists():
                return
            with writing(self.path), open(self.path, 'rb+') as file:
                content = file.read()
                file.truncate(content.rfind(b'\n') + 1)


def prune(folder: Path, stages: list[str], keep: int) -> None:
    """Remove the checkpoints `<stage>-<step>.pth` of a run but the last `keep`; `stages`: the names, in order. Results
    of stages, which may have such a name, are left alone. Raises UserError if one cannot be removed."""
    found = []
    for path in folder.glob('[!.]*.pth'):
        stage, _, step = path.stem.rpartition('-')
        if stage in stages and step.isdecimal() and path.stem not in stages:
            found.append((stages.index(stage), int(step), path))
    for _, _, path in sorted(found)[:-keep]:
        try:
            path.unlink()
        except OSError as error:
            raise UserError(f'{path}: cannot be removed ({error.strerror})') from error


def describe(images: Any) -> list[dict]:
    """The name, the size in pixels and, if it is a file, the size in bytes of each image of a dataset, in its order.

    `images`: a dataset of single images, or of pairs with their `folders`; repetitions are left out.
    """
    if hasattr(images, 'folders'):  # pairs
        parts = ((name, describe(folder)) for name, folder in images.folders.items())
        return [{**image, 'name': f'{name}/{image["name"]}'} for name, part in parts for image in part]
    described = []
    for i in range(len(images) // getattr(images, 'repeat', 1)):
        described.append({'name': images.name(i), 'size': list(images.size(i))})
        if hasattr(images, 'files'):
            file = images.files[i]
            described[-1].update(name=os.path.relpath(file, images.root), bytes=file.stat().st_size)
    return described


def difference(before: list[dict], after: list[dict]) -> str:
    """How the images listed by `describe` have changed, in words; '' if they have not."""
    old, new = ({image['name']: image for image in images} for images in (before, after))
    kinds = {
        'no longer there': [name for name in old if name not in new],
        'new': [name for name in new if name not in old],
        'of another size': [name for name in new if name in old and new[name] != old[name]],
    }
    said = [f'{len(names)} {kind} ({shortened(names)})' for kind, names in kinds.items() if names]
    if not said and before != after:
        said = ['in another order']
    return ', '.join(said)


def shortened(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def provenance() -> dict:
    """Where a run's code and libraries come from; `git` is None outside a repository."""

    def git(*words):
        try:
            done = subprocess.run(
                ['git', *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        'git': git('rev-parse', 'HEAD'),
        'modified': bool(git('status', '--porcelain', '-uno')),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'timm': timm.__version__,
        'numpy': np.__version__,
    }
