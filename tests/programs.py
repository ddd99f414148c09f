"""What tests need that comes with neither Python nor a package: without it they are skipped, and pytest's last lines
say what to install. With LECTERN_TEST_ALL=1 (CI) they fail instead.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from typing import NoReturn

import pytest

PACKAGES = {  # of Debian
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "prometheus-blackbox-exporter": "prometheus-blackbox-exporter",
    "promtool": "prometheus",
}
REASON = re.compile(r"(?:Skipped: )?needs (?P<program>\S+): (?P<remedy>.*)")


def needs(program: str) -> None:
    """Skip this test unless the program is on PATH."""
    if shutil.which(program) is None:
        missing(program, f"apt-get install {PACKAGES[program]}")


def needs_native() -> None:
    """Skip this test unless the native front is built."""
    if find_spec("services._native") is None:
        missing("native", "make native")


def missing(program: str, remedy: str) -> NoReturn:
    """Skip this test: it needs something that is not here."""
    reason = f"needs {program}: {remedy}"
    if os.environ.get("LECTERN_TEST_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


def summary(reasons: Iterable[str]) -> list[str]:
    """A line for each missing program, from the reasons of all skipped tests."""
    skips = [match.groupdict() for reason in reasons if (match := REASON.match(reason))]
    counts = Counter((f["program"], f["remedy"]) for f in skips)
    return [f"{count} skipped for want of {program}: {remedy}" for (program, remedy), count in counts.items()]
