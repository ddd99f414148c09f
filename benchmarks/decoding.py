"""Part of `make bench`: tokens a second of two models, on Lectern and on other engines with the same weights.

fp32, one thread each, at 1, 4 and 16 callers; translations are greedy, poems drawn. Lectern's callers send a request
each over gRPC and another as soon as it is answered; CTranslate2 and onnxruntime-genai are called in this process with
as many texts as callers in a batch, which is the most that they could do behind any server. Writes
docs/benchmarks/decoding.md.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
import numpy as np
import onnx
import onnxruntime_genai
from ctranslate2.specs import TransformerDecoderModelSpec, TransformerSpec, common_spec
from numpy.typing import NDArray
from tokenizers import Tokenizer

import lectern.aio
from benchmarks import genai
from lectern.versions import read_card
from tests.conftest import serving
from training.export.onnx import stored_weights
from training.poem_generator import BODY
from training.tokens import END, START, UNKNOWN
from training.transformer import positions

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "decoding.md"
TRANSLATOR, POET = "translator_en_zh", "poem_generator"
CALLERS = (1, 4, 16)
FORM = "七言律詩"
PROMPT = [START, f"<{FORM}>", BODY]
TOP_P = 0.9
MOST_TOKENS = 80
PLACES = 256  # of both models
ON_ONE_THREAD = {"device": "cpu", "compute_type": "float32", "inter_threads": 1, "intra_threads": 1}
Weights = dict[str, NDArray[np.float32]]
Peer = Callable[[range], int]
OURS, CT2, GENAI = "Lectern", "CTranslate2", "onnxruntime-genai"


@dataclass(frozen=True)
class Writer:
    """A model that writes token by token.

    Args:
        ask: makes the request of a number.
        peers: by engine, makes a function that lets it answer requests of these numbers, and counts the tokens, the end
            of each text included, as Lectern counts.
    """

    model: str
    capability: str
    ask: Callable[[lectern.aio.Client, int], Awaitable[object]]
    peers: dict[str, Callable[[Path, Path], Peer]]


def main() -> None:
    """Measure both in turns, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--repository", type=Path, default=ROOT / "exported")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    found: dict[tuple[str, str, int], list[float]] = {}
    for writer in (translator(), poet()):
        with tempfile.TemporaryDirectory() as directory:
            peers = {engine: make(options.repository, Path(directory)) for engine, make in writer.peers.items()}
            for callers in [callers for _ in range(options.repeats) for callers in CALLERS]:
                with serving(Path(directory), writer.capability, repository=options.repository) as server:
                    speed = asyncio.run(
                        lectern_speed(writer, server.target, server.metrics_url, callers, options.seconds)
                    )
                speeds = {OURS: speed}
                for engine, peer in peers.items():
                    speeds[engine] = peer_speed(peer, callers, options.seconds)
                for engine, speed in speeds.items():
                    found.setdefault((writer.model, engine, callers), []).append(speed)
                print(f"{writer.model}, {callers} callers: {speeds}", flush=True)
    options.report.write_text(report({key: statistics.median(values) for key, values in found.items()}))


def translator() -> Writer:
    """Sentences of all three domains, greedy."""
    with (ROOT / "tests" / "data" / f"{TRANSLATOR}.tsv").open(newline="") as file:
        sentences = [row[1] for row in csv.reader(file, delimiter="\t")]

    def ct2(repository: Path, directory: Path) -> Peer:
        engine, tokenizer = translator_peer(repository, directory), tokenizer_of(repository, TRANSLATOR, "english")
        tokens = [encoding.tokens for encoding in tokenizer.encode_batch(sentences)]

        def answer(numbers: range) -> int:
            batch = [tokens[number % len(tokens)] for number in numbers]
            most = max(2 * len(text) + 10 for text in batch)
            results = engine.translate_batch(batch, beam_size=1, max_decoding_length=most)
            return sum(len(result.hypotheses[0]) + 1 for result in results)

        return answer

    return Writer(
        TRANSLATOR,
        "translate",
        lambda client, number: client.translate(sentences[number % len(sentences)], beam_size=1),
        {CT2: ct2},
    )


def poet() -> Writer:
    """Poems of eight lines of seven characters each."""

    async def ask(client: lectern.aio.Client, number: int) -> None:
        async for _ in client.generate_text(form=FORM, top_p=TOP_P, max_tokens=MOST_TOKENS, seed=number):
            pass

    def ct2(repository: Path, directory: Path) -> Peer:
        engine = poet_peer(repository, directory)

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

    def genai_peer(repository: Path, directory: Path) -> Peer:
        model = genai.poet(named_weights(repository, POET), directory)
        tokenizer = tokenizer_of(repository, POET, "characters")
        prompt = [tokenizer.token_to_id(token) for token in PROMPT]
        return lambda numbers: sum(map(len, genai.draw(model, [prompt for _ in numbers], TOP_P, MOST_TOKENS)))

    return Writer(POET, "generate", ask, {CT2: ct2, GENAI: genai_peer})


