"""ONNX files of a model, for runtimes other than torch."""

from models.export.files import export, exported, licence_of  # noqa: F401
from models.export.runtime import Runtime  # noqa: F401
from models.export.storage import KINDS  # noqa: F401
