"""Overlays with components, as an operator would combine them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import yaml

from checking.manifests import Manifest, render

DEPLOY = Path(__file__).parents[1]
FIRST = "cpu"
"""The overlay that is combined with every pair of components too; all others with as many as go together."""
EXCLUSIVE = ({"keda", "hpa"}, {"models-image", "models-pull", "models-volume"})
"""Of each of these, an overlay has at most one component."""
NEEDS = {"keda-zero": {"keda", "edge"}}
"""Component -> those that it cannot do without."""
LATER = {"canary": 1, "keda-zero": 2, "models-image": 2, "models-pull": 2, "models-volume": 2, "secure": 2}
"""Component -> its place in a list of components: what changes another one comes after it. Others are first."""
IDLE = {
    "single": {"canary", "hpa", "keda", "keda-zero"},
    "kserve": {"canary", "hpa", "keda", "keda-zero", "models-image", "models-pull"},
    "training": {"canary", "hpa", "keda", "keda-zero", "models-image", "models-pull", "models-volume", "monitoring"},
}
"""Overlay -> components that find nothing there that they are for."""


def sets(overlay: str, every: bool = False) -> list[tuple[str, ...]]:
    """The sets of components to try with an overlay; all that there are if `every`."""
    names = sorted({p.name for p in (DEPLOY / "components").iterdir()} - IDLE.get(overlay, set()))
    possible = [c for n in range(1, len(names) + 1) for c in combinations(names, n) if _go_together(set(c))]
    if every:
        return possible
    largest = [c for c in possible if not any(set(c) < set(other) for other in possible)]
    return largest + [c for c in possible if overlay == FIRST and len(c) < 3 and c not in largest]


def _go_together(components: set[str]) -> bool:
    has_needs = all(needs <= components for name, needs in NEEDS.items() if name in components)
    return has_needs and all(len(group & components) < 2 for group in EXCLUSIVE)


def combined(overlay: str, components: tuple[str, ...]) -> list[Manifest]:
    """The manifests of an overlay with components."""
    with tempfile.TemporaryDirectory() as directory:
        deploy = os.path.relpath(DEPLOY, Path(directory).resolve())
        lists = {
            "namespace": "lectern",
            "resources": [f"{deploy}/overlays/{overlay}"],
            "components": [
                f"{deploy}/components/{name}" for name in sorted(components, key=lambda name: LATER.get(name, 0))
            ],
        }
        (Path(directory) / "kustomization.yaml").write_text(yaml.safe_dump(lists))
        return render(Path(directory))


def all_sets(every: bool = False) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every pair of an overlay and components to try."""
    for overlay in sorted(p.name for p in (DEPLOY / "overlays").iterdir()):
        yield from ((overlay, components) for components in sets(overlay, every))
