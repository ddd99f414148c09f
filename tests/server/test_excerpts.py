"""What callers send is cut where it is said again: in errors, in trailers, in the log."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lectern.v1 import classify_pb2, predict_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from services.errors import InvalidArgument
from services.excerpt import LONGEST, excerpt
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
HUGE = "x" * 20_000_000


@given(st.text(), st.integers(0, 200))
def test_an_excerpt_has_a_bounded_length_and_a_short_text_is_whole(text: str, repeats: int) -> None:
    long = text * repeats
    cut = excerpt(long)
    assert len(cut.encode(errors="replace")) <= LONGEST + 40
    if len(long.encode(errors="replace")) <= LONGEST:
        assert cut == long


@pytest.mark.parametrize("text", ["x", "é", "詩", "\\", "%", "\n"])
def test_a_status_fits_into_the_trailers_of_any_client(text: str) -> None:
    from grpc_status import rpc_status

    error = InvalidArgument(text * 10_000, violations=[(text * 5000, text * 5000)] * 100)
    status = rpc_status.to_status(error.status())
    percent_encoded = sum(1 if 0x20 <= b <= 0x7E and b != 0x25 else 3 for b in (status.details or "").encode())
    in_base64 = sum(len(value) * 4 / 3 for _, value in status.trailing_metadata)
    assert percent_encoded + in_base64 < 7800
    details = error_details_pb2.BadRequest()
    assert error.status().details[0].Unpack(details)
    assert len(details.field_violations) >= 1


@pytest.mark.parametrize("name", [HUGE, "詩" * 3_000_000], ids=["ascii", "chinese"])
def test_a_model_name_of_20_mb_is_answered_and_logged_in_short(
    server: Server, channel: grpc.Channel, name: str
) -> None:
    predict, classify = PredictServiceStub(channel), ClassifyServiceStub(channel)
    inference = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    before = server.log.stat().st_size
    row = predict_pb2.PredictRequest(model=name, rows=[predict_pb2.FeatureRow(features=[0] * 116)])
    image = classify_pb2.ClassifyImageRequest(model=name, images=[b"x"])
    for call in (
        lambda: predict.Predict(row, timeout=WAIT),
        lambda: classify.ClassifyImage(image, timeout=WAIT),
        lambda: inference.ModelInfer(service_pb2.ModelInferRequest(model_name=name), timeout=WAIT),
        lambda: inference.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), timeout=WAIT),
    ):
        code, message, fields = failure(call)
        assert code in (INVALID, NOT_FOUND)
        assert len(message.encode()) < 2000
        assert fields in (["model"], ["model_name"])
    assert server.log.stat().st_size - before < 50_000


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_version_of_many_digits_is_refused(channel: grpc.Channel, digits: int) -> None:
    request = service_pb2.ModelInferRequest(model_name="image_classifier", model_version="9" * digits)
    code, message, fields = failure(
        lambda: service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT)
    )
    assert (code, fields) == (INVALID, ["model_version"])
    assert "send a number" in message


@pytest.mark.parametrize("priorities", [["9" * 5000], ["9" * 10], ["1", "2"]])
def test_a_priority_that_is_no_number_is_refused(channel: grpc.Channel, priorities: list[str]) -> None:
    request = predict_pb2.PredictRequest(rows=[predict_pb2.FeatureRow(features=[0] * 116)])
    metadata = [("x-priority", priority) for priority in priorities]
    with pytest.raises(grpc.RpcError) as caught:
        PredictServiceStub(channel).Predict(request, timeout=WAIT, metadata=metadata)
    assert caught.value.code() is INVALID
    assert "x-priority" in (caught.value.details() or "")
