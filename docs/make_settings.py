"""Write docs/settings.md from the settings themselves: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings

from services.server.settings import Settings

TARGET = Path(__file__).with_name("settings.md")


def table() -> str:
    """Every setting as a Markdown table."""
    lines = [
        "# Settings of `lectern serve`",
        "",
        "Each is an environment variable; a flag of the same name, where there is one, overrides it.",
        "Written by `make docs`; do not edit.",
        "",
        "| variable | default | what it is |",
        "| --- | --- | --- |",
        *_rows("LECTERN_", Settings),
    ]
    return "\n".join(lines) + "\n"


def _rows(prefix: str, model: type[BaseModel] | type[BaseSettings]) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        default: Any = field.default
        if isinstance(default, BaseModel):
            rows += _rows(f"{prefix}{name.upper()}__", type(default))
            continue
        shown = ",".join(default) if isinstance(default, tuple) else default
        rows.append(f"| `{prefix}{name.upper()}` | `{shown}` | {field.description} |")
    return rows


if __name__ == "__main__":
    TARGET.write_text(table())
