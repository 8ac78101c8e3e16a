"""Tasks that are stepped as tensors, on the device that the actions come from.

The only part of ``envs`` that uses PyTorch; it is imported when a configuration asks for it.
"""
