"""Releases: made by `lectern publish`, taken by `lectern pull`, and served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import lectern
from artifacts.versions import promote, read_config, served_versions
from lectern.v1.model_pb2 import MODEL_STATE_READY
from tests.artifacts.releasing import MODEL, Quiet, add_version, copy, folder, members, publish, visible, web
from tests.conftest import EXPORTED, serving
from tests.lectern.test_cli import invoke, refused
from tests.programs import needs
from tests.server.pki import Pki
from tests.waiting import WAIT, wait_until


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of all committed models."""
    return publish(EXPORTED, tmp_path_factory.mktemp("everything") / "models.tar")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of one small model."""
    return publish(EXPORTED / MODEL, tmp_path_factory.mktemp("small") / "model.tar")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where releases are pulled to; nothing is there yet."""
    return tmp_path / "there"


def pull(source: object, repository: Path, *options: object) -> subprocess.CompletedProcess[bytes]:
    return invoke("pull", source, "--repository", repository, *options)


def taken(source: object, repository: Path, *options: object) -> str:
    done = pull(source, repository, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_what_is_pulled_is_what_was_published_and_answers(everything: Path, there: Path, tmp_path: Path) -> None:
    printed = taken(everything, there)
    assert f"{MODEL} 1 is new\n" in printed
    assert visible(there) == visible(EXPORTED)
    names = {path.parts[-3] for path in EXPORTED.glob("*/*/card.json")}
    with serving(tmp_path, repository=there) as server, lectern.Client(server.target, timeout=WAIT) as client:
        models = client.list_models().models
        assert {model.name for model in models if all(v.state == MODEL_STATE_READY for v in model.versions)} == names


def test_the_same_models_are_the_same_bytes(small: Path, tmp_path: Path) -> None:
    again = copy(tmp_path / "again", MODEL)
    for path in again.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (0, 0))
    assert publish(again, tmp_path / "again.tar").read_bytes() == small.read_bytes()
    (manifest, _), *files = members(small)
    assert manifest.name == "manifest.json"
    assert {(header.mtime, header.uid, header.mode) for header, _ in files} == {(0, 0, 0o644)}


def test_what_is_there_already_stays(small: Path, there: Path) -> None:
    taken(small, there)
    times = {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()}
    assert taken(small, there) == f"{MODEL} 1 was there\n"
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_release_has_what_its_models_stand_on(everything: Path, there: Path, tmp_path: Path) -> None:
    """sentiment_classifier reads with the graph of text_encoder."""
    both = {"text_encoder", "sentiment_classifier"}
    one = publish(EXPORTED / "sentiment_classifier", tmp_path / "one.tar")
    taken(one, there)
    assert {path.name for path in there.iterdir() if path.is_dir()} == both
    taken(everything, tmp_path / "part", "sentiment_classifier")
    assert visible(tmp_path / "part") == visible(there)
    refused(pull(everything, there, "nobody"), 1, "has no nobody", "image_classifier")


def test_a_configuration_stays_as_its_operator_wrote_it(there: Path, tmp_path: Path) -> None:
    copy(there, MODEL)
    config = there / MODEL / "config.pbtxt"
    config.write_text(written := config.read_text().replace("count: 1", "count: 2  # two cores"))
    newer = copy(tmp_path / "newer", MODEL)
    add_version(newer, MODEL, 2)
    archive = publish(newer, tmp_path / "newer.tar")
    assert taken(archive, there) == f"{MODEL} 2 is new\n"
    assert config.read_text() == written
    assert served_versions(there / MODEL) == [2]


def test_a_pinned_model_is_not_served_in_the_new_version_until_it_is_promoted(there: Path, tmp_path: Path) -> None:
    copy(there, MODEL)
    promote(there, MODEL, [1])
    newer = copy(tmp_path / "newer", MODEL)
    add_version(newer, MODEL, 2)
    printed = taken(publish(newer, tmp_path / "newer.tar"), there)
    assert printed == f"{MODEL} 2 is new, and is not served: its config.pbtxt asks for others (`lectern promote`)\n"
    assert served_versions(there / MODEL) == [1]
    assert invoke("promote", MODEL, "--repository", there).returncode == 0
    assert served_versions(there / MODEL) == [2]


def test_a_version_with_other_inputs_brings_its_configuration(there: Path, tmp_path: Path) -> None:
    copy(there, MODEL)
    newer = copy(tmp_path / "newer", MODEL)
    add_version(newer, MODEL, 2)
    shutil.rmtree(newer / MODEL / "1")
    config = newer / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: ", "max_batch_size: 0 #"))
    taken(publish(newer, tmp_path / "newer.tar"), there)
    assert read_config(there / MODEL).max_batch_size == 0
    assert read_config(there / MODEL / "1").max_batch_size > 0


