"""DefendService: what attacks reach and keep to, what defences and the detector do, and what is refused."""

from __future__ import annotations

import asyncio
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import lectern
from lectern.methods import attack_method, defence, evaluated_attack
from lectern.v1 import defend_pb2 as pb
from lectern.v1.defend_pb2_grpc import DefendServiceStub
from tests.conftest import EXPORTED, SLIVERS, Server, encode, serving
from tests.waiting import WAIT

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNT = 12
FEW = {name: {"steps": 4, "step_size": 4 / 255} for name in ("i_fgsm", "mi_fgsm", "di_mi_fgsm", "pgd")}
FEW |= {"square": {"queries": 120}, "fgsm": {}}
PASSIVE = ("gaussian", "median", "jpeg", "bit_depth", "resize_and_pad")


@pytest.fixture(scope="module")
def defending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this capability alone, whose operator allows attacks."""
    with serving(tmp_path_factory.mktemp("defend"), "defend", LECTERN_ALLOW_ATTACKS="true") as server:
        yield server


@pytest.fixture
def client(defending: Server) -> Iterator[lectern.Client]:
    with lectern.Client(defending.target, timeout=WAIT) as client:
        yield client


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, list[str]]:
    """Photos of CIFAR-10's test split, which no model was trained on, and their classes."""
    with np.load(SLIVERS / "image_classifier_test.npz") as file:
        return file["images"], [LABELS[label] for label in file["labels"]]


@pytest.fixture(scope="module")
def files(held_out: tuple[np.ndarray, list[str]]) -> list[bytes]:
    return [encode(photo) for photo in held_out[0][:COUNT]]


@pytest.fixture(scope="module")
def labels(held_out: tuple[np.ndarray, list[str]]) -> list[str]:
    return held_out[1][:COUNT]


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image)


@pytest.mark.parametrize("method", FEW)
def test_each_attack_fools_the_model_within_epsilon(
    client: lectern.Client,
    files: list[bytes],
    labels: list[str],
    held_out: tuple[np.ndarray, list[str]],
    method: str,
) -> None:
    response = client.attack(files, method, labels=labels, include_picture=True, **FEW[method])
    assert (response.model, response.version) == ("image_classifier", 1)
    assert len(response.results) == COUNT
    for result, photo, label in zip(response.results, held_out[0], labels, strict=False):
        change = np.abs(opened(result.image).astype(int) - photo)
        assert change.max() <= 8
        assert result.linf == pytest.approx(change.max() / 255)
        assert result.success == (result.after.label != label)
    assert np.mean([result.success for result in response.results]) >= 0.5
    assert opened(response.picture).shape[1] > 600
    again = client.attack(files, method, labels=labels, include_picture=True, **FEW[method])
    assert again == response


def test_l2_attacks_keep_to_a_length(client: lectern.Client, files: list[bytes], labels: list[str]) -> None:
    response = client.attack(files, "pgd", labels=labels, norm="l2", epsilon=0.4, steps=5)
    assert all(0 < result.l2 <= 0.4 for result in response.results)
    assert np.mean([result.success for result in response.results]) >= 0.7


def test_an_epsilon_of_zero_changes_nothing(
    client: lectern.Client, files: list[bytes], held_out: tuple[np.ndarray, list[str]]
) -> None:
    for method in ("fgsm", "pgd", "square"):
        (result,) = client.attack(files[0], method, epsilon=0).results
        assert (opened(result.image) == held_out[0][0]).all()
        assert result.before == result.after


def test_a_target_is_reached(client: lectern.Client, files: list[bytes]) -> None:
    by_name = client.attack(files, "pgd", target="ship")
    assert all(result.success and result.after.label == "ship" for result in by_name.results)
    assert client.attack(files, "pgd", target=8) == by_name


def test_attacks_transfer_from_another_model(client: lectern.Client, files: list[bytes], labels: list[str]) -> None:
    response = client.attack(files, "mi_fgsm", labels=labels, gradient_of="drawing_classifier", steps=5)
    assert response.model == "image_classifier"
    assert np.mean([result.success for result in response.results]) >= 0.5


def test_an_attack_that_asks_only_for_answers_needs_no_gradients(client: lectern.Client, files: list[bytes]) -> None:
    response = client.attack(files[:4], "square", model="compact_classifier", queries=60)
    assert any(result.success for result in response.results)


async def test_callers_share_batches_and_get_what_they_get_alone(defending: Server, files: list[bytes]) -> None:
    async with lectern.aio.Client(defending.target, timeout=WAIT) as client:
        asked = [client.attack(file, "i_fgsm", seed=i, steps=3, include_values=True) for i, file in enumerate(files)]
        together = await asyncio.gather(*asked)
        alone = await client.attack(files, "i_fgsm", steps=3, include_values=True)
    for one, other in zip(together, alone.results, strict=True):
        a, b = (np.frombuffer(r.values, "<f4") for r in (one.results[0], other))
        assert np.mean(a != b) < 0.01  # a gradient of nearly 0 may round to the other sign in another batch


