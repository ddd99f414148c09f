"""The documentation says what is so."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, serving
from tests.programs import needs
from tests.waiting import WAIT


@pytest.mark.parametrize(("name", "function"), [("settings", "table"), ("models", "gallery"), ("architecture", "page")])
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
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    if path.name not in APART
)


def runnable_blocks() -> list[tuple[str, str]]:
    return [block for page in PAGES for block in blocks(page, "run")]


@pytest.mark.unit
def test_pages_have_blocks_to_run() -> None:
    for page, least in (("README.md", 1), ("docs/tour.md", 9), ("docs/client.md", 2), ("docs/interoperability.md", 2)):
        assert len(blocks(page, "run")) >= least, page


@pytest.mark.parametrize(("language", "text"), runnable_blocks())
def test_examples_run(server: Server, language: str, text: str) -> None:
    run(language, text.replace("127.0.0.1:8001", server.target), ROOT, LECTERN_TARGET=server.target)


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
    assert (tmp_path / "served" / "translator_en_zh_step" / "1" / "model.onnx").is_file()
    assert not (tmp_path / "some" / "covid_regressor").exists()
