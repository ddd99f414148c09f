"""Check what an operator would apply: `python deploy/check.py [DIRECTORY ...]`; everything if no directory is named.

With `--every`, overlays have every set of components, which are thousands, else pairs and the largest sets.

A directory is rendered by kustomize and held against the schemas of Kubernetes's oldest supported and newest releases,
then against what no schema can say. Everything is all overlays, alone and with components, what they ask of a cluster,
the Jobs of training/, and the configuration of Prometheus and Alertmanager.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checking import combinations, demand, schemas
from checking.manifests import Manifest, render, run
from checking.rules import README, problems

HERE = Path(__file__).parent


def check(what: str, manifests: list[Manifest]) -> list[str]:
    """What is wrong; prints that nothing is, and which kinds nobody could check."""
    if faults := [f"{what}: {problem}" for problem in problems(manifests)]:
        return faults
    sys.stdout.write(f"{what}: {len(manifests)} manifests are good\n")
    for kind in sorted({m["kind"] for m in manifests if schemas.unchecked(m)}):
        sys.stdout.write(f"{what}: not checked: {kind}\n")
    return []


def check_directories(directories: Iterable[Path]) -> Iterator[str]:
    """What is wrong with kustomizations."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tries = list(directories)
        for directory, manifests in zip(tries, pool.map(render, tries), strict=True):
            yield from check(str(directory), manifests)


def check_demand(overlay: Path) -> Iterator[str]:
    """Whether README.md says what the overlay asks for."""
    if (row := demand.row(overlay.name, render(overlay))) not in README:
        yield f"deploy/README.md does not say what {overlay.name} asks for:\n{demand.HEAD}\n{row}"


def check_combinations(every: bool) -> Iterator[str]:
    """What is wrong with overlays that have components."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tries = list(combinations.all_sets(every))
        rendered: Iterable[list[Manifest]] = pool.map(lambda names: combinations.combined(*names), tries)
        for (overlay, components), manifests in zip(tries, rendered, strict=True):
            yield from check(f"{overlay} with {', '.join(components)}", manifests)


def check_monitoring() -> None:
    """What Prometheus and Alertmanager read, by their own tools."""
    prometheus = HERE / "prometheus"
    for what, name in (("config", "prometheus.yml"), ("rules", "rules.yml"), ("rules", "slo.yml")):
        sys.stdout.write(run("promtool", "check", what, str(prometheus / name)))
    sys.stdout.write(run("promtool", "test", "rules", *map(str, sorted(prometheus.glob("*_test.yml")))))
    sys.stdout.write(run("amtool", "check-config", str(prometheus / "alertmanager.yml")))


def main(directories: list[Path], every: bool) -> None:
    """Check the directories, or everything.

    Raises:
        SystemExit: with what is wrong.
    """
    overlays = sorted((HERE / "overlays").iterdir())
    faults = list(check_directories(directories or [*overlays, *sorted((HERE / "training").iterdir())]))
    if not directories:
        faults += [fault for overlay in overlays for fault in check_demand(overlay)]
        faults += check_combinations(every)
    if faults:
        raise SystemExit("\n".join(faults))
    if not directories:
        check_monitoring()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:] if argument != "--every"], "--every" in sys.argv)
