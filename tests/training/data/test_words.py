"""English text, pairs of sentences and tests of words, as their sources write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data import SLIVERS, english, entailment, word_tests
from training.data.word_tests import Analogy, Pair

pytestmark = pytest.mark.unit

PAGES = """<title>Ada</title><text xml:space="preserve">{{Infobox|name={{PAGENAME}}}}
'''Ada''' is the ''first''<ref name="a">Book, 2001</ref> of [[coder|those who program]] a [[machine]] &amp;amp; more.
== Life ==
[[File:Ada.jpg|thumb|a picture of her that nobody counts as running text]]
* She was born in London<!-- where? --> as the only child of a poet.
</text><text>#REDIRECT [[Ada]]</text>"""


def test_pages_are_paragraphs_without_markup() -> None:
    assert list(english.pages(PAGES)) == [
        "Ada is the first of those who program a machine & more.",
        "She was born in London as the only child of a poet.",
    ]


def test_a_pair_has_its_label_and_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s1.dev").write_text("A man sleeps .\nTwo dogs run . \n")
    (tmp_path / "s2.dev").write_text("He rests .\nCats sit .\n")
    (tmp_path / "labels.dev").write_text("entailment\ncontradiction\n")
    first, second = entailment.read(tmp_path, "dev")
    assert first == ("A man sleeps .", "He rests .", "entailment")
    assert second == ("Two dogs run . ", "Cats sit .", "contradiction")
    (tmp_path / "labels.dev").write_text("entailment\n")
    with pytest.raises(ValueError, match="shorter"):
        list(entailment.read(tmp_path, "dev"))


def test_pairs_and_analogies_are_read_in_lower_case(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("# Word 1\tWord 2\tHuman\nJerusalem\tIsrael\t8.46\n")
    (tmp_path / "analogies").write_text(": currency\nJapan yen Korea won\n: gram8-plural\nbird birds cat cats\n")
    assert list(word_tests.read_pairs(tmp_path / "pairs")) == [Pair("jerusalem", "israel", 8.46)]
    assert list(word_tests.read_analogies(tmp_path / "analogies")) == [
        Analogy("currency", "japan", "yen", "korea", "won"),
        Analogy("gram8-plural", "bird", "birds", "cat", "cats"),
    ]


def test_the_sliver_has_text_and_tests_of_its_words() -> None:
    path = SLIVERS / "word_vectors.json"
    text = " ".join(english.load_sliver(path).texts).lower()
    tests = word_tests.load_sliver(path)
    words = {word for pair in (*tests.pairs, *tests.validation) for word in (pair.first, pair.second)}
    words |= {word for analogy in tests.analogies for word in analogy.words}
    assert all(word in text for word in words)
