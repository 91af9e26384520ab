"""Models: `make(spec)` builds one, `load(path)` reads one; every decoder has `encode`, `query` and `render`."""

from models import bicubic, edsr, light, liif, lte, mlp, msit, rdn  # noqa: F401  (they register themselves)
from models.registry import build, make, register  # noqa: F401
from models.weights.files import WITHOUT_WEIGHTS, load, save  # noqa: F401
from models.weights.surgery import fitted, fold, next_stage  # noqa: F401
