"""The page's words: both languages have the same, and every one that the page uses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.unit

UI = ROOT / "services" / "ui"
SCRIPTS = sorted(path for path in UI.rglob("*.js"))
USED = re.compile(r"""\bt\(\s*(?:[\w.!]+ \? )?"([\w.]+)"(?:\s*:\s*"([\w.]+)")?""")
BUILT = re.compile(r"\bt\(`([^`]*)`")  # keys with a part that is known only when the page runs
PLACES = re.compile(r"\{(\w+)\}")


def words(language: str) -> dict[str, str]:
    document: dict[str, str] = json.loads((UI / "words" / f"{language}.json").read_text())
    return document


def test_both_languages_have_the_same_keys_and_places() -> None:
    english, chinese = words("en"), words("zh-TW")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert text.strip(), key
        assert chinese[key].strip(), key
        assert sorted(PLACES.findall(text)) == sorted(PLACES.findall(chinese[key])), key


def test_chinese_is_spaced_and_names_homeworks_as_the_tutorials_do() -> None:
    chinese = words("zh-TW")
    assert [text for text in chinese.values() if re.search(r"[一-鿿][A-Za-z0-9`]|[A-Za-z0-9`][一-鿿]", text)] == []
    table = (ROOT / "docs" / "tutorials" / "README.zh-TW.md").read_text()
    topics = re.findall(r"^\| \[HW(\d+)\]\S* \| (.*?) \|", table, flags=re.MULTILINE)
    assert len(topics) == 15
    for number, topic in topics:
        assert chinese[f"hw{number}.short"] in topic


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_word_that_a_script_uses_is_there(script: Path) -> None:
    known, source = words("en"), script.read_text()
    used = {key for match in USED.finditer(source) for key in match.groups() if key}
    assert not used - known.keys()
    for pattern in BUILT.findall(source):
        form = re.compile(re.sub(r"\\\$\\\{[^}]*\\\}", r"[\\w.]+", re.escape(pattern)))
        assert any(form.fullmatch(key) for key in known), pattern


def test_no_word_is_there_for_nothing() -> None:
    sources = "".join(script.read_text() for script in SCRIPTS)
    literal = set(re.findall(r'"([\w.]+)"', sources))
    forms = [re.compile(re.sub(r"\\\$\\\{[^}]*\\\}", r"[\\w.]+", re.escape(p))) for p in BUILT.findall(sources)]
    assert [k for k in words("en") if k not in literal and not any(form.fullmatch(k) for form in forms)] == []


def test_scripts_and_styles_ask_for_nothing_outside() -> None:
    for path in [*SCRIPTS, UI / "style.css", UI / "index.html"]:
        outside = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
        assert set(outside) <= {"http://www.w3.org/2000/svg"}, path


def test_no_script_makes_markup_of_text() -> None:
    makes = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert [path for path in SCRIPTS if makes.search(path.read_text())] == []