def test_a_batch_does_not_change_what_is_drawn_for_an_image(client: lectern.Client, files: list[bytes]) -> None:
    together = client.attack(files[:3], "pgd", steps=1, step_size=1 / 255, include_values=True)
    alone = client.attack(files[2], "pgd", seed=2, steps=1, step_size=1 / 255, include_values=True)
    a, b = (np.frombuffer(r.values, "<f4") for r in (together.results[2], alone.results[0]))
    assert np.mean(a != b) < 0.01


def test_defences_help_against_attacks_that_do_not_know_them(
    client: lectern.Client, held_out: tuple[np.ndarray, list[str]]
) -> None:
    images, names = held_out[0][:40], held_out[1][:40]
    by_label: dict[str, list[bytes]] = {}
    for image, name in zip(images, names, strict=True):
        by_label.setdefault(name, []).append(encode(image))
    attacks = [evaluated_attack("pgd", steps=5), evaluated_attack("pgd", steps=5, aware=True)]
    chains = ["jpeg", [defence("median", window=3), defence("resize_and_pad", least=0.9)]]
    cells = list(client.evaluate_robustness(by_label, attacks[:1], chains))
    cells += list(client.evaluate_robustness(by_label, attacks[1:], ["jpeg"]))
    assert [(c.done, c.total) for c in cells] == [(i + 1, 6) for i in range(6)] + [(i + 1, 4) for i in range(4)]
    accuracy = {(c.attack, c.defence): c.accuracy for c in cells}
    plain, aware = "PGD 8/255, 5 steps", "PGD 8/255, 5 steps, aware"
    assert accuracy["none", "none"] > 0.85
    assert accuracy[plain, "none"] < 0.1
    assert accuracy[plain, "JPEG 50"] > 0.4
    assert accuracy[plain, "median 3 + resize and pad"] > 0.3
    assert accuracy[aware, "JPEG 50"] < accuracy[plain, "JPEG 50"] - 0.2
    assert all(not cell.picture for cell in cells[:5])
    assert opened(cells[5].picture).shape[1] > 400


@pytest.mark.parametrize("kind", PASSIVE)
def test_each_defence_cleans_an_image(client: lectern.Client, files: list[bytes], kind: str) -> None:
    response = client.defend(files, [kind], seed=3)
    assert response == client.defend(files, [kind], seed=3)
    for result, file in zip(response.results, files, strict=True):
        cleaned = opened(result.image)
        assert cleaned.shape == (32, 32, 3)
        assert np.abs(cleaned.astype(int) - opened(file)).mean() < 80
        assert 0 < result.after.probability <= 1
    assert any(result.image != file for result, file in zip(response.results, files, strict=True))
    other = client.defend(files, [kind], seed=4)
    assert (other != response) == (kind == "resize_and_pad")


def test_parameters_of_defences_matter(client: lectern.Client, files: list[bytes]) -> None:
    for kind, parameters in (
        ("gaussian", {"sigma": 0.4}),
        ("jpeg", {"quality": 95}),
        ("bit_depth", {"bits": 7}),
    ):
        mild, usual = (client.defend(files[0], [one]).results[0].image for one in (defence(kind, **parameters), kind))
        original = opened(files[0]).astype(int)
        assert np.abs(opened(mild) - original).sum() < np.abs(opened(usual) - original).sum()


def test_the_detector_tells_attacked_images_from_clean_ones(
    client: lectern.Client, held_out: tuple[np.ndarray, list[str]]
) -> None:
    files = [encode(photo) for photo in held_out[0][:100]]
    attacked = [r.image for r in client.attack(files, "pgd", labels=held_out[1][:100]).results]
    clean = [r.detection for r in client.defend(files).results]
    suspected = [r.detection for r in client.defend(attacked).results]
    truth = [0] * len(clean) + [1] * len(suspected)
    assert roc_auc_score(truth, [d.score for d in (*clean, *suspected)]) >= 0.85
    assert np.mean([d.attacked for d in clean]) <= 0.15
    strict = client.defend(files, false_positive_rate=0.01).results[0].detection
    assert strict.threshold > clean[0].threshold


def test_a_certificate_holds_within_its_radius(client: lectern.Client, files: list[bytes], labels: list[str]) -> None:
    response = client.defend(files, smoothing={"noise": 0.05, "samples": 100})
    certified = [r.certificate for r in response.results]
    assert any(c.radius > 0.03 for c in certified)
    assert max(c.radius for c in certified) < 0.05 * 3
    kept = [i for i, c in enumerate(certified) if c.radius > 0]
    for i in kept[:3]:
        inside = client.attack(files[i], "pgd", norm="l2", epsilon=certified[i].radius, steps=5).results[0].image
        again = client.defend(inside, smoothing={"noise": 0.05, "samples": 100}).results[0].certificate
        assert again.prediction.label == certified[i].prediction.label


