"""Texts for a measurement: distinct, long enough to mean something, sampled with a seed."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nestvec.core.errors import ConfigError
from nestvec_cluster.readers import Format, open_input
from nestvec_cluster.rows import Columns

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_texts(path: Path, column: str | None = None, shortest: int = 1) -> list[str]:
    """Distinct texts of at least `shortest` characters, in the order of the file.

    Everything that `nestvec index` reads. column: of a table, by name or by its number from 1; of
    JSON lines, the key; `text` unless given. Rows that make no document are passed over. Raises
    ConfigError or UnreadableInput when the file cannot be read, or holds none.
    """
    try:
        columns = Columns(text=_column_name(path, column), fields=())
        with open_input(str(path), Format.AUTO, columns) as opened:
            documents = (entry.document for entry in opened.entries)
            stripped = (one.text.strip() for one in documents if one is not None)
            texts = list(dict.fromkeys(text for text in stripped if len(text) >= shortest))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not texts:
        raise ConfigError(f"{path}: holds no text of {shortest} characters or more")
    return texts


def sample(texts: Sequence[str], count: int | None, seed: int = 0) -> list[str]:
    """`count` of the texts, the same ones every time, in their order; all when there are fewer."""
    if count is None or count >= len(texts):
        return list(texts)
    rows = np.random.default_rng(seed).choice(len(texts), count, replace=False)
    return [texts[row] for row in np.sort(rows)]


def _column_name(path: Path, column: str | None) -> str:
    """A number becomes the name that the table's header has there."""
    delimiter = _DELIMITERS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if column is None or delimiter is None or not column.isdecimal():
        return column or "text"
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    if not 1 <= int(column) <= len(header):
        raise ConfigError(f"{path}: column {column}, expected 1 to {len(header)}")
    return header[int(column) - 1].strip()
