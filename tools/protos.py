"""Generate services/nestvec/v1 from protos/nestvec/v1, or check that it is fresh.

python tools/protos.py            write the generated code
python tools/protos.py --check    compare it with the checked-in code; exit 1 and name what differs

The proto package is the Python package, so generated imports are used as they come. Message
classes and gRPC code come from grpcio-tools, their types (.pyi) from mypy-protobuf.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
SOURCES = ROOT / "services"
PACKAGE = Path("nestvec/v1")


class ProtocFailed(Exception):
    """protoc refused the protos; its own words are already on stderr."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if stale")
    options = parser.parse_args(arguments)
    try:
        fresh = generate(PROTOS)
    except ProtocFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    committed = generated_files(SOURCES)
    complaints = differences(committed, fresh)
    if not options.check:
        write(SOURCES, committed, fresh)
        print(f"{len(fresh)} files generated, {len(complaints)} changed")
        return 0
    if complaints:
        print("the generated code is not what the protos say:", file=sys.stderr)
        for complaint in complaints:
            print(f"  {complaint}", file=sys.stderr)
        print("run `make protos` and commit the result", file=sys.stderr)
        return 1
    print(f"{len(fresh)} generated files are fresh")
    return 0


def generate(protos: Path) -> dict[Path, bytes]:
    """What protoc makes of every proto of the package: path below the source root -> content.

    Raises ProtocFailed when protoc refuses, or when there is nothing to generate from.
    """
    sources = sorted(str(path.relative_to(protos)) for path in (protos / PACKAGE).glob("*.proto"))
    if not sources:
        raise ProtocFailed(f"no .proto file in {protos / PACKAGE}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={protos}"]
        command += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        for plugin in ("mypy", "mypy_grpc"):
            executable = Path(sys.executable).with_name(f"protoc-gen-{plugin}")
            command += [f"--plugin=protoc-gen-{plugin}={executable}"]
            command += [f"--{plugin}_out=quiet:{folder}"]
        if subprocess.run([*command, *sources], check=False).returncode != 0:
            raise ProtocFailed("protoc failed: see above (are the `dev` extras installed?)")
        return generated_files(Path(folder))


def generated_files(sources: Path) -> dict[Path, bytes]:
    """The generated files below a source root: relative path -> content."""
    found = (sources / PACKAGE).glob("*_pb2*.py*")
    return {path.relative_to(sources): path.read_bytes() for path in sorted(found)}


def differences(committed: Mapping[Path, bytes], fresh: Mapping[Path, bytes]) -> list[str]:
    """One line for each file that is missing, stale or of no proto; empty when all is fresh."""
    complaints = []
    for path in sorted(committed.keys() | fresh.keys()):
        if path not in committed:
            complaints.append(f"{path}: missing")
        elif path not in fresh:
            complaints.append(f"{path}: no proto makes this file any more")
        elif committed[path] != fresh[path]:
            complaints.append(f"{path}: differs")
    return complaints


def write(sources: Path, committed: Mapping[Path, bytes], fresh: Mapping[Path, bytes]) -> None:
    """Bring the files below a source root to the fresh state, touching only what changed."""
    for path in committed.keys() - fresh.keys():
        (sources / path).unlink()
    for path, content in fresh.items():
        if committed.get(path) != content:
            (sources / path).parent.mkdir(parents=True, exist_ok=True)
            (sources / path).write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(main())
