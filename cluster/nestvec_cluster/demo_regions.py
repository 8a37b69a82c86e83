"""`nestvec demo --regions N`: the same texts spread over regions, and one answer merged from them.

Real engines and stores, a process each; the distance between them is made by delaying proxies.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from nestvec.client import IngestDocument, NestvecClient, SearchResult
from nestvec.core.errors import ConfigError
from nestvec.core.placement import partition_of
from nestvec.quality.timing import summarise, timed
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import HITS, index_all, wait_until_settled
from nestvec_cluster.progress import Phases
from nestvec_cluster.region_room import (
    RegionSpec,
    RunningRegion,
    cut_off,
    heal,
    running_regions,
)
from nestvec_cluster.report_tables import report_table

# The nearest first; round trips in seconds, from the first region, and between the others.
NAMES = ("eu", "us", "ap", "sa", "af")
_FROM_FIRST_S = (0.0, 0.08, 0.15, 0.2, 0.12)
_BETWEEN_S = 0.17
POLICIES = ("local", "local_first", "all")
_SPREAD = "demo"
# All of the documents in one region: what the merged answers are held against.
_WHOLE = "whole"
_ASKED = 40
_TIMEOUT_S = 30.0
_FOUND_S = 30.0
_AFTER_CUT_S = 1.5
# Of an answer that waits for a region which is gone.
_SHORT_S = 0.6


@dataclass(frozen=True, slots=True)
class Compared:
    """How many queries were asked of the regions and of one that has everything, and of how many
    the hits, their order or their scores differ.
    """

    queries: int
    different: int


def specs(count: int, collection: str = _SPREAD) -> list[RegionSpec]:
    """The first so many regions, which share one collection. Raises ConfigError."""
    if not 2 <= count <= len(NAMES):
        raise ConfigError(f"--regions {count}: expected 2 to {len(NAMES)}")
    names = NAMES[:count]
    return [
        RegionSpec(
            name,
            {
                other: _FROM_FIRST_S[number] if not own else _BETWEEN_S
                for number, other in enumerate(names)
                if number > own
            },
            # That a region is not there is part of it; the answers say so.
            settings={"log.level": "error"},
            shared={collection: {"mode": "partitioned"}},
        )
        for own, name in enumerate(names)
    ]


def demo_regions(
    count: int,
    documents: Sequence[IngestDocument],
    asked: Sequence[str],
    corpus: str,
    console: Console,
    phases: Phases,
    json_file: Path | None,
) -> None:
    """Index, ask, lose a region, and have it back. Raises ConfigError."""
    queries = list(asked)[:_ASKED]
    with ExitStack() as stack:
        with phases.timed("start", f"starting {count} regions"):
            regions = stack.enter_context(running_regions(specs(count)))
            clients = {
                name: stack.enter_context(NestvecClient(one.address, timeout_s=_TIMEOUT_S))
                for name, one in regions.items()
            }
        here = next(iter(regions))
        client = clients[here]
        with phases.timed("index", "indexing") as meter:
            shown = meter.count("indexing", 2 * len(documents))
            parts = _index(clients, documents, shown)
        with phases.timed("settle", "waiting for the indexes to settle"):
            for name, each in clients.items():
                for collection in (_SPREAD, _WHOLE) if name == here else (_SPREAD,):
                    wait_until_settled(each, collection)
        with phases.timed("measure", "asking every region"):
            _wait_for_all(client, queries[0])
            compared, whole = _compare(client, queries)
            milliseconds = _latencies(client, queries)
        with phases.timed("cut", "cutting a region off"):
            lost = _without_one(client, regions, queries[0])
        coverage = whole.coverage.fraction
        _print(console, corpus, parts, regions, compared, milliseconds, whole, lost)
    if json_file is not None:
        report: dict[str, Any] = {
            "regions": list(regions),
            "documents": parts,
            "coverage": coverage,
            "equals_single_region": compared.different == 0,
            "queries": compared.queries,
            "different": compared.different,
            "p50_ms": milliseconds,
            "round_trips_ms": {
                name: 2e3 * way.one_way_s for name, way in regions[here].ways.items()
            },
            "cut": lost,
            "seconds": round(phases.total_s, 3),
            "corpus": corpus,
            "machine": describe_machine(),
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _index(
    clients: Mapping[str, NestvecClient],
    documents: Sequence[IngestDocument],
    shown: Callable[[int], None],
) -> dict[str, int]:
    """Each document into its region, by a hash of its id, and all of them into one collection of
    the first. Returns how many each region has.
    """
    names = list(clients)
    parts: dict[str, list[IngestDocument]] = {name: [] for name in names}
    for one in documents:
        parts[names[partition_of(one.id, len(names))]].append(one)
    done = 0
    first = clients[names[0]]
    first.create_collection(_WHOLE)
    for client in clients.values():
        client.create_collection(_SPREAD)
    jobs = [(clients[name], _SPREAD, part) for name, part in parts.items()]
    for client, collection, part in (*jobs, (first, _WHOLE, list(documents))):
        index_all(client, collection, part, _counted_from(done, shown))
        done += len(part)
    return {name: len(part) for name, part in parts.items()}


def _counted_from(done: int, shown: Callable[[int], None]) -> Callable[[int], None]:
    return lambda count: shown(done + count)


def _wait_for_all(client: NestvecClient, text: str) -> None:
    """Until each has found the others: those that started first could not reach them at once."""
    deadline_s = time.monotonic() + _FOUND_S
    while client.search(_SPREAD, text, regions="all", min_coverage=0.0).coverage.fraction < 1.0:
        if time.monotonic() > deadline_s:
            raise ConfigError(f"not every region could be reached within {_FOUND_S:g} s")
        time.sleep(0.2)


def _compare(client: NestvecClient, queries: Sequence[str]) -> tuple[Compared, SearchResult]:
    """Hits of all regions against those of one that has everything; and one of the answers."""
    different = 0
    merged = None
    for text in queries:
        merged = client.search(_SPREAD, text, search_class="analyst", k=HITS, regions="all")
        single = client.search(_WHOLE, text, search_class="analyst", k=HITS)
        different += [(one.id, one.score, one.text) for one in merged.hits] != [
            (one.id, one.score, one.text) for one in single.hits
        ]
    assert merged is not None, "there are queries"
    return Compared(len(queries), different), merged


def _latencies(client: NestvecClient, queries: Sequence[str]) -> dict[str, float]:
    """The median of each policy, in milliseconds; the policies take turns."""
    taken: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for text in queries:
        for policy in POLICIES:
            _, elapsed = timed(client.search, _SPREAD, text, k=HITS, regions=policy)
            taken[policy].append(elapsed)
    return {policy: round(summarise(one).p50_ms, 2) for policy, one in taken.items()}


def _without_one(
    client: NestvecClient, regions: Mapping[str, RunningRegion], text: str
) -> dict[str, Any]:
    """What is said while the last region is out of reach, and when it is back."""
    lost = list(regions)[-1]
    cut_off(regions, lost)
    asked = {"k": HITS, "regions": "all", "min_coverage": 0.0}
    during = client.search(_SPREAD, text, timeout_s=_SHORT_S, **asked)  # type: ignore[arg-type]
    heal(regions, lost)
    after = during
    for _ in range(20):
        after = client.search(_SPREAD, text, timeout_s=_AFTER_CUT_S, **asked)  # type: ignore[arg-type]
        if after.coverage.fraction == 1.0:
            break
    return {
        "region": lost,
        "coverage": during.coverage.fraction,
        "said": [one.detail for one in during.degradations],
        "coverage_healed": after.coverage.fraction,
    }


def _print(
    console: Console,
    corpus: str,
    parts: Mapping[str, int],
    regions: Mapping[str, RunningRegion],
    compared: Compared,
    milliseconds: Mapping[str, float],
    whole: SearchResult,
    lost: Mapping[str, Any],
) -> None:
    here = next(iter(regions))
    console.print()
    title = f"{sum(parts.values()):,} passages of {corpus}, in {len(parts)} regions"
    console.print(Text(title, style="bold"))
    table = report_table("", "region", "documents", "round trip ms")
    for name, count in parts.items():
        way = regions[here].ways.get(name)
        table.add_row(name, f"{count:,}", "here" if way is None else f"{2e3 * way.one_way_s:.0f}")
    console.print(table)
    console.print()
    console.print(Text(f"Asked in {here}, through the SDK, class search", style="bold"))
    table = report_table("", "regions", "p50 ms")
    for policy, one in milliseconds.items():
        table.add_row(policy, f"{one:.1f}")
    console.print(table)
    console.print()
    from_where = Counter(hit.region for hit in whole.hits)
    same = "the same" if not compared.different else f"{compared.different} other"
    lines = [
        f"{compared.queries} queries of all regions gave {same} hits, in order and score, as one "
        f"region that has everything. The last answer covers {whole.coverage.fraction:.0%}, with "
        f"hits from {', '.join(f'{name} ({n})' for name, n in sorted(from_where.items()))}.",
        f"With {lost['region']} cut off: coverage {lost['coverage']:.1%}; "
        f"{'; '.join(lost['said']) or 'nothing else is said'}. Back again: "
        f"{lost['coverage_healed']:.0%}.",
    ]
    for line in lines:
        console.print(Text(line))
