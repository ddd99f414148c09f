"""`poem_generator` as onnxruntime-genai takes it: a peer in benchmarks/decoding.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.export.onnx import export_graph
from training.methods.tokens import END_ID, START_ID
from training.methods.transformer import Past, step_bias
from training.recipes.poem_generator import CONTEXT, FULL, PoemGenerator
from training.trained import Graph

PARTS = ("key", "value")


class WholePast(nn.Module):
    """New tokens [N, T], their places [N, T] and keys and values [N, H, P, D] of what came before -> logits
    [N, T, vocabulary] and all keys and values [N, H, P + T, D]."""

    def __init__(self, net: PoemGenerator) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, position_ids: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        steps = input_ids.shape[1]
        bias = step_bias(torch.full((len(input_ids), 1), CONTEXT), caches[0].shape[2], steps)  # all places are filled
        x = (net.tokens(input_ids) * net.scale + net.places[position_ids]).flatten(0, 1)
        present: list[Tensor] = []
        for i, layer in enumerate(net.layers):
            past = Past(caches[2 * i], caches[2 * i + 1], bias, steps)
            x, keys, values, _ = layer.step(x, past)
            present += (torch.cat([past.keys, keys], 2), torch.cat([past.values, values], 2))
        return net.logits(net.norm(x)).unflatten(0, (-1, steps)), *present


def poet(weights: dict[str, NDArray[np.float32]], directory: Path) -> genai.Model:
    """The network with these weights, by their names in its module, on one thread; its files go to `directory`."""
    net = PoemGenerator(FULL, len(weights["tokens.weight"])).eval()
    known = {name: torch.from_numpy(weights[name].copy()) for name, _ in net.named_parameters()}
    net.load_state_dict({**known, "places": net.places})
    heads, width, layers = FULL.heads, FULL.width, FULL.layers
    names = [f"{i}_{part}" for i in range(layers) for part in PARTS]
    caches = {f"past_{name}": torch.randn(2, heads, 6, width // heads) for name in names}
    inputs = {"input_ids": torch.randint(4, 99, (2, 4)), "position_ids": torch.arange(6, 10).repeat(2, 1), **caches}
    outputs = ("logits", *(f"present_{name}" for name in names))
    axes = {name: (2,) if name in caches else (1,) for name in inputs}
    export_graph(Graph(WholePast(net), inputs, outputs, dynamic_axes=axes), directory / "model.onnx")
    decoder = {
        "filename": "model.onnx",
        "head_size": width // heads,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
        "session_options": {"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        "inputs": {
            "input_ids": "input_ids",
            "position_ids": "position_ids",
            **{f"past_{part}_names": f"past_%d_{part}" for part in PARTS},
        },
        "outputs": {"logits": "logits", **{f"present_{part}_names": f"present_%d_{part}" for part in PARTS}},
    }
    described = {
        "type": "decoder",
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": 0,
        "vocab_size": len(weights["tokens.weight"]),
        "context_length": CONTEXT,
        "decoder": decoder,
    }
    search = {"past_present_share_buffer": False, "max_length": CONTEXT}
    (directory / "genai_config.json").write_text(json.dumps({"model": described, "search": search}))
    return genai.Model(str(directory))


def draw(model: genai.Model, prompts: list[list[int]], top_p: float, most: int) -> list[list[int]]:
    """What follows each of the prompts, which are of one length, in one batch: tokens up to the end, `most` of them."""
    params = genai.GeneratorParams(model)
    size = len(prompts[0])
    params.set_search_options(batch_size=len(prompts), do_sample=True, top_k=0, top_p=top_p, max_length=size + most)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(prompts, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    continuations = [list(generator.get_sequence(i))[size:] for i in range(len(prompts))]
    return [ids[: ids.index(END_ID) + 1] if END_ID in ids else ids for ids in continuations]
