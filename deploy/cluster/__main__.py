"""Run deploy/ on a real Kubernetes node: `python deploy/cluster`, as root. Logs and the report are in build/cluster/.

With `--only CHECK...` only these are tried, and what they stand on. With `--shell` nothing is tried: the node is for a
shell with kubectl, until that ends.

The node is Kubernetes 1.20, built from Debian's source the first time. It has namespaces of its own, and leaves nothing
behind but its logs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster import checks, coverage, images, kubernetes, programs
from cluster.deployed import Deployed
from cluster.node import Node
from services.triton_server.launcher import install

LOGS = Path(__file__).parents[2] / "build" / "cluster"
CGROUPS = Path("/sys/fs/cgroup")


def main() -> int:
    """Build what is missing and try deploy/ on a node; 1 if something is not as promised."""
    parser = argparse.ArgumentParser(prog="python deploy/cluster", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], choices=checks.CHECKS, metavar="CHECK", help="by names in the report"
    )
    parser.add_argument("--shell", action="store_true", help="a shell on the node in place of checks")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: by an exception, which ends the node
    programs.require()
    kubernetes.CACHE.mkdir(parents=True, exist_ok=True)
    with (kubernetes.CACHE / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: they would share control groups and builds
        built = []
        for what, build in {"Kubernetes": kubernetes.build, "images": images.build, "Triton": install}.items():
            begin = time.monotonic()
            built.append(str(build()))
            say(f"{what}: {time.monotonic() - begin:.0f} s")
        return start_node("shell" if asked.shell else "try", *built[:2], asked.only)


def start_node(what: str, binaries: str, archive: str, only: list[str]) -> int:
    """A node in namespaces of its own, and nothing of it afterwards; the exit status of what it is for."""
    shutil.rmtree(LOGS, ignore_errors=True)
    state = tempfile.mkdtemp(prefix="lectern-cluster-", dir="/tmp")  # paths of sockets are short
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        # The first process of these namespaces takes with it, when it ends, every other, and every mount.
        return subprocess.run([*apart, sys.executable, __file__, what, binaries, archive, state, *only]).returncode
    finally:
        remove_control_groups()
        shutil.rmtree(state, ignore_errors=True)


def remove_control_groups() -> None:
    """Those that the node's pods had, as soon as their last processes are gone, which takes a moment.

    Raises:
        CommandError: some are still in use.
    """
    end = time.monotonic() + 30
    while groups := sorted(CGROUPS.glob("*/kubepods/**/"), reverse=True):
        for group in groups:
            with suppress(OSError):
                group.rmdir()
        if time.monotonic() > end:
            raise programs.CommandError(f"still in use: {', '.join(map(str, groups))}")
        time.sleep(0.1)


def started(binaries: Path, archive: Path, state: Path) -> Node:
    """A node that is ready, in this process's namespaces."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    node = Node(binaries, state, LOGS)
    node.start_containers(archive)
    node.start_control_plane()
    node.start_kubelet()
    node.ready()
    return node


def offer_shell(binaries: Path, archive: Path, state: Path) -> int:
    """A shell whose kubectl is the node's administrator; its exit status."""
    node = started(binaries, archive, state)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash"], env=os.environ | {"KUBECONFIG": str(node.administrator), "PATH": path}).returncode


def try_on_node(binaries: Path, archive: Path, state: Path, *only: str) -> int:
    """Start the node and check, all or only some; 1 if something is not as promised."""
    begin = time.monotonic()
    node = started(binaries, archive, state)
    rows = [checks.Outcome("node", True, f"Kubernetes {kubernetes.RELEASE} is ready", time.monotonic() - begin)]
    volume = state / "models"
    volume.mkdir()
    deployed = Deployed(node, volume)
    say(row(rows[0]))
    for outcome in checks.outcomes(deployed, only):
        rows.append(outcome)
        say(row(outcome))
    unseen = list(coverage.unseen(node))
    deployed.describe(LOGS / "pods.txt")
    report = ["| check | result | seconds | seen |", "|---|---|---|---|", *map(row, rows)]
    report += ["", "Only schemas and rules cover:", "", *(f"- {line}" for line in unseen)]
    (LOGS / "report.md").write_text("\n".join(report) + "\n")
    say("\n".join(["only schemas and rules cover:", *unseen]))
    failed = [outcome.name for outcome in rows if not outcome.passed]
    say(f"failed: {', '.join(failed)}" if failed else "all checks passed", f"in {time.monotonic() - begin:.0f} s")
    say(f"logs and report: {LOGS}")
    return bool(failed)


def row(outcome: checks.Outcome) -> str:
    """A row of the report's table."""
    passed = "passed" if outcome.passed else "**failed**"
    detail = outcome.detail.replace("\n", " ").replace("|", "\\|")
    return f"| {outcome.name} | {passed} | {outcome.seconds:.0f} | {detail} |"


def say(*words: str) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["shell", *paths]:
                sys.exit(offer_shell(*map(Path, paths)))
            case ["try", binaries, archive, state, *only]:
                sys.exit(try_on_node(Path(binaries), Path(archive), Path(state), *only))
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except programs.CommandError as error:
        sys.exit(str(error))
