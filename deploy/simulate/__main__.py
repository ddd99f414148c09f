"""Simulate a service under load: `python deploy/simulate [measure|validate|report]`; docs/scaling.md has the outcome.

`measure` needs root and a quiet machine, `report` writes the figures and the picture of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="deploy/simulate", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "validate", "report"), nargs="?", default="validate")
    parser.add_argument("--price", type=float, default=0.2, help="of a node for an hour")
    arguments = parser.parse_args()
    if arguments.what == "measure":
        import measure
        import report

        measure.main()
        sys.exit(report.validate())
    elif arguments.what == "validate":
        import report

        sys.exit(report.validate())
    else:
        import report

        report.write(arguments.price)


if __name__ == "__main__":
    main()
