"""ExplainService: what methods promise, several kinds of models, what a model has learned, and what is refused."""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

import lectern
from lectern.methods import explanation_method
from lectern.v1 import explain_pb2 as pb
from lectern.v1.explain_pb2_grpc import ExplainServiceStub
from tests.conftest import SLIVERS, Server, encode, serving
from tests.waiting import WAIT

METHODS = tuple(name for name in pb.ExplanationMethod.DESCRIPTOR.fields_by_name if name != "attention")  # is for texts
FEW = {"smooth_grad": {"samples": 4}, "integrated_gradients": {"steps": 8}, "occlusion": {"stride": 8}}
FEW |= {name: {"samples": 80} for name in ("lime", "rise", "kernel_shap")}


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this capability alone, which then has other capabilities' models."""
    with serving(tmp_path_factory.mktemp("explain"), "explain") as server:
        yield server


@pytest.fixture
def client(explaining: Server) -> Iterator[lectern.Client]:
    with lectern.Client(explaining.target, timeout=WAIT) as client:
        yield client


@pytest.fixture(scope="module")
def clothes() -> np.ndarray:
    with np.load(SLIVERS / "anomaly_detector_test.npz") as pictures:
        return pictures["images"]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of a survey, made up: percentages after the one-hot state."""
    random = np.random.default_rng(0)
    table = random.uniform(5, 30, (4, 116)).astype(np.float32)
    table[:, :37] = np.eye(37)[:4]
    return table


def values(attribution: pb.Attribution) -> np.ndarray:
    return np.frombuffer(attribution.values, "<f4").reshape(tuple(attribution.shape))


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("method", METHODS)
def test_each_method_explains_a_photo(client: lectern.Client, photos: np.ndarray, method: str) -> None:
    photo = encode(photos[0])
    response = client.explain(photo, method, seed=3, **FEW.get(method, {}))
    contributions = values(response.attribution)
    assert contributions.shape in ((32, 32, 3), (32, 32, 1))
    assert np.isfinite(contributions).all()
    assert contributions.std() > 0
    assert response.attribution.signed or contributions.min() >= 0
    assert (response.model, response.version) == ("image_classifier", 1)
    assert 0 < response.prediction.probability <= 1
    assert min(opened(response.picture).size) >= 256
    again = client.explain(photo, method, seed=3, **FEW.get(method, {}))
    assert again.attribution == response.attribution
    other = client.explain(photo, method, seed=4, **FEW.get(method, {}))
    depends_on_seed = method in ("smooth_grad", "lime", "rise", "kernel_shap")
    assert (other.attribution != response.attribution) == depends_on_seed


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("grad_cam", "rise")])
def test_each_method_but_two_explains_a_row(client: lectern.Client, rows: np.ndarray, method: str) -> None:
    given = {key: value for key, value in FEW.get(method, {}).items() if key != "stride"}
    response = client.explain(row=rows[0], method=method, **given)
    assert response.prediction.label == "tested_positive.4"
    assert not response.prediction.HasField("probability")
    assert values(response.attribution).shape == (116,)
    opened(response.picture)


def test_an_anomaly_is_explained_by_where_it_is(client: lectern.Client, clothes: np.ndarray) -> None:
    damaged = clothes[3].copy()
    damaged[4:10, 4:10] = 255 - damaged[4:10, 4:10]
    for method in ("smooth_grad", "integrated_gradients", "occlusion"):
        response = client.explain(encode(damaged), method, model="anomaly_detector")
        sizes = np.abs(values(response.attribution)).sum(2)
        assert np.isfinite(sizes).all()
        assert sizes[2:12, 2:12].mean() > 1.5 * sizes.mean()


def test_values_of_integrated_gradients_add_up(client: lectern.Client, photos: np.ndarray, clothes, rows) -> None:
    answers = [client.explain(encode(photo)) for photo in photos[:10]]
    answers += [client.explain(row=row) for row in rows]
    # An image that scores much as black does has little to share out: the gap is relative to that.
    of_clothes = [client.explain(encode(image), model="anomaly_detector") for image in clothes[:5]]
    answers += [answer for answer in of_clothes if abs(values(answer.attribution).sum()) > 0.5]
    assert len(answers) >= 17
    assert max(answer.completeness_gap for answer in answers) < 0.01


def test_shapley_values_add_up_and_are_a_linear_models_own(client: lectern.Client, photos: np.ndarray) -> None:
    response = client.explain(encode(photos[1]), "kernel_shap", cells=4, samples=200)
    assert response.completeness_gap < 1e-4
    assert np.unique(values(response.attribution)).size <= 16


def test_a_target_can_be_chosen_by_name_or_index(client: lectern.Client, photos: np.ndarray) -> None:
    photo = encode(photos[0])
    by_name, by_index = (client.explain(photo, "saliency", target=target) for target in ("frog", 6))
    assert by_name == by_index
    assert (by_name.prediction.index, by_name.prediction.label) == (6, "frog")
    assert by_name.attribution != client.explain(photo, "saliency", target="dog").attribution


def test_gradient_methods_point_better_than_a_random_order_and_edges(
    client: lectern.Client, photos: np.ndarray
) -> None:
    methods = [explanation_method("smooth_grad", samples=16), explanation_method("integrated_gradients", steps=32)]
    deletions_of: dict[str, list[float]] = {}
    for photo in photos[:12]:
        for entry in client.compare(encode(photo), methods).explanations:
            deletions_of.setdefault(entry.method, []).append(entry.deletion)
    mean = {name: float(np.mean(deletions)) for name, deletions in deletions_of.items()}
    assert set(mean) == {"smooth_grad", "integrated_gradients", "random", "edges"}
    assert mean["integrated_gradients"] < min(mean["random"], mean["edges"])
    assert mean["smooth_grad"] < min(mean["random"], mean["edges"])


def test_a_comparison_has_figures_and_a_sheet(client: lectern.Client, photos: np.ndarray, rows: np.ndarray) -> None:
    chosen = ("saliency", "grad_cam", "integrated_gradients")
    response = client.compare(encode(photos[0]), [explanation_method(name, **FEW.get(name, {})) for name in chosen])
    assert [entry.method for entry in response.explanations] == [*chosen, "random", "edges"]
    for entry in response.explanations:
        assert 0 <= entry.deletion <= 1
        assert 0 <= entry.insertion <= 1
    learned = response.explanations[: len(chosen)]
    assert all(-1 <= entry.correlation_with_random_weights < 0.9 for entry in learned)
    assert [entry.HasField("completeness_gap") for entry in learned] == [False, False, True]
    assert opened(response.picture).width > 600
    of_row = client.compare(row=rows[0], methods=["gradient_times_input", "occlusion"])
    assert [entry.method for entry in of_row.explanations] == ["gradient_times_input", "occlusion", "random"]
    opened(of_row.picture)


def test_what_classes_and_filters_look_for_excites_them(client: lectern.Client) -> None:
    classes = client.explain_model(classes=["frog", "ship"], steps=24)
    assert [p.label for p in classes.preferred] == ["frog", "ship"]
    for preferred in classes.preferred:
        assert opened(preferred.image).size == (32, 32)
        assert preferred.probability > 0.9
    units = client.explain_model(layer="blocks.0", units=[3, 60], steps=8)
    assert [p.label for p in units.preferred] == ["blocks.0 3", "blocks.0 60"]
    assert all(p.end > p.start for p in units.preferred)
    opened(units.picture)


def test_later_layers_know_more_of_the_class_and_less_of_the_brightness(client: lectern.Client) -> None:
    response = client.explain_model()
    by_property: dict[str, list[float]] = {}
    for probe in response.probes:
        by_property.setdefault(probe.property, []).append(probe.accuracy)
    of_class, of_brightness = by_property.values()
    assert of_class == sorted(of_class)
    assert of_class[-1] > 0.9
    assert of_brightness[-1] < max(of_brightness)
    opened(response.picture)


def test_a_generator_is_a_prior_of_what_a_class_looks_like(client: lectern.Client) -> None:
    (preferred,) = client.explain_model(classes=["cat"], generator="garment_generator", steps=24).preferred
    assert preferred.end > preferred.start
    assert opened(preferred.image).size == (32, 32)
    for generator, code in (("image_classifier", "INVALID_ARGUMENT"), ("nobody", "NOT_FOUND")):
        with pytest.raises(lectern.LecternError) as raised:
            client.explain_model(classes=["cat"], generator=generator)
        assert raised.value.code().name == code


async def test_callers_share_batches(explaining: Server, photos: np.ndarray) -> None:
    async with lectern.aio.Client(explaining.target, timeout=WAIT) as client:
        alone = [await client.explain(encode(photo), "saliency") for photo in photos[:24]]
        together = await asyncio.gather(*(client.explain(encode(photo), "saliency") for photo in photos[:24]))
    for one, other in zip(alone, together, strict=True):
        a, b = values(one.attribution), values(other.attribution)
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)
    sizes = [r["batch_size"] for r in explaining.log_records() if r.get("method") == "Explain" and "batch_size" in r]
    assert not sizes or max(sizes) > 1


IMAGE = pb.ExplainedInput(image=encode(np.zeros((8, 8, 3), np.uint8)))
ROW = pb.ExplainedInput(row=pb.ExplainedRow(features=[1.0] * 116))
SALIENCY = pb.ExplanationMethod(saliency=pb.Saliency())


def method(name: str, **parameters: object) -> pb.ExplanationMethod:
    return pb.ExplanationMethod(**{name: parameters})


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.ExplainRequest(method=SALIENCY), "INVALID_ARGUMENT", "input"),
        (pb.ExplainRequest(input=IMAGE), "INVALID_ARGUMENT", "method"),
        (pb.ExplainRequest(input=pb.ExplainedInput(image=b"x"), method=SALIENCY), "INVALID_ARGUMENT", "input.image"),
        (pb.ExplainRequest(input=IMAGE, method=SALIENCY, model="nobody"), "NOT_FOUND", "model"),
        (pb.ExplainRequest(input=IMAGE, method=SALIENCY, version=9), "NOT_FOUND", "version"),
        (pb.ExplainRequest(input=ROW, method=SALIENCY, model="image_classifier"), "INVALID_ARGUMENT", "input"),
        (pb.ExplainRequest(input=IMAGE, method=SALIENCY, model="few_shot_classifier"), "INVALID_ARGUMENT", "model"),
        (pb.ExplainRequest(input=IMAGE, method=SALIENCY, target_index=10), "INVALID_ARGUMENT", "target_index"),
        (pb.ExplainRequest(input=IMAGE, method=SALIENCY, target_label="tree"), "INVALID_ARGUMENT", "target_label"),
        (pb.ExplainRequest(input=ROW, method=SALIENCY, target_index=1), "INVALID_ARGUMENT", "target_index"),
    ],
)
def test_bad_requests_are_refused_by_name(
    explaining: Server, request_: pb.ExplainRequest, code: str, field: str
) -> None:
    refused(explaining, "Explain", request_, code, field)


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        (method("integrated_gradients", steps=0), "method.integrated_gradients.steps"),
        (method("integrated_gradients", steps=10**6), "method.integrated_gradients.steps"),
        (method("integrated_gradients", baseline=9), "method.integrated_gradients.baseline"),
        (method("smooth_grad", samples=0), "method.smooth_grad.samples"),
        (method("smooth_grad", noise=0), "method.smooth_grad.noise"),
        (method("smooth_grad", noise=math.nan), "method.smooth_grad.noise"),
        (method("grad_cam", layer="head"), "method.grad_cam.layer"),
        (method("occlusion", window=33), "method.occlusion.window"),
        (method("occlusion", window=4, stride=5), "method.occlusion.stride"),
        (method("occlusion", window=1), "method.occlusion.stride"),
        (method("lime", cells=64), "method.lime.cells"),
        (method("rise", keep=1), "method.rise.keep"),
        (method("kernel_shap", samples=1), "method.kernel_shap.samples"),
    ],
)
def test_bad_parameters_are_refused_by_name(explaining: Server, chosen: pb.ExplanationMethod, field: str) -> None:
    refused(explaining, "Explain", pb.ExplainRequest(input=IMAGE, method=chosen), "INVALID_ARGUMENT", field)
    compare = pb.CompareRequest(input=IMAGE, methods=[SALIENCY, chosen])
    refused(explaining, "Compare", compare, "INVALID_ARGUMENT", field.replace("method", "methods[1]", 1))


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        (method("rise"), "method"),
        (method("grad_cam"), "method"),
        (method("lime", cells=4), "method.lime.cells"),
        (method("occlusion", baseline=pb.BASELINE_BLACK), "method.occlusion.baseline"),
    ],
)
def test_what_is_for_images_is_refused_of_rows(explaining: Server, chosen: pb.ExplanationMethod, field: str) -> None:
    refused(explaining, "Explain", pb.ExplainRequest(input=ROW, method=chosen), "INVALID_ARGUMENT", field)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExplainModelRequest(), "kind"),
        (pb.ExplainModelRequest(probes=pb.Probes(), model="covid_regressor"), "probes"),
        (pb.ExplainModelRequest(activation_maximisation={"labels": ["tree"]}), "activation_maximisation.labels[0]"),
        (pb.ExplainModelRequest(activation_maximisation={"steps": 0}), "activation_maximisation.steps"),
        (pb.ExplainModelRequest(activation_maximisation={}, model="anomaly_detector"), "model"),
        (pb.ExplainModelRequest(filter_visualisation={"layer": "head"}), "filter_visualisation.layer"),
        (
            pb.ExplainModelRequest(filter_visualisation={"layer": "whiten", "units": [24]}),
            "filter_visualisation.units[0]",
        ),
        (
            pb.ExplainModelRequest(filter_visualisation={"layer": "whiten", "units": range(17)}),
            "filter_visualisation.units",
        ),
    ],
)
def test_bad_questions_about_a_model_are_refused_by_name(
    explaining: Server, request_: pb.ExplainModelRequest, field: str
) -> None:
    refused(explaining, "ExplainModel", request_, "INVALID_ARGUMENT", field)


def test_a_model_without_a_gradient_graph_says_what_adds_one(repository: Path, tmp_path: Path) -> None:
    path = repository / "image_classifier" / "1" / "card.json"
    card = json.loads(path.read_text())
    card["explanation"], card["graphs"] = None, {"forward": "image_classifier"}
    path.write_text(json.dumps(card))
    with serving(tmp_path, "explain", repository=repository) as server:
        request = pb.ExplainRequest(input=IMAGE, method=SALIENCY)
        assert "make-explainable" in refused(server, "Explain", request, "INVALID_ARGUMENT", "model")


def refused(server: Server, rpc: str, request: object, code: str, field: str) -> str:
    """The message of the error that a call ends with."""
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as raised:
        getattr(ExplainServiceStub(channel), rpc)(request, timeout=WAIT)
    error = lectern.LecternError.of(raised.value)
    assert (error.code().name, [f for f, _ in error.violations]) == (code, [field])
    return error.details()
