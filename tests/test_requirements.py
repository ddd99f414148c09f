"""The lists of exact versions hold what pyproject.toml asks for, and agree with each other."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

pytestmark = pytest.mark.unit

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = {
    "dev": ["dev"],
    "serve-cpu": ["cpu", "episodes", "tracing"],
    "serve-gpu": ["gpu", "episodes", "tracing"],
    "console": ["console"],
    "load": ["load"],
    "train": ["cpu", "train"],
}
HASHED = ("build", "serve-cpu", "serve-gpu", "triton", "mlserver", "kserve", "litserve", "bentoml", "ray")


def pins(name: str) -> dict[str, str]:
    """Package -> exact version."""
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in lines}


def asked(extras: list[str]) -> list[Requirement]:
    """What the project needs with these extras, which may name others."""
    requirements = [Requirement(r) for r in PROJECT["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            own = requirement.name == PROJECT["name"]
            requirements += asked(sorted(requirement.extras)) if own else [requirement]
    return requirements


@pytest.mark.parametrize(("name", "extras"), LISTS.items())
def test_a_list_holds_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    versions = pins(name)
    for requirement in asked(extras):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {name}.txt: run `make lock UPGRADE=`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: run `make lock UPGRADE=`"


@pytest.mark.parametrize("name", ["serve-cpu", "serve-gpu", "console", "train"])
def test_what_serves_is_what_is_tested(name: str) -> None:
    tested = pins("dev")
    assert {p: v for p, v in pins(name).items() if p in tested} == {p: tested[p] for p in pins(name) if p in tested}


@pytest.mark.parametrize("name", HASHED)
def test_what_serves_is_checked_by_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = [e for e in re.split(r"\n(?=[\w#])", text) if not e.startswith("#")]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_no_list_names_a_registry() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|index-url|find-links", path.read_text()), path.name
