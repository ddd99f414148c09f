"""What the cluster needs of this machine, and how its programs are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {  # of Debian 12
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/go-1.19/bin/go": "golang-1.19-go",
    "buildah": "buildah",
    "containerd": "containerd",
    "debootstrap": "debootstrap",
    "dnsmasq": "dnsmasq-base",
    "dpkg-source": "dpkg-dev",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "iptables": "iptables",
    "podman": "podman",
    "runc": "runc",
}
"""Program -> the package that brings it."""


def require() -> None:
    """Raises SystemExit, with what to do, if this machine lacks something."""
    if os.geteuid() != 0:
        raise SystemExit("a Kubernetes node needs root: sudo make cluster-test")
    if missing := sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None}):
        raise SystemExit(f"missing: apt-get install --no-install-recommends {' '.join(missing)}")


def run(*command: str, cwd: Path | None = None, stdin: str | None = None, timeout: float | None = None) -> str:
    """The command's output.

    Raises:
        CommandError: it failed, or took longer than `timeout` seconds; the message holds what it wrote.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(command)}: not done after {timeout} s") from None
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:].strip()}")
    return done.stdout


class CommandError(Exception):
    """A command failed."""
