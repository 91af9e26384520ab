"""Datasets: `make(spec)` builds one; folders of images, and wrappers that make LR/HR pairs from them."""

from datasets import image_folder, paired, wrappers  # noqa: F401  (they register themselves)
from datasets.registry import make, register  # noqa: F401
