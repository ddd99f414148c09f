"""ClassifyFewShot through gRPC: characters and fonts that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from lectern import Client, LecternError
from lectern.methods import FewShotMethod
from lectern.v1 import classify_pb2 as pb
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from tests.conftest import SLIVERS, Server, encode
from tests.services.test_classify import failure, probabilities
from tests.waiting import WAIT

METHODS = tuple(method for method in get_args(FewShotMethod) if method)


@pytest.fixture(scope="module")
def drawings() -> list[list[bytes]]:
    """PNG files of held-out characters by held-out fonts, dark on white; [character][font]."""
    with np.load(SLIVERS / "few_shot_classifier.npz") as file:
        images, characters = 255 - file["test_images"], file["test_characters"]
    by_character = [[encode(image) for image in images[characters == c]] for c in range(characters.max() + 1)]
    return [files for files in by_character if len(files) == 5]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def stub(channel: grpc.Channel) -> ClassifyServiceStub:
    return ClassifyServiceStub(channel)


def shown(drawings: list[list[bytes]], ways: int, shots: int) -> dict[str, list[bytes]]:
    return {f"class {c:02d}": files[:shots] for c, files in enumerate(drawings[:ways])}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("ways", "shots", "least"), [(2, 1, 0.9), (5, 3, 0.9), (20, 1, 0.75)])
def test_sorts_new_characters_by_few_examples(
    client: Client, drawings: list[list[bytes]], method: FewShotMethod, ways: int, shots: int, least: float
) -> None:
    queries = [files[font] for files in drawings[:ways] for font in (3, 4)]
    response = client.classify_few_shot(shown(drawings, ways, shots), queries, method=method)
    assert (response.model, len(response.results)) == ("few_shot_classifier", 2 * ways)
    assert pb.FewShotMethod.Name(response.method) == f"FEW_SHOT_METHOD_{method.upper()}"
    right = [r.classes[0].label == f"class {i // 2:02d}" for i, r in enumerate(response.results)]
    assert np.mean(right) >= least
    for result in response.results:
        values = [c.probability for c in result.classes]
        assert len(values) == ways
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)


def test_the_default_method_is_the_prototypes(client: Client, drawings: list[list[bytes]]) -> None:
    support, queries = shown(drawings, 5, 1), [files[4] for files in drawings[:5]]
    default, named = (
        client.classify_few_shot(support, queries),
        client.classify_few_shot(support, queries, method="prototypes"),
    )
    assert default == named


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_examples_does_not_matter(
    client: Client, drawings: list[list[bytes]], method: FewShotMethod
) -> None:
    support, queries = shown(drawings, 6, 2), [files[4] for files in drawings[:6]]
    turned = {label: files[::-1] for label, files in reversed(support.items())}
    for a, b in zip(
        client.classify_few_shot(support, queries, method=method).results,
        client.classify_few_shot(turned, queries, method=method).results,
        strict=True,
    ):
        np.testing.assert_allclose(probabilities(a), probabilities(b), atol=1e-4)
        assert a.classes[0].label == b.classes[0].label


def test_dark_on_light_is_the_same_as_light_on_dark(client: Client, drawings: list[list[bytes]]) -> None:
    with np.load(SLIVERS / "few_shot_classifier.npz") as file:
        inverse = [encode(image) for image in file["test_images"][:4]]
        same = [encode(255 - image) for image in file["test_images"][:4]]
    support = shown(drawings, 5, 1)
    for a, b in zip(
        client.classify_few_shot(support, same).results, client.classify_few_shot(support, inverse).results, strict=True
    ):
        np.testing.assert_allclose(probabilities(a), probabilities(b), atol=1e-4)


def test_classes_may_have_different_numbers_of_examples(client: Client, drawings: list[list[bytes]]) -> None:
    support = {f"class {c}": drawings[c][: c + 1] for c in range(4)}
    results = client.classify_few_shot(support, [files[4] for files in drawings[:4]], top_k=1).results
    assert [r.classes[0].label for r in results] == [f"class {c}" for c in range(4)]


def test_more_steps_fit_the_examples_more_closely(client: Client, drawings: list[list[bytes]]) -> None:
    support = shown(drawings, 5, 2)
    examples = [files[0] for files in support.values()]
    losses = []
    for steps in (1, 10):
        results = client.classify_few_shot(support, examples, method="maml", steps=steps).results
        losses.append(-np.mean([np.log(probabilities(r)[i]) for i, r in enumerate(results)]))
    assert losses[1] < losses[0]


def test_the_most_ways_and_shots_are_served(client: Client, drawings: list[list[bytes]]) -> None:
    support = {f"{c:02d}": [drawings[c][0]] * 20 for c in range(50)}
    (result,) = client.classify_few_shot(support, drawings[7][1], top_k=1).results
    assert len(result.classes) == 1


def examples(*labels: str, image: bytes | None = None) -> list[pb.LabelledImage]:
    drawing = encode(np.eye(28, dtype=np.uint8) * 255) if image is None else image
    return [pb.LabelledImage(label=label, image=drawing) for label in labels]


QUERY = encode(np.eye(28, dtype=np.uint8) * 255)
TWO = examples("a", "b")


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"support": []}, "support", "shows 0 classes; send examples of 2 to 50"),
        ({"support": examples("a", "a")}, "support", "shows 1 classes"),
        ({"support": examples(*map(str, range(51)))}, "support", "shows 51 classes"),
        ({"support": examples(*["a"] * 21, "b")}, "support", "21 examples of 'a'; the most of one class is 20"),
        ({"support": examples("a", "", "b")}, "support[1].label", "is empty"),
        ({"support": [*TWO, *examples("c", image=b"text")]}, "support[2].image", "is not a PNG"),
        ({"support": [*examples("c", image=b""), *TWO]}, "support[0].image", "has no bytes"),
        ({"queries": []}, "queries", "at least one"),
        ({"queries": [QUERY, QUERY[:-30]]}, "queries[1]", "truncated"),
        ({"queries": [QUERY] * 257}, "queries", "the most in one request is 256"),
        ({"method": 99}, "method", "99"),
        ({"method": pb.FEW_SHOT_METHOD_MAML, "steps": 21}, "steps", "the most is 20"),
        ({"steps": 5}, "steps", "MAML methods only"),
        ({"model": "image_classifier"}, "model", "has classes of its own"),
        ({"model": "covid_regressor"}, "model", "serves the capability predict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_names_the_field(
    stub: ClassifyServiceStub, fields: dict[str, object], field: str, says: str
) -> None:
    request = pb.ClassifyFewShotRequest(**{"support": TWO, "queries": [QUERY], **fields})  # type: ignore[arg-type]
    code, message, named = failure(lambda: stub.ClassifyFewShot(request, timeout=WAIT))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert says in message
    good = pb.ClassifyFewShotRequest(support=TWO, queries=[QUERY])
    assert len(stub.ClassifyFewShot(good, timeout=WAIT).results) == 1


def test_images_need_a_model_with_classes_of_its_own(client: Client) -> None:
    with pytest.raises(LecternError) as caught:
        client.classify_image(QUERY, model="few_shot_classifier")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ClassifyFewShot" in caught.value.details()


def test_empty_images_have_an_answer(client: Client, drawings: list[list[bytes]]) -> None:
    blank = encode(np.zeros((28, 28), np.uint8))
    (result,) = client.classify_few_shot(shown(drawings, 3, 1), blank).results
    assert np.isfinite(probabilities(result)).all()


@pytest.mark.parametrize(
    ("support", "labels", "queries", "steps", "says"),
    [
        (5, (5, 2), 3, 2, ""),
        (5, (4, 2), 3, 2, "do not fit together"),
        (0, (0, 2), 3, 2, "support"),
        (5, (5, 0), 3, 2, "labels"),
        (5, (5, 2), 0, 2, "queries"),
        (5, (5, 2), 1, 10**15, ""),
    ],
    ids=["good", "unequal", "no support", "no classes", "no queries", "endless"],
)
def test_the_raw_graph_refuses_what_does_not_fit_and_always_ends(
    server: Server, support: int, labels: tuple[int, int], queries: int, steps: int, says: str
) -> None:
    arrays = {
        "support": np.zeros((support, 28, 28, 1), np.uint8),
        "labels": np.ones(labels, np.float32),
        "queries": np.zeros((queries, 28, 28, 1), np.uint8),
        "steps": np.array([steps]),
    }
    inputs = []
    for name, array in arrays.items():
        inputs.append(triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    with triton.InferenceServerClient(server.target) as client:
        if says:
            with pytest.raises(InferenceServerException, match=says) as caught:
                client.infer("few_shot_classifier_maml", inputs, client_timeout=WAIT)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        else:
            answer = client.infer("few_shot_classifier_maml", inputs, client_timeout=WAIT)
            assert answer.as_numpy("logits").shape == (queries, 2)
