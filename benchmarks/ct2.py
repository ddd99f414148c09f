"""`translator_en_zh` and `poem_generator` as CTranslate2 takes them: peers in benchmarks/decoding.py."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np
import onnx
from ctranslate2.specs import TransformerDecoderModelSpec, TransformerSpec, common_spec

from benchmarks.weights import POET, TRANSLATOR, Weights, named_weights, vocabulary
from training.methods.tokens import END, START, UNKNOWN
from training.methods.transformer import positions

PLACES = 256  # of both models
ON_ONE_THREAD = {"device": "cpu", "compute_type": "float32", "inter_threads": 1, "intra_threads": 1}


def translator(repository: Path, directory: Path) -> ctranslate2.Translator:
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


def poet(repository: Path, directory: Path) -> ctranslate2.Generator:
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
