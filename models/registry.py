"""The registry of encoders, decoders and their parts; see `utils.Registry`."""
from utils import Registry

models = Registry('model')
register, make = models.register, models.make
