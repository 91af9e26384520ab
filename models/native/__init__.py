"""Compiled code for a CPU: MSIT's decoder, and convolutions of small kernels."""
