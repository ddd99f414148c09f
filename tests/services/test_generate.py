"""GenerateService through gRPC: the same seed gives the same image, whatever surrounds it."""

from __future__ import annotations

import io
from collections.abc import Callable

import grpc
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from artifacts.noise import noise, path
from artifacts.versions import served_versions
from lectern.v1 import generate_pb2 as pb
from lectern.v1.generate_pb2_grpc import GenerateServiceStub
from tests.conftest import EXPORTED, SLIVERS, encode
from tests.services.test_classify import failure
from tests.waiting import WAIT

Generate = Callable[..., list[pb.GenerateImagesResponse]]
GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@pytest.fixture
def stub(channel: grpc.Channel) -> GenerateServiceStub:
    return GenerateServiceStub(channel)


@pytest.fixture
def generate(stub: GenerateServiceStub) -> Generate:
    return lambda **fields: list(stub.GenerateImages(pb.GenerateImagesRequest(**fields), timeout=WAIT))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Handwritten digits uint8 [N, 28, 28], white on black."""
    with np.load(SLIVERS / "style_translator.npz") as file:
        return file["handwritten_images"]


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image), formats=["PNG"]))


def graph(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(EXPORTED / name / str(served_versions(EXPORTED / name)[0]) / "model.onnx")


def test_an_image_is_its_seed_s_by_the_recipe_of_the_contract(generate: Generate) -> None:
    (response,) = generate(seed=7)
    recipe = np.random.Generator(np.random.PCG64(7)).standard_normal(128, np.float32)
    expected = graph("face_generator").run(None, {"noise": recipe[None]})[0][0]
    assert (response.model, response.index, response.seed, response.label) == ("face_generator", 0, 7, "")
    assert response.version >= 1
    np.testing.assert_array_equal(pixels(response.image), expected)
    assert expected.shape == (64, 64, 3)


@pytest.mark.unit
def test_noise_never_changes() -> None:
    np.testing.assert_array_equal(noise(7, 4), np.array([1.5219693, -1.1441058, 1.1501616, -1.7846532], np.float32))


def test_image_i_has_seed_plus_i_however_many_are_made(generate: Generate) -> None:
    many = generate(seed=2**64 - 3, count=21)
    assert [r.index for r in many] == list(range(21))
    assert [r.seed for r in many[:5]] == [2**64 - 3, 2**64 - 2, 2**64 - 1, 0, 1]
    assert len({r.image for r in many}) == 21
    for one in (many[0], many[3], many[20]):
        assert generate(seed=one.seed)[0].image == one.image
    assert [r.image for r in generate(seed=0, count=18)] == [r.image for r in many[3:]]


def test_a_drawn_seed_is_told_and_gives_the_same_image_again(generate: Generate) -> None:
    (first,), (second,) = generate(), generate()
    assert first.seed != second.seed
    assert generate(seed=first.seed)[0].image == first.image


def test_interpolation_leads_from_one_image_to_the_other(generate: Generate) -> None:
    walk = generate(seed=3, interpolation=pb.Interpolation(to_seed=11, steps=9))
    assert [(r.index, r.seed) for r in walk] == [(i, 3) for i in range(9)]
    assert walk[0].image == generate(seed=3)[0].image
    assert walk[-1].image == generate(seed=11)[0].image
    frames = np.stack([pixels(r.image) for r in walk]).astype(float)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < np.abs(frames[-1] - frames[0]).mean()


@pytest.mark.unit
def test_the_path_keeps_its_length_and_turns_by_equal_angles() -> None:
    start, end = noise(1, 128), noise(2, 128)
    walk = path(start, end * np.linalg.norm(start) / np.linalg.norm(end), 6)
    lengths = np.linalg.norm(walk, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-4)
    cosines = (walk[1:] * walk[:-1]).sum(1) / lengths[0] ** 2
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-4)
    np.testing.assert_array_equal(path(start, start, 3), np.stack([start] * 3))


def test_less_truncation_noise_gives_less_variety(generate: Generate) -> None:
    def variety(truncation: float) -> float:
        images = [pixels(r.image) for r in generate(seed=0, count=16, truncation=truncation)]
        return float(np.stack(images).astype(float).std(axis=0).mean())

    assert variety(0.3) < variety(0.7) < variety(1.0)
    assert generate(seed=5, truncation=1.0)[0].image == generate(seed=5)[0].image


def test_a_contact_sheet_holds_the_same_images(generate: Generate) -> None:
    single = [pixels(r.image) for r in generate(seed=40, count=10)]
    (sheet,) = generate(seed=40, count=10, layout=pb.IMAGE_LAYOUT_CONTACT_SHEET)
    grid = pixels(sheet.image)
    assert grid.shape == (3 * 64, 4 * 64, 3)
    for i, image in enumerate(single):
        row, column = divmod(i, 4)
        np.testing.assert_array_equal(grid[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64], image)
    assert (grid[128:, 128:] == 255).all()
    assert (sheet.index, sheet.seed) == (0, 40)


def test_a_conditional_model_draws_each_label_in_turn_or_the_one_asked_for(generate: Generate) -> None:
    turn = generate(model="garment_generator", seed=0, count=12)
    assert tuple(r.label for r in turn) == (*GARMENTS, *GARMENTS[:2])
    assert pixels(turn[0].image).shape == (28, 28)
    dresses = generate(model="garment_generator", seed=3, count=2, label="dress")
    assert [r.label for r in dresses] == ["dress"] * 2
    assert dresses[0].image == turn[3].image
    walk = generate(model="garment_generator", seed=3, label="dress", interpolation={"to_seed": 4, "steps": 3})
    assert [walk[0].image, walk[-1].image] == [r.image for r in dresses]


def test_a_caller_that_has_seen_enough_ends_the_stream(stub: GenerateServiceStub) -> None:
    call = stub.GenerateImages(pb.GenerateImagesRequest(seed=1, count=64), timeout=WAIT)
    assert next(call).index == 0
    call.cancel()
    assert len(list(stub.GenerateImages(pb.GenerateImagesRequest(count=2), timeout=WAIT))) == 2


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"count": 0}, "count", "is 0; it must be 1 to 64"),
        ({"count": 10**6}, "count", "is 1000000"),
        ({"truncation": 0.0}, "truncation", "more than 0 and at most 1"),
        ({"truncation": -1.0}, "truncation", "is -1"),
        ({"truncation": 1.5}, "truncation", "is 1.5"),
        ({"truncation": float("nan")}, "truncation", "is nan"),
        ({"truncation": float("inf")}, "truncation", "is inf"),
        ({"interpolation": {"to_seed": 1}}, "interpolation.steps", "is 0; it must be 2 to 64"),
        ({"interpolation": {"to_seed": 1, "steps": 65}}, "interpolation.steps", "is 65"),
        ({"label": "dress"}, "label", "face_generator has no labels"),
        (
            {"model": "garment_generator", "label": "hat"},
            "label",
            "is 'hat'; garment_generator draws: T-shirt, trousers",
        ),
        ({"model": "garment_generator", "interpolation": {"steps": 2}}, "label", "an interpolation needs one of"),
        ({"layout": 9}, "layout", "is 9"),
        ({"model": "style_translator"}, "model", "call TransformImage"),
    ],
)
def test_bad_requests_name_the_field(
    stub: GenerateServiceStub, generate: Generate, fields: dict[str, object], field: str, says: str
) -> None:
    request = pb.GenerateImagesRequest(**fields)  # type: ignore[arg-type]
    code, message, violated = failure(lambda: list(stub.GenerateImages(request, timeout=WAIT)))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert says in message
    assert len(generate(count=2)) == 2


def test_models_of_other_capabilities_are_not_found(stub: GenerateServiceStub) -> None:
    request = pb.GenerateImagesRequest(model="image_classifier")
    code, _, _ = failure(lambda: list(stub.GenerateImages(request, timeout=WAIT)))
    assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("style", ["printed", "handwritten"])
def test_redraws_an_image_as_the_graph_of_that_style_does(
    stub: GenerateServiceStub, digits: np.ndarray, style: str
) -> None:
    name = {"printed": "style_translator", "handwritten": "style_translator_to_handwritten"}[style]
    for digit in digits[:3]:
        response = stub.TransformImage(pb.TransformImageRequest(image=encode(digit), style=style), timeout=WAIT)
        expected = graph(name).run(None, {"images": digit[None, :, :, None]})[0][0, :, :, 0]
        assert (response.model, response.style) == ("style_translator", style)
        np.testing.assert_array_equal(pixels(response.image), expected)


def test_dark_ink_on_paper_stays_dark_ink_on_paper(stub: GenerateServiceStub, digits: np.ndarray) -> None:
    def redraw(image: np.ndarray) -> np.ndarray:
        request = pb.TransformImageRequest(image=encode(image), style="printed")
        return pixels(stub.TransformImage(request, timeout=WAIT).image).astype(int)

    np.testing.assert_allclose(redraw(255 - digits[0]), 255 - redraw(digits[0]), atol=1)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"style": "printed"}, "image", "has no bytes"),
        ({"style": "printed", "image": b"not an image"}, "image", "is not a PNG, JPEG, WEBP image"),
        ({"image": b"x"}, "style", "is ''; style_translator draws: printed, handwritten"),
        ({"style": "oil", "image": b"x"}, "style", "is 'oil'"),
        ({"model": "face_generator", "style": "printed"}, "model", "call GenerateImages"),
    ],
)
def test_bad_images_and_styles_are_named(
    stub: GenerateServiceStub, fields: dict[str, object], field: str, says: str
) -> None:
    request = pb.TransformImageRequest(**fields)  # type: ignore[arg-type]
    code, message, violated = failure(lambda: stub.TransformImage(request, timeout=WAIT))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert says in message
