"""The distribution that this package is part of: its name, version and extras."""

from __future__ import annotations

NAME = "lectern-serving"  # on PyPI, `lectern` is another project


def version() -> str:
    """The installed version."""
    from importlib.metadata import version

    return version(NAME)


def how_to_install(*extras: str) -> str:
    """How to install the packages of `extras`."""
    return f"run `pip install -e '.[{','.join(extras)}]'` in the checkout"
