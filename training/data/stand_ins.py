"""Pairs of sentences in which what both say alike is a stand-in, as the server has a model read it
(`artifacts.carrying`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifacts.carrying import DATES, NAMES, NUMBERS, STAND_INS, THINGS, Carried, Names, carried, read
from training.data.parallel import Pair

COUNTED = 0.5  # share of the pairs with small numbers or days in which these are stand-ins
LEARNED = 3  # times that a word occurs, from which the model has it by itself
_WORD = re.compile(r"[^\W\d_]+(?:[-’'][^\W\d_]+)*")
_DIGITS, _PLACES = "零一二三四五六七八九", ("", "十", "百", "千")
_COUNTS = {
    **dict(zip(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), range(2, 11), strict=True)),
    **dict(
        zip(
            ("eleven", "twelve", "fifteen", "twenty", "thirty", "forty", "fifty"),
            (11, 12, 15, 20, 30, 40, 50),
            strict=True,
        )
    ),
}
_COUNT = re.compile(rf"\b(?:{'|'.join(_COUNTS)}|[2-9])\b(?![-.,:]\w)")
_DAYS = dict(
    zip(
        ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun"),
        ("一", "二", "三", "四", "五", "六", "[日天]"),
        strict=True,
    )
)
_DAY = re.compile(rf"\b(?P<day>{'|'.join(_DAYS)})day\b")
_NUMERAL = "零〇一二三四五六七八九十百千萬兩"


def learned_words(pairs: Iterable[Pair], names: Iterable[str]) -> frozenset[str]:
    """Words in lower case that occur often enough, as themselves or as names that are none of `names`."""
    known = set(names)
    counts = Counter(
        word.lower() for pair in pairs for word in _WORD.findall(pair.english) if word.islower() or word not in known
    )
    return frozenset(word for word, count in counts.items() if count >= LEARNED)


def preferred(forms: Mapping[str, Sequence[str]], pairs: Sequence[Pair]) -> dict[str, str]:
    """Each name's Chinese form that these pairs have most often, else its first."""
    text = "\n".join(pair.chinese for pair in pairs)
    counts = {form: text.count(form) for all_of in forms.values() for form in all_of}
    return {name: max(all_of, key=counts.__getitem__) for name, all_of in forms.items()}


def with_stand_ins(pair: Pair, names: Names, forms: Mapping[str, Sequence[str]]) -> Pair:
    """The pair with a stand-in for each part that its English carries and its Chinese has."""
    parts: list[Carried] = []
    chinese, used = pair.chinese, Counter[tuple[str, ...]]()
    for part in carried(pair.english, names):
        place = _place(chinese, _forms(pair.english[part.start : part.end], part, forms))
        if place is not None and used[part.stand_ins] < len(part.stand_ins):
            chinese = chinese[: place[0]] + part.stand_ins[used[part.stand_ins]] + chinese[place[1] :]
            used[part.stand_ins] += 1
            parts.append(part)
    return Pair(read(pair.english, parts)[0], chinese, pair.domain)


def with_counts(pair: Pair) -> Pair | None:
    """The pair with stand-ins for a small number and for a day of the week that both have: few pairs have longer
    numbers and dates, which stand in sentences alike."""
    english, chinese = pair.english, pair.chinese
    if (count := _COUNT.search(english)) is not None:
        number = _COUNTS.get(count[0]) or int(count[0])
        forms = rf"{chinese_numeral(number)}{'|兩' if number == 2 else ''}|{number}"
        english, chinese = _both(
            english, count, chinese, rf"(?<![{_NUMERAL}\d期週拜第])(?:{forms})(?![{_NUMERAL}\d月])", NUMBERS
        )
    if (day := _DAY.search(english)) is not None:
        english, chinese = _both(english, day, chinese, f"(?:星期|週|周|禮拜){_DAYS[day['day']]}", DATES)
    return None if english == pair.english else Pair(english, chinese, pair.domain)


def _both(english: str, match: re.Match[str], chinese: str, pattern: str, stand_ins: Sequence[str]) -> tuple[str, str]:
    """Both texts with a stand-in that neither has yet, or as they are if Chinese does not have the pattern once."""
    places = list(re.finditer(pattern, chinese))
    free = [stand_in for stand_in in stand_ins if stand_in not in english]
    if len(places) != 1 or not free:
        return english, chinese
    start, end = places[0].span()
    return english[: match.start()] + free[0] + english[match.end() :], chinese[:start] + free[0] + chinese[end:]


def joined(first: Pair, second: Pair, random: np.random.Generator) -> Pair | None:
    """Two statements as one long sentence."""
    if not (first.english.endswith(".") and first.chinese.endswith("。") and second.english.endswith(".")):
        return None
    if _STAND_IN.search(first.english) and _STAND_IN.search(second.english):
        return None  # one and the same could stand for two things
    english, chinese = _CONJUNCTIONS[int(random.integers(len(_CONJUNCTIONS)))]
    start = second.english if second.english.startswith("I") else second.english[0].lower() + second.english[1:]
    return Pair(first.english[:-1] + english + start, first.chinese[:-1] + chinese + second.chinese, first.domain)


