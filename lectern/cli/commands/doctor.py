"""`lectern doctor`: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from lectern.cli.app import SERVE, command
from lectern.cli.options import EXPORTED, AsJson
from lectern.cli.output import FAILED, print_json, show, working

STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


@command(SERVE)
def doctor(
    repository: Annotated[Path, typer.Option(file_okay=False, help="Directory of models.")] = EXPORTED,
    as_json: AsJson = False,
) -> None:
    """Check this machine: Python, versions, ONNX Runtime, GPU, CPU, ports, models, memory, disk, clock.

    Needs no server, and changes nothing. Exit code 1 if there is a problem; a warning is none.

    \b
    lectern doctor
    lectern doctor --json | jq '.checks[] | select(.state != "ok")'
    """
    from lectern.cli.checks import checks

    with working("looking"):  # nvidia-smi may take seconds
        found = list(checks(repository))
    if as_json:
        print_json({"checks": [asdict(check) for check in found]})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in found:
            said = Text(check.finding)
            if check.advice:
                said.append(f"\n{check.advice}", "dim")
            table.add_row(Text(check.state, STYLES[check.state]), check.name, said)
        show(table)
    if any(check.state == "problem" for check in found):
        raise typer.Exit(FAILED)
