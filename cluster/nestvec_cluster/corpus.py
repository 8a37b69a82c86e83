"""Real text that every machine has: the documentation inside Python's own standard library.

Docstrings are read from the library's source with `ast`, so nothing is imported or run. Modules
written in C have no source here: those of a fixed list are imported and their docstrings looked at.
`pydoc_data.topics` adds the language reference that `help()` shows.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nestvec.core.document import Document
from nestvec.core.errors import ConfigError

# Neighbouring paragraphs are joined up to the first length and cut at the second, in characters:
# about what a search shows as one result.
_SHORTEST = 60
_LONGEST = 600
# A docstring of one line is a passage of its own from this length on.
_SHORTEST_WHOLE = 24

_SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "idle_test", "idlelib", "turtledemo", "site-packages", "dist-packages")
)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Importing these does nothing but load them, on every platform that has them (readline is not
# among them: it may write to the terminal).
_C_MODULES = """
    _asyncio _bisect _bz2 _codecs _collections _contextvars _csv _ctypes _datetime _decimal
    _elementtree _functools _hashlib _heapq _imp _interpreters _io _json _locale _lsprof _lzma
    _multiprocessing _operator _pickle _posixsubprocess _queue _random _signal _socket _sqlite3
    _sre _ssl _stat _string _struct _symtable _thread _tracemalloc _typing _uuid _warnings
    _weakref _zoneinfo array atexit audioop binascii builtins cmath errno faulthandler fcntl gc
    grp itertools marshal math mmap posix pwd pyexpat resource select spwd sys syslog
    termios time unicodedata zlib
"""
_SENTENCE_END = re.compile(r"(?<=[.;:!?])\s+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")


def stdlib_passages() -> list[Document]:
    """Distinct passages in a fixed order, each named for what it documents: `json.dumps#2`.

    Raises ConfigError when this Python came without its library's sources.
    """
    texts: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for name, docstring in _docstrings():
        for passage in split_passages(docstring):
            if passage not in texts:
                numbers[name] += 1
                texts[passage] = f"{name}#{numbers[name]}"
    if not texts:
        raise ConfigError(
            f"no documentation found in {_library()}: this Python came without the sources of its "
            f"library; give a file of your own with --texts"
        )
    return [Document(name, text) for text, name in texts.items()]


def split_passages(docstring: str) -> list[str]:
    """Cut at paragraphs: short ones join their neighbour, long ones end with a sentence."""
    paragraphs = [" ".join(part.split()) for part in _PARAGRAPH_END.split(docstring)]
    paragraphs = [part for part in paragraphs if any(map(str.isalnum, part))]
    passages: list[str] = []
    pending = ""
    for paragraph in paragraphs:
        pending = f"{pending} {paragraph}".strip()
        if len(pending) >= _SHORTEST:
            passages += _cut(pending)
            pending = ""
    if pending and passages and len(passages[-1]) + len(pending) < _LONGEST:
        passages[-1] += f" {pending}"
    elif len(pending) >= _SHORTEST_WHOLE:
        passages.append(pending)
    return passages


def _cut(text: str) -> list[str]:
    """Pieces of at most _LONGEST characters, of whole sentences where they are short enough."""
    pieces: list[str] = []
    current = ""
    for sentence in _SENTENCE_END.split(text):
        if len(current) >= _SHORTEST and len(current) + len(sentence) >= _LONGEST:
            pieces.append(current)
            current = ""
        current = f"{current} {sentence}".strip()
        while len(current) > _LONGEST:
            blank = current.rfind(" ", 1, _LONGEST)
            end = blank if blank > 0 else _LONGEST
            pieces.append(current[:end])
            current = current[end:].strip()
    if pieces and len(current) < _SHORTEST:
        pieces[-1] += f" {current}"
        return pieces
    return [*pieces, current]


def _docstrings() -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of everything, in a fixed order."""
    yield from _source_docstrings()
    yield from _topics()
    for name in _C_MODULES.split():
        yield from _c_docstrings(name)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _source_docstrings() -> Iterator[tuple[str, str]]:
    library = _library()
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _SKIPPED_FOLDERS.isdisjoint(relative.parts) and (tree := _parse(path)) is not None:
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            yield from _defined(tree, module)


def _parse(path: Path) -> ast.Module | None:
    """None for what is no source of this version (templates, examples of bad syntax)."""
    with warnings.catch_warnings():
        # An old escape sequence in somebody's library is no news here.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None


def _defined(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Docstrings of a module, class or function and of what is defined in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            yield from _defined(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            # Variants for a platform or a missing accelerator.
            yield from _defined(child, name)


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions leave it out
        return
    for name, text in sorted(topics.topics.items()):
        yield f"help.{name}", text


def _c_docstrings(module_name: str) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # of another platform or version
            return
    yield from _own_docstring(module, module_name)
    for name, member in sorted(vars(module).items()):
        if inspect.isclass(member) or inspect.isroutine(member):
            yield from _own_docstring(member, f"{module_name}.{name}")
        if inspect.isclass(member):
            for attribute, value in sorted(vars(member).items()):
                if inspect.isroutine(value) or inspect.isdatadescriptor(value):
                    yield from _own_docstring(value, f"{module_name}.{name}.{attribute}")


def _own_docstring(thing: object, name: str) -> Iterator[tuple[str, str]]:
    docstring = getattr(thing, "__doc__", None)
    if isinstance(docstring, str):
        yield name, inspect.cleandoc(docstring)
