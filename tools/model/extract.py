"""From unpacked packages to texts: a headword and its gloss, a title and its section."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from tools.model.fetch import PACKAGES, descriptions

# A section is cut into documents of about this many characters.
_DOCUMENT_CHARS = 900
_SHORTEST_DOCUMENT = 25
_ENGLISH = re.compile(r"/(en|en_US|en-US|C)/|gimp/2\.0/help/en/|manual/en/")
_LANGUAGE_FOLDERS = re.compile(r"/(help|HTML|manual)/[A-Za-z_@-]{1,12}/")


class Text(NamedTuple):
    """What a text is about (a headword, a title), the text, and the package it is from."""

    title: str
    body: str
    source: str


def texts(cache: Path) -> Iterator[Text]:
    """Every text of every package under `cache`, in a fixed order, each body once."""
    seen: set[str] = set()
    for text in _all(cache):
        body = _tidy(text.body)
        title = _tidy(text.title)
        if len(body) < _SHORTEST_DOCUMENT or body in seen or not re.search("[a-zA-Z]{3}", title):
            continue
        seen.add(body)
        yield Text(title, body, text.source)


def _all(cache: Path) -> Iterator[Text]:
    for name, short, rest in descriptions(cache):
        yield Text(f"{name}: {short}", rest or short, "descriptions")
    yield from _wordnet(cache)
    for name in ("gcide", "foldoc", "jargon", "vera"):
        yield from _dictionary(cache / f"dict-{name}" / "usr/share/dictd", name)
    for package in PACKAGES:
        for path in sorted((cache / package).rglob("*")):
            if path.is_file() and not path.is_symlink() and _is_english(path):
                yield from _file(path, package)


def _is_english(path: Path) -> bool:
    name = str(path)
    if re.search(r"\.html\.[a-z]{2}(\.|$)|\.(de|fr|es|it|pt|ja|zh-cn|ru|nl)\.(html|txt)", name):
        return name.endswith(".html.en")
    return not _LANGUAGE_FOLDERS.search(name) or bool(_ENGLISH.search(name))


def _file(path: Path, source: str) -> Iterator[Text]:
    name = path.name.removesuffix(".gz")
    if re.search(r"\.(html?|page|docbook|xml|en)$", name):
        yield from _marked_up(_read(path), source)
    elif "/man/man" in str(path):
        yield from _manual(_read(path), source)
    elif name.endswith(".rst") or (name.endswith(".txt") and "Documentation" in str(path)):
        yield from _restructured(_read(path), source)


def _read(path: Path) -> str:
    opened = gzip.open if path.suffix in (".gz", ".dz") else open
    with opened(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" -¶")


def _synsets(cache: Path) -> Iterator[tuple[list[str], str]]:
    """Fields and gloss of each line. Source of the format: wndb(5WN)."""
    for part in ("noun", "verb", "adj", "adv"):
        data = cache / "wordnet-base" / "usr/share/wordnet" / f"data.{part}"
        for line in data.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                facts, _, gloss = line.partition("|")
                yield facts.split(), gloss


def _wordnet(cache: Path) -> Iterator[Text]:
    for fields, gloss in _synsets(cache):
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        title = ", ".join(re.sub(r"\(\w+\)", "", word).replace("_", " ") for word in words)
        yield Text(title, gloss, "wordnet-base")


def wordnet_fields(cache: Path) -> dict[str, int]:
    """By gloss, as `texts` gives it, the number of the lexicographer's file: 8 is noun.body."""
    return {_tidy(gloss): int(fields[1]) for fields, gloss in _synsets(cache)}


def _dictionary(folder: Path, name: str) -> Iterator[Text]:
    """Source of the format: dictd(8); an entry is a line at the margin and indented ones."""
    title, body = "", list[str]()
    for line in [*_read(folder / f"{name}.dict.dz").splitlines(), "end"]:
        if line[:1].strip():
            if title and body and not title.startswith("00-"):
                yield Text(_plain(title), _plain(" ".join(body)), f"dict-{name}")
            title, _, grammar = line.partition("\\")
            body = [grammar.rpartition("\\")[2].partition("[")[0]] if name != "gcide" else []
        else:
            body.append(line.strip())


