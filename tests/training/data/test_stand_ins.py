"""Pairs in which what both languages say alike is a stand-in."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.carrying import DATES, NAMES, NUMBERS, STAND_INS, THINGS, Names
from training.data.parallel import Pair
from training.data.stand_ins import (
    Mixture,
    chinese_numeral,
    joined,
    learned_words,
    preferred,
    shuffled,
    with_counts,
    with_stand_ins,
)

pytestmark = pytest.mark.unit

FORMS = {"Tom": ("湯姆",), "Taipei": ("台北", "臺北"), "Will": ("威爾",)}
NAMES_KNOWN = Names(
    {"Tom": "湯姆", "Taipei": "台北", "Will": "威爾"}, frozenset(["he", "i", "in", "on", "is", "the", "went", "to"])
)


@pytest.mark.parametrize(
    ("english", "chinese", "expected"),
    [
        ("He saw Tom.", "他看見湯姆。", (f"He saw {NAMES[0]}.", f"他看見{NAMES[0]}。")),
        ("He is in Taipei.", "他在臺北。", (f"He is in {NAMES[0]}.", f"他在{NAMES[0]}。")),
        ("He saw Tom.", "他看見他。", ("He saw Tom.", "他看見他。")),
        ("He has 25.", "他有二十五個。", (f"He has {NUMBERS[0]}.", f"他有{NUMBERS[0]}個。")),
        ("He has 20.", "他有二十五個。", ("He has 20.", "他有二十五個。")),
        ("Born on May 3rd.", "生於五月三號。", (f"Born on {DATES[0]}.", f"生於{DATES[0]}。")),
        ("See a@b.example!", "看a@b.example！", (f"See {THINGS[0]}!", f"看{THINGS[0]}！")),
    ],
)
def test_what_both_have_is_a_stand_in(english: str, chinese: str, expected: tuple[str, str]) -> None:
    assert with_stand_ins(Pair(english, chinese, "everyday"), NAMES_KNOWN, FORMS) == Pair(*expected, "everyday")


@pytest.mark.parametrize(
    ("english", "chinese", "expected"),
    [
        ("I have two cats.", "我有兩隻貓。", (f"I have {NUMBERS[0]} cats.", f"我有{NUMBERS[0]}隻貓。")),
        ("Come on Sunday.", "星期天來。", (f"Come on {DATES[0]}.", f"{DATES[0]}來。")),
        ("I have three cats.", "星期三，我有三十隻貓。", None),
        ("It is cold.", "很冷。", None),
    ],
)
def test_small_numbers_and_days_can_be_stand_ins(english: str, chinese: str, expected: tuple[str, str] | None) -> None:
    assert with_counts(Pair(english, chinese, "everyday")) == (expected and Pair(*expected, "everyday"))


def test_words_are_learned_from_three_occurrences_but_names_by_their_lower_case_alone() -> None:
    pairs = [Pair("Tom will see God, will Will see?", "", "everyday")] * 2
    assert learned_words(pairs, FORMS) == {"will", "see"}
    assert learned_words(pairs * 2, FORMS) == {"will", "see", "god"}


def test_the_form_is_preferred_that_the_pairs_have() -> None:
    assert preferred(FORMS, [Pair("", "臺北", "help")])["Taipei"] == "臺北"
    assert preferred(FORMS, [])["Taipei"] == "台北"


def test_numerals_are_those_of_chinese() -> None:
    assert [chinese_numeral(n) for n in (2, 10, 12, 20, 105, 110, 1999, 2006, 12000)] == [
        *("二", "十", "十二", "二十", "一百零五", "一百一十", "一千九百九十九", "二千零六", "一二零零零"),
    ]


def test_an_epoch_shows_other_stand_ins_alike_in_both_languages() -> None:
    pairs = [Pair(f"{NAMES[0]} saw {NAMES[1]}.", f"{NAMES[0]}看見{NAMES[1]}。", "everyday")] * 50
    mixture = Mixture.of(pairs, shares={"everyday": 1.5, "words": 0}, joined=0.2, things=0.2)
    shown = mixture.epoch(seed=1)
    assert 60 < len(shown) < 95
    assert shown == mixture.epoch(seed=1) != mixture.epoch(seed=2)
    used = [[c for c in pair.english if c in STAND_INS] for pair in shown]
    assert used == [[c for c in pair.chinese if c in STAND_INS] for pair in shown]
    assert {c for row in used for c in row} == {*NAMES, *THINGS}


def test_two_statements_are_joined_and_a_question_is_not() -> None:
    random = np.random.default_rng(0)
    first, second = Pair("He eats.", "他吃。", "everyday"), Pair("She sleeps.", "她睡。", "everyday")
    long = joined(first, second, random)
    assert long is not None
    assert (long.english[:7], long.english[-11:], long.chinese[:2]) == ("He eats", "she sleeps.", "他吃")
    assert joined(Pair("Does he?", "他吃嗎？", "everyday"), second, random) is None
    named = Pair(f"{NAMES[0]} eats.", f"{NAMES[0]}吃。", "everyday")
    assert joined(named, named, random) is None
    assert shuffled(first, random, 1.0) is first
