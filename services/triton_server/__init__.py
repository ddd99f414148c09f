"""Installs and starts a real NVIDIA Triton on this machine, over the unmodified model repository."""