def test_another_version_of_the_same_number_is_refused(small: Path, everything: Path, there: Path) -> None:
    taken(small, there)
    card = there / MODEL / "1" / "card.json"
    card.write_text(card.read_text() + "\n")
    before = visible(there)
    refused(pull(everything, there), 1, "is there and differs in", "a version never changes")
    assert visible(there) == before


def test_what_is_not_complete_is_not_published(tmp_path: Path) -> None:
    here, archive = copy(tmp_path / "here", MODEL), tmp_path / "models.tar"

    def publishing(directory: Path) -> subprocess.CompletedProcess[bytes]:
        return invoke("publish", directory, "--output", archive)

    refused(publishing(here / f"{MODEL}_gradient"), 1, "has no card", "name the model")
    refused(publishing(tmp_path), 1, "has no model")
    graph = here / MODEL / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    refused(publishing(here), 1, "does not have the SHA-256 that the card")
    graph.unlink()
    graph.symlink_to("/etc/passwd")
    refused(publishing(here), 1, "is not a regular file")
    graph.unlink()
    refused(publishing(here), 1, "is missing")
    assert not list(tmp_path.glob("*models.tar*"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of keys, and one of another kind."""
    directory = tmp_path_factory.mktemp("keys")
    pairs = {"ours": Ed25519PrivateKey.generate(), "theirs": Ed25519PrivateKey.generate()}
    for name, key in (pairs | {"curve": generate_private_key(SECP256R1())}).items():
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / f"{name}.key").write_bytes(private)
        (directory / f"{name}.pub").write_bytes(public)
    return directory


def test_only_what_is_signed_is_taken(small: Path, keys: Path, there: Path, tmp_path: Path) -> None:
    key, other = ("--public-key", keys / "ours.pub"), ("--public-key", keys / "theirs.pub")
    refused(pull(small, there, *key), 1, "model.tar.sig cannot be read")
    signed = publish(EXPORTED / MODEL, tmp_path / "signed.tar", "--sign", keys / "ours.key")
    assert signed.read_bytes() == small.read_bytes()
    refused(pull(signed, there, *other), 1, "not signed with the key")
    signature = tmp_path / "signed.tar.sig"
    content = signature.read_bytes()
    for wrong in (b"", content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:]):
        signature.write_bytes(wrong)
        refused(pull(signed, there, *key), 1, "not signed with the key")
    assert visible(there) == {}
    signature.write_bytes(content)
    taken(signed, there, *key)
    assert visible(there)


def test_a_signature_is_one_of_everything(keys: Path, there: Path, tmp_path: Path) -> None:
    """Who changes a file and its checksum needs the key too."""
    signed = publish(EXPORTED / MODEL, tmp_path / "signed.tar", "--sign", keys / "ours.key")
    other = copy(tmp_path / "other", MODEL)
    add_version(other, MODEL, 2)
    signature = (tmp_path / "signed.tar.sig").read_bytes()
    publish(other, signed)
    assert not (tmp_path / "signed.tar.sig").exists()
    (tmp_path / "signed.tar.sig").write_bytes(signature)
    refused(pull(signed, there, "--public-key", keys / "ours.pub"), 1, "not signed with the key")
    assert visible(there) == {}


@pytest.mark.parametrize("name", ["curve.key", "curve.pub", "ours.pub", "nothing"])
def test_a_key_of_another_kind_is_named(name: str, keys: Path, small: Path, there: Path, tmp_path: Path) -> None:
    words = ["cannot be read"] if name == "nothing" else ["no private key of Ed25519", "openssl genpkey"]
    refused(invoke("publish", EXPORTED / MODEL, "--output", tmp_path / "x.tar", "--sign", keys / name), 1, *words)
    if name != "ours.pub":
        words = ["cannot be read"] if name == "nothing" else ["no public key of Ed25519", "openssl pkey"]
        refused(pull(small, there, "--public-key", keys / name), 1, *words)


def test_openssl_makes_keys_and_checks_signatures(there: Path, tmp_path: Path) -> None:
    needs("openssl")

    def openssl(*arguments: str) -> bytes:
        return subprocess.run(["openssl", *arguments], check=True, cwd=tmp_path, capture_output=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", "release.key")
    openssl("pkey", "-in", "release.key", "-pubout", "-out", "release.pub")
    signed = publish(EXPORTED / MODEL, tmp_path / "models.tar", "--sign", tmp_path / "release.key")
    taken(signed, there, "--public-key", tmp_path / "release.pub")
    (tmp_path / "manifest.json").write_bytes(members(signed)[0][1])
    check = ("pkeyutl", "-verify", "-pubin", "-inkey", "release.pub", "-rawin", "-in", "manifest.json")
    assert b"Verified Successfully" in openssl(*check, "-sigfile", "models.tar.sig")


def test_https_takes_an_authority_of_ones_own(small: Path, keys: Path, there: Path, tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    publish(EXPORTED / MODEL, (tmp_path / "model.tar"), "--sign", keys / "ours.key")
    with web(folder(tmp_path), pki) as address:
        refused(pull(f"{address}/model.tar", there), 1, "certificate verify failed")
        refused(pull(f"{address}/nothing.tar", there, "--tls-ca", pki.ca), 1, "cannot be fetched: status 404")
        refused(pull(f"{address}/model.tar", there, "--tls-ca", keys / "ours.pub"), 1, "cannot be read as certificates")
        # The signature's address has the suffix after its path.
        taken(f"{address}/model.tar?signed=1", there, "--tls-ca", pki.ca, "--public-key", keys / "ours.pub")
    assert visible(there)


def redirecting(to: str) -> type[BaseHTTPRequestHandler]:
    class Redirecting(Quiet):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(302)
            self.send_header("Location", to)
            self.end_headers()

    return Redirecting


def test_nothing_is_fetched_that_can_be_changed_on_the_way(small: Path, there: Path) -> None:
    refused(pull("http://models.example.com/models.tar", there), 1, "http:// is for this machine alone")
    refused(pull("ftp://127.0.0.1/models.tar", there), 1, "neither a file nor https://")
    refused(pull(f"file://{small}", there), 1, "neither a file nor https://")
    refused(pull("https://me:secret@127.0.0.1/models.tar", there), 1, "a user or a password")
    refused(pull("https://[/models.tar", there), 1, "is no address")
    refused(pull("https://127.0.0.1:99999/models.tar", there), 1, "is no address")
    refused(pull("https://models..example.com/models.tar", there), 1, "cannot be fetched")
    for to in ("http://models.example.com/models.tar", f"file://{small}"):
        with web(redirecting(to)) as address:
            refused(pull(address, there), 1, "")
    with web(folder(small.parent)) as here, web(redirecting(f"{here}/model.tar")) as address:
        taken(address, there)
    assert visible(there)


class Halting(Quiet):
    """Sends half a file, then nothing until it is told to go on, then ends the connection."""

    archive = b""
    halted: threading.Event
    go_on: threading.Event

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        self.wfile.write(self.archive[: len(self.archive) // 2])
        self.wfile.flush()
        self.halted.set()
        self.go_on.wait(WAIT)


def halting(content: bytes) -> type[Halting]:
    fields = {"archive": content, "halted": threading.Event(), "go_on": threading.Event()}
    return type("HaltingWith", (Halting,), fields)


def test_a_download_that_breaks_off_leaves_nothing(everything: Path, there: Path) -> None:
    handler = halting(everything.read_bytes())
    handler.go_on.set()
    with web(handler) as address:
        refused(pull(address, there), 1, "is not taken", "cut off")
    assert {path.name for path in there.iterdir()} == {".pull.lock"}


def test_a_pull_that_is_killed_is_repeated(everything: Path, there: Path) -> None:
    handler = halting(everything.read_bytes())
    with web(handler) as address:
        process = subprocess.Popen([sys.executable, "-m", "lectern", "pull", address, "--repository", str(there)])
        assert handler.halted.wait(WAIT)
        wait_until(lambda: any(there.glob(".pull-*/*/*/model.onnx")))
        process.kill()
        process.wait()
        handler.go_on.set()
    assert visible(there) == {}
    assert list(there.glob(".pull-*"))
    taken(everything, there)
    assert not list(there.glob(".pull-*"))
    assert visible(there) == visible(EXPORTED)


def test_pulls_side_by_side_wait_for_each_other(everything: Path, there: Path) -> None:
    """As init containers of several pods do on one volume."""
    command = [sys.executable, "-m", "lectern", "pull", str(everything), "--repository", str(there)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=WAIT)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(f"{MODEL} 1 is new" in output for output in outputs) == [False, False, True]
    assert visible(there) == visible(EXPORTED)


def test_a_pull_reads_the_manifest_alone_where_all_is_there(everything: Path, there: Path) -> None:
    taken(everything, there)
    handler = halting(everything.read_bytes())
    with web(handler) as address:
        assert f"{MODEL} 1 was there\n" in taken(address, there)
        handler.go_on.set()
