"""`lectern attack`, `defend`, `robustness` and `calibrate-detector`, and the clients' methods beneath them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lectern
from lectern.methods import attack_method, defence, evaluated_attack
from tests.conftest import ROOT, Server, serving
from tests.lectern.test_cli import Run, invoke, refused, run
from tests.waiting import WAIT

__all__ = ["run"]

CAT, SHIP = (ROOT / "docs" / "examples" / f"{name}.png" for name in ("cat", "ship"))


@pytest.fixture(scope="module")
def attackable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose operator allows attacks, by the flag."""
    with serving(tmp_path_factory.mktemp("attackable"), "defend", "--allow-attacks") as server:
        yield server


@pytest.fixture
def allowed(attackable: Server) -> Run:
    return lambda *arguments: invoke(*arguments, target=attackable.target)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos, each in the folder of its class."""
    root = tmp_path_factory.mktemp("photos")
    for photo in (CAT, SHIP):
        (root / photo.stem).mkdir()
        (root / photo.stem / photo.name).write_bytes(photo.read_bytes())
    return root


def test_an_attack_is_written_and_detected(allowed: Run, tmp_path: Path) -> None:
    fooling, picture = tmp_path / "fooling.png", tmp_path / "picture.png"
    options = ("--method", "pgd:steps=20,step-size=2/255", "--as", "dog", "--epsilon", 8)
    done = allowed("attack", CAT, *options, "--out", fooling, "--picture", picture, "--json")
    (result,) = json.loads(done.stdout)["results"]
    assert (result["before"]["label"], result["after"]["label"], result["success"]) == ("cat", "dog", True)
    assert 0 < result["linf"] <= 8.001 / 255
    assert Image.open(fooling).size == (224, 224)  # enlarged, and as deceptive
    assert Image.open(picture).height > 300
    answer = json.loads(allowed("defend", CAT, fooling, "--defence", "jpeg:quality=40", "--json").stdout)
    clean, attacked = answer["results"]
    assert attacked["before"]["label"] == "dog"
    assert attacked["score"] > clean["score"]


def test_several_images_go_into_a_directory(allowed: Run, tmp_path: Path) -> None:
    out = tmp_path / "attacked"
    assert allowed("attack", CAT, SHIP, "--method", "fgsm", "--out", out).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["1-cat.png", "2-ship.png"]
    done = allowed("defend", *out.iterdir(), "--defence", "median", "--certify", "--samples", 20, "--noise", 0.05)
    assert "radius" in done.stdout.decode()


def test_robustness_is_a_table_and_a_picture(allowed: Run, run: Run, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.png"
    options = ("--attack", "pgd:steps=2", "--attack", "fgsm@drawing_classifier", "--defence", "jpeg+bit-depth:bits=5")
    done = allowed("robustness", folders, *options, "--out", out, "--json")
    answer = json.loads(done.stdout)
    assert answer["n"] == 2
    assert [(cell["attack"], cell["defence"]) for cell in answer["cells"]] == [
        (attack, defended)
        for attack in ("none", "PGD 8/255, 2 steps", "FGSM 8/255 by drawing_classifier")
        for defended in ("none", "JPEG 50 + 5 bits")
    ]
    with_images = Image.open(out).height
    plain = run("robustness", folders, "--out", out)  # attacks are off there, so no attacked image is shown
    assert plain.returncode == 0, plain.stderr
    assert Image.open(out).height < with_images
    assert "PGD 8/255, 10 steps" in run("robustness", folders, "--aware", "--defence", "median").stdout.decode()


def test_what_is_wrong_is_named(allowed: Run, run: Run, folders: Path, tmp_path: Path) -> None:
    refused(run("attack", CAT), 1, "attacks are off", "LECTERN_ALLOW_ATTACKS=true")
    refused(allowed("attack", CAT, "--method", "guess"), 2, "no attack 'guess'", "di_mi_fgsm")
    refused(allowed("attack", CAT, "--method", "pgd:tries=3"), 2, "pgd has no 'tries'", "epsilon")
    refused(allowed("attack", CAT, "--method", "pgd:steps"), 2, "key=value")
    refused(allowed("attack", CAT, "--method", "pgd:norm=l7"), 2, "norm is 'l7'", "l2")
    refused(allowed("attack", CAT, "--as", "tree"), 1, "target_label", "airplane")
    refused(allowed("attack", CAT, "--epsilon", 300), 1, "method.pgd.epsilon", "0 to 1")
    refused(allowed("attack", ROOT / "README.md"), 1, "README.md", "PNG")
    refused(invoke("attack", CAT, SHIP, "--out", "one.png"), 2, "one picture")
    refused(allowed("defend", CAT, "--defence", "prayer"), 2, "no defence 'prayer'", "jpeg")
    refused(invoke("defend", CAT, "--samples", 20), 2, "--certify")
    refused(invoke("robustness", tmp_path), 2, "no folder of PNG")
    refused(allowed("robustness", folders, "--attack", "pgd@nobody"), 1, "attacks[0].gradient_of", "nobody")
    refused(invoke("calibrate-detector", "covid_regressor"), 1, "image_classifier")
    refused(invoke("calibrate-detector", "image_classifier", "--repository", tmp_path), 1, "train it first")


async def test_both_clients_answer_alike(attackable: Any) -> None:
    images, chain = {"cat": CAT, "ship": [SHIP]}, ["median", defence("jpeg", quality=80)]
    asked = {"attacks": ["fgsm", evaluated_attack("pgd", steps=2)], "defences": ["median", chain]}
    with lectern.Client(attackable.target, timeout=WAIT) as client:
        attacked = client.attack([CAT, SHIP], attack_method("fgsm", norm="l2"), labels=["cat", "ship"], seed=5)
        defended = client.defend(CAT, chain, smoothing={"samples": 10}, seed=5)
        cells = list(client.evaluate_robustness(images, seed=5, **asked))
    async with lectern.aio.Client(attackable.target, timeout=WAIT) as client:
        both = await client.attack([CAT, SHIP], attack_method("fgsm", norm="l2"), labels=["cat", "ship"], seed=5)
        assert both == attacked
        assert await client.defend(CAT, chain, smoothing={"samples": 10}, seed=5) == defended
        assert [cell async for cell in client.evaluate_robustness(images, seed=5, **asked)] == cells
