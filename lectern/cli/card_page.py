"""A model's card as a page for people, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lectern.cli.cards import main_metric
from lectern.cli.listing import Document

WORST = 5  # classes that are shown
SHA_DIGITS = 12
VERSION_CHARACTERS = 12  # of the data's version, which may be a commit
NUMBERS = {"value", "n", "f1", "precision", "recall", "train", "validation", "test", "severity"}  # columns
STATES = {"ready": "green", "unavailable": "red"}


def card_page(document: Document, version: Document) -> RenderableType:
    """The whole page about a version of a model.

    Args:
        document, version: as of `lectern.cli.listing`.
    """
    card: Document = version["card"]
    parts: list[RenderableType] = [_title(document, version)]
    if not card:
        reason = version["reason"] or "it answers the Open Inference Protocol alone"
        return Group(*parts, Text(f"\nIt has no card: {reason}"))
    parts += [Text(f"\n{card['description']}")]
    for heading, content in _sections(document, card):
        parts += [Text(f"\n{heading}", style="bold"), Padding(content, (0, 0, 0, 2))]
    return Group(*parts)


def brief(document: Document, version: Document) -> RenderableType:
    """A model in a few lines: what it does, how well, and what it is for."""
    card: Document = version["card"]
    lines: list[RenderableType] = [_title(document, version)]
    if card:
        lines.append(Padding(Text(card["description"]), (0, 0, 0, 2)))
    if figure := main_metric(card):
        lines.append(Padding(Text(figure, style="cyan"), (0, 0, 0, 2)))
    return Group(*lines)


def _title(document: Document, version: Document) -> Text:
    """Title, name, version, lecture, capability and state, on two lines."""
    names = [f"{document['name']} {version['version']}", document["lecture"], document["capability"]]
    state = version["state"] + (f": {version['reason']}" if version["reason"] else "")
    return Text.assemble(
        (document["title"] or document["name"], "bold"),
        "\n",
        (" · ".join(name for name in names if name), "dim"),
        (" · ", "dim"),
        (state, STATES.get(version["state"], "dim")),
    )


def _sections(document: Document, card: Document) -> Iterator[tuple[str, RenderableType]]:
    """The heading and the content of each part that the card has."""
    if limits := card.get("limits"):
        yield "What it is for", Text(limits["intended"])
        yield "Where it fails", Group(*(_bullet(failure) for failure in limits["failures"]))
    if card.get("metrics"):
        yield "How good it is", _figures(card)
    if card.get("per_class"):
        yield _worst_heading(card), _worst_classes(card)
    if card.get("robustness"):
        yield "Under corruption", _plain(card["robustness"], ("corruption", "severity", "metric", "value"))
    if calibration := card.get("calibration"):
        gap = f"{calibration['error']:.3g} between confidence and accuracy, over {len(calibration['bins'])} bins"
        yield "Calibration", Text(gap)
    if card.get("data"):
        sources = ({**source, "version": source["version"][:VERSION_CHARACTERS]} for source in card["data"])
        yield "Data", _plain(sources, ("source", "version", "licence", "train", "validation", "test"))
    if training := card.get("training"):
        yield "Training", _pairs(_training(training, card.get("parity")))
    yield "Input", _pairs(_input(card))
    if len(document["versions"]) > 1:
        yield "Versions", _versions(document)
    yield "Files", _files(card["files"])
    further = [f"“{table['title']}”" for table in (*card.get("tables", ()), *card.get("figures", ()))]
    if further:
        text = "docs/models.md shows its tables and pictures: "
        yield "More", Text(text + ", ".join(further))


def _figures(card: Document) -> Table:
    """Each metric with its interval, its target and whether that is met; below it, what is simpler."""
    table = _table("metric", "value", "95 % interval", "target", "n", "split")
    for metric in card["metrics"]:
        interval = "{:.4g} to {:.4g}".format(*metric["interval"]) if metric.get("interval") else ""
        table.add_row(
            metric["name"], f"{metric['value']:.4g}", interval, _target(metric), f"{metric['n']:,}", metric["split"]
        )
        if metric["split"] != "test":
            continue
        for baseline in card["baselines"]:
            if baseline["metric"] == metric["name"]:
                table.add_row(f"  {baseline['name']}", f"{baseline['value']:.4g}", "", "", "", "", style="dim")
    return table


def _target(metric: Document) -> Text:
    target = metric.get("target")
    if target is None:
        return Text("")
    at_most = metric.get("at_most", False)
    is_met = metric["value"] <= target if at_most else metric["value"] >= target
    mark, style = ("met", "green") if is_met else ("missed", "red")
    return Text(f"{'≤' if at_most else '≥'} {target:.4g} {mark}", style)


def _worst_heading(card: Document) -> str:
    classes = len(card["per_class"])
    return "Each class" if classes <= WORST else f"The {WORST} worst of {classes} classes"


def _worst_classes(card: Document) -> Table:
    worst = sorted(card["per_class"], key=lambda scores: float(scores["f1"]))[:WORST]
    return _plain(worst, ("label", "f1", "precision", "recall", "n"))


def _training(training: Document, parity: Document | None) -> dict[str, str]:
    hours, seconds = divmod(round(training["seconds"]), 3600)
    lasted = f"{hours} h {seconds // 60} min" if hours else f"{seconds // 60} min {seconds % 60} s"
    pairs = {
        "command": training["command"],
        "took": f"{lasted} on {training['device']}",
        "parameters": f"{training['parameters']:,}",
        "commit": training["commit"],
    }
    if parity:
        reason = f": {parity['reason']}" if parity.get("reason") else ""
        pairs["export"] = f"differs from torch by {parity['max_abs_diff']:.1e} at most{reason}"
    return pairs


def _input(card: Document) -> dict[str, str]:
    """What the model takes, one line for each thing that is short; and its labels."""
    takes = sorted(card["preprocessing"].items(), key=lambda pair: pair[0] != "kind")
    pairs = {key.replace("_", " "): _short(value) for key, value in takes if value is not None}
    if card.get("labels"):
        pairs["labels"] = _short(card["labels"])
    return pairs


def _short(value: Any, most: int = 12) -> str:
    if not isinstance(value, list):
        return str(value)
    more = f" … {len(value)} in all" if len(value) > most else ""
    return ", ".join(map(str, value[:most])) + more


def _versions(document: Document) -> Table:
    table = _table("version", "state", "test metric")
    for one in document["versions"]:
        table.add_row(str(one["version"]), Text(one["state"], STATES.get(one["state"], "")), main_metric(one["card"]))
    return table


def _files(files: dict[str, str]) -> Table:
    table = _table("file", "sha256")
    for path, digest in files.items():
        table.add_row(path, f"{digest[:SHA_DIGITS]}…")
    return table


def _plain(entries: Iterable[Document], columns: tuple[str, ...]) -> Table:
    """A row for each entry, of these of its fields."""
    table = _table(*columns)
    for entry in entries:
        table.add_row(*(_number(entry[column]) for column in columns))
    return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _pairs(pairs: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in NUMBERS else "left")
    return table


def _bullet(text: str) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("-", text)
    return table
