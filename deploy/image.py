"""Build the image here, and see it serve as a cluster would run it: `python deploy/image.py`, as root.

Needs Debian's buildah, debootstrap, podman and runc, and no container registry: debootstrap makes the base, once.
With `--trial` it only makes the base and fetches a package in it, which shows whether this machine lets containers run
and reach the registries.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lectern import Client

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
BASE, IMAGE = "localhost/debian-python:12", f"localhost/lectern:{VERSION}-cpu"
CEILING = 700 * 10**6
"""Bytes of the unpacked image, models included."""
START_SECONDS = 120
STOP_SECONDS = 30
# As deploy/base/capability/deployment.yaml has it.
CONFINED = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:size=64m", "--user=10001:10001", "--cap-drop=ALL"]
# Podman's own limits are higher than some hosts allow.
CONFINED += ["--security-opt=no-new-privileges", "--network=host"]
CONFINED += ["--ulimit=nofile=20000:20000", "--ulimit=nproc=32768:32768"]
# The machine's own authorities too, for a network whose proxy has one.
NETWORK = ["--network=host", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]


def run(*command: str) -> str:
    """The command's output; its errors go to ours.

    Raises:
        SystemExit: it is not installed or failed.
    """
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    except FileNotFoundError:
        raise SystemExit(f"{command[0]}: apt-get install buildah debootstrap podman runc") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}: {error}\n{error.stdout[-3000:]}") from None


def podman(*arguments: str) -> str:
    """Podman by runc: crun fails where both versions of cgroups are mounted."""
    return run("podman", "--runtime=runc", "--cgroup-manager=cgroupfs", *arguments)


def make_base() -> None:
    """Debian 12 with Python, unless there is one already."""
    if subprocess.run(["podman", "image", "exists", BASE]).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as directory:
        system, archive = Path(directory) / "root", Path(directory) / "root.tar"
        include = "--include=ca-certificates,python3,python3-venv"
        run("debootstrap", "--variant=minbase", include, "bookworm", str(system), "http://deb.debian.org/debian")
        left_out = ["./proc/*", "./sys/*", "./dev/*", "./var/cache/apt/*", "./var/lib/apt/lists/*"]
        run("tar", "-C", str(system), "-cf", str(archive), *(f"--exclude={path}" for path in left_out), ".")
        podman("import", "--quiet", str(archive), BASE)


def build() -> None:
    """The image of deploy/Dockerfile, from what its earlier builds left."""
    revision = run("git", "rev-parse", "HEAD").strip()
    arguments = [f"--build-arg={name}" for name in (f"BASE={BASE}", f"REVISION={revision}", f"VERSION={VERSION}")]
    options = ["--layers", "--ignorefile=.dockerignore", "--file=deploy/Dockerfile", f"--tag={IMAGE}"]
    run("buildah", "--runtime=runc", "bud", *NETWORK, *arguments, *options, ".")


def faults() -> Iterator[str]:
    """What is wrong with the image itself."""
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    if image["Size"] > CEILING:
        yield f"has {image['Size'] / 1e6:.0f} MB, more than {CEILING / 1e6:.0f}"
    if any(variable.startswith("NVIDIA_") for variable in image["Config"]["Env"]):
        yield "asks for GPUs, which the image for the CPU must not"
    if image["Config"]["Labels"].get("org.opencontainers.image.version") != VERSION:
        yield "is not labelled with its version"
    bill = json.loads(podman("run", "--rm", "--entrypoint=cat", *CONFINED, IMAGE, "/opt/lectern/sbom.cdx.json"))
    inside = {component["name"].lower().replace("_", "-") for component in bill["components"]}
    locked = (ROOT / "requirements" / "serve-cpu.txt").read_text()
    unconditional = re.findall(r"^([\w.-]+)==\S+ \\$", locked, re.MULTILINE)
    if missing := {name.replace("_", "-") for name in unconditional} - inside:
        yield f"its list of what is inside lacks {', '.join(sorted(missing))}"
    if unserved := inside & {"torch", "pip", "pytest"}:
        yield f"holds {', '.join(sorted(unserved))}"


@contextmanager
def serving(transport: str) -> Iterator[tuple[str, dict[str, object]]]:
    """A container that serves; yields its id and what it logged when it was ready."""
    ports = ["--port=0", "--http-port=0", "--metrics-port=0", f"--transport={transport}", "--log-format=json"]
    container = podman("run", "--detach", *CONFINED, IMAGE, "serve", *ports).strip()
    try:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            log = subprocess.run(["podman", "logs", container], capture_output=True, text=True).stderr
            for line in log.splitlines():
                if '"message": "serving"' in line:
                    yield container, json.loads(line)
                    return
            time.sleep(0.2)
        raise SystemExit(f"does not serve after {START_SECONDS} s:\n{log}")
    finally:
        podman("rm", "--force", "--time=0", container)


def try_serving(transport: str) -> Iterator[str]:
    """What is wrong with a container that serves over this transport."""
    with serving(transport) as (container, ready):
        with Client(str(ready["target"]).replace("0.0.0.0", "127.0.0.1"), timeout=START_SECONDS) as client:  # noqa: S104
            faulty = [model.name for model in client.list_models().models if not model.versions]
            if faulty:
                yield f"does not have {', '.join(faulty)}"
            if len(client.act([[0.0] * 8]).results) != 1:
                yield "does not answer"
        status = podman("exec", container, "cat", "/proc/1/status")
        if not re.search(r"^Uid:\s10001\s10001\s10001\s10001$", status, re.MULTILINE):
            yield f"runs as another user:\n{status}"
        podman("stop", f"--time={STOP_SECONDS}", container)
        if code := podman("wait", container).strip() != "0":
            yield f"ends with code {code} on SIGTERM"


def main() -> None:
    """Raises SystemExit with what is wrong."""
    make_base()
    podman("run", "--rm", *CONFINED, BASE, "true")
    if "--trial" in sys.argv:
        fetch = "apt-get update && python3 -m venv /tmp/venv && /tmp/venv/bin/pip download --no-deps --dest /tmp six"
        podman("run", "--rm", *NETWORK, BASE, "sh", "-c", fetch)
        return
    build()
    wrong = list(faults())
    for transport in ("native", "grpc"):
        wrong += [f"{transport}: {fault}" for fault in try_serving(transport)]
    if wrong:
        raise SystemExit("\n".join(f"the image {fault}" for fault in wrong))
    sys.stdout.write(f"{IMAGE} serves, read-only, as user 10001, over both transports\n")


if __name__ == "__main__":
    main()
