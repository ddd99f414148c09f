"""What tests need that comes with neither Python nor a package: without it they are skipped, and pytest's last lines
say what to install. With LECTERN_TEST_ALL=1 (CI) they fail instead.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

PACKAGES = {"openssl": "openssl", "promtool": "prometheus"}  # of Debian
REASON = re.compile(r"(?:Skipped: )?needs (?P<program>\S+): (?P<remedy>.*)")


def needs(program: str) -> None:
    """Skip this test unless the program is on PATH."""
    if shutil.which(program) is None:
        missing(program, f"apt-get install {PACKAGES[program]}")


def missing(program: str, remedy: str) -> None:
    """Skip this test: it needs something that is not here."""
    reason = f"needs {program}: {remedy}"
    if os.environ.get("LECTERN_TEST_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


def summary(reasons: Iterable[str]) -> list[str]:
    """A line for each missing program, from the reasons of all skipped tests."""
    found = [match.groupdict() for reason in reasons if (match := REASON.match(reason))]
    counts = Counter((f["program"], f["remedy"]) for f in found)
    return [f"{count} skipped for want of {program}: {remedy}" for (program, remedy), count in counts.items()]
