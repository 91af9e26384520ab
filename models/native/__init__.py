"""Compiled code for a CPU: MSIT's decoder, and convolutions of small kernels."""

import torch

from models.native import library, msit_decoder, winograd


def in_use(dtype: torch.dtype) -> bool:
    """Whether compiled code computes in `dtype` on this machine's CPU: it is there, and right."""
    return library.compiled(dtype) is not None and winograd.works(dtype) and msit_decoder.works(dtype)
