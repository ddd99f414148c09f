"""TranslateService through gRPC: it finds what a search in torch without a cache finds, however it is batched."""

from __future__ import annotations

import asyncio
import csv
import itertools
import logging
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import opencc
import pytest
import torch
from tokenizers import Tokenizer

import lectern
import lectern.aio
from artifacts.card import DataSource, Metric, TranslationPreprocessing
from artifacts.carrying import STAND_INS, Names, reading
from lectern.v1 import translate_pb2 as pb
from lectern.v1.translate_pb2_grpc import TranslateServiceStub
from services.translate.loops import without_loops
from services.translate.script import simplified_parts
from services.translate.sentences import Reader, split
from tests.conftest import SLIVERS, Server, serving
from tests.runtime.test_triton import free_ports, triton
from tests.services.test_classify import failure
from tests.waiting import WAIT, wait_until
from training.export.version import write_version
from training.methods.tokens import END_ID, byte_pair_encoding
from training.recipes import translator_en_zh as recipe
from training.recipes.translator_en_zh import FAST, Translator
from training.trained import Trained

LONG = "and it came to pass that " * 18  # some 110 tokens


WITHOUT_STAND_INS = dict.fromkeys(map(ord, STAND_INS))  # such as no sentence here gives a meaning


@dataclass
class Reference:
    """The network that is served, in torch, with its tokenizers."""

    net: Translator
    source: Tokenizer
    target: Tokenizer
    sentences: list[str]
    repository: Path

    def search(self, text: str, size: int) -> list[tuple[str, float]]:
        (hypotheses,) = recipe.search(self.net, [self.source.encode(text).ids], size)
        best: dict[str, float] = {}
        for hypothesis in hypotheses:  # best first; some read alike
            best.setdefault(self.target.decode(hypothesis.tokens).translate(WITHOUT_STAND_INS), hypothesis.score)
        return list(best.items())

    def answered(self, text: str, size: int) -> list[tuple[str, float]]:
        """What the server makes of it: those that repeat themselves last, and once what they repeat."""
        ordered = sorted(self.search(text, size), key=lambda pair: without_loops(pair[0], text) != pair[0])
        return [(without_loops(written, text), score) for written, score in ordered]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Random weights, so that no two sentences are alike and some end early: a sliver trains none that say much."""
    with (SLIVERS / "translator_en_zh.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    source = byte_pair_encoding([row[1] for row in rows], 400, lowercase=True, whole=STAND_INS)
    target = byte_pair_encoding([row[2] for row in rows], 900, ends=False, whole=STAND_INS)
    words = {word.lower() for row in rows for word in re.findall(r"\w+", row[1])} - {"tom"}
    names = Names({"Tom": "湯姆"}, frozenset(words))
    torch.manual_seed(0)
    net = Translator(replace(FAST, heads=2), source.get_vocab_size(), target.get_vocab_size()).eval()
    with torch.no_grad():
        net.target.weight.mul_(2)
        net.target.weight[END_ID].mul_(1.8)
        for layer in net.decoder:  # what is written depends much on what is read
            layer.memory_attention.output.weight.mul_(8)
            layer.memory_attention.query.weight.mul_(8)
    repository = tmp_path_factory.mktemp("repository")
    entry = DataSource(source="none", version="1", sha256="0" * 64, licence="", train=0, validation=0, test=0)
    trained = Trained(
        title="Random translator",
        lecture="HW5",
        capability="translate",
        task="machine translation",
        description="Of random weights.",
        graphs=recipe.graphs(net),
        preprocessing=TranslationPreprocessing(
            source="english.json",
            target="chinese.json",
            names="names.json",
            max_tokens=recipe.LONGEST,
            script="Hant",
        ),
        assets={
            "english.json": source.to_str().encode(),
            "chinese.json": target.to_str().encode(),
            "names.json": names.content(),
        },
        decision={"beam_size": 4.0, "length_penalty": 1.0},
        metrics=(Metric(name="bleu", value=0, split="test", n=1),),
        data=(entry,),
        device="",
        parameters=0,
    )
    logging.disable()  # pytest collects thousands of lines that the exporter writes for itself
    write_version("translator_en_zh", trained, repository, "", 0, 0)
    other = replace(trained, preprocessing=trained.preprocessing.model_copy(update={"script": None}))
    write_version("translator_en_de", other, repository, "", 0, 0)
    logging.disable(logging.NOTSET)
    whole = [row[1] for row in rows if not any(stop in row[1][:-1] for stop in ".!?\n")]
    sentences = [sentence for sentence in whole if not reading(sentence, names).meanings]
    return Reference(net, source, target, sentences, repository)


@pytest.fixture(scope="module")
def translating(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "translate", repository=reference.repository) as server:
        yield server


@pytest.fixture(scope="module")
def client(translating: Server) -> Iterator[lectern.Client]:
    with lectern.Client(translating.target, timeout=WAIT) as client:
        yield client


def tokens_chosen(server: Server) -> int:
    """Rows of all decode steps by now."""
    with urllib.request.urlopen(f"{server.metrics_url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return round(sum(float(line.split()[-1]) for line in lines if line.startswith("lectern_decode_tokens_total{")))


def rests(server: Server) -> bool:
    """Whether it takes no decode steps: one takes some milliseconds."""
    before = tokens_chosen(server)
    time.sleep(0.5)
    return tokens_chosen(server) == before


def test_greedy_translations_are_those_of_torch(client: lectern.Client, reference: Reference) -> None:
    sentences = reference.sentences[:180]
    assert len(sentences) == 180
    results = client.translate(sentences, beam_size=1).results
    translated = [result.translations[0].text for result in results]
    assert translated == [reference.answered(sentence, 1)[0][0] for sentence in sentences]
    assert len(set(translated)) > 80  # of which many loop, and say once what they repeat


@pytest.mark.parametrize("size", [2, 4, 8])
def test_beams_find_what_torch_finds_with_its_scores(client: lectern.Client, reference: Reference, size: int) -> None:
    sentences = reference.sentences[:16]
    for sentence, result in zip(
        sentences, client.translate(sentences, beam_size=size, count=size).results, strict=True
    ):
        expected = reference.answered(sentence, size)
        assert [t.text for t in result.translations] == [text for text, _ in expected]
        assert [t.score for t in result.translations] == pytest.approx([score for _, score in expected], abs=1e-3)


async def test_answers_do_not_depend_on_who_shares_their_steps(translating: Server, reference: Reference) -> None:
    asked = [(sentence, i % 8 + 1) for i, sentence in enumerate(reference.sentences[:24])]
    async with lectern.aio.Client(translating.target, timeout=WAIT) as client:
        together = await asyncio.gather(*(client.translate(text, beam_size=size) for text, size in asked))
        for (text, size), response in zip(asked, together, strict=True):
            (alone,) = (await client.translate(text, beam_size=size)).results
            assert alone.translations[0].text == response.results[0].translations[0].text


async def test_a_long_text_comes_and_goes_beside_short_ones(translating: Server, reference: Reference) -> None:
    """Its end leaves them with less room for their keys and values, and with what these hold."""
    asked = reference.sentences[:12]
    async with lectern.aio.Client(translating.target, timeout=WAIT) as client:

        async def translated(text: str) -> str:
            return (await client.translate(text, beam_size=1)).results[0].translations[0].text

        alone = {text: await translated(text) for text in (LONG, *asked)}

        async def keep_asking(start: int) -> None:
            for i in itertools.count(start):
                last = long.done()
                text = asked[i % len(asked)]
                assert await translated(text) == alone[text]
                if last:
                    return

        for _ in range(3):
            long = asyncio.create_task(translated(LONG))
            await asyncio.gather(*(keep_asking(i) for i in range(8)))
            assert await long == alone[LONG]


async def test_a_late_short_request_does_not_wait_for_a_long_one(translating: Server) -> None:
    async with lectern.aio.Client(translating.target, timeout=WAIT) as client:
        long = asyncio.create_task(client.translate([LONG] * 4, beam_size=8))
        await asyncio.sleep(0.05)
        await client.translate("I can cook.", beam_size=1)
        assert not long.done()
        await long


def test_the_first_tokens_of_a_stream_come_within_three_steps(client: lectern.Client, reference: Reference) -> None:
    sentence = reference.sentences[5]
    streams = [list(client.stream_translate(sentence)) for _ in range(10)]
    (hypotheses,) = recipe.search(reference.net, [reference.source.encode(sentence).ids], 1)
    beginnings = [reference.target.decode(hypotheses[0].tokens[:count]) for count in (1, 2, 3)]
    # A step of this small net takes less than a busy machine needs to wake who waits for it.
    assert any(responses[0].text in beginnings for responses in streams)
    for responses in streams:
        for before, after in itertools.pairwise(responses):
            assert after.text.startswith(before.text)
        assert [r.final for r in responses] == [False] * (len(responses) - 1) + [True]
        assert responses[-1].text == reference.target.decode(hypotheses[0].tokens)


def test_a_stream_that_is_cancelled_frees_its_rows(translating: Server) -> None:
    with grpc.insecure_channel(translating.target) as channel:
        stream = TranslateServiceStub(channel).StreamTranslate(pb.StreamTranslateRequest(text=LONG, beam_size=8))
        next(stream)
        stream.cancel()
    wait_until(lambda: rests(translating))
    with lectern.Client(translating.target, timeout=WAIT) as client:
        client.translate("I can cook.", beam_size=1)


def test_a_deadline_ends_the_search(translating: Server) -> None:
    with lectern.Client(translating.target, timeout=WAIT) as client:
        with pytest.raises(lectern.LecternError) as caught:
            client.translate([LONG] * 8, beam_size=8, timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: rests(translating))


class CountingTokenizer:
    """Counts the characters that it reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.characters = tokenizer, 0

    def encode(self, text: str) -> Any:
        self.characters += len(text)
        return self._tokenizer.encode(text)


