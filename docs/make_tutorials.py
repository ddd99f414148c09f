"""Write the figures of docs/tutorials/ from the cards of the served models: `make docs`.

The rest of these pages is written by hand. A mark names a model and its figures; a table stands between it and its end.
"""

from __future__ import annotations

import re
from pathlib import Path

from artifacts.card import Card
from artifacts.versions import served_cards

FOLDER = Path(__file__).with_name("tutorials")
BLOCK = re.compile(r"(<!-- figures: (?P<model>\w+) (?P<metrics>[\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {
    "en": "| figure | value | 95 % interval | simpler methods |",
    "zh": "| 指標 | 結果 | 95% 信賴區間 | 較簡單的方法 |",
}


TO = {"en": " to ", "zh": " 至 "}


def pages() -> dict[Path, str]:
    """The text of each tutorial with the figures that the cards have now."""
    cards = {card.name: card for card in served_cards(FOLDER.parents[1] / "exported")}
    return {path: page(path.read_text(), cards, language_of(path)) for path in sorted(FOLDER.glob("*.md"))}


def language_of(path: Path) -> str:
    """`zh` of a translated page, else `en`."""
    return "zh" if path.name.endswith(".zh-TW.md") else "en"


def page(text: str, cards: dict[str, Card], language: str) -> str:
    """A page with its tables written anew.

    Raises:
        KeyError: a mark names a figure that there is not.
    """

    def block(match: re.Match[str]) -> str:
        if match["model"] not in cards:  # a repository without the course's models keeps what is written
            return match[0]
        rows = [row(cards[match["model"]], name, language) for name in match["metrics"].split()]
        return f"{match[1]}{HEADS[language]}\n| --- | --- | --- | --- |\n{''.join(rows)}{match[4]}"

    return BLOCK.sub(block, text)


def row(card: Card, name: str, language: str) -> str:
    """One figure of the test split, beside what simpler methods reach."""
    metric = {metric.name: metric for metric in card.metrics if metric.split == "test"}[name]
    simpler = "; ".join(f"{b.name}: {b.value:.4g}" for b in card.baselines if b.metric == name)
    interval = metric.interval_text.replace(" to ", TO[language])
    return f"| `{name}` | {metric.value:.4g} | {interval} | {simpler} |\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
