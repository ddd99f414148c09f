"""The site of the documentation: what it takes from the checkout, and what it must not load from elsewhere."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.unit


class Plain(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags would import."""


Plain.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)

SITE = runpy.run_path(str(ROOT / "docs" / "make_site.py"))
HOOK = runpy.run_path(str(ROOT / "docs" / "site_nav.py"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small tree of pages, a picture, a source and folders."""
    files = {
        "README.md": "# House\n\n[繁體中文](README.zh-TW.md)\n\n[tour](docs/tour.md#rooms), ![a room](docs/room.png)\n",
        "README.zh-TW.md": "# 房子\n\n[English](README.md)\n\n[導覽](docs/tour.zh-TW.md)\n",
        "docs/tour.md": "[`door`](../house/door.py), [all](../house), [yard](../yard/), [far](https://example.com/a)\n",
        "docs/tour.zh-TW.md": "`[no link](nowhere.md)`\n\n```md\n[nor here](nowhere.md)\n```\n",
        "docs/room.png": "",
        "house/door.py": 'MARK = "```"\n',
        "yard/README.md": "[back](../README.md)\n",
        "attic/README.md": "nobody links here\n",
    }
    for name, text in files.items():
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(text)
    return tmp_path / "checkout"


def test_pages_come_with_what_they_link_to(checkout: Path, tmp_path: Path) -> None:
    SITE["collect"](checkout, tmp_path / "pages")
    found = {path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.*")}
    assert found == {
        *("README.md", "README.zh-TW.md", "docs/tour.md", "docs/tour.zh-TW.md"),
        *("docs/room.png", "house/door_py.md", "yard/README.md"),
    }


def test_links_lead_to_pages_of_the_site(checkout: Path, tmp_path: Path) -> None:
    SITE["collect"](checkout, tmp_path / "pages")
    text = {path.name: path.read_text() for path in (tmp_path / "pages").rglob("*.md")}
    tour = (tmp_path / "pages" / "docs" / "tour.md").read_text()
    assert "[`door`](../house/door_py.md), all, [yard](../yard/README.md), [far](https://example.com/a)" in tour
    assert (tmp_path / "pages" / "README.md").read_text().startswith("# House\n\n[tour](docs/tour.md#rooms)")
    # The plugin for languages finds the translation of the page that a link names.
    assert text["README.zh-TW.md"] == "# 房子\n\n[導覽](docs/tour.md)\n"
    assert text["tour.zh-TW.md"] == (checkout / "docs" / "tour.zh-TW.md").read_text()
    assert text["door_py.md"] == '# door.py\n\n`house/door.py`\n\n`````python\nMARK = "```"\n\n`````\n'


def test_a_link_to_nothing_is_an_error(checkout: Path, tmp_path: Path) -> None:
    (checkout / "docs" / "tour.md").write_text("[gone](gone.md)")
    with pytest.raises(FileNotFoundError, match=r"tour\.md: gone\.md is no file"):
        SITE["collect"](checkout, tmp_path / "pages")


@pytest.mark.parametrize(
    ("tag", "remote"),
    [
        ('<script src="https://unpkg.com/mermaid"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example.com/css">', True),
        ('<img src="http://example.com/a.png">', True),
        ('<script src="assets/mermaid.js"></script>', False),
        ('<a href="https://example.com">a link is followed only if somebody clicks</a>', False),
        ('<link rel="alternate" href="https://example.com/zh-TW/">', False),
    ],
)
def test_a_page_that_needs_the_network_is_found(tag: str, remote: bool, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(f"<html>{tag}</html>")
    assert bool(SITE["remote_loads"](tmp_path)) is remote


@pytest.mark.parametrize(("link", "built"), [("tour.md#rooms", True), ("tour.md#attic", False), ("gone.md", False)])
def test_a_link_or_anchor_that_leads_nowhere_ends_the_build(link: str, built: bool, tmp_path: Path) -> None:
    checks = {"validation": yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=Plain)["validation"]}  # noqa: S506
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "House", "theme": "mkdocs"} | checks))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"[a link]({link})\n")
    (tmp_path / "docs" / "tour.md").write_text("# Tour\n\n## Rooms\n")
    assert SITE["build"](tmp_path) is built


def test_pages_that_the_navigation_does_not_name_come_last(tmp_path: Path) -> None:
    for name in ("tour.md", "new.md", "new.zh-TW.md", "clients/go/main_go.md", "examples/README.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).touch()
    config = SimpleNamespace(docs_dir=str(tmp_path), nav=[{"Start": ["README.md", {"Tour": "docs/tour.md"}]}])
    HOOK["on_config"](config)
    assert config.nav[1:] == [{"More": ["docs/new.md"]}]
