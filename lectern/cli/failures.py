"""How the command line ends: with an exit code, and with a message in place of a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, NoReturn

from lectern.cli.output import FAILED, LEAST_COLUMNS

INTERRUPTED = 130
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
TRACEBACK = "LECTERN_TRACEBACK"
# The messages of our own exceptions are for users.
OURS = ("artifacts", "lectern", "loadtests", "services", "training")


def run(command: Callable[[], Any]) -> NoReturn:
    """Run a command and exit: with its code, with 130 after Ctrl-C, or with 1 and an error message.

    Raises:
        SystemExit: always.
    """
    _prepare()
    code: Any = 0
    try:
        try:
            command()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()  # here, where a full disk can still be reported
    except KeyboardInterrupt:
        code = INTERRUPTED
        # One that came within another exec() of text, as of a dataclass, is still noted as unhandled: CPython would end
        # by SIGINT.
        exec("")  # noqa: S102
    except BrokenPipeError:  # the reader of the output stopped, as `head` does
        _silence()
        code = FAILED
    except Exception as error:
        if _interrupted(error):
            sys.exit(INTERRUPTED)
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        _silence()
        with contextlib.suppress(OSError):
            print(f"error: {message(error)}", file=sys.stderr, flush=True)  # noqa: T201
        code = FAILED
    sys.exit(code)


def message(error: Exception) -> str:
    """What was wrong and what to do, for users."""
    match error:
        case _ if type(error).__module__.partition(".")[0] in OURS:
            return str(error)
        case UnicodeEncodeError(encoding="utf-8"):
            return f"{error.object!a} is not UTF-8 text (character {error.start})"
        case UnicodeEncodeError():
            character = error.object[error.start]
            return (
                f"standard output is {error.encoding}, which has no {character!a}: "
                "set PYTHONIOENCODING=utf-8, or a locale such as LC_ALL=C.UTF-8"
            )
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            return f"{os.fsdecode(name)}: {reason}"
        case OSError(errno=number, strerror=str() as reason) if number in CANNOT_WRITE:
            return f"cannot write the answer: {reason}"
        case OSError(strerror=str() as reason):
            return reason
        case ModuleNotFoundError(name=str() as name):
            return f"the package {name!r} is missing: pip install it"
        case MemoryError():
            return "there is not enough memory for this"
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}{': ' if text else ''}{text}\n  this is a bug in lectern: {TRACEBACK}=1 shows where"


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: extensions that it stops while they are imported make an ImportError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _prepare() -> None:
    """Make sure that standard streams can be written to, and that tables have a readable width."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif not os.environ.get("PYTHONIOENCODING") and stream.encoding.lower() in ("ascii", "us-ascii", "utf-8"):
            # The locale C means that none is set. File names may have any bytes.
            errors = "surrogateescape" if name == "stdout" else "backslashreplace"
            stream.reconfigure(encoding="utf-8", errors=errors)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(LEAST_COLUMNS)


def _silence() -> None:
    """Discard output that is not written yet, which would fail again when the interpreter exits."""
    stream: IO[str] = sys.stdout
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