def test_models_that_defend_are_found_by_name(trained, tmp_path: Path, files: list[bytes], labels: list[str]) -> None:
    repository = tmp_path / "models"
    for name in ("robust_classifier", "proxy_ensemble", "image_purifier"):
        shutil.copytree(trained(name), repository, dirs_exist_ok=True)
    for graph in EXPORTED.glob("image_classifier*"):
        shutil.copytree(graph, repository / graph.name, dirs_exist_ok=True)
    with (
        serving(tmp_path, "defend", repository=repository, LECTERN_ALLOW_ATTACKS="true") as server,
        lectern.Client(server.target, timeout=WAIT) as client,
    ):
        response = client.defend(files, ["autoencoder", "robust_model"])
        assert {r.before.label for r in response.results} <= set(LABELS)
        attacked = client.attack(files[:4], "di_mi_fgsm", gradient_of="proxy_ensemble", steps=2)
        assert attacked.model == "image_classifier"
        aware = client.attack(files[:4], "pgd", defences=["autoencoder", "robust_model"], steps=2)
        assert len(aware.results) == 4
        own = client.attack(files[:4], "fgsm", model="robust_classifier")
        assert own.model == "robust_classifier"


PHOTO = encode(np.full((32, 32, 3), 99, np.uint8))
PGD = attack_method("pgd")


def with_method(name: str, **parameters: object) -> pb.AttackRequest:
    return pb.AttackRequest(images=[PHOTO], method=attack_method(name, **parameters))


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.AttackRequest(method=PGD), "INVALID_ARGUMENT", "images"),
        (pb.AttackRequest(images=[b"x"], method=PGD), "INVALID_ARGUMENT", "images[0]"),
        (pb.AttackRequest(images=[PHOTO]), "INVALID_ARGUMENT", "method"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, model="nobody"), "NOT_FOUND", "model"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, version=9), "NOT_FOUND", "version"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, model="covid_regressor"), "NOT_FOUND", "model"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, model="few_shot_classifier"), "INVALID_ARGUMENT", "model"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, model="compact_classifier"), "INVALID_ARGUMENT", "model"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, target_index=10), "INVALID_ARGUMENT", "target_index"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, target_label="tree"), "INVALID_ARGUMENT", "target_label"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, labels=["tree"]), "INVALID_ARGUMENT", "labels[0]"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, labels=["cat", "dog"]), "INVALID_ARGUMENT", "labels"),
        (
            pb.AttackRequest(images=[PHOTO], method=PGD, gradient_of="compact_classifier"),
            "INVALID_ARGUMENT",
            "gradient_of",
        ),
        (pb.AttackRequest(images=[PHOTO], method=PGD, draws=0), "INVALID_ARGUMENT", "draws"),
        (pb.AttackRequest(images=[PHOTO], method=PGD, draws=10**6), "INVALID_ARGUMENT", "draws"),
        (with_method("pgd", epsilon=-0.1), "INVALID_ARGUMENT", "method.pgd.epsilon"),
        (with_method("fgsm", epsilon=1.1), "INVALID_ARGUMENT", "method.fgsm.epsilon"),
        (with_method("square", epsilon=math.nan), "INVALID_ARGUMENT", "method.square.epsilon"),
        (with_method("i_fgsm", steps=0), "INVALID_ARGUMENT", "method.i_fgsm.steps"),
        (with_method("pgd", steps=10**6), "INVALID_ARGUMENT", "method.pgd.steps"),
        (with_method("pgd", step_size=0), "INVALID_ARGUMENT", "method.pgd.step_size"),
        (with_method("mi_fgsm", decay=2), "INVALID_ARGUMENT", "method.mi_fgsm.decay"),
        (with_method("di_mi_fgsm", diversity=0), "INVALID_ARGUMENT", "method.di_mi_fgsm.diversity"),
        (with_method("square", queries=0), "INVALID_ARGUMENT", "method.square.queries"),
        (
            pb.AttackRequest(images=[PHOTO], method=pb.AttackMethod(pgd=pb.Pgd(norm=7))),  # type: ignore[arg-type]
            "INVALID_ARGUMENT",
            "method.pgd.norm",
        ),
    ],
)
def test_bad_attacks_are_refused_by_name(defending: Server, request_: pb.AttackRequest, code: str, field: str) -> None:
    refused(defending, "Attack", request_, code, field)


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.DefendRequest(), "INVALID_ARGUMENT", "images"),
        (pb.DefendRequest(images=[PHOTO], model="nobody"), "NOT_FOUND", "model"),
        (pb.DefendRequest(images=[PHOTO], defences=[pb.Defence()]), "INVALID_ARGUMENT", "defences[0]"),
        (pb.DefendRequest(images=[PHOTO], defences=[defence("jpeg")] * 9), "INVALID_ARGUMENT", "defences"),
        (pb.DefendRequest(images=[PHOTO], false_positive_rate=0.6), "INVALID_ARGUMENT", "false_positive_rate"),
        (pb.DefendRequest(images=[PHOTO], smoothing={"noise": 0}), "INVALID_ARGUMENT", "smoothing.noise"),
        (pb.DefendRequest(images=[PHOTO], smoothing={"samples": 9}), "INVALID_ARGUMENT", "smoothing.samples"),
        (pb.DefendRequest(images=[PHOTO], smoothing={"samples": 10**6}), "INVALID_ARGUMENT", "smoothing.samples"),
        (pb.DefendRequest(images=[PHOTO], smoothing={"confidence": 1}), "INVALID_ARGUMENT", "smoothing.confidence"),
    ],
)
def test_bad_requests_to_defend_are_refused_by_name(
    defending: Server, request_: pb.DefendRequest, code: str, field: str
) -> None:
    refused(defending, "Defend", request_, code, field)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (defence("gaussian", sigma=0), "gaussian.sigma"),
        (defence("median", window=1), "median.window"),
        (defence("jpeg", quality=0), "jpeg.quality"),
        (defence("bit_depth", bits=9), "bit_depth.bits"),
        (defence("resize_and_pad", least=0.2), "resize_and_pad.least"),
        (defence("robust_model", model="lifelong_classifier"), "robust_model.model"),
    ],
)
def test_bad_defences_are_refused_by_name(defending: Server, bad: pb.Defence, field: str) -> None:
    request = pb.DefendRequest(images=[PHOTO], defences=[defence("jpeg"), bad])
    refused(defending, "Defend", request, "INVALID_ARGUMENT", f"defences[1].{field}")


