"""Two styles of English of which training sees no pair."""

from __future__ import annotations

import pytest

from training.data import SLIVERS, fresh, styles
from training.data.styles import ARCHAIC, MODERN, STYLES
from training.data.sword import Reference

pytestmark = pytest.mark.unit


def test_no_verse_is_trained_on_in_both_styles_and_none_of_the_test_in_either() -> None:
    references = [Reference(0, chapter, verse) for chapter in range(1, 40) for verse in range(1, 30)]
    bibles = {style: {r: f"{style} {r}" for r in references} for style in STYLES}
    data = styles.split(bibles, ("a sentence",))
    numbers = {style: {text.partition(" ")[2] for text in own} for style, own in data.verses.items()}
    assert numbers[ARCHAIC]
    assert numbers[MODERN]
    assert not numbers[ARCHAIC] & numbers[MODERN]
    assert not {n.partition(":")[0] for n in numbers[ARCHAIC]} & {n.partition(":")[0] for n in numbers[MODERN]}
    for held_out in (data.test, data.validation):
        for own in held_out.values():
            assert not {text.partition(" ")[2] for text in own} & (numbers[ARCHAIC] | numbers[MODERN])
    for archaic, modern in zip(data.test[ARCHAIC], data.test[MODERN], strict=True):
        assert archaic.partition(" ")[2] == modern.partition(" ")[2]


def test_a_verse_that_is_word_for_word_one_of_the_test_is_not_trained_on() -> None:
    references = [Reference(0, chapter, verse) for chapter in range(1, 20) for verse in range(1, 20)]
    bibles = {style: dict.fromkeys(references, "the same words") for style in STYLES}
    data = styles.split(bibles, ())
    assert not data.verses[ARCHAIC]
    assert not data.verses[MODERN]


def test_quotes_are_straight() -> None:
    assert styles.plain("¶ He said, “Don’t.” ") == 'He said, "Don\'t."'


def test_the_sliver_has_every_part() -> None:
    data = styles.load_sliver(SLIVERS / "style_rewriter.json")
    assert len(data.test[ARCHAIC]) == len(data.test[MODERN]) > 0
    assert set(data.everyday) < set(data.train[MODERN])
    assert not set(data.verses[ARCHAIC]) & set(data.test[ARCHAIC])


def test_fresh_texts_have_a_style_each() -> None:
    items = fresh.rewrites()
    assert sum(style == MODERN for style, _ in items) >= 6
    assert sum(style == ARCHAIC for style, _ in items) >= 20
    assert {style for style, _ in items} == set(STYLES)
