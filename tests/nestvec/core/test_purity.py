"""Core is numpy and the standard library, without I/O: held here by reading its source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nestvec.core

SOURCES = sorted(Path(nestvec.core.__file__).parent.rglob("*.py"))

# Of the standard library, what talks to the world, waits for it, or hides state.
WORLDLY = {
    "asyncio", "concurrent", "ctypes", "fileinput", "ftplib", "glob", "http", "importlib", "io",
    "logging", "mmap", "multiprocessing", "os", "pathlib", "pickle", "random", "select",
    "selectors", "shelve", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3",
    "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "warnings",
}  # fmt: skip
WORLDLY_BUILTINS = {
    "open", "print", "input", "exec", "eval", "compile", "breakpoint", "__import__",
}  # fmt: skip
WORLDLY_METHODS = {
    "load", "save", "savez", "loadtxt", "savetxt", "genfromtxt", "fromfile", "tofile", "memmap",
    "read_bytes", "read_text", "write_bytes", "write_text",
}  # fmt: skip


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def worldly_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in WORLDLY_BUILTINS:
                yield function.id
            elif isinstance(function, ast.Attribute) and function.attr in WORLDLY_METHODS:
                yield function.attr


def is_pure_import(module: str) -> bool:
    top = module.partition(".")[0]
    if top in {"numpy", "__future__"}:
        return True
    if top == "nestvec":
        return module.startswith("nestvec.core.")
    return top in sys.stdlib_module_names and top not in WORLDLY


def only_declares(function: ast.AsyncFunctionDef) -> bool:
    """Nothing but a docstring and an ellipsis: a Protocol's method."""
    return all(
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        for statement in function.body
    )


every_module = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def test_there_is_something_to_read() -> None:
    assert {"errors", "sketch", "ports"} <= {source.stem for source in SOURCES}


@pytest.mark.parametrize(
    ("module", "pure"),
    [
        ("numpy.typing", True),
        ("collections.abc", True),
        ("nestvec.core.errors", True),
        ("nestvec.rpc", False),
        ("nestvec", False),
        ("asyncio", False),
        ("urllib.request", False),
        ("faiss", False),
        ("redis.asyncio", False),
    ],
)
def test_the_check_tells_pure_from_worldly(module: str, pure: bool) -> None:
    assert is_pure_import(module) == pure


@every_module
def test_core_imports_numpy_the_standard_library_and_itself(source: Path) -> None:
    modules = list(imported(ast.parse(source.read_text("utf-8"))))
    assert [module for module in modules if not is_pure_import(module)] == []


def test_the_check_tells_a_call_that_reaches_out() -> None:
    source = "open('a'); np.load('a'); re.compile('a'); path.read_text(); len('a'); json.loads('1')"
    assert list(worldly_calls(ast.parse(source))) == ["open", "load", "read_text"]


@every_module
def test_core_neither_reads_nor_writes_the_world(source: Path) -> None:
    assert list(worldly_calls(ast.parse(source.read_text("utf-8")))) == []


@every_module
def test_core_awaits_nothing_and_only_declares_coroutines(source: Path) -> None:
    waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        assert not isinstance(node, waiting)
        if isinstance(node, ast.AsyncFunctionDef):
            assert source.stem == "ports"
            assert only_declares(node)
