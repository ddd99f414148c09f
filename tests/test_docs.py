"""The documentation says what is so."""

from __future__ import annotations

import runpy

from tests.conftest import ROOT


def test_settings_table_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    assert (ROOT / "docs" / "settings.md").read_text() == script["table"](), "run `make docs`"
