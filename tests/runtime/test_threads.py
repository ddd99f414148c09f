"""How many threads a run takes: what config.pbtxt says, unless the setting says otherwise."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from pydantic import ValidationError

from artifacts.versions import CONFIG, INTRA_OP_THREADS, read_config
from services.runtime.config import ConfigError, parse_config
from services.runtime.onnx_engine import OnnxEngine
from services.server.settings import Settings
from tests.conftest import EXPORTED
from tests.graphs import add_graph, burn, burn_config


def threads(value: str) -> str:
    return f'parameters {{ key: "{INTRA_OP_THREADS}" value {{ string_value: "{value}" }} }}'


@pytest.mark.parametrize(
    ("config", "setting", "expected"),
    [
        (threads("3"), None, 3),
        (threads("3"), 2, 2),
        ("", None, 1),
        ("", 2, 2),
        (threads("0"), None, 0),
    ],
)
def test_the_setting_wins_over_the_config_and_one_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, setting: int | None, expected: int
) -> None:
    add_graph(tmp_path, "burn", burn(), burn_config(8, config))
    taken = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, content: bytes, options: onnxruntime.SessionOptions, **arguments: object) -> None:
            taken.append(options.intra_op_num_threads)
            super().__init__(content, options, **arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    content = (tmp_path / "burn" / "1" / "model.onnx").read_bytes()
    graph = OnnxEngine("cpu", setting).load(parse_config("burn", (tmp_path / "burn" / CONFIG).read_bytes()), 1, content)
    graph.close(10)
    assert taken == [expected]


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "", "100000"])
def test_a_config_with_no_such_number_of_threads_is_refused(tmp_path: Path, value: str) -> None:
    add_graph(tmp_path, "burn", burn(), burn_config(8, threads(value)))
    with pytest.raises(ConfigError, match=f"{INTRA_OP_THREADS} must be a number from 0 to 256, not '{value}'"):
        parse_config("burn", (tmp_path / "burn" / CONFIG).read_bytes())


def test_the_setting_is_unset_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LECTERN_INTRA_OP_THREADS", raising=False)
    assert Settings().intra_op_threads is None
    monkeypatch.setenv("LECTERN_INTRA_OP_THREADS", "2")
    assert Settings().intra_op_threads == 2
    monkeypatch.setenv("LECTERN_INTRA_OP_THREADS", "0")
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("graph", sorted(path.parent.name for path in EXPORTED.glob(f"*/{CONFIG}")))
def test_every_committed_config_says_one_thread(graph: str) -> None:
    assert read_config(EXPORTED / graph).parameters[INTRA_OP_THREADS].string_value == "1"
