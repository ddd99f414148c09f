"""`lectern words` and `lectern search`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from lectern.cli.commands.search import Sentence, sentences_of
from tests.conftest import Server
from tests.lectern.test_cli import Run, invoke, refused

WORDS = ("--model", "word_vectors")
TEXT = """The king had a son. And the son had a house
in the land; it was great.

---
- The daughter of the woman came. (1) She spake.
"""


@pytest.fixture
def run(embedder: Server) -> Run:
    return partial(invoke, target=embedder.target)


def test_words_are_listed_with_their_cosines_nearest_first(run: Run) -> None:
    document = json.loads(run("words", "king", "-", "man", "+", "woman", "--json", "--top-k", "4").stdout)
    done = run("words", "king", "-", "man", "+", "woman", "--top-k", "4")
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.decode().splitlines()
    assert header == "word,cosine"
    assert lines == [f"{near['word']},{near['cosine']:.4f}" for near in document["words"]]
    assert len(lines) == 4


def test_words_without_a_sign_between_them_are_one_text(run: Run) -> None:
    together, quoted = (run("words", *words, "--json").stdout for words in (("the", "king"), ("the king",)))
    assert together == quoted != b""


@pytest.mark.parametrize("terms", [("king", "-"), ("+", "king"), ("king", "+", "+", "man")])
def test_a_sign_without_a_word_beside_it_is_wrong_usage(run: Run, terms: tuple[str, ...]) -> None:
    refused(run("words", *terms), 2, "write a word on each side of + and -")


def test_a_word_that_the_model_lacks_is_refused_by_its_place(run: Run) -> None:
    refused(run("words", "king", "-", "Zzyzx"), 1, "negative[0]", "Zzyzx")


@pytest.mark.unit
def test_sentences_have_the_line_that_they_begin_on() -> None:
    assert list(sentences_of("a.txt", TEXT)) == [
        Sentence("a.txt", 1, "The king had a son."),
        Sentence("a.txt", 1, "And the son had a house in the land; it was great."),
        Sentence("a.txt", 5, "- The daughter of the woman came."),
        Sentence("a.txt", 5, "(1) She spake."),
    ]
    assert list(sentences_of("a.txt", "")) == list(sentences_of("a.txt", "\n--\n\n")) == []


def test_search_finds_a_sentence_by_its_own_words_with_its_file_and_line(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text(TEXT)
    second.write_text("And it came to pass.\n" * 300)
    query = "the daughter of the woman came"
    document = json.loads(run("search", query, *WORDS, "--in", second, first, "--top-k", "3", "--json").stdout)
    best = document["results"][0]
    assert (best["file"], best["line"], best["text"]) == (str(first), 5, "- The daughter of the woman came.")
    assert best["cosine"] == pytest.approx(1, abs=1e-4)
    assert len(document["results"]) == 3
    done = run("search", query, *WORDS, "--in", first, "--in", second, "--top-k", "1")
    assert done.returncode == 0, done.stderr
    _, line = done.stdout.decode().splitlines()
    assert line.split()[:2] == ["1.0000", f"{first}:5"]


def test_search_without_a_file_to_search_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    refused(run("search", "the king"), 2, "--in")
    refused(run("search", "the king", "--in", tmp_path / "none.txt"), 2, "no such file")
