"""Part of `make bench`: tokens a second of the translator, on Lectern and on CTranslate2 with the same weights.

Greedy, fp32, one thread each, at 1, 4 and 16 callers. Lectern's callers send a sentence each over gRPC and another as
soon as it is answered; CTranslate2 is called in this process with as many sentences as callers in a batch, which is the
most that it could do behind any server. Writes docs/benchmarks/decoding.md.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import ctranslate2
import numpy as np
import onnx
from ctranslate2.specs import TransformerSpec, common_spec
from numpy.typing import NDArray
from tokenizers import Tokenizer

import lectern.aio
from tests.conftest import serving
from training.export.onnx import stored_weights

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "decoding.md"
MODEL = "translator_en_zh"
HEADS = 4
CALLERS = (1, 4, 16)
Weights = dict[str, NDArray[np.float32]]


def main() -> None:
    """Measure both in turns, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are reported")
    parser.add_argument("--repository", type=Path, default=ROOT / "exported")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    with (ROOT / "tests" / "data" / f"{MODEL}.tsv").open(newline="") as file:
        sentences = [row[1] for row in csv.reader(file, delimiter="\t")]
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.repeats):
            for callers in CALLERS:
                with serving(Path(directory), "translate", repository=options.repository) as server:
                    speed = asyncio.run(
                        lectern_speed(server.target, server.metrics_url, sentences, callers, options.seconds)
                    )
                found.setdefault(("Lectern", callers), []).append(speed)
                speed = peer_speed(
                    peer(options.repository, Path(directory)), options.repository, sentences, callers, options.seconds
                )
                found.setdefault(("CTranslate2", callers), []).append(speed)
                print(callers, {name: round(v[-1]) for (name, c), v in found.items() if c == callers}, flush=True)
    medians = {key: statistics.median(values) for key, values in found.items()}
    options.report.write_text(report(medians))


async def lectern_speed(target: str, metrics: str, sentences: list[str], callers: int, seconds: float) -> float:
    """Tokens a second of so many callers over gRPC."""

    async def call(client: lectern.aio.Client, number: int) -> None:
        while time.monotonic() < end:
            number = (number + callers) % len(sentences)
            await client.translate(sentences[number], beam_size=1)

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


def peer_speed(
    translator: ctranslate2.Translator, repository: Path, sentences: list[str], callers: int, seconds: float
) -> float:
    """Tokens a second of CTranslate2, the end of each sentence included, as Lectern counts."""
    tokenizer = Tokenizer.from_file(str(newest(repository) / "english.json"))
    tokens = [encoding.tokens for encoding in tokenizer.encode_batch(sentences)]
    written, number, started = 0, 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        batch = [tokens[(number + i) % len(tokens)] for i in range(callers)]
        number += callers
        most = max(2 * len(t) + 10 for t in batch)
        results = translator.translate_batch(batch, beam_size=1, max_decoding_length=most)
        written += sum(len(result.hypotheses[0]) + 1 for result in results)
    return written / elapsed


def peer(repository: Path, directory: Path) -> ctranslate2.Translator:
    """The same network as CTranslate2 takes it."""
    version = newest(repository)
    step = repository / f"{MODEL}_step" / version.name
    w = {k: v for path in (version, step) for k, v in named_weights((path / "model.onnx").read_bytes()).items()}
    w = {name.removeprefix("net."): value for name, value in w.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("decoder."))
    spec = TransformerSpec.from_config(layers, HEADS, activation=common_spec.Activation.RELU)
    for side, part, embedding in ((spec.encoder, "encoder", "source"), (spec.decoder, "decoder", "target")):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = w[f"{embedding}.weight"]
        side.scale_embeddings = True
        side.position_encodings.encodings = w["places"]
        norm(side.layer_norm, w, f"{part}_norm")
        for i, layer in enumerate(side.layer):
            attention(layer.self_attention, w, f"{part}.{i}.attention", f"{part}.{i}.norm", itself=True)
            if part == "decoder":
                attention(layer.attention, w, f"{part}.{i}.memory_attention", f"{part}.{i}.memory_norm", itself=False)
            norm(layer.ffn.layer_norm, w, f"{part}.{i}.hidden_norm")
            linear(layer.ffn.linear_0, w, f"{part}.{i}.hidden")
            linear(layer.ffn.linear_1, w, f"{part}.{i}.output")
    spec.decoder.projection.weight = w["target.weight"]
    for register, file in ((spec.register_source_vocabulary, "english"), (spec.register_target_vocabulary, "chinese")):
        vocabulary = Tokenizer.from_file(str(newest(repository) / f"{file}.json")).get_vocab()
        register(sorted(vocabulary, key=vocabulary.__getitem__))
    spec.validate()
    spec.save(str(directory))
    return ctranslate2.Translator(
        str(directory), device="cpu", compute_type="float32", inter_threads=1, intra_threads=1
    )


def named_weights(content: bytes) -> Weights:
    """The constants of a graph by their names in the module; linear matrices lie turned over there, without one."""
    w = stored_weights(content)
    nodes = onnx.load_from_string(content).graph.node
    producers = {node.output[0]: node for node in nodes}
    for node in nodes:
        bias = next((name for name in node.input if node.op_type == "Add" and name.endswith(".bias")), "")
        product = next((producers[name] for name in node.input if name in producers and name != bias), None)
        if bias and product is not None and product.op_type == "MatMul":
            w[bias.replace(".bias", ".weight")] = w[product.input[1]].T
    return w


def newest(repository: Path) -> Path:
    """The directory of the model's newest version."""
    return max((path.parent for path in (repository / MODEL).glob("*/card.json")), key=lambda path: int(path.name))


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


def report(medians: dict[tuple[str, int], float]) -> str:
    lines = [
        "# Decoding",
        "",
        "Tokens a second of `translator_en_zh`, greedy, fp32, one thread of the CPU, medians; written by `make bench`.",
        "Lectern is called over gRPC by so many callers at once, CTranslate2",
        f"{ctranslate2.__version__} in its own process with as many sentences in a batch.",
        "",
        "| callers | " + " | ".join(map(str, CALLERS)) + " |",
        "| --- |" + " ---: |" * len(CALLERS),
    ]
    for name in ("Lectern", "CTranslate2"):
        lines.append(f"| {name} | " + " | ".join(f"{medians[name, c]:,.0f}" for c in CALLERS) + " |")
    ratios = [medians["Lectern", c] / medians["CTranslate2", c] for c in CALLERS]
    lines.append("| ratio | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
