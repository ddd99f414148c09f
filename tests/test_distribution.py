"""What is installed: the client's wheel in an environment of its own, under a name that is ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server

# Ways to install PyPI's `lectern`, another project, or to ask for its version.
FOREIGN = re.compile(
    r"""\blectern\[[a-z]                                                             # its extras
    |\b(?:pip|pipx|uv|poetry)\b[^;&|`\n]*\b(?:install|add|download|run)\b[^;&|`\n]*[\s"'=]lectern(?![\w./:-])
    |\bversion\(["']lectern["']\)""",
    re.VERBOSE,
)
TEXTS = {".md", ".py", ".toml", ".yaml", ".yml", ".sh", ".txt", ".html", ""}


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("pip install {}", True),
        ("pip install -U '{}[cpu]'", True),
        ("uv add {}", True),
        ("python -m pip install --quiet {}==1.0", True),
        ("install {}[gpu]", True),
        ('version("{}")', True),
        ("pip install -e '.[cpu]'", False),
        ("pip install {}-serving", False),
        ("pip install dist/{}_serving-0.1.0-py3-none-any.whl && {} serve", False),
        ('cpu = ["{}-serving[server]"]', False),
    ],
)
def test_the_scan_knows_the_other_project(text: str, foreign: bool) -> None:
    assert bool(FOREIGN.search(text.replace("{}", "lectern"))) is foreign


def sources() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True)
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.unit
def test_no_text_installs_the_other_project() -> None:
    texts = [
        name
        for name in sources()
        if Path(name).suffix in TEXTS and not name.startswith(("exported/", "training/data/slivers/"))
    ]
    assert {"README.md", "Makefile", "deploy/Dockerfile", "pyproject.toml", "lectern/cli/app.py"} <= set(texts)
    lines = ((name, line) for name in texts for line in (ROOT / name).read_text().splitlines())
    assert [(name, line) for name, line in lines if FOREIGN.search(line)] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of this checkout, for the build writes stubs into its tree."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in sources():
        if not name.startswith(("exported/", "training/data/slivers/", "docs/")):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (built,) = (checkout / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has the wheel and this environment's packages, but nothing of the checkout.

    A wheel of pure Python is installed by unpacking it. Path files stay out, since one leads to the checkout, and so do
    stubs that the client does not ask for.
    """
    home = tmp_path_factory.mktemp("client")
    venv.create(home, symlinks=True)
    site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        foreign = package.name.startswith("lectern") or package.name.endswith((".pth", "-stubs"))
        if not foreign or package.name == "google-stubs":
            (site / package.name).symlink_to(package)
    return home / "bin" / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python away from the checkout, and without the variables that would lead to it."""
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, cwd=python.parent, env={"PATH": "/usr/bin:/bin"}
    )


def test_the_wheel_holds_the_client_alone(wheel: Path) -> None:
    assert wheel.name.startswith("lectern_serving-")
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"{wheel.name.split('-py3')[0]}.dist-info"
    assert {name.split("/")[0] for name in names} == {"lectern", metadata}
    assert {"lectern/py.typed", "lectern/v1/classify_pb2.pyi", f"{metadata}/entry_points.txt"} <= set(names)


def test_the_version_is_read_under_our_name(installed: Path) -> None:
    result = run(installed, "-m", "lectern", "--version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert result.stdout == f"lectern {project['version']}\n", result.stderr


def test_names_are_listed_before_anything_is_imported(installed: Path) -> None:
    code = "import lectern, sys; print(sorted({'Client', 'TLS', 'aio'} - {*dir(lectern)}), 'grpc' in sys.modules)"
    assert run(installed, "-c", code).stdout == "[] False\n"
    code = "from lectern import *; import lectern; print(Client is lectern.Client, lectern.__file__)"
    printed = run(installed, "-c", code).stdout
    assert printed.startswith("True")
    assert str(ROOT) not in printed


def test_the_client_alone_answers(installed: Path, server: Server) -> None:
    photo = str(ROOT / "docs" / "examples" / "cat.png")
    result = run(installed, "-m", "lectern", "classify", photo, "--target", server.target)
    assert result.returncode == 0, result.stderr
    assert "cat" in result.stdout


@pytest.mark.parametrize(
    ("command", "package", "in_image"),
    [
        (("serve",), "services", True),
        (("triton",), "services", True),
        (("token", "list", "--file", "tokens.json"), "services", True),
        (("promote", "image_classifier"), "artifacts", True),
        (("publish", ".", "--output", "models.tar"), "artifacts", True),
        (("pull", "models.tar"), "artifacts", True),
        (("train", "image_classifier"), "training", False),
        (("evaluate", "image_classifier"), "artifacts", False),
        (("make-explainable", "image_classifier"), "training", False),
        (("calibrate-detector", "image_classifier"), "training", False),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands_of_a_checkout_say_so(installed: Path, command: tuple[str, ...], package: str, in_image: bool) -> None:
    # --repository must exist before a command looks for anything else.
    (installed.parent / "exported").mkdir(exist_ok=True)
    result = run(installed, "-m", "lectern", *command)
    assert result.returncode == 1
    assert "needs a checkout of Lectern" in result.stderr
    assert f"the package `{package}` is not installed here" in result.stderr
    assert ("its image" in result.stderr) is in_image


def test_mypy_sees_types_of_answers(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import lectern\n"
        "reveal_type(lectern.Client().classify_image('cat.png'))\n"
        "reveal_type(lectern.Client().classify_image('cat.png').results[0].classes[0].probability)\n"
        "reveal_type(lectern.aio.Client().classify_image)\n"
        "lectern.Client().classify_photo\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed), str(script)]
    result = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")], capture_output=True, text=True, cwd=tmp_path
    )
    expected = [
        '2: note: Revealed type is "lectern.v1.classify_pb2.ClassifyImageResponse"',
        '3: note: Revealed type is "float"',
        '4: note: Revealed type is "def (images: bytes | str',
        '5: error: "Client" has no attribute "classify_photo"',
    ]
    messages = [line.removeprefix("script.py:") for line in result.stdout.splitlines() if line.startswith("script.py:")]
    assert len(messages) == len(expected), result.stdout + result.stderr
    assert messages[2].endswith('-> typing.Coroutine[Any, Any, lectern.v1.classify_pb2.ClassifyImageResponse]"')
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(start)
