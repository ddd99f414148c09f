"""A hook of MkDocs: a page of docs/ that mkdocs.yml does not name stands in the navigation all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority

LEFT_OUT = re.compile(r"docs/examples/|docs/clients/\w+/|\.zh-TW\.md$")  # what no reader looks for, and translations


@event_priority(100)  # before the plugin that copies the navigation for each language
def on_config(config: MkDocsConfig) -> None:
    """Add the section "More"."""
    folder = Path(config.docs_dir)
    pages = sorted(path.relative_to(folder).as_posix() for path in (folder / "docs").rglob("*.md"))
    named = set(named_pages(config.nav))
    more = [page for page in pages if page not in named and not LEFT_OUT.search(page)]
    if more and config.nav is not None:
        config.nav.append({"More": more})


def named_pages(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from named_pages(part)
