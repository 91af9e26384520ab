"""Metrics of how an image looks, by the packages that have them: pyiqa, or piq where that is not installed."""

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from utils import UserError

# What each metric is called in pyiqa (attributes of `create_metric`) and in piq (classes); None: it has none.
NAMES = {'lpips': ('lpips', 'LPIPS'), 'dists': ('dists', 'DISTS'), 'niqe': ('niqe', None)}
NETS = {('lpips', 'pyiqa'): ', AlexNet', ('lpips', 'piq'): ', VGG'}  # on which the values depend


class Metric(NamedTuple):
    """A metric of an output `(3, h, w)` and its original, in [0, 1], or of the output alone; lower is better.

    `source`: the package, its version, and the net where there are several, for captions.
    """

    name: str
    source: str
    function: Callable[..., torch.Tensor]
    alone: bool  # NIQE sees no original

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor) -> float:
        """Raises UserError for an image that the package cannot measure, as one that is too small."""
        images = [image[None].float() for image in ((sr,) if self.alone else (sr, hr))]
        try:
            with torch.no_grad():
                return float(self.function(*images))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f'{self.name} of this image cannot be measured ({type(error).__name__}: {error})'
            ) from error


def make_metric(name: str, device: torch.device) -> Metric:
    """One of `NAMES`. Raises UserError if no package has it or its weights, which packages download, cannot be had."""
    for package, own in zip(('pyiqa', 'piq'), NAMES[name]):
        if own is None:
            continue
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name == package:
                continue
            raise UserError(f'{name}: {package} cannot be used without the package {error.name}') from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                function: Any = (
                    module.create_metric(own, device=device) if package == 'pyiqa' else getattr(module, own)()
                )
        except (OSError, RuntimeError) as error:
            raise UserError(f'{name}: the weights that {package} needs cannot be loaded ({error})') from error
        source = f'{package} {version(package)}{NETS.get((name, package), "")}'
        return Metric(name, source, function, alone=name == 'niqe')
    packages = ' or '.join(package for package, own in zip(('pyiqa', 'piq'), NAMES[name]) if own)
    raise UserError(f'{name} needs the package {packages}: pip install {packages.split()[0]}')


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ''
