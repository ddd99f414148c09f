"""This machine's CPU, by what matters to the speed and the rounding of a graph."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Instruction sets that ONNX Runtime's kernels choose by, and the flags in /proc/cpuinfo that say so.
FEATURES: dict[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
}


def cpu_features(cpuinfo: Path = CPUINFO) -> dict[str, bool]:
    """Which of FEATURES there are; none where the system does not say."""
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())
    return {name: not flags.isdisjoint(alternatives) for name, alternatives in FEATURES.items()}


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Model and features, e.g. `AMD EPYC 7543 (AVX2; no AVX-512, VNNI, bf16)`."""
    features = cpu_features(cpuinfo)
    present, absent = ([name for name, there in features.items() if there is wanted] for wanted in (True, False))
    parts = [", ".join(present)] if present else []
    parts += [f"no {', '.join(absent)}"] if absent else []
    return f"{_field(cpuinfo, 'model name') or 'CPU of unknown model'} ({'; '.join(parts)})"


def _field(cpuinfo: Path, name: str) -> str:
    """Of the first core."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")
