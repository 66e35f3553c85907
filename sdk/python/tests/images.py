"""Images of the tests, made of files of this machine: no public registry is reachable."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The architecture of the machines that have Linux sandboxes.
ARCHITECTURE = "amd64"


# The user without privileges of `workspace_image`.
UID = 1000


def python_image(root: Path) -> None:
    """Creates the files of an image with the shell and the Python of these tests.

    It replaces `python:3.12`, regardless of its version.
    """
    local = root / "usr" / "local"
    prefix, version = image_python()
    real = (prefix / "bin" / version).resolve()
    (local / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(real, local / "bin" / "python3")
    copy_programs(root, ("sh", "bash", "sleep", "nohup", "setsid"))
    modules = (prefix / "lib" / version / "lib-dynload").glob("*.so")
    copy_libraries(root, [real, *modules])
    shutil.copytree(
        prefix / "lib" / version,
        local / "lib" / version,
        symlinks=True,
        ignore=shutil.ignore_patterns(
            "test", "tests", "site-packages", "dist-packages", "idlelib", "config-*", "__pycache__"
        ),
    )


def image_python() -> tuple[Path, str]:
    """Returns the prefix and the name of the Python for images.

    It is that of these tests, unless `ISORUN_IMAGE_PYTHON` names another one: a Python with a C
    library of its own could not be in one image with programs of this machine.
    """
    program = os.environ.get("ISORUN_IMAGE_PYTHON", sys.executable)
    code = "import sys; print(sys.base_prefix, 'python%d.%d' % sys.version_info[:2], sep='\\n')"
    printed = subprocess.run([program, "-c", code], capture_output=True, text=True, check=True)
    prefix, version = printed.stdout.splitlines()
    return Path(prefix), version


def workspace_image(root: Path, programs: Sequence[str]) -> None:
    """Creates the files of an image with Python and programs of this machine, and with the users
    root and `agent`."""
    python_image(root)
    (root / "usr/local/bin/python").symlink_to("python3")
    copy_programs(root, programs, "usr/bin")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(
        f"root:x:0:0::/root:/bin/bash\nagent:x:{UID}:{UID}::/home/agent:/bin/bash\n"
    )
    (root / "etc/group").write_text(f"root:x:0:\nagent:x:{UID}:\n")
    for name, owner, mode in (
        ("root", 0, 0o711), ("private", 0, 0o700), ("home", 0, 0o755), ("home/agent", UID, 0o755),
        ("tmp", 0, 0o1777),
    ):  # fmt: skip
        # A Python below /root has its libraries there in the image, too.
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
        os.chown(root / name, owner, owner)


def copy_programs(root: Path, names: Sequence[str], directory: str = "bin") -> None:
    """Copies programs of this machine, with their libraries, to a directory of an image."""
    sources = []
    for name in names:
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        target = root / directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sources.append(Path(found).resolve())
        shutil.copy(sources[-1], target)
    copy_libraries(root, sources)


def copy_libraries(root: Path, programs: Sequence[Path]) -> None:
    """Copies the shared libraries that programs need."""
    wanted = [str(program) for program in programs]
    linked = subprocess.run(["ldd", *wanted], capture_output=True, text=True, check=True)
    for library in set(re.findall(r"(?<=[\s])(/\S+)(?= \(0x)", linked.stdout)):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def write_layout(directory: Path, root: Path, config: dict[str, Any]) -> None:
    """Writes an OCI layout with one layer, the files below `root`, and a configuration such as
    `{"User": "1000"}`. The files belong to the user of these tests."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = directory / "layer"
    with tarfile.open(layer, "w") as archive:
        archive.add(root, ".")
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    size = layer.stat().st_size
    layer.rename(blobs / digest)

    def store(document: dict[str, Any], kind: str) -> dict[str, Any]:
        content = json.dumps(document).encode()
        name = hashlib.sha256(content).hexdigest()
        (blobs / name).write_bytes(content)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}.v1+json",
            "digest": f"sha256:{name}",
            "size": len(content),
        }

    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    image = {"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}
    described = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": f"sha256:{digest}",
        "size": size,
    }
    manifest = store(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": store(image, "config"),
            "layers": [described],
        },
        "manifest",
    )
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
