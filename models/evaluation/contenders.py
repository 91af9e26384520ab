"""What a table compares: models, and folders of images that another program has made."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import models
from datasets.image_folder import ImageFolder, first_few, partners
from datasets.wrappers import to_tensor
from models.evaluation.denoised import PREFIX, Denoised
from models.evaluation.sets import EvaluationSet
from utils import UserError


class Contender(NamedTuple):
    """A column of the table: either `model`, which has a `render` as `ImplicitModel` does, or `outputs`."""

    label: str
    file: str  # as on the command line
    identity: str  # SHA-256 of its weight file or of its images; the name of a model that has no weights
    model: Any = None
    outputs: ImageFolder | None = None

    @property
    def parameters(self) -> int | None:
        return None if self.model is None else sum(parameter.numel() for parameter in self.model.parameters())


def load_contender(label: str, name: str) -> Contender:
    """The model of a weight file or of a name, behind a denoiser if `name` begins with `PREFIX`. Raises UserError as
    `models.load` does, and as `Denoised`."""
    model = models.load(name.removeprefix(PREFIX))
    return Contender(label, name, model_identity(name), Denoised(model) if name.startswith(PREFIX) else model)


def model_identity(name: str) -> str:
    """The SHA-256 of a weight file, or the name of a model that has no weights; with the prefix that `name` has."""
    if name.startswith(PREFIX):
        return PREFIX + model_identity(name.removeprefix(PREFIX))
    if name in models.WITHOUT_WEIGHTS or not Path(name).is_file():
        return name
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def load_outputs(label: str, folder: str) -> Contender:
    """A folder of images that another program has made. Raises UserError as `ImageFolder` does."""
    images = ImageFolder(folder, cache='in_memory')
    return Contender(label, folder, digest(images), outputs=images)


def digest(images: Any) -> str:
    """SHA-256 of the names and pixels of a dataset of images or of pairs of images."""
    sha = hashlib.sha256()
    for i in range(len(images)):
        item = images[i]
        for image in item if isinstance(item, tuple) else (item,):
            sha.update(f'{images.name(i)} {image.shape}\n'.encode(errors='surrogateescape'))  # names may not be UTF-8
            sha.update(np.ascontiguousarray(image).data)
    return sha.hexdigest()


def check_outputs(outputs: ImageFolder, dataset: EvaluationSet) -> None:
    """Raise UserError if the output for an image of the set is missing or has the wrong size."""
    references = dataset.dataset
    numbers = partners(references.files, outputs.files)
    lacking = [file.name for file, number in zip(references.files, numbers) if number is None]
    if lacking:
        raise UserError(
            f'{outputs.root}: no output for {len(lacking)} of the {len(numbers)} images of {references.root}: '
            f'{first_few(lacking)}'
        )
    for i, number in enumerate(numbers):
        assert number is not None  # none is lacking
        name, size, _ = dataset.measure(i)
        found = outputs.size(number)
        if found not in (tuple(size), tuple(references.size(i))):
            raise UserError(
                f'{outputs.files[number]}: {found[0]} x {found[1]} pixels, where the original of {name} has '
                f'{size[0]} x {size[1]} at this scale'
            )


def output_for(outputs: ImageFolder, dataset: EvaluationSet, i: int, size: tuple[int, int]) -> torch.Tensor:
    """The output for image `i` of the set, `(3, h, w)` in [0, 1], cropped to `size` (h, w) as the original is. They
    have passed `check_outputs`."""
    number = partners(dataset.dataset.files, outputs.files)[i]
    assert number is not None  # see `check_outputs`
    return to_tensor(outputs[number]).float()[:, : size[0], : size[1]] / 255
