"""The distribution that this package comes in."""

from __future__ import annotations

NAME = "lectern-serving"  # on PyPI, `lectern` is another project


def version() -> str:
    """The installed version."""
    from importlib.metadata import version

    return version(NAME)


def how_to_install(*extras: str) -> str:
    """What to do so that packages of `extras` are there."""
    return f"run `pip install -e '.[{','.join(extras)}]'` in the checkout"
