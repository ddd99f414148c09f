"""Tensors sent raw are no longer than their models' cards say, whichever committed model they are for."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from artifacts.versions import read_card
from services.limits import Limits
from services.runtime.axes import with_longest
from services.runtime.config import GraphConfig, TensorSpec, parse_config
from tests.conftest import EXPORTED
from tests.waiting import WAIT

# What cards of pictures do not say; the limit of any axis holds.
WITHOUT_BOUND = {
    "few_shot_classifier",
    "few_shot_classifier_maml",
    "few_shot_classifier_first_order_maml",
    "table_learner",
}
EXPECTED = {
    ("text_encoder", "ids"): 256,
    ("question_answerer", "vectors"): 256,
    ("pos_tagger", "vectors"): 256,
    ("style_rewriter", "tokens"): 160,
    ("style_rewriter_step", "memory_states"): 160,
    ("translator_en_zh", "tokens"): 256,
    ("translator_en_zh_step", "key_0"): 256,
    ("poem_generator", "tokens"): 256,
    ("speaker_classifier", "samples"): 96_000,
    ("phoneme_classifier", "samples"): 128_000,
    ("phoneme_classifier_energies", "samples"): 128_000,
    ("phoneme_classifier_gradient", "energies"): 800,
    ("few_shot_classifier_maml", "labels"): 1024,
}


def varying() -> list[tuple[GraphConfig, TensorSpec, int]]:
    """Each input of a committed graph that has an axis of any length, with the number of that axis in a tensor."""
    cards = [read_card(path.parent.parent) for path in EXPORTED.glob("*/*/card.json")]
    owners = {graph: card for card in cards for graph in card.graphs.values() if graph.startswith(card.name)}
    axes = []
    for path in sorted(EXPORTED.glob("*/config.pbtxt")):
        config = parse_config(path.parent.name, path.read_bytes())
        config = with_longest(config, owners[config.name].preprocessing)
        for spec in config.inputs:
            for axis in (i for i, size in enumerate(spec.shape) if size < 0):
                axes.append((config, spec, axis + (config.max_batch_size > 0)))
    return axes


VARYING = varying()


def test_every_committed_graph_has_a_bound() -> None:
    assert {config.name for config, spec, _ in VARYING if not spec.longest} == WITHOUT_BOUND
    bounds = {(config.name, spec.name): spec.longest or Limits().axis_length for config, spec, _ in VARYING}
    assert {key: bounds[key] for key in EXPECTED} == EXPECTED


@pytest.mark.parametrize(
    ("config", "spec", "axis"), VARYING, ids=[f"{config.name}-{spec.name}-{axis}" for config, spec, axis in VARYING]
)
def test_a_longer_tensor_is_refused_before_it_is_made(
    channel: grpc.Channel, config: GraphConfig, spec: TensorSpec, axis: int
) -> None:
    longest = EXPECTED.get((config.name, spec.name)) or spec.longest or Limits().axis_length
    shape = [1] * (config.max_batch_size > 0) + [1 if size < 0 else size for size in spec.shape]

    def refusal(length: int) -> str:
        """What is said of a tensor of that length, of which nothing was sent."""
        request = service_pb2.ModelInferRequest(model_name=config.name, raw_input_contents=[b""])
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[*shape[:axis], length, *shape[axis + 1 :]])
        with pytest.raises(grpc.RpcError) as caught:
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return caught.value.details() or ""

    assert "has 0 bytes" in refusal(longest)
    message = refusal(longest + 1)
    assert f"axis {axis} of '{spec.name}' has {longest:,} places at most" in message
    assert str(longest + 1) in message