@pytest.mark.unit
@pytest.mark.parametrize("text", ["a" * 20_000, "word " * 4_000, "a b c d, and " * 1_500])
def test_a_long_text_is_not_read_again_for_each_piece(text: str) -> None:
    tokenizer = CountingTokenizer(byte_pair_encoding([text[:100]], 300))
    split(text, Reader(Names(), tokenizer, 100))  # type: ignore[arg-type]
    assert tokenizer.characters <= 25 * len(text)


def test_a_text_is_translated_sentence_by_sentence(client: lectern.Client) -> None:
    text = "Mr. Smith can cook. “Can he?” she said!\n\nNo, e.g. not well; " + "he burns it, " * 150 + "always"
    (result,) = client.translate(text).results
    (translation,) = result.translations
    spans = [text[s.source_start : s.source_end] for s in translation.sentences]
    assert spans[:2] == ["Mr. Smith can cook.", "“Can he?” she said!"]
    assert "".join("".join(spans).split()) == "".join(text.split())
    assert len(spans) > 3
    parts = [s.text for s in translation.sentences]
    assert translation.text == f"{parts[0]}{parts[1]}\n\n{''.join(parts[2:])}"
    assert translation.score == pytest.approx(sum(s.score for s in translation.sentences) / len(parts))


def test_alignment_names_the_parts_of_the_source(client: lectern.Client) -> None:
    text = "  He can't cook café food."
    (sentence,) = client.translate(text, alignment=True).results[0].translations[0].sentences
    assert "".join(token.text for token in sentence.source_tokens) == text.replace(" ", "").strip()
    assert all(text[t.start : t.end] == t.text for t in sentence.source_tokens)
    assert without_loops("".join(token.text for token in sentence.tokens), text) == sentence.text
    for token in sentence.tokens:
        assert len(token.attention) == len(sentence.source_tokens)
        assert 0 < sum(token.attention) <= 1.001


