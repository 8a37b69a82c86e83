"""A collection moves to another model and back while it is searched and written.

    python -m benchmarks.migration --texts FILE --queries FILE --column NAME --count 100000

One server process with a data directory, and this one, which searches in a few threads, writes at a
steady rate, and migrates. The new space is the default model's under another prompt, so that both
can be checked here: each answer names its generation, and the score of each of its hits must be the
cosine of query and text in that generation's space, and in no other.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.under_writes import server, tell
from nestvec.adapters.models import ModelCard, ModelSettings, load_model
from nestvec.adapters.models.card import spec_card
from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.arrays import Floats
from nestvec.core.errors import NestvecError
from nestvec.core.migration import MigrationStatus, MigrationWish, Phase, ShadowTerms
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Prompts, Role
from nestvec.core.tiers import prepare
from nestvec.quality.timing import summarise, timed
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import index_all, wait_until_settled
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "migrating"
PROMPTS = Prompts("find: ", "text: ")
_SHORTEST = 16
_TIMEOUT_S = 60.0
_ASKERS = 2
_HITS = 10
_KEPT = 4000
_TOLERANCE = 5e-3
_LONGEST_S = 7200.0


@dataclass
class Load:
    """What became of searches and writes. kept: a sample of answers, for the check of scores."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    not_written: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    wrong_space: list[str] = field(default_factory=list)
    kept: list[tuple[str, SearchResult]] = field(default_factory=list)
    first_seen_s: dict[tuple[str, int], float] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    phase: str = "before"


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int, typer.Option(min=100)] = 100_000,
    queries_count: Annotated[int, typer.Option(min=1)] = 500,
    per_second: Annotated[float, typer.Option(min=0.1, help="Documents written.")] = 50.0,
    rate: Annotated[float, typer.Option(min=0, help="Documents copied a second; 0: all.")] = 0.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    asked = sample(read_texts(queries, column, _SHORTEST), queries_count, 0)
    with tempfile.TemporaryDirectory(prefix="nestvec-bench-") as folder:
        report = measure(Path(folder), indexed, asked, per_second, rate)
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


def measure(
    folder: Path, texts: Sequence[str], asked: list[str], per_second: float, rate: float
) -> dict[str, Any]:
    """All figures, in seconds and milliseconds."""
    load = Load()
    models = {1: load_model("default"), 2: load_model(ModelSettings(card=prompted()))}
    spaces = {number: model.space.fingerprint for number, model in models.items()}
    with server(folder) as (address, _), NestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        client.create_collection(COLLECTION)
        documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
        index_all(client, COLLECTION, documents)
        wait_until_settled(client, COLLECTION)
        with under_load(address, asked, spaces, per_second, load):
            time.sleep(5.0)
            seconds = migrate(client, load, rate)
            rollback = roll_back(client, load)
            time.sleep(2.0)
            load.phase = "switched back"
            client.step_migration(COLLECTION, "switch")
            time.sleep(2.0)
        lost = missing(client, load.written)
    return {
        "documents": len(texts),
        "written_meanwhile": len(load.written),
        "seconds_by_phase": seconds,
        "queries": sum(load.answers.values()) + len(load.failed),
        "failed_queries": len(load.failed),
        "failures": sorted(set(load.failed))[:5],
        "writes_refused": len(load.not_written),
        "refusals": sorted(set(load.not_written))[:5],
        "writes_lost": len(lost),
        "answers_by_generation": dict(load.answers),
        "mixed_space_answers": len(load.wrong_space) + len(check_scores(load, models)),
        "answers_checked_by_score": len(load.kept),
        "latency_ms": {
            phase: {"p50": one.p50_ms, "p95": one.p95_ms}
            for phase, taken in load.milliseconds.items()
            for one in [summarise(taken)]
        },
        **rollback,
    }


def prompted() -> ModelCard:
    """The default model's card, under another prompt."""
    space = load_model("default").space
    return ModelCard("prompted", space.dim, space.trained_dims, space.recipe, PROMPTS)


def migrate(client: NestvecClient, load: Load, rate: float) -> dict[str, float]:
    """Until the new generation serves. Returns how long each phase took."""
    wish = MigrationWish(
        ModelSpec("default", card=spec_card(prompted())),
        golden=False,
        shadow=ShadowTerms(queries=100, share=0.2, latency_ratio=10.0),
        rate=rate,
    )
    load.phase = "migrating"
    client.begin_migration(COLLECTION, wish)
    seconds: dict[str, float] = {}
    seen_s = time.monotonic()
    deadline_s = seen_s + _LONGEST_S
    while time.monotonic() < deadline_s:
        status: MigrationStatus = client.migration(COLLECTION)
        now_s = time.monotonic()
        seconds[status.phase.value] = seconds.get(status.phase.value, 0.0) + now_s - seen_s
        seen_s = now_s
        if status.phase is Phase.SWITCHED:
            tell(f"switched: {', '.join(gate.said for gate in status.gates)}")
            load.phase = "switched"
            time.sleep(3.0)
            return {name: round(taken, 2) for name, taken in seconds.items()}
        if status.ended:
            raise SystemExit(f"it ended: {status.phase.value}: {status.said}")
        time.sleep(0.1)
    raise SystemExit("it did not switch")


