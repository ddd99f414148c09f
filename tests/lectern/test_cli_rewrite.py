"""`lectern rewrite`."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.conftest import Server
from tests.lectern.test_cli import Run, invoke

VERSE = "And he said unto them, Whither go ye?"


@pytest.fixture
def run(rewriter: Server) -> Run:
    return partial(invoke, target=rewriter.target)


def test_texts_come_from_arguments_or_standard_input(run: Run) -> None:
    given = run("rewrite", "--style", "modern", VERSE)
    piped = run("rewrite", "--style", "modern", stdin=VERSE.encode())
    assert given.returncode == 0, given.stderr
    assert given.stdout == piped.stdout
    both = run("rewrite", "--style", "modern", VERSE, VERSE)
    assert both.stdout == given.stdout * 2


@pytest.mark.parametrize("texts", [[""], [" ", "\n"], []])
def test_without_a_word_there_is_nothing_to_rewrite(run: Run, texts: list[str]) -> None:
    done = run("rewrite", "--style", "modern", *texts)
    assert (done.returncode, done.stderr) == (2, b"error: there is no text\n")


def test_copies_are_shown_token_by_token(run: Run) -> None:
    document = json.loads(run("rewrite", "--style", "archaic", VERSE, "--json").stdout)
    (result,) = document["results"]
    assert result["source"] == VERSE
    text, head, *rows = run("rewrite", "--style", "archaic", VERSE, "--copies").stdout.decode().splitlines()
    assert text == result["text"]
    assert head.split() == ["token", "copied", "from"]
    assert len(rows) == len(result["tokens"])
    assert all(f"{token['p_copy']:.0%}" in row for token, row in zip(result["tokens"], rows, strict=True))


def test_notices_go_to_standard_error(run: Run) -> None:
    done = run("rewrite", "--style", "modern", "Go \U0001f600 ye.")
    assert b"note: texts[0]: has characters that style_rewriter cannot read, which were left out" in done.stderr


@pytest.mark.parametrize("arguments", [["Go."], ["--style", "baroque", "Go."]])
def test_a_style_must_be_one_of_two(run: Run, arguments: list[str]) -> None:
    done = run("rewrite", *arguments)
    assert done.returncode == 2
    assert b"--style" in done.stderr