async def lectern_speed(writer: Writer, target: str, metrics: str, callers: int, seconds: float) -> float:
    """Tokens a second of so many callers over gRPC."""

    async def call(client: lectern.aio.Client, number: int) -> None:
        while time.monotonic() < end:
            number += callers
            await writer.ask(client, number)

    async with lectern.aio.Client(target) as client:
        end = time.monotonic() + 1  # to warm up
        await asyncio.gather(*(call(client, i) for i in range(callers)))
        before, started = tokens_chosen(metrics), time.monotonic()
        end = started + seconds
        await asyncio.gather(*(call(client, i) for i in range(callers)))
        return (tokens_chosen(metrics) - before) / (time.monotonic() - started)


def tokens_chosen(metrics: str) -> float:
    with urllib.request.urlopen(f"{metrics}/metrics") as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("lectern_decode_tokens_total{"))


def peer_speed(answer: Callable[[range], int], callers: int, seconds: float) -> float:
    """Tokens a second of CTranslate2."""
    answer(range(callers))  # to warm up
    written, number, started = 0, 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        written += answer(range(number, number + callers))
        number += callers
    return written / elapsed


def translator_peer(repository: Path, directory: Path) -> ctranslate2.Translator:
    """The same network as CTranslate2 takes it."""
    w = named_weights(repository, TRANSLATOR, f"{TRANSLATOR}_step")
    spec = TransformerSpec.from_config(
        layers_of(w, "decoder"), heads_of(repository, f"{TRANSLATOR}_step"), activation=common_spec.Activation.RELU
    )
    fill(spec.encoder, w, "encoder", "encoder_norm", "source")
    fill(spec.decoder, w, "decoder", "decoder_norm", "target")
    spec.register_source_vocabulary(vocabulary(repository, TRANSLATOR, "english"))
    spec.register_target_vocabulary(vocabulary(repository, TRANSLATOR, "chinese"))
    spec.validate()
    spec.save(str(directory))
    return ctranslate2.Translator(str(directory), **ON_ONE_THREAD)


def poet_peer(repository: Path, directory: Path) -> ctranslate2.Generator:
    """The same network as CTranslate2 takes it."""
    w = named_weights(repository, POET)
    spec = TransformerDecoderModelSpec.from_config(
        layers_of(w, "layers"), heads_of(repository, POET), activation=common_spec.Activation.RELU
    )
    fill(spec.decoder, w, "layers", "norm", "tokens")
    spec.register_vocabulary(vocabulary(repository, POET, "characters"))
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = START, END, UNKNOWN
    spec.validate()
    spec.save(str(directory))
    return ctranslate2.Generator(str(directory), **ON_ONE_THREAD)


def fill(side: object, w: Weights, layers: str, last_norm: str, embedding: str) -> None:
    """The weights of an encoder or a decoder."""
    embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings  # type: ignore[attr-defined]
    embeddings.weight = w[f"{embedding}.weight"]
    side.scale_embeddings = True  # type: ignore[attr-defined]
    side.position_encodings.encodings = positions(PLACES, w[f"{embedding}.weight"].shape[1]).numpy()  # type: ignore[attr-defined]
    norm(side.layer_norm, w, last_norm)  # type: ignore[attr-defined]
    if hasattr(side, "projection"):
        side.projection.weight = w[f"{embedding}.weight"]
    for i, layer in enumerate(side.layer):  # type: ignore[attr-defined]
        attention(layer.self_attention, w, f"{layers}.{i}.attention", f"{layers}.{i}.norm", itself=True)
        if hasattr(layer, "attention"):
            attention(layer.attention, w, f"{layers}.{i}.memory_attention", f"{layers}.{i}.memory_norm", itself=False)
        norm(layer.ffn.layer_norm, w, f"{layers}.{i}.hidden_norm")
        linear(layer.ffn.linear_0, w, f"{layers}.{i}.hidden")
        linear(layer.ffn.linear_1, w, f"{layers}.{i}.output")


def layers_of(w: Weights, layers: str) -> int:
    return 1 + max(int(name.split(".")[1]) for name in w if name.startswith(f"{layers}."))