def test_translations_and_their_tokens_come_in_simplified_characters(client: lectern.Client) -> None:
    text = "He can cook: https://example.org/書, and 12 books."
    assert client.translate(text, script="hant") == client.translate(text)
    traditional, simple = (
        client.translate(text, beam_size=4, alignment=True, script=script).results[0].translations[0]
        for script in ("hant", "hans")
    )
    assert simple.text == opencc.OpenCC("tw2s").convert(traditional.text).replace("书", "書") != traditional.text
    tokens, originals = simple.sentences[0].tokens, traditional.sentences[0].tokens
    assert [len(token.text) for token in tokens] == [len(token.text) for token in originals]
    assert [token.attention for token in tokens] == [token.attention for token in originals]
    *_, final = client.stream_translate(text, beam_size=4)
    *_, streamed = client.stream_translate(text, beam_size=4, script="hans")
    assert streamed.text == opencc.OpenCC("tw2s").convert(final.text).replace("书", "書")


@pytest.mark.unit
def test_a_token_is_converted_as_its_neighbours_ask_for() -> None:
    assert simplified_parts(["他瞭", "解乾", "坤，", "乾淨的", "", "衣服"]) == [
        "他了",
        "解乾",
        "坤，",
        "干净的",
        "",
        "衣服",
    ]


@pytest.mark.parametrize("text", ["مرحبا", "他說 hello", "a\u0301", "x" * 3000])
def test_any_text_has_an_answer(client: lectern.Client, text: str) -> None:
    assert client.translate(text, beam_size=1).results[0].translations[0].sentences


