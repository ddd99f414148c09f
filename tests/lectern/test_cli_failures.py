"""Whatever goes wrong, the command line ends with an error message and a code, and without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lectern.aio
from lectern import inputs
from lectern.channel import MAX_CONTENT_BYTES, check_target
from lectern.errors import REQUEST_ID, LecternError
from tests.conftest import ROOT, Server
from tests.lectern.test_cli import invoke, refused
from tests.waiting import WAIT

EXAMPLES = ROOT / "docs" / "examples"
CAT = EXAMPLES / "cat.png"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(
    *arguments: object, target: str = "127.0.0.1:1", stdout: str = "", stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The command line in this environment, whose standard output goes to a file, or is closed for `&-`."""
    command = ["bash", "-c", f'"$@" >{stdout}' if stdout else '"$@"', "bash"]
    environment = os.environ | {"LECTERN_TARGET": target, "COLUMNS": "200"} | variables
    command += [sys.executable, "-m", "lectern", *map(os.fsdecode, map(str, arguments))]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=WAIT)


WRITING = [
    ("version",),
    ("--help",),
    ("models",),
    ("models", "--json"),
    ("classify", CAT),
    ("predict", EXAMPLES / "survey.csv"),
    ("translate", "I can cook."),
    ("translate", "I can cook.", "--stream"),
    ("transform", EXAMPLES / "digit.png", "--out", "-"),
    ("act", *[0] * 8),
]


@pytest.mark.parametrize("arguments", WRITING, ids=lambda arguments: " ".join(map(str, arguments[:1] + arguments[2:])))
def test_a_full_disk_is_an_error(server: Server, arguments: tuple[object, ...]) -> None:
    refused(run(*arguments, target=server.target, stdout="/dev/full"), 1, "cannot write the answer: No space left")


def test_a_reader_that_has_enough_is_no_failure_to_tell(server: Server) -> None:
    command = f"{sys.executable} -m lectern models --json | head -c 10"
    environment = os.environ | {"LECTERN_TARGET": server.target}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=WAIT)
    assert (len(done.stdout), done.stderr) == (10, b"")


def test_closed_streams_are_no_fault(server: Server) -> None:
    done = run("models", target=server.target, stdout="&-")
    assert (done.returncode, done.stderr) == (0, b"")
    command = f"{sys.executable} -m lectern translate - <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=WAIT)
    refused(done, 2, "standard input is closed")


def test_an_output_without_the_characters_is_an_error(server: Server) -> None:
    refused(run("translate", "Hi.", target=server.target, PYTHONIOENCODING="latin-1"), 1, "latin-1", "PYTHONIOENCODING")
    done = run("translate", "Hi.", "--json", target=server.target, PYTHONIOENCODING="latin-1")
    plain = run("translate", "Hi.", "--json", target=server.target)
    assert json.loads(done.stdout.decode("latin-1")) == json.loads(plain.stdout)


def test_arguments_are_utf8_in_any_locale(server: Server, tmp_path: Path) -> None:
    text = "The café is open — isn’t it?"
    plain = run("translate", text, target=server.target)
    assert plain.stdout.strip()
    assert run("translate", text, target=server.target, **ASCII).stdout == plain.stdout
    (picture := tmp_path / "café.png").write_bytes(CAT.read_bytes())
    done = run("classify", picture, "--json", target=server.target, **ASCII)
    assert json.loads(done.stdout)["results"][0]["classes"][0]["label"] == "cat"


def test_names_of_files_are_of_any_bytes(server: Server, tmp_path: Path) -> None:
    (picture := tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(CAT.read_bytes())
    done = run("classify", picture, target=server.target)
    assert b"caf\xe9.png" in done.stdout, done.stderr
    done = run("classify", picture, "--json", target=server.target)
    assert json.loads(done.stdout)["results"][0]["file"] == str(picture)


@pytest.mark.parametrize("columns", ["1", "0", "-5", "wide"])
def test_a_narrow_terminal_gets_readable_lines(server: Server, columns: str) -> None:
    lines = run("models", target=server.target, COLUMNS=columns).stdout.decode().splitlines()
    assert any(line.startswith("image_classifier") and "accuracy" in line for line in lines)


@pytest.mark.parametrize("out", ["/proc/x", "/proc/x.gif"])
def test_a_place_that_cannot_be_written_is_named(server: Server, out: str) -> None:
    refused(run("episode", "--out", out, "--max-steps", 2, target=server.target), 1, f"{out}: No such file")


@pytest.mark.parametrize("size", [MAX_CONTENT_BYTES + 1, 3 * 2**30])
def test_a_file_too_large_for_a_request_is_not_read(tmp_path: Path, size: int) -> None:
    with (path := tmp_path / "long.wav").open("wb") as file:
        file.truncate(size)
    refused(run("classify", path), 2, f"{path}: has {size:,} bytes; the most is 32,505,856")
    with pytest.raises(ValueError, match="too many; the files of one request may have"):
        inputs.read_files([CAT, path])


def test_more_than_a_request_holds_is_not_read_from_a_pipe() -> None:
    command = f"head -c {MAX_CONTENT_BYTES + 1} /dev/zero | {sys.executable} -m lectern classify -"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=WAIT)
    refused(done, 2, "has more than 32,505,856 bytes")


