"""What `nestvec demo` prints: one question in every class, then the lanes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nestvec.client import CollectionDescription, SearchResult
from nestvec.quality.timing import Timing
from nestvec_cluster.completions import DEFAULT_ADDRESS
from nestvec_cluster.measuring import HITS, ClassQuality

_SHOWN_HITS = 3


@dataclass(frozen=True, slots=True)
class Lane:
    """One class: how fast, and how good."""

    timing: Timing
    quality: ClassQuality

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        timing = {"p50_ms": self.timing.p50_ms, "p95_ms": self.timing.p95_ms}
        return timing | self.quality.to_dict()


def print_corpus(
    console: Console, name: str, described: CollectionDescription, seconds: Mapping[str, float]
) -> None:
    """What was indexed, how fast, and how large it became."""
    documents = described.documents
    rate = documents / max(seconds["index"], 1e-3)
    tiers = ", ".join(
        f"{tier.dim}-d at {tier.nbytes / max(tier.documents, 1):.0f} bytes a vector"
        for tier in described.tier_status
    )
    console.print()
    console.print(Text(f"{documents:,} passages of {name}", style="bold"))
    console.print(
        f"Read in {seconds['read']:.1f} s; engine up in {seconds['start']:.1f} s; text in, "
        f"searchable out in {seconds['index']:.1f} s ({rate:,.0f}/s). One ingest fills the store "
        f"({described.store_dim}-d {described.store_dtype.value}) and the coarse tiers ({tiers}).",
        highlight=False,
    )


def print_answers(console: Console, question: str, answers: Mapping[str, SearchResult]) -> None:
    """The same question to every class."""
    stages = max((_stages(one) for one in answers.values()), key=len)
    table = _table(f"“{_short(question, 48)}”: milliseconds in the server")
    for heading in ("dims", *stages, "fetched"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("certificate")
    for name, answer in answers.items():
        explained = answer.explanation
        assert explained is not None, "asked for with explain"
        table.add_row(
            name,
            _dims(answer.coarse.dim, answer.scoring.dim),
            *(f"{explained.stages.get(stage, 0.0):.2f}" for stage in stages),
            _fetched(explained.fetched, explained.candidates),
            answer.certificate.value.replace("_", " "),
        )
    console.print()
    console.print(table)
    for name, answer in answers.items():
        for hit in answer.hits[:_SHOWN_HITS]:
            line = Text.assemble(
                (f"{name:>13} ", "dim"),
                f"{hit.score:.3f} ",
                (f"{hit.id}  ", "bold"),
                " ".join(hit.text.split()),
            )
            line.truncate(console.width, overflow="ellipsis")
            console.print(line)


def print_lanes(
    console: Console, lanes: Mapping[str, Lane], queries: int, seconds: Mapping[str, float]
) -> None:
    """The comparison, and what it shows."""
    table = _table(f"{queries} withheld passages as queries, {HITS} hits each, from the client")
    for heading in ("dims", "recall@10", "p50 ms", "p95 ms", "fetched", "lost by that"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, lane in lanes.items():
        quality, losses = lane.quality, lane.quality.losses
        table.add_row(
            name,
            _dims(quality.coarse_dim, quality.scoring_dim),
            f"{quality.recall.mean:.4f}",
            f"{lane.timing.p50_ms:.2f}",
            f"{lane.timing.p95_ms:.2f}",
            _fetched(quality.fetched_mean, quality.candidates_mean),
            "" if losses is None else f"{losses.lost} of {losses.hits:,}",
        )
    console.print()
    console.print(table)
    console.print(_conclusions(lanes), highlight=False)
    console.print(f"All of it took {sum(seconds.values()):.0f} s.", style="dim", highlight=False)


def _conclusions(lanes: Mapping[str, Lane]) -> str:
    """Two or three sentences, from the figures and nothing else."""
    sentences = [
        "Recall is against an exact search of all stored vectors at full dimension, with queries "
        "that are not in the index."
    ]
    fast = min(lanes, key=lambda name: lanes[name].timing.p50_ms)
    best = max(lanes, key=lambda name: lanes[name].quality.recall.mean)
    if fast != best:
        ratio = lanes[best].timing.p50_ms / lanes[fast].timing.p50_ms
        sentences.append(
            f"{fast} finds {lanes[fast].quality.recall.mean:.1%} of it from "
            f"{lanes[fast].quality.coarse_dim} dimensions alone; {best} takes {ratio:.1f} times "
            f"as long and finds {lanes[best].quality.recall.mean:.1%}."
        )
    reranked = {name: lane.quality for name, lane in lanes.items() if lane.quality.losses}
    if reranked:
        fetched = " and ".join(
            f"{one.fetched_mean:.0f} full vectors of {one.candidates_mean:,.0f} candidates ({name})"
            for name, one in reranked.items()
        )
        lost = sum(one.losses.lost for one in reranked.values() if one.losses)
        hits = sum(one.losses.hits for one in reranked.values() if one.losses)
        sentences.append(
            f"The bounded rerank fetched {fetched}; asked again with every candidate fetched, the "
            f"same classes gave {'the same hits' if not lost else f'{lost} other hits'}: "
            f"{'nothing' if not lost else f'{lost} of {hits:,}'} was lost."
        )
    return " ".join(sentences)


def print_next_steps(console: Console, collection: str, address: str | None) -> None:
    """What to try. address: of the engine that goes on running, if it does."""
    console.print()
    if address is None:
        steps = [
            ("nestvec demo --serve", "the same, and keeps running for queries of your own"),
            ("nestvec demo --texts FILE", "the same with your own texts, one a line"),
            ("nestvec serve", "an engine of your own; fill it with nestvec index"),
        ]
    else:
        console.print(f"Serving at {address} until Ctrl-C. In another terminal:", highlight=False)
        at = "" if address == DEFAULT_ADDRESS else f" -a {address}"
        search = f'nestvec search "how do I sort a list" -c {collection}{at}'
        steps = [
            (search, "the search class"),
            (f"{search} -C analyst --explain", "the widest one, with its stages"),
            (f"nestvec describe {collection}{at}", "tiers, segments, memory"),
        ]
    for command, meaning in steps:
        console.print(Text.assemble("  ", (command, "bold"), f"  # {meaning}"), soft_wrap=True)


def _table(title: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("class", no_wrap=True)
    return table


def _dims(coarse: int, scoring: int) -> str:
    """What was searched, and what scored."""
    return f"{coarse}→{scoring}"


def _fetched(fetched: float, candidates: float) -> str:
    return f"{fetched:.0f} / {candidates:,.0f}" if fetched else "none"


def _stages(answer: SearchResult) -> Sequence[str]:
    return list(answer.explanation.stages) if answer.explanation is not None else []


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