def roll_back(client: NestvecClient, load: Load) -> dict[str, float]:
    """The call, and how long after its begin the first answer came from the old generation."""
    load.phase = "rolled back"
    began_s = time.monotonic()
    _, call_ms = timed(client.step_migration, COLLECTION, "rollback")
    while ("rolled back", 1) not in load.first_seen_s and time.monotonic() < began_s + 30.0:
        time.sleep(0.005)
    first_s = load.first_seen_s.get(("rolled back", 1), float("inf"))
    return {
        "rollback_call_ms": round(call_ms, 1),
        "rollback_first_answer_ms": round(1e3 * (first_s - began_s), 1),
    }


@contextmanager
def under_load(
    address: str, asked: list[str], spaces: dict[int, str], per_second: float, load: Load
) -> Iterator[None]:
    """Searches and writes until the block ends."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=ask, args=(address, asked, spaces, load, stop, number))
        for number in range(_ASKERS)
    ]
    threads.append(threading.Thread(target=write, args=(address, per_second, load, stop)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(_TIMEOUT_S)


def ask(
    address: str,
    asked: list[str],
    spaces: dict[int, str],
    load: Load,
    stop: threading.Event,
    seed: int,
) -> None:
    """One query after another."""
    draw = random.Random(seed)
    with NestvecClient(address, timeout_s=10.0) as client:
        while not stop.is_set():
            text, phase = draw.choice(asked), load.phase
            try:
                result, taken_ms = timed(client.search, COLLECTION, text, k=_HITS)
            except NestvecError as error:
                load.failed.append(f"{phase}: {error}")
                continue
            load.milliseconds.setdefault(phase, []).append(taken_ms)
            load.answers[result.generation] += 1
            load.first_seen_s.setdefault((phase, result.generation), time.monotonic())
            told = {result.coarse.fingerprint, result.scoring.fingerprint}
            if told != {spaces[result.generation]}:
                load.wrong_space.append(f"generation {result.generation}: {told}")
            if len(load.kept) < _KEPT or draw.random() < 0.1:
                load.kept.append((text, result))


def write(address: str, per_second: float, load: Load, stop: threading.Event) -> None:
    """A few documents at a time, some of them again and again."""
    draw = random.Random(7)
    with NestvecClient(address, timeout_s=30.0) as client:
        due_s = time.monotonic()
        while not stop.is_set():
            due_s += 10.0 / per_second
            names = [f"live-{draw.randrange(2000)}" for _ in range(10)]
            texts = {name: f"{name} was written as {draw.getrandbits(32):x}" for name in names}
            try:
                report = client.index(COLLECTION, [IngestDocument(*one) for one in texts.items()])
            except NestvecError as error:
                load.not_written.append(str(error))
                continue
            refused = {failure.id for failure in report.failures}
            load.written |= {name: text for name, text in texts.items() if name not in refused}
            load.not_written += sorted(refused)
            stop.wait(max(0.0, due_s - time.monotonic()))


def missing(client: NestvecClient, written: dict[str, str]) -> list[str]:
    """Documents that are not as they were acknowledged, in the generation that serves now."""
    names = list(written)
    time.sleep(1.0)
    wrong = []
    for start in range(0, len(names), 200):
        some = names[start : start + 200]
        found = {one.id: one.text for one in client.get(COLLECTION, some).documents}
        wrong += [name for name in some if found.get(name) != written[name]]
    return wrong


def check_scores(load: Load, models: dict[int, EmbeddingModel]) -> list[str]:
    """Answers of which some score is no cosine in the space of the generation that they name."""
    vectors: dict[tuple[int, Role, str], Floats] = {}

    def vector(generation: int, role: Role, text: str) -> Floats:
        key = generation, role, text
        if key not in vectors:
            model = models[generation]
            made = model.embed([model.space.prompts.apply(text, role)])
            vectors[key] = prepare(made, model.space)[0]
        return vectors[key]

    wrong = []
    for text, result in load.kept:
        query = vector(result.generation, Role.QUERY, text)
        for hit in result.hits:
            expected = float(np.dot(query, vector(result.generation, Role.DOCUMENT, hit.text)))
            if abs(expected - hit.score) > _TOLERANCE:
                wrong.append(f"{hit.id} in generation {result.generation}: {hit.score}")
                break
    return wrong


if __name__ == "__main__":
    typer.run(main)