TEST = pb.TestImage(image=PHOTO, label="cat")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.EvaluateRobustnessRequest(), "INVALID_ARGUMENT", "images"),
        (pb.EvaluateRobustnessRequest(images=[TEST] * 257), "INVALID_ARGUMENT", "images"),
        (
            pb.EvaluateRobustnessRequest(images=[{"image": PHOTO, "label": "tree"}]),
            "INVALID_ARGUMENT",
            "images[0].label",
        ),
        (pb.EvaluateRobustnessRequest(images=[TEST], models=[{"model": "nobody"}]), "NOT_FOUND", "model"),
        (
            pb.EvaluateRobustnessRequest(images=[TEST], attacks=[evaluated_attack("pgd", steps=0)]),
            "INVALID_ARGUMENT",
            "attacks[0].method.pgd.steps",
        ),
        (
            pb.EvaluateRobustnessRequest(images=[TEST], attacks=[evaluated_attack("pgd", gradient_of="nobody")]),
            "NOT_FOUND",
            "attacks[0].gradient_of",
        ),
        (
            pb.EvaluateRobustnessRequest(images=[TEST], attacks=[evaluated_attack("pgd")] * 200),
            "INVALID_ARGUMENT",
            "attacks",
        ),
        (
            pb.EvaluateRobustnessRequest(images=[TEST], defences=[{"chain": [defence("jpeg", quality=99)]}]),
            "INVALID_ARGUMENT",
            "defences[0].chain[0].jpeg.quality",
        ),
    ],
)
def test_bad_evaluations_are_refused_by_name(
    defending: Server, request_: pb.EvaluateRobustnessRequest, code: str, field: str
) -> None:
    refused(defending, "EvaluateRobustness", request_, code, field)


def test_attacks_are_off_unless_an_operator_turns_them_on(server: Server, files: list[bytes]) -> None:
    with lectern.Client(server.target, timeout=WAIT) as client:
        with pytest.raises(lectern.LecternError, match="LECTERN_ALLOW_ATTACKS=true") as raised:
            client.attack(files[0])
        assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert client.defend(files[0], ["jpeg"]).results


def refused(server: Server, rpc: str, request: object, code: str, field: str) -> None:
    """A call ends with an error of that code that names the field."""
    with grpc.insecure_channel(server.target) as channel:
        call = getattr(DefendServiceStub(channel), rpc)
        with pytest.raises(grpc.RpcError) as raised:
            next(answer) if isinstance(answer := call(request, timeout=WAIT), Iterator) else answer
    error = lectern.LecternError.of(raised.value)
    assert (error.code().name, [f for f, _ in error.violations]) == (code, [field])
