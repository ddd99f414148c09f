"""Tokens a second of two models, on Lectern and on other engines with the same weights.

fp32, one thread each, at 1, 4 and 16 callers; translations are greedy, poems drawn. Lectern's callers send a request
each over gRPC and another as soon as it is answered; CTranslate2 and onnxruntime-genai are called in this process with
as many texts as callers in a batch, which is the most that they could do behind any server. Writes
docs/benchmarks/decoding.md.
"""

from __future__ import annotations

import asyncio
import csv
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import lectern.aio
from benchmarks.options import EXPORTED, ROOT, Options, written_by
from benchmarks.servers import Contestant, running
from benchmarks.weights import POET, TRANSLATOR, named_weights, tokenizer_of
from training.methods.tokens import START
from training.recipes.poem_generator import BODY

CALLERS = (1, 4, 16)
SECONDS, ROUNDS = 5, 3
FORM = "七言律詩"
PROMPT = [START, f"<{FORM}>", BODY]
TOP_P = 0.9
MOST_TOKENS = 80
Peer = Callable[[range], int]
LIKE_FOR_LIKE = """\
Like for like: the same float32 weights, the likeliest token or a draw by the same top-p, texts of at most the same
length, the end counted as a token. Not alike: the others read all texts of a batch at once and go on until the longest
ends, and pay neither for tokens of text nor for a server. Lectern's callers come one by one, a text that ends gives
its row to the next, and client and event loop run beside the decoding thread on the other core. CTranslate2 may draw
marks such as `<body>`, which Lectern never does."""
OURS, CT2, GENAI = "Lectern", "CTranslate2", "onnxruntime-genai"


@dataclass(frozen=True)
class Writer:
    """A model that writes token by token.

    Args:
        ask: makes the request of a number, and returns the text.
        peers: by engine, makes a function that lets it answer requests of these numbers, and counts the tokens, the end
            of each text included, as Lectern counts.
    """

    model: str
    capability: str
    ask: Callable[[lectern.aio.Client, int], Awaitable[str]]
    peers: dict[str, Callable[[Path], Peer]]


def run(options: Options) -> None:
    """Measure both in turns, and write the medians; in brief, Lectern alone."""
    seconds, rounds = options.seconds_or(SECONDS), options.rounds_or(ROUNDS)
    callers_of = CALLERS[1:2] if options.brief else CALLERS
    speeds: dict[tuple[str, str, int], list[float]] = {}
    for writer in (translator(), poet()):
        with tempfile.TemporaryDirectory() as directory:
            peers = {} if options.brief else {e: make(Path(directory)) for e, make in writer.peers.items()}
            for callers in [callers for _ in range(rounds) for callers in callers_of]:
                contestant = Contestant("Lectern", "lectern", arguments=(writer.capability,))
                with running(contestant, EXPORTED, [writer.model]) as server:
                    asyncio.run(check(writer, server.target, callers))
                    speed = asyncio.run(lectern_speed(writer, server.target, server.metrics_url, callers, seconds))
                now = {OURS: speed} | {e: peer_speed(peer, callers, seconds) for e, peer in peers.items()}
                for engine, speed in now.items():
                    speeds.setdefault((writer.model, engine, callers), []).append(speed)
                print(f"{writer.model}, {callers} callers: {now}", flush=True)
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    options.write("decoding.md", report(medians, rounds))


def translator() -> Writer:
    """Sentences of all three domains, greedy."""
    with (ROOT / "training" / "data" / "slivers" / f"{TRANSLATOR}.tsv").open(newline="") as file:
        sentences = [row[1] for row in csv.reader(file, delimiter="\t")]

    async def ask(client: lectern.aio.Client, number: int) -> str:
        response = await client.translate(sentences[number % len(sentences)], beam_size=1)
        return response.results[0].translations[0].text

    def ct2_peer(directory: Path) -> Peer:
        from benchmarks import ct2

        engine = ct2.translator(EXPORTED, directory)
        encodings = tokenizer_of(EXPORTED, TRANSLATOR, "english").encode_batch(sentences)
        tokens = [encoding.tokens for encoding in encodings]

        def answer(numbers: range) -> int:
            batch = [tokens[number % len(tokens)] for number in numbers]
            most = max(2 * len(text) + 10 for text in batch)
            results = engine.translate_batch(batch, beam_size=1, max_decoding_length=most)
            return sum(len(result.hypotheses[0]) + 1 for result in results)

        return answer

    return Writer(TRANSLATOR, "translate", ask, {CT2: ct2_peer})


