"""Sessions are created one at a time, and one that hangs does not keep others from being created."""

from __future__ import annotations

import pytest

from services.runtime import onnx_engine


def test_a_creation_that_hangs_keeps_no_other_from_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "LONGEST_WAIT_SECONDS", 0.01)
    with onnx_engine._alone(), onnx_engine._alone():
        pass
    assert not onnx_engine._CREATING.locked()
