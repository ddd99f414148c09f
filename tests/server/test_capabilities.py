"""Descriptors of capabilities are true of their servicers and models, and cheap to list."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from artifacts.versions import read_card
from services.server.banner import announce
from services.server.capabilities import CAPABILITIES
from services.server.report import ModelRow, Ready
from services.server.settings import Settings
from tests.conftest import EXPORTED, ROOT
from tests.waiting import WAIT

EXAMPLES = ROOT / "docs" / "examples"
HEAVY = ("numpy", "onnxruntime", "pydantic", "grpc", "PIL", "tokenizers", "tritonclient")


@pytest.mark.parametrize("name", CAPABILITIES)
def test_the_default_model_answers_the_example(channel: grpc.Channel, name: str) -> None:
    capability = CAPABILITIES[name]
    request = capability.example(EXAMPLES)
    rpc = capability.service.methods_by_name[capability.rpc_of(request)]
    ask = channel.unary_stream(
        f"/{capability.service.full_name}/{rpc.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=GetMessageClass(rpc.output_type).FromString,
    )
    first, *_ = ask(request, timeout=WAIT)
    assert first.model in capability.default_models.values()


@pytest.mark.unit
@pytest.mark.parametrize("name", CAPABILITIES)
def test_default_models_are_exported_for_it(name: str) -> None:
    capability = CAPABILITIES[name]
    for model in capability.default_models.values():
        assert read_card(EXPORTED / model).capability in capability.models_of


@pytest.mark.unit
@pytest.mark.parametrize("name", CAPABILITIES)
def test_every_rpc_has_a_default_model(name: str) -> None:
    if name != "explain":  # whose default is by kind of input
        assert set(CAPABILITIES[name].default_models) == {rpc.name for rpc in CAPABILITIES[name].service.methods}


@pytest.mark.unit
def test_listing_capabilities_imports_no_heavy_library() -> None:
    program = f"import services.server.capabilities, sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.split() == []


@pytest.mark.unit
def test_a_start_shows_a_command_for_each_capability_that_answers(capsys: pytest.CaptureFixture[str]) -> None:
    ready = Ready(8001, 8000, "grpc", (ModelRow("covid_regressor", "HW1", "predict", 1, "READY", ""),))
    settings = Settings(capabilities=("classify", "explain", "predict"), log_format="console")
    announce(settings, ready, 8002)
    shown = capsys.readouterr().err
    assert CAPABILITIES["predict"].command in shown
    assert CAPABILITIES["explain"].command in shown  # it explains models of `predict`
    assert CAPABILITIES["classify"].command not in shown
    assert "curl --json '{}' http://127.0.0.1:8000/lectern.v1.ModelService/ListModels" in shown
