"""The registry of datasets and of the wrappers that make LR/HR pairs from them; see `utils.Registry`."""

from utils import Registry

datasets = Registry('dataset')
register, make = datasets.register, datasets.make