@pytest.mark.parametrize("text", ["🎉", "<unk> </s> <pad>", "https://www.example.org/a?b=1", "", " "])
def test_what_has_no_words_comes_back_as_it_is(client: lectern.Client, text: str) -> None:
    (translation,) = client.translate(text).results[0].translations
    assert translation.text == text.strip()
    assert not translation.sentences
    (streamed,) = client.stream_translate(text)
    assert (streamed.text, streamed.final) == (text.strip(), True)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "He can cook: https://example.org/cook?a=1, and joe@mail.example.",
            ["https://example.org/cook?a=1", "joe@mail.example"],
        ),
        ("{name} can cook %s.", ["{name}", "%s"]),
        ("<p>He can <b>cook</b>.</p><p>🎉</p>", ["<p>", "<b>cook</b>", "</p><p>🎉</p>"]),
        ("Call 415-555-0132 at 7:45.", ["415-555-0132", "7:45"]),
        ("Tom can cook for Zbigniew in 1999.", ["湯姆", "Zbigniew", "1999年"]),
    ],
)
def test_addresses_tags_placeholders_numbers_and_names_are_kept(
    client: lectern.Client, text: str, kept: list[str]
) -> None:
    written = client.translate(text).results[0].translations[0].text
    *_, streamed = client.stream_translate(text)
    for part in kept:
        assert part in written
    assert kept[-1] in streamed.text


def test_a_streamed_text_keeps_its_lines(client: lectern.Client) -> None:
    text = "\nI like tea.\n\nShe can cook. He is here.\n"
    written = client.translate(text).results[0].translations[0].text
    streamed = "".join(part.text for part in client.stream_translate(text) if part.final)
    for translation in (written, streamed):
        assert [line != "" for line in translation.split("\n")] == [True, False, True]


def test_letters_of_any_width_read_alike(client: lectern.Client) -> None:
    plain, wide = client.translate(["Tom can cook.", "Ｔｏｍ　ｃａｎ　ｃｏｏｋ．"]).results
    assert plain.translations[0].text == wide.translations[0].text


def test_a_long_sentence_is_translated_clause_by_clause(client: lectern.Client) -> None:
    clauses = [
        "He can cook and she can cook all day long, ",
        "but they say that we can not cook a thing, ",
        "because we burn all the food that we have.",
    ]
    (translation,) = client.translate("".join(clauses)).results[0].translations
    spans = [slice(s.source_start, s.source_end) for s in translation.sentences]
    assert ["".join(clauses)[span] for span in spans] == [clause.strip() for clause in clauses]
    assert all(s.text.endswith("，") for s in translation.sentences[:-1])


def test_what_repeats_itself_is_said_once() -> None:
    assert without_loops("票票票250美元", "The ticket costs 250 dollars.") == "票250美元"
    assert without_loops("哈哈哈！", "Ha ha ha!") == "哈哈哈！"
    assert without_loops("看看書", "Read a book.") == "看看書"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.TranslateRequest(), "texts"),
        (pb.TranslateRequest(texts=["hi"] * 257), "texts"),
        (pb.TranslateRequest(texts=["x" * (128 * 1024 + 1)]), "texts[0]"),
        (pb.TranslateRequest(texts=["Hi. " * 600]), "texts"),
        (pb.TranslateRequest(texts=["hi"], beam_size=9), "beam_size"),
        (pb.TranslateRequest(texts=["hi"], beam_size=2, count=3), "count"),
        (pb.TranslateRequest(texts=["hi"], length_penalty=-1), "length_penalty"),
        (pb.TranslateRequest(texts=["hi"], length_penalty=float("nan")), "length_penalty"),
        (pb.TranslateRequest(texts=["hi"], model="none"), "model"),
        (pb.TranslateRequest(texts=["hi"], script=7), "script"),  # type: ignore[arg-type]
        (pb.TranslateRequest(texts=["hi"], model="translator_en_de", script=pb.SCRIPT_HANS), "script"),
        (pb.TranslateRequest(texts=["hi"], model="translator_en_de", script=pb.SCRIPT_HANT), "script"),
    ],
)
def test_bad_requests_name_the_field(translating: Server, request_: pb.TranslateRequest, field: str) -> None:
    with grpc.insecure_channel(translating.target) as channel:
        stub = TranslateServiceStub(channel)
        code, _, fields = failure(lambda: stub.Translate(request_, timeout=WAIT))
    expected = grpc.StatusCode.NOT_FOUND if field == "model" else grpc.StatusCode.INVALID_ARGUMENT
    assert (code, fields) == (expected, [field])


def test_triton_finds_the_same(
    client: lectern.Client, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("triton")
    arguments = ("translate", "--engine", "triton", "--triton-url")
    with (
        triton(free_ports(3), directory / "triton.log", reference.repository) as url,
        serving(directory, *arguments, url, repository=reference.repository) as beside,
        lectern.Client(beside.target, timeout=WAIT) as remote,
    ):
        for size in (1, 4):
            sentences = reference.sentences[:12]
            theirs, ours = (c.translate(sentences, beam_size=size).results for c in (remote, client))
            assert [r.translations[0].text for r in theirs] == [r.translations[0].text for r in ours]
            scores = [r.translations[0].score for r in ours]
            assert [r.translations[0].score for r in theirs] == pytest.approx(scores, abs=1e-3)
