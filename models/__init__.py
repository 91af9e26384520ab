"""Models: `make(spec)` builds one, `load(path)` reads one; every decoder has `encode`, `query` and `render`."""

from models import (  # noqa: F401  (they register themselves)
    bicubic,
    edsr,
    light,
    liif,
    lmliif,
    lmlte,
    lmmlp,
    lte,
    lte_fast,
    mlp,
    msit,
    rcan,
    rdn,
    swinir,
)
from models.registry import build, make, register  # noqa: F401
from models.weights.files import WITHOUT_WEIGHTS, load, save  # noqa: F401
from models.weights.surgery import fitted, fold, next_stage  # noqa: F401