def poet() -> Writer:
    """Poems of eight lines of seven characters each."""

    async def ask(client: lectern.aio.Client, number: int) -> str:
        parts = client.generate_text(form=FORM, top_p=TOP_P, max_tokens=MOST_TOKENS, seed=number)
        return "".join([part.text async for part in parts])

    def ct2_peer(directory: Path) -> Peer:
        from benchmarks import ct2

        engine = ct2.poet(EXPORTED, directory)

        def answer(numbers: range) -> int:
            results = engine.generate_batch(
                [PROMPT for _ in numbers],
                max_length=MOST_TOKENS,
                sampling_topk=0,
                sampling_topp=TOP_P,
                include_prompt_in_result=False,
                disable_unk=True,
            )
            return sum(len(result.sequences_ids[0]) + 1 for result in results)

        return answer

    def genai_peer(directory: Path) -> Peer:
        from benchmarks import genai

        model = genai.poet(named_weights(EXPORTED, POET), directory)
        tokenizer = tokenizer_of(EXPORTED, POET, "characters")
        prompt = [tokenizer.token_to_id(token) for token in PROMPT]
        return lambda numbers: sum(map(len, genai.draw(model, [prompt for _ in numbers], TOP_P, MOST_TOKENS)))

    return Writer(POET, "generate", ask, {CT2: ct2_peer, GENAI: genai_peer})


async def check(writer: Writer, target: str, callers: int) -> None:
    """See that callers at once get what each gets alone.

    Raises:
        RuntimeError: one does not, or gets nothing.
    """
    async with lectern.aio.Client(target, timeout=60) as client:
        together = await asyncio.gather(*(writer.ask(client, i) for i in range(callers)))
        for i, text in enumerate(together):
            if not text or text != (alone := await writer.ask(client, i)):
                raise RuntimeError(f"{writer.model}: request {i} gets {text!r} among {callers}, {alone!r} alone")


async def lectern_speed(writer: Writer, target: str, metrics_url: str, callers: int, seconds: float) -> float:
    """Tokens a second of so many callers over gRPC."""

    async def call(client: lectern.aio.Client, number: int) -> None:
        while time.monotonic() < end:
            number += callers
            await writer.ask(client, number)

    async with lectern.aio.Client(target) as client:
        end = time.monotonic() + 1  # to warm up
        await asyncio.gather(*(call(client, i) for i in range(callers)))
        before, started = tokens_chosen(metrics_url), time.monotonic()
        end = started + seconds
        await asyncio.gather(*(call(client, i) for i in range(callers)))
        return (tokens_chosen(metrics_url) - before) / (time.monotonic() - started)


def tokens_chosen(metrics_url: str) -> float:
    with urllib.request.urlopen(metrics_url) as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("lectern_decode_tokens_total{"))


def peer_speed(answer: Callable[[range], int], callers: int, seconds: float) -> float:
    """Tokens a second of an engine in this process."""
    answer(range(callers))  # to warm up
    written, number, started = 0, 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        written += answer(range(number, number + callers))
        number += callers
    return written / elapsed


def report(medians: dict[tuple[str, str, int], float], rounds: int) -> str:
    titles = " | ".join(f"{callers} callers" if callers > 1 else "1 caller" for callers in CALLERS)
    lines = [
        "# Decoding",
        "",
        f"{written_by()}, CTranslate2 {metadata.version('ctranslate2')}, onnxruntime-genai "
        f"{metadata.version('onnxruntime-genai')}: tokens a second, fp32, one thread, medians of {rounds} rounds in "
        "turns. Lectern is called over gRPC by so many callers at once, the others in their own process with as many "
        f"texts in a batch. Translations are greedy, poems are drawn with top-p {TOP_P}. In brackets, Lectern's share "
        "of it.",
        "",
        LIKE_FOR_LIKE,
        "",
        f"| model | engine | {titles} |",
        "| --- | --- |" + " ---: |" * len(CALLERS),
    ]
    for model, engine in dict.fromkeys((model, engine) for model, engine, _ in medians):
        figures = []
        for callers in CALLERS:
            ours, theirs = medians.get((model, OURS, callers)), medians.get((model, engine, callers))
            share = f" ({ours / theirs:.2f})" if ours and theirs and engine != OURS else ""
            figures.append(f"{theirs:,.0f}{share}" if theirs else "")
        lines.append(f"| `{model}` | {engine} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"
