"""MSIT's layers, each in a file of its own, and the convolutions that they are made of."""