_CONJUNCTIONS = ((", and ", "，"), (", but ", "，但是"), (", so ", "，所以"), (" because ", "，因為"), ("; ", "；"))
_STAND_IN = re.compile(f"[{''.join(STAND_INS)}]")


def shuffled(pair: Pair, random: np.random.Generator, things: float) -> Pair:
    """The pair with other stand-ins of the same kinds, and now and then, by the share `things`, a thing for a name."""
    if not any(character in STAND_INS for character in pair.english):
        return pair
    table: dict[str, str] = {}
    for kind in (THINGS, NAMES, NUMBERS, DATES):
        others = [kind[int(i)] for i in random.permutation(len(kind))]
        table |= dict(zip(kind, others, strict=True))
    if not any(thing in pair.english for thing in THINGS) and random.random() < things:
        table |= dict(zip(NAMES, (table[thing] for thing in THINGS), strict=True))
    exchange = str.maketrans(table)
    return Pair(pair.english.translate(exchange), pair.chinese.translate(exchange), pair.domain)


def _forms(text: str, part: Carried, forms: Mapping[str, Sequence[str]]) -> Iterable[str]:
    """How Chinese may write a part, as patterns."""
    if part.stand_ins is NAMES:
        return [re.escape(form) for form in (*forms.get(text, ()), part.meaning, part.meaning.replace("·", ""))]
    if part.stand_ins is NUMBERS:
        plain = text.replace(",", "")
        numeral = [rf"(?<![{_NUMERAL}]){chinese_numeral(int(plain))}(?![{_NUMERAL}])"] if plain.isdigit() else []
        return [rf"(?<![\d.]){re.escape(form)}(?![\d.,])" for form in (text, plain)] + numeral
    if part.stand_ins is DATES:
        numerals = re.sub(r"\d{1,2}(?=[月日])", lambda number: chinese_numeral(int(number[0])), part.meaning)
        return [rf"(?<!\d){form.replace('日', '[日號]')}" for form in (part.meaning, numerals)]
    return [re.escape(text)]


def _place(chinese: str, patterns: Iterable[str]) -> tuple[int, int] | None:
    found = (re.search(pattern, chinese) for pattern in patterns)
    return next((match.span() for match in found if match), None)


def chinese_numeral(number: int) -> str:
    """A number below ten thousand as Chinese counts, e.g. 二十五; a larger one in its digits."""
    if not 0 < number < 10_000:
        return "".join(_DIGITS[int(digit)] for digit in str(number))
    text, skipped = "", False
    for place in range(len(str(number)) - 1, -1, -1):
        digit = number // 10**place % 10
        if digit:
            text += ("零" if skipped and text else "") + _DIGITS[digit] + _PLACES[place]
        skipped = not digit
    return re.sub("^一十", "十", text)


@dataclass(frozen=True)
class Mixture:
    """Training pairs as the server has a model read them, of which each epoch shows others.

    Args:
        pairs: with stand-ins.
        counted: the same with more, for numbers and days, where a pair has them (`with_counts`).
        shares: how often an epoch shows the pairs of a domain, or the part of them that it shows.
        joined: share of everyday sentences to which another is joined.
        things: share of pairs with names in which these are addresses and the like.
    """

    pairs: tuple[Pair, ...]
    counted: tuple[Pair | None, ...]
    shares: Mapping[str, float]
    joined: float
    things: float

    @classmethod
    def of(cls, pairs: Iterable[Pair], **shares: Any) -> Mixture:
        """Of pairs with stand-ins, and of each stand-in alone."""
        alone = [Pair(s + end, s + end.translate(_ENDS), "words") for s in STAND_INS for end in ("", ".", "?", "!")]
        every = (*pairs, *alone)
        return cls(every, tuple(map(with_counts, every)), **shares)

    def epoch(self, seed: int) -> list[Pair]:
        """The pairs of one epoch, in no order."""
        random = np.random.default_rng(seed)
        shown: list[Pair] = []
        for pair, counted in zip(self.pairs, self.counted, strict=True):
            share = self.shares[pair.domain]
            for _ in range(int(share) + (random.random() < share % 1)):
                chosen = shuffled(counted if counted and random.random() < COUNTED else pair, random, self.things)
                shown.append(chosen)
        everyday = [pair for pair in shown if pair.domain == "everyday"]
        for i in random.permutation(len(everyday))[: int(self.joined * len(everyday))]:
            other = everyday[int(random.integers(len(everyday)))]
            if (long := joined(everyday[int(i)], other, random)) is not None:
                shown.append(long)
        return shown


_ENDS = str.maketrans(".?!", "。？！")
