"""Evaluation: metrics, sets of images, and the loop over them."""

from models.evaluation.loop import evaluate  # noqa: F401
from models.evaluation.metrics import psnr, ssim  # noqa: F401