@pytest.mark.parametrize(("path", "says"), [("/dev/null", "is empty"), ("/dev/zero", "has more than 32,505,856 bytes")])
def test_devices_are_read_as_far_as_a_request_goes(path: str, says: str) -> None:
    done = run("classify", path)
    assert done.returncode in (1, 2)
    refused(done, done.returncode, f"{path}: {says}")


def test_a_pipe_is_as_good_as_a_file(server: Server) -> None:
    command = f"{sys.executable} -m lectern classify --json <(cat {CAT})"
    environment = os.environ | {"LECTERN_TARGET": server.target}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment, timeout=WAIT)
    assert json.loads(done.stdout)["results"][0]["classes"][0]["label"] == "cat", done.stderr


def files(directory: Path) -> dict[str, Path]:
    contents = {
        "mail.txt": "Dear friend, it costs £50\n".encode("latin-1"),
        "song.mp3": b"\xff\xfb\x90\x64" + bytes(400),
        "rows.csv": b"a,b\n1,2\n3,4\n",
        "paper.pdf": b"%PDF-1.4\n",
        "film.mp4": b"\0\0\0\x20ftypisom" + bytes(99),
        "none.txt": b"",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: directory / name for name in contents}


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("mail.txt", ("--model", "spam_classifier"), "not UTF-8 text (byte 22 is 0xa3); it looks like Windows-1252"),
        ("song.mp3", ("--model", "image_classifier"), "looks like an MP3 recording, and image_classifier does not"),
        ("song.mp3", ("--model", "spam_classifier"), "it takes texts"),
        ("rows.csv", (), "looks like a CSV table; `lectern predict` reads its rows"),
        ("rows.csv", ("--model", "sentiment_classifier"), "looks like a CSV table"),
        ("paper.pdf", (), "looks like a PDF document; models take pictures (PNG, JPEG, WebP), recordings"),
        ("film.mp4", (), "looks like an MP4 film or recording"),
        ("none.txt", (), "is empty"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named(
    server: Server, tmp_path: Path, name: str, arguments: tuple[str, ...], says: str
) -> None:
    path = files(tmp_path)[name]
    refused(
        run("classify", path, *arguments, target=server.target), 1, f"{path}: {says.partition('it takes')[0]}", says
    )


@pytest.mark.parametrize(
    ("command", "name"),
    [(("detect-anomaly",), "song.mp3"), (("transform",), "rows.csv"), (("explain",), "paper.pdf"),
     (("verify-speaker", EXAMPLES / "sentence.wav"), "rows.csv")],
)  # fmt: skip
def test_every_command_names_the_file(server: Server, tmp_path: Path, command: tuple[object, ...], name: str) -> None:
    path = files(tmp_path)[name]
    refused(run(*command, path, target=server.target), 1, f"error: {path}: ", "looks like")


def test_a_utf16_mail_is_read(server: Server, tmp_path: Path) -> None:
    mail = (EXAMPLES / "mail.txt").read_text()
    answers = []
    for encoding in ("utf-8", "utf-16"):
        (path := tmp_path / "mail.txt").write_bytes(mail.encode(encoding))
        done = run("classify", path, "--model", "spam_classifier", "--json", target=server.target)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]


def test_a_homework_names_its_models(server: Server) -> None:
    for name in ("HW3", "hw03"):
        refused(run("classify", CAT, "--model", name, target=server.target), 1, "HW3 has: image_classifier")
    table = run("models", "--model", "hw3", target=server.target).stdout.decode()
    assert [line.split()[0] for line in table.splitlines()] == ["model", "image_classifier"]
    refused(run("models", "--model", "HW99", target=server.target), 1, "HW99", "image_classifier")