def heads_of(repository: Path, graph: str) -> int:
    """From the shape of a cache, [N, H, P, D]."""
    model = onnx.load(next((repository / graph).glob("*/model.onnx")))
    cache = next(value for value in model.graph.input if value.name == "key_0")
    return int(cache.type.tensor_type.shape.dim[1].dim_value)


def vocabulary(repository: Path, model: str, tokenizer: str) -> list[str]:
    """Tokens in the order of their ids."""
    ids = tokenizer_of(repository, model, tokenizer).get_vocab()
    return sorted(ids, key=ids.__getitem__)


def tokenizer_of(repository: Path, model: str, name: str) -> Tokenizer:
    return Tokenizer.from_file(str(repository / model / served(repository, model) / f"{name}.json"))


def served(repository: Path, model: str) -> str:
    """The directory of the version that is served."""
    return str(read_card(repository / model).version)


def named_weights(repository: Path, *graphs: str) -> Weights:
    """The constants of a model's graphs by their names in its module."""
    version = served(repository, graphs[0])
    w: Weights = {}
    for graph in graphs:
        w |= weights_of((repository / graph / version / "model.onnx").read_bytes())
    return {name.removeprefix("net."): value for name, value in w.items()}


def weights_of(content: bytes) -> Weights:
    """The constants of a graph by their names in the module. Some linear matrices lie turned over there, without one;
    biases of products that were put together lie in one, those of queries scaled."""
    w = stored_weights(content)
    nodes = onnx.load_from_string(content).graph.node
    producers = {node.output[0]: node for node in nodes}
    for node in nodes:
        bias = next((name for name in node.input if node.op_type == "Add" and name.endswith(".bias")), "")
        product = next((producers[name] for name in node.input if name in producers and name != bias), None)
        if bias and product is not None and product.op_type == "MatMul":
            w[bias.replace(".bias", ".weight")] = w[product.input[1]].T
        if node.op_type == "Gemm" and node.input[1] not in w:
            joined, start = w[node.input[2]], 0
            for name, scale in factors(node.input[1], w, producers):
                end = start + len(w[name])
                w[name.replace(".weight", ".bias")] = joined[start:end] / scale
                start = end
    return w


def factors(name: str, w: Weights, producers: dict[str, onnx.NodeProto]) -> list[tuple[str, float]]:
    """The matrices that one was put together of, and what each was multiplied by."""
    if name in w:
        return [(name, 1.0)]
    node = producers[name]
    if node.op_type == "Concat":
        return [factor for part in node.input for factor in factors(part, w, producers)]
    (matrix, number) = node.input
    return [(matrix, float(w[number]))]


def norm(target: common_spec.LayerNormSpec, w: Weights, name: str) -> None:
    target.gamma, target.beta = w[f"{name}.weight"], w[f"{name}.bias"]


def linear(target: common_spec.LinearSpec, w: Weights, *names: str) -> None:
    """One linear layer, or several side by side."""
    target.weight = np.concatenate([w[f"{name}.weight"] for name in names])
    target.bias = np.concatenate([w[f"{name}.bias"] for name in names])


def attention(target: object, w: Weights, name: str, norm_name: str, *, itself: bool) -> None:
    norm(target.layer_norm, w, norm_name)  # type: ignore[attr-defined]
    parts = [(f"{name}.query", f"{name}.key_value")] if itself else [(f"{name}.query",), (f"{name}.key_value",)]
    for layer, names in zip(target.linear, [*parts, (f"{name}.output",)], strict=True):  # type: ignore[attr-defined]
        linear(layer, w, *names)


def report(medians: dict[tuple[str, str, int], float]) -> str:
    titles = " | ".join(f"{callers} callers" if callers > 1 else "1 caller" for callers in CALLERS)
    lines = [
        "# Decoding",
        "",
        "Tokens a second, fp32, one thread of the CPU, medians; written by `make bench`. Lectern is called over gRPC "
        f"by so many callers at once, CTranslate2 {ctranslate2.__version__} and onnxruntime-genai "
        f"{onnxruntime_genai.__version__} in their own process with as many texts in a batch. Translations are greedy, "
        f"poems are drawn with top-p {TOP_P}. In brackets, Lectern's share of it.",
        "",
        f"| model | engine | {titles} |",
        "| --- | --- |" + " ---: |" * len(CALLERS),
    ]
    for model, engine in dict.fromkeys((model, engine) for model, engine, _ in medians):
        figures = []
        for callers in CALLERS:
            ours, theirs = medians[model, OURS, callers], medians[model, engine, callers]
            figures.append(f"{ours:,.0f}" if engine == OURS else f"{theirs:,.0f} ({ours / theirs:.2f})")
        lines.append(f"| `{model}` | {engine} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
