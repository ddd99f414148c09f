"""`python native/tests/sanitized/run.py FOLDER`: the tests of the front in Python, with the sanitized module of FOLDER.

Python, ONNX Runtime and gRPC are not built with the sanitizers, whose runtime is loaded before them. What these do to
memory of their own is not looked at; what the module does is, wherever the memory comes from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TESTS = ("tests/native", "tests/runtime/test_native_queueing.py", "tests/server/test_native_transport.py")
OPTIONS = {
    # Freed memory is kept for a while, to notice who still uses it: less than tests allow a server to grow.
    "ASAN_OPTIONS": "quarantine_size_mb=8:detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",
}


def library(name: str) -> str:
    """The compiler's own."""
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


def main(folder: Path, *arguments: str) -> int:
    environment = (
        os.environ
        | OPTIONS
        | {
            # The second is where the first looks up how exceptions are thrown.
            "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so.6')}",
            "PYTHONPATH": f"{HERE}:{ROOT}",
            "SANITIZED_MODULE": str(next(folder.resolve().glob("_native*.so"))),
            "LECTERN_TRANSPORT": "native",
        }
    )
    command = [sys.executable, "-m", "pytest", "-n0", *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
