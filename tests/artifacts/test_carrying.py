"""What a translation carries, as training and services read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.carrying import DATES, NAMES, NUMBERS, STAND_INS, THINGS, Names, reading

pytestmark = pytest.mark.unit

WORDS = "a an and at by dr for friend he i i'm in is it it's march may met of on saw see the to was went will write you"
KNOWN = Names(
    {"Tom": "湯姆", "Mary": "瑪麗", "New York": "紐約", "York": "約克", "Will": "威爾"}, frozenset(WORDS.split())
)


@pytest.mark.parametrize(
    ("sentence", "text", "meanings"),
    [
        ("Tom saw Mary.", f"{NAMES[0]} saw {NAMES[1]}.", ["湯姆", "瑪麗"]),
        ("I saw Tom's friend.", f"I saw {NAMES[0]}'s friend.", ["湯姆"]),
        ("He went to New York by May.", f"He went to {NAMES[0]} by May.", ["紐約"]),
        ("I met Tom York.", f"I met {NAMES[0]}.", ["湯姆·約克"]),
        ("I met Tom Brzk.", f"I met {NAMES[0]}.", ["Tom Brzk"]),
        ("Will you? I saw Will.", f"Will you? I saw {NAMES[0]}.", ["威爾"]),
        ("I SAW TOM.", "I SAW TOM.", []),
        ("Dr. Brzk and NASA", f"Dr. {NAMES[0]} and {NAMES[1]}", ["Brzk", "NASA"]),
        ("Xylophones? I see.", "Xylophones? I see.", []),
        ("It's 1999.", f"It's {DATES[0]}.", ["1999年"]),
        ("in 1999 friends", f"in {NUMBERS[0]} friends", ["1999"]),
        ("on March 14, 2025", f"on {DATES[0]}", ["2025年3月14日"]),
        ("on 4th July", f"on {DATES[0]}", ["7月4日"]),
        ("on the third of May", f"on {DATES[0]}", ["5月3日"]),
        ("I may see 12,500.", f"I may see {NUMBERS[0]}.", ["12,500"]),
        ("at 7:45 on 415-555-0132", f"at {NUMBERS[0]} on {NUMBERS[1]}", ["7:45", "415-555-0132"]),
        ("Write to a@b.example.", f"Write to {THINGS[0]}.", ["a@b.example"]),
        ("see https://x.example/A?b=1.", f"see {THINGS[0]}.", ["https://x.example/A?b=1"]),
        ("{name} is <b>Tom</b> 🎉", f"{THINGS[0]} is {THINGS[1]} {THINGS[2]}", ["{name}", "<b>Tom</b>", "🎉"]),
        ("Ｔｏｍ　ｓａｗ　ｉｔ．", f"{NAMES[0]} saw it.", ["湯姆"]),
        (f"it is {NAMES[3]}", f"it is {THINGS[0]}", [NAMES[3]]),
    ],
)
def test_a_sentence_is_read_with_stand_ins(sentence: str, text: str, meanings: list[str]) -> None:
    read = reading(sentence, KNOWN)
    assert read.text == text
    assert list(read.meanings.values()) == meanings


def test_each_meaning_comes_once_however_the_model_repeats_or_loses_its_stand_in() -> None:
    read = reading("Write to ana@mail.example, see https://x.example/a?b=1 in 1999.", KNOWN)
    mail, address, year = read.meanings
    assert read.restored(f"{mail}的{mail}，{address}{address} 看。") == (
        "ana@mail.example 的，https://x.example/a?b=1 看 1999年。"
    )
    assert read.restored(f"{year}看{address}{mail}。") == "1999年看 https://x.example/a?b=1 ana@mail.example。"
    assert read.keeps(f"{year}{address}{mail}")
    assert not read.keeps(f"{year}{address}{mail}{mail}")
    assert not read.keeps(f"{year}{address}{mail}{NAMES[5]}")


@given(st.text(st.sampled_from("abTY 19.:/@<>{}年ﬁ½e\u0301🎉\ue010") | st.characters(), max_size=60))
def test_any_sentence_is_read_and_restored(sentence: str) -> None:
    read = reading(sentence, KNOWN)
    assert len(read.origins) == len(read.text) + 1
    assert list(read.origins) == sorted(read.origins)
    assert read.origins[-1] == len(sentence)
    restored = read.restored("".join(read.meanings))
    assert all(meaning in restored for meaning in read.meanings.values())


def test_names_are_kept_in_a_file() -> None:
    assert Names.of(KNOWN.content()) == KNOWN
    for damaged in (b"", b"[]", b'{"chinese": 1, "words": []}'):
        with pytest.raises(ValueError, match=r"names|JSON|Expecting"):
            Names.of(damaged)


def test_stand_ins_are_all_different() -> None:
    assert len(set(STAND_INS)) == 24
