"""Kubernetes' programs, built once from Debian's source package; no release of them is in a package registry."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.programs import CommandError, run

RELEASE = "1.20.2"
"""Of Debian 12."""
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
GO = Path("/usr/lib/go-1.19/bin/go")
CACHE = Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()
KEYS = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = f"""\
deb-src [{KEYS}] http://deb.debian.org/debian bookworm main
deb-src [{KEYS}] http://deb.debian.org/debian-security bookworm-security main
"""
# The aggregator's own API has no tag, and the API server does not start without its definitions.
UNTAGGED = [f"vendor/k8s.io/kube-aggregator/pkg/apis/apiregistration/{version}" for version in ("v1", "v1beta1")]


def build() -> Path:
    """The directory of the programs, in LECTERN_CACHE. A build that was interrupted goes on where it was."""
    home = CACHE / f"kubernetes-{RELEASE}"
    if not home.exists():
        work = home.with_name(f"{home.name}.building")
        source = work / "src" / "k8s.io" / "kubernetes"
        if not source.exists():
            fetch(work, source)
        compile_programs(work, source)
        (work / "programs").rename(home)
        shutil.rmtree(work)
    return home


def fetch(work: Path, source: Path) -> None:
    """Unpack Debian's source there, with a configuration of apt apart from the system's."""
    apt = work / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(SOURCES)
    options = {
        "APT::Sandbox::User": "root",
        "Dir::Cache": apt,
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
    }
    apt_get = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    run(*apt_get, "update", cwd=apt)
    run(*apt_get, "source", "--download-only", "kubernetes", cwd=apt)
    (description,) = apt.glob(f"kubernetes_*{RELEASE}*.dsc")
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    run("dpkg-source", "--no-check", "--extract", str(description), str(unpacked), cwd=apt)  # apt has checked it
    source.parent.mkdir(parents=True, exist_ok=True)
    unpacked.rename(source)


def compile_programs(work: Path, source: Path) -> None:
    """Make the programs in `work / "programs"`, as the package's own rules would."""
    go_settings = {"GO111MODULE": "off", "GOPROXY": "off", "CGO_ENABLED": "0"}
    environment = os.environ | go_settings | {"GOPATH": str(work), "GOCACHE": str(work / "objects")}
    environment["PATH"] = f"{GO.parent}:{environment['PATH']}"

    def go(*arguments: str) -> None:
        if subprocess.run([GO, *arguments], cwd=source, env=environment).returncode != 0:
            raise CommandError(f"go {arguments[0]} failed")

    generator = work / "openapi-gen"
    if not generator.exists():
        go("build", "-o", str(generator), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    definitions = source / "pkg" / "generated" / "openapi" / "zz_generated.openapi.go"
    if not definitions.exists():
        packages = ",".join(f"k8s.io/kubernetes/{directory}" for directory in sorted({*tagged(source), *UNTAGGED}))
        command = [generator, "--input-dirs", packages, "--output-package", "k8s.io/kubernetes/pkg/generated/openapi"]
        command += ["--output-file-base", "zz_generated.openapi", "--report-filename", str(work / "violations")]
        command += ["--go-header-file", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"]
        subprocess.run(command, check=True, cwd=source, env=environment)
    major, minor, _ = RELEASE.split(".")
    values = {"gitVersion": f"v{RELEASE}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = [f"k8s.io/kubernetes/vendor/k8s.io/{name}/version" for name in ("component-base", "client-go/pkg")]
    flags = " ".join(["-s -w", *(f"-X {p}.{name}={value}" for p in packages for name, value in values.items())])
    (work / "programs").mkdir(exist_ok=True)
    go("build", "-ldflags", flags, "-o", f"{work / 'programs'}/", *(f"./cmd/{program}" for program in PROGRAMS))


def tagged(source: Path) -> Iterator[str]:
    """The packages whose types are to be described, as their import paths from the root."""
    for top in ("cmd", "pkg", "plugin", "staging/src/k8s.io"):
        for file in (source / top).rglob("*.go"):
            path = file.relative_to(source).as_posix()
            apart = ("_test.go", "/testdata/", "/generated", "/sample-", "/code-generator/", "/_")
            if not any(part in path for part in apart) and "+k8s:openapi-gen=" in file.read_text():
                yield Path(path).parent.as_posix().replace("staging/src/", "vendor/")
