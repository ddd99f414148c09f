"""The documentation says what is so."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Server, serving
from tests.programs import needs
from tests.waiting import WAIT


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("settings", "table"),
        ("models", "gallery"),
        ("architecture", "page"),
        ("rpcs", "page"),
        ("metrics", "table"),
        ("errors", "page"),
    ],
)
@pytest.mark.unit
def test_generated_pages_are_current(name: str, function: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / f"make_{name}.py"))
    assert (ROOT / "docs" / f"{name}.md").read_text() == script[function](), "run `make docs`"


@pytest.mark.unit
def test_figures_of_the_results_are_those_of_the_cards() -> None:
    page, text = (
        runpy.run_path(str(ROOT / "scripts" / "results.py"))["page"],
        (ROOT / "docs" / "results.md").read_text(),
    )
    assert "| HW3 | [`image_classifier`](models.md#image_classifier) | accuracy | 0.9347 |" in text
    by_hand = text.replace("# Results\n", "# Results of ours\n")
    assert page(by_hand.replace("0.9347", "0.99")) == by_hand
    with pytest.raises(ValueError, match=r"docs/results\.md needs"):
        page("# Results\n")


@pytest.mark.unit
def test_figures_of_the_tutorials_are_those_of_the_cards() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "make_tutorials.py"))["pages"]()
    assert {path.name for path in pages} >= {f"hw{i:02}{end}" for i in range(1, 16) for end in (".md", ".zh-TW.md")}
    for path, text in pages.items():
        assert path.read_text() == text, "run `make docs`"


def figures(node: Any) -> Iterator[float]:
    """Every number that a card has, those in its sentences too."""
    if isinstance(node, str):
        yield from (float(number) for number in re.findall(r"\d+\.\d+|\d+", node))
    elif isinstance(node, (int, float)):
        yield node
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from figures(part)


def prose(page: Path) -> str:
    """What is written by hand: no code, no tables, no addresses."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", page.read_text(), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


@pytest.mark.unit
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("hw*.md")), ids=lambda path: path.name)
def test_a_figure_in_a_tutorials_text_is_a_cards(page: Path) -> None:
    names = set(re.findall(r"models\.md#(\w+)", page.read_text()))
    cards = [json.loads(path.read_text()) for name in names for path in (ROOT / "exported" / name).glob("*/card.json")]
    known = set(figures(cards))
    for number in re.findall(r"\d+\.\d+", prose(page)):
        places = len(number.partition(".")[2])
        assert any(round(value, places) == float(number) for value in known), number


TRANSLATIONS = sorted(path for path in (*ROOT.glob("*.zh-TW.md"), *(ROOT / "docs").rglob("*.zh-TW.md")))


@pytest.mark.unit
@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda path: path.name)
def test_a_translation_has_the_blocks_of_its_page(page: Path) -> None:
    """And leads there and back. Blocks that are the same run once."""
    original = page.with_name(page.name.replace(".zh-TW", ""))
    assert blocks(str(page), "run") == blocks(str(original), "run")
    assert f"[English]({original.name})" in page.read_text()
    assert f"[繁體中文]({page.name})" in original.read_text()


@pytest.mark.unit
@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda path: path.name)
def test_a_space_parts_chinese_from_latin(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # of a link
    assert re.findall(r".{,8}[一-鿿][A-Za-z0-9`].{,8}|.{,8}[A-Za-z0-9`][一-鿿].{,8}", shown) == []


def blocks(document: str, mark: str) -> list[tuple[str, str]]:
    """Language and text of each block after such a mark."""
    text = (ROOT / document).read_text()
    return re.findall(rf"<!-- {mark} -->\n```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def run(language: str, text: str, directory: Path, *, prints: bool = True, **variables: str) -> None:
    """Each command of a block must succeed and, unless told otherwise, print something."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    if language == "python":
        commands = [[sys.executable, "-c", text]]
    else:
        commands = [["bash", "-c", line.removeprefix("$ ").split("  #")[0]] for line in text.splitlines()]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, timeout=WAIT)
        assert result.returncode == 0, (command, result.stderr)
        assert (result.stdout + result.stderr).strip() or not prints, command


# Blocks of these need a server or a tree of their own: see below, and tests/test_adding.py.
APART = {"security.md", "releases.md", "add-a-model.md", "add-a-capability.md"}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name not in APART and "node_modules" not in path.parts
)


def runnable_blocks() -> list[tuple[str, str]]:
    """Each command once, in whichever page it comes first: a translation has the same as its page."""
    commands: set[str] = set()
    found: dict[tuple[str, str], None] = {}
    for language, text in (block for page in PAGES for block in blocks(page, "run")):
        if language != "python":
            lines = [line for line in dict.fromkeys(text.splitlines(keepends=True)) if line not in commands]
            commands.update(lines)
            text = "".join(lines)
        if text:
            found[language, text] = None
    return list(found)


@pytest.mark.unit
def test_pages_have_blocks_to_run() -> None:
    for page, least in (("README.md", 1), ("docs/tour.md", 9), ("docs/client.md", 2), ("docs/interoperability.md", 2)):
        assert len(blocks(page, "run")) >= least, page


@pytest.mark.parametrize(("language", "text"), runnable_blocks())
def test_examples_run(server: Server, language: str, text: str) -> None:
    addresses = {"LECTERN_TARGET": server.target, "LECTERN_METRICS_TARGET": server.metrics_url.removeprefix("http://")}
    text = text.replace("127.0.0.1:8001", server.target).replace("http://127.0.0.1:8000", server.http_url)
    run(
        language,
        text.replace("127.0.0.1:8000", server.http_url.removeprefix("http://")),
        ROOT,
        prints=True,
        **addresses,
    )


@pytest.mark.unit
def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 900


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "deploy/*.md", "loadtests/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)


@pytest.mark.unit
@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_security_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openssl")
    monkeypatch.chdir(tmp_path)
    for language, text in blocks("docs/security.md", "prepare"):
        run(language, text, tmp_path, prints=False)
    ((_, command),) = blocks("docs/security.md", "serve")
    examples = blocks("docs/security.md", "run")
    assert len(examples) == 2
    with serving(tmp_path, *command.removeprefix("$ lectern serve").split()) as server:
        for language, text in examples:
            run(language, text.replace("localhost:8001", server.target.replace("127.0.0.1", "localhost")), tmp_path)


def test_examples_of_releases_run(tmp_path: Path) -> None:
    needs("openssl")
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    examples = blocks("docs/releases.md", "run")
    assert len(examples) == 3
    for language, text in examples:
        run(language, text, tmp_path, prints=False)
    assert (tmp_path / "served" / "translator_en_zh_step" / "2" / "model.onnx").is_file()
    assert not (tmp_path / "some" / "covid_regressor").exists()
