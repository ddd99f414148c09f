"""A real NVIDIA Triton on this machine, from PyPI, over the unmodified model repository."""