def _plain(text: str) -> str:
    """Without the dictionary's own marks: sources in brackets, authors, braces of references."""
    text = re.sub(r"\[[^\]]{1,60}\]|--[A-Z][\w.]*( [A-Z]\w*)?\.?|[{}]", " ", text)
    return re.sub(r"\([A-Z][a-z]+\.\)", " ", text)


class _Sections(HTMLParser):
    """Headings, and the text below each, of HTML, DocBook and Mallard alike."""

    _HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "title", "dt", "term"))
    _LEFT_OUT = frozenset(
        ("script", "style", "pre", "nav", "head", "screen", "code", "info", "programlisting",
         "footer", "table", "math", "bookinfo", "articleinfo", "legalnotice", "revhistory")
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[tuple[list[str], list[str]]] = []
        self._heading = False
        self._left_out = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        if tag in self._LEFT_OUT:
            # `code` inside a sentence is a word of it.
            self._left_out += tag != "code"
        elif tag in self._HEADINGS and not self._left_out:
            self.sections.append(([], []))
            self._heading = True
        elif tag in ("p", "para", "li", "br", "dd", "div") and self.sections:
            self.sections[-1][1].append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._LEFT_OUT:
            self._left_out = max(0, self._left_out - (tag != "code"))
        elif tag in self._HEADINGS:
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self.sections and not self._left_out:
            self.sections[-1][0 if self._heading else 1].append(data)


def _marked_up(content: str, source: str) -> Iterator[Text]:
    parser = _Sections()
    parser.feed(re.sub(r"&(?!amp|lt|gt|quot|nbsp|#)\w+;", " ", content))
    page = ""
    for heading, below in parser.sections:
        title, body = _tidy("".join(heading)), _tidy("".join(below))
        title = re.sub(r"^[\d.]+\s*|[¶]", "", title)
        page = page or title
        yield from _documents(title or page, page, body, source)


def _documents(title: str, page: str, body: str, source: str) -> Iterator[Text]:
    """Sentences up to about _DOCUMENT_CHARS together."""
    whole = title if title == page or len(title) > 30 else f"{page}: {title}"
    taken: list[str] = []
    for sentence in re.split(r"(?<=[.!?:;]) (?=[A-Z(\"'])", body):
        taken.append(sentence[: 2 * _DOCUMENT_CHARS])
        if sum(map(len, taken)) > _DOCUMENT_CHARS:
            yield Text(whole, " ".join(taken), source)
            taken = []
    if taken:
        yield Text(whole, " ".join(taken), source)


def _manual(content: str, source: str) -> Iterator[Text]:
    """A manual page (roff): its one line against its description."""
    content = re.sub(r'(?m)^[.\']\\".*$', "", content)
    content = re.sub(r"\\f\([A-Z]{2}|\\f.|\\[&|/,]|\\\(..", "", content).replace("\\-", "-")
    parts = re.split(r'(?m)^\.S[Hh]\s+"?([A-Za-z ]+)"?\s*$', content)
    sections = {
        name.strip().upper(): re.sub(r"(?m)^\.[A-Za-z]+ ?", "", text)
        for name, text in zip(parts[1::2], parts[2::2], strict=False)
    }
    title = _tidy(sections.get("NAME", ""))
    if title:
        yield from _documents(title, title, _tidy(sections.get("DESCRIPTION", "")), source)


def _restructured(content: str, source: str) -> Iterator[Text]:
    """reStructuredText: a title is a line with a rule below it."""
    title, page, below, previous = "", "", list[str](), ""
    for line in [*content.splitlines(), "end", "==="]:
        if re.fullmatch(r"([=\-~^*#\"'.])\1{2,}\s*", line) and previous.strip():
            below = below[:-1]
            if title:
                yield from _documents(title, page, _tidy(" ".join(below)), source)
            title, below = previous.strip(), []
            page = page or title
        elif not line.startswith((" ", "\t", "..", ":", "#", "=")):
            below.append(line.replace("``", "").replace("*", ""))
        previous = line
