"""What to say of a name that does not exist: the ones that do, and which of them was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LEAST_LIKENESS = 0.6  # of difflib's ratio


def meant(name: str, names: Iterable[str]) -> str:
    """` (did you mean 'image_classifier'?)`, or nothing where no name is like the wrong one."""
    plain = {_plain(one): one for one in names}
    close = get_close_matches(_plain(name), plain, n=1, cutoff=LEAST_LIKENESS)
    close = close or [one for one in plain if _plain(name) and one.startswith(_plain(name))][:1]
    return f" (did you mean {plain[close[0]]!r}?)" if close else ""


def unknown(kind: str, name: str, names: Iterable[str], known: str = "there are") -> str:
    """The message of an error about a name that does not exist.

    Args:
        kind: of what it is the name, e.g. `model`.
        names: those that exist.
        known: what introduces them.
    """
    listed = list(names)
    return f"there is no {kind} {name!r}{meant(name, listed)}; {known}: {', '.join(listed) or 'none'}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
