"""Models: `make(spec)` builds one, `load(path)` reads one; every decoder has `encode`, `query` and `render`."""
from models import bicubic, edsr, liif, lte, mlp, msit, rdn  # noqa: F401  (they register themselves)
from models.layers import position_bias  # noqa: F401  (they register themselves)
from models.registry import make, register  # noqa: F401
from models.weights.files import WITHOUT_WEIGHTS, build, fitted, fold, load, next_stage, save  # noqa: F401
