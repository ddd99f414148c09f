"""The version policy in a model's config.pbtxt: what it serves, and how it is changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from artifacts.versions import VersionError, promote, read_card, read_config, served_versions
from tests.conftest import EXPORTED
from tests.lectern.test_cli import invoke, refused

MODEL = "image_classifier"
GRADIENT = "image_classifier_gradient"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A repository with versions 1 to 3 of a model with three graphs."""
    for name in (MODEL, GRADIENT, "image_classifier_random_gradient"):
        shutil.copytree(EXPORTED / name, tmp_path / name)
        for version in ("2", "3"):
            shutil.copytree(EXPORTED / name / "1", tmp_path / name / version)
    for version in (2, 3):
        card = read_card(tmp_path / MODEL, 1)
        card.model_copy(update={"version": version}).write(tmp_path / MODEL / str(version) / "card.json")
    return tmp_path


def write(repository: Path, policy: str) -> str:
    """An operator's configuration, with that policy in its midst."""
    config = repository / MODEL / "config.pbtxt"
    text = config.read_text().replace("count: 1", "count: 2  # two cores")
    text = text.replace("input {", f"{policy}\ninput {{", 1)
    config.write_text(text)
    return text


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("version_policy { latest { num_versions: 2 } }", [3, 2]),
        ("version_policy: { all {} }", [3, 2, 1]),
        ("version_policy {\n  specific { versions: [1, 3, 7] }\n}", [3, 1]),
    ],
)
def test_what_is_served(three: Path, policy: str, served: list[int]) -> None:
    write(three, policy)
    assert served_versions(three / MODEL) == served
    assert read_card(three / MODEL).version == served[0]


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "# no version_policy { here }\nversion_policy { specific { versions: 2 } }  # for now",
        "version_policy: {\n  specific: {\n    versions: [1]\n  }\n}",
        "version_policy { latest { num_versions: 2 } } # two",
        "version_policy < all {} >",
    ],
)
@pytest.mark.parametrize("versions", [(1,), (1, 2)])
def test_only_the_policy_changes(three: Path, policy: str, versions: tuple[int, ...]) -> None:
    text = write(three, policy)
    before = read_config(three / MODEL)
    assert promote(three, MODEL, versions) == sorted(versions, reverse=True)
    for name in (MODEL, GRADIENT):  # Triton reads each graph's own
        assert served_versions(three / name) == sorted(versions, reverse=True)
    after = read_config(three / MODEL)
    assert after.instance_group[0].count == 2
    for config in (before, after):
        config.ClearField("version_policy")
    assert after == before
    if "<" not in text:  # written in a way that is printed anew
        assert "# two cores" in (three / MODEL / "config.pbtxt").read_text()


def test_the_newest_is_followed_again(three: Path) -> None:
    promote(three, MODEL, [1])
    assert promote(three, MODEL) == [3]
    assert not read_config(three / MODEL).HasField("version_policy")
    promote(three, MODEL, [1, 2])
    assert promote(three, MODEL) == [3, 2]
    assert read_config(three / GRADIENT).version_policy.latest.num_versions == 2
    write(three, "")
    assert promote(three, MODEL) == [3, 2]


def test_what_is_not_there_changes_nothing(three: Path) -> None:
    text = write(three, "")
    with pytest.raises(VersionError, match=r"has no version 9 of image_classifier; it has: \[1, 2, 3\]"):
        promote(three, MODEL, [1, 9])
    (three / MODEL / "2" / "card.json").write_text("{}")
    with pytest.raises(VersionError, match="version 2 cannot be read"):
        promote(three, MODEL, [2])
    assert (three / MODEL / "config.pbtxt").read_text() == text


def test_the_command_says_what_is_served(three: Path) -> None:
    result = invoke("promote", MODEL, "1", "--repository", str(three))
    assert (result.returncode, result.stdout) == (0, b"image_classifier serves version 1\n")
    result = invoke("promote", MODEL, "2", "3", "--repository", str(three))
    assert result.stdout == b"image_classifier serves version 3 and 2\n"
    refused(invoke("promote", "nobody", "--repository", str(three)), 2, "has no model 'nobody'")
    refused(invoke("promote", MODEL, "7", "--repository", str(three)), 1, "has no version 7")