def test_version_is_a_command_too() -> None:
    assert invoke("version").stdout == invoke("--version").stdout != b""


@pytest.mark.parametrize(
    ("target", "says"),
    [("http://127.0.0.1:8001", "here '127.0.0.1:8001'"), ("https://x.org:1/path", "here 'x.org:1'"), (" ", "is empty")],
)
def test_a_url_is_no_target(target: str, says: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT") as caught:
        check_target(target)
    assert says in str(caught.value)
    refused(run("models", "--target", target), 2, says)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "dns:///x.org:1", "unix:///tmp/x", "[::1]:8001", "ipv4:1.2.3.4:5"])
def test_grpcs_own_names_are_targets(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"LECTERN_WORKERS": "two"}, "LECTERN_WORKERS is 'two': "),
        ({"LECTERN_PORT": "80000"}, "LECTERN_PORT is '80000': "),
        ({"LECTERN_DEVICE": "tpu"}, "LECTERN_DEVICE is 'tpu': "),
        ({"LECTERN_LIMITS__IMAGES": "many"}, "LECTERN_LIMITS__IMAGES is 'many': "),
        ({"LECTERN_LIMITS__IMAGEZ": "1"}, "LECTERN_LIMITS__IMAGEZ is '1': "),
        ({"LECTERN_LIMITS": "{x"}, "LECTERN_LIMITS is '{x', which is not JSON"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named_with_its_value(variables: dict[str, str], says: str) -> None:
    refused(run("serve", **variables), 2, says)


def test_an_option_of_the_wrong_type_is_named_with_its_value() -> None:
    refused(run("serve", "--device", "tpu", LECTERN_DEVICE="cpu"), 2, "--device is 'tpu': ")


def test_a_directory_of_prometheus_does_not_stop_the_server(tmp_path: Path) -> None:
    done = run("serve", "--repository", tmp_path, "--tls-key", "none.pem", PROMETHEUS_MULTIPROC_DIR="/nowhere/metrics")
    refused(done, 1, "PROMETHEUS_MULTIPROC_DIR is '/nowhere/metrics' and is not used")


def test_a_bug_of_ours_has_a_traceback_on_request(tmp_path: Path) -> None:
    program = (
        "import sys; from lectern.cli import failures\ndef broken(): raise KeyError('secret')\nfailures.run(broken)"
    )
    for variables, traceback in (({}, False), ({"LECTERN_TRACEBACK": "1"}, True)):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ | variables)
        assert done.returncode == 1
        assert b"error: KeyError: 'secret'" in done.stderr
        assert (b"Traceback" in done.stderr) == traceback


IMPORTED = "try: raise KeyboardInterrupt\nexcept KeyboardInterrupt as error: raise ImportError('failed') from error"


@pytest.mark.unit
@pytest.mark.parametrize("stopped", ["raise KeyboardInterrupt", IMPORTED], ids=["exec", "import"])
def test_ctrl_c_has_its_code_wherever_it_comes(tmp_path: Path, stopped: str) -> None:
    code = f"from lectern.cli.failures import run\nrun(lambda: exec({stopped!r}))"
    (tmp_path / "interrupted.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    assert subprocess.run([sys.executable, "-m", "interrupted"], env=environment, timeout=WAIT).returncode == 130


def test_a_message_has_the_request_id_once() -> None:
    import grpc

    trailing = ((REQUEST_ID, "id-7"),)
    for details in ("internal error; the server's log has the cause under request id id-7", "too much"):
        assert str(LecternError(grpc.StatusCode.INTERNAL, details, trailing)).count("id-7") == 1


def test_an_asyncio_client_is_made_before_its_loop(server: Server) -> None:
    program = (
        f"import asyncio, lectern.aio\nclient = lectern.aio.Client({server.target!r})\n"
        "async def names(): return [m.name for m in (await client.list_models()).models]\n"
        "async def stream():\n"
        f"    async for answer in client.stream_classify_image([[{str(CAT)!r}]], top_k=1):\n"
        "        return answer.results[0].classes[0].label\n"
        "async def both():\n"
        "    result = await names(), await stream()\n    await client.close()\n    return result\n"
        "print(*asyncio.run(both()))\n"
        "try: asyncio.run(names())\nexcept RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT)
    assert "image_classifier" in done.stdout, done.stderr
    assert done.stdout.splitlines()[0].endswith(" cat")
    assert "in another event loop: make one for each loop" in done.stdout


async def test_an_asyncio_client_without_a_call_closes() -> None:
    async with lectern.aio.Client("127.0.0.1:1"):
        pass
