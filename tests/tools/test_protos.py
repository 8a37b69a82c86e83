"""The freshness check of the generated code: it names what differs, and mends exactly that."""

from pathlib import Path

from tools import protos

A, B, C = (Path(f"nestvec/v1/{name}_pb2.py") for name in "abc")


def test_fresh_code_has_no_differences() -> None:
    assert protos.differences({A: b"a"}, {A: b"a"}) == []


def test_every_kind_of_difference_is_named() -> None:
    complaints = protos.differences({A: b"old", C: b"c"}, {A: b"new", B: b"b"})
    assert complaints == [
        f"{A}: differs",
        f"{B}: missing",
        f"{C}: no proto makes this file any more",
    ]


def test_write_mends_every_difference_and_leaves_other_files_alone(tmp_path: Path) -> None:
    package = tmp_path / protos.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("kept")
    (package / "a_pb2.py").write_bytes(b"old")
    (package / "c_pb2.pyi").write_bytes(b"c")
    fresh = {A: b"new", B: b"b"}
    protos.write(tmp_path, protos.generated_files(tmp_path), fresh)
    assert protos.generated_files(tmp_path) == fresh
    assert (package / "__init__.py").read_text() == "kept"
