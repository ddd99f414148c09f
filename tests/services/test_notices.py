"""What is answered with a reservation says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lectern
from lectern.v1 import notice_pb2 as pb
from services.codecs.language import not_english
from tests.conftest import EXPORTED, SLIVERS, Server, serving
from tests.lectern.test_cli import invoke

FOREIGN = [
    ("你好,我的朋友。今天天气很好。", "Chinese characters"),
    ("こんにちは、元気ですか。", "Japanese"),
    ("안녕하세요", "Korean"),
    ("Привет, как дела?", "Cyrillic letters"),
    ("Καλημέρα, τι κάνεις;", "Greek letters"),
    ("مرحبا كيف حالك", "Arabic letters"),
    ("Bonjour, comment allez-vous ?", "French"),
    ("Das ist ein schönes Haus.", "German"),
    ("¿Dónde está la biblioteca?", "Spanish"),
    ("Dzień dobry, jak się masz?", "Polish"),
]
ENGLISH = [
    "I can cook.",
    "Hello",
    "Zoë went to the café.",
    "The word 你好 means hello.",
    "Halhul, Beth Zur, Gedor,",
    "O earth, earth, earth!",
    "12345",
    "😀",
    "",
    "print('hello')",
]


@pytest.mark.parametrize(("text", "looks"), FOREIGN)
def test_another_language_is_recognised(text: str, looks: str) -> None:
    assert not_english(text) == looks


@pytest.mark.parametrize("text", ENGLISH)
def test_english_and_what_has_no_language_is_left_alone(text: str) -> None:
    assert not_english(text) is None


def test_english_sentences_are_not_suspected() -> None:
    rows = [line.split("\t") for line in (SLIVERS / "translator_en_zh.tsv").read_text().splitlines()]
    assert [row[1] for row in rows if not_english(row[1])] == []
    assert all(not_english(row[2]) == "Chinese characters" for row in rows)
    reviews = json.loads((SLIVERS / "sentiment_classifier.json").read_text())
    assert [item for item in reviews if not_english(next(part for part in item if isinstance(part, str)))] == []


def test_a_translation_of_no_english_says_so(server: Server) -> None:
    with lectern.Client(server.target) as client:
        foreign, english = client.translate([FOREIGN[0][0], "I can cook."]).results
        (notice,) = foreign.notices
        assert (notice.code, notice.field) == (pb.NOTICE_CODE_LANGUAGE, "texts[0]")
        assert "does not look like English, which translator_en_zh reads, but like Chinese characters" in notice.text
        assert not english.notices
        first, *others = client.stream_translate(FOREIGN[6][0])
        assert [notice.field for notice in first.notices] == ["text"]
        assert not any(response.notices for response in others)


def test_classes_of_no_english_say_so(server: Server) -> None:
    with lectern.Client(server.target) as client:
        english, foreign = client.classify_text(["What a lovely film!", FOREIGN[7][0]]).results
    assert not english.notices
    assert {notice.field for notice in foreign.notices} == {"texts[1]"}
    assert pb.NOTICE_CODE_LANGUAGE in [notice.code for notice in foreign.notices]


def test_an_improbable_class_says_that_the_model_is_unsure(tmp_path: Path) -> None:
    repository = tmp_path / "exported"
    for name in ("text_encoder", "sentiment_classifier"):
        shutil.copytree(EXPORTED / name, repository / name)
    (path,) = repository.glob("sentiment_classifier/*/card.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": {"unsure": 0.999}}))
    with serving(tmp_path, "classify", repository=repository) as server, lectern.Client(server.target) as client:
        results = client.classify_text(["Great!", "It is a film.", "The plot is fine, the end is not."]).results
    for i, result in enumerate(results):
        unsure = result.classes[0].probability < 0.999
        assert [(n.code, n.field) for n in result.notices] == (
            [(pb.NOTICE_CODE_UNSURE, f"texts[{i}]")] if unsure else []
        )
    assert any(result.notices for result in results)


@pytest.mark.parametrize("arguments", [("translate",), ("translate", "--stream"), ("classify", "--text")])
def test_the_command_line_prints_notices_beside_the_answer(server: Server, arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments, FOREIGN[6][0], target=server.target)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr.decode().startswith("note: text")
    assert "but like French" in done.stderr.decode()
    assert invoke(*arguments, "What a lovely film!", target=server.target).stderr == b""
