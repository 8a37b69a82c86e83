"""What the command line prints: tables for people, plain data with stable keys for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nestvec.client import (
    CalibratedPlan,
    CollectionDescription,
    CollectionInfo,
    GetResult,
    RegionOutcome,
    RegionPolicy,
    SearchClassInfo,
    SearchResult,
    ServerInfo,
    StoredDocument,
)
from nestvec.core.space import Space

_SHOWN_CHARS = 2000


def one_line(text: str) -> str:
    """Safe to print: one line, bounded, without what a terminal would obey or cannot show."""
    clipped = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return "".join(
        character if character.isprintable() else " " for character in " ".join(clipped.split())
    )


def dump_json(data: object) -> str:
    """One document, ASCII, whatever the terminal speaks. What JSON cannot say becomes null."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def dump_json_line(data: object) -> str:
    """As `dump_json`, on one line."""
    return json.dumps(_plain(data), allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


# --- data ---------------------------------------------------------------------------------------


def search_data(collection: str, result: SearchResult) -> dict[str, Any]:
    """For --json."""
    return {
        "collection": collection,
        "search_class": result.search_class,
        "hits": [
            {
                "id": hit.id,
                "score": hit.score,
                "cross_score": hit.cross_score,
                "text": hit.text,
                "fields": dict(hit.fields),
                "region": hit.region,
            }
            for hit in result.hits
        ],
        "coarse": asdict(result.coarse),
        "scoring": asdict(result.scoring),
        "coverage": {**asdict(result.coverage), "fraction": result.coverage.fraction},
        "degradations": [asdict(one) for one in result.degradations],
        "cross_encoder": result.cross_encoder,
        "certificate": result.certificate.value,
        "failure_probability": result.failure_probability,
        "generation": result.generation,
        "explanation": asdict(result.explanation) if result.explanation else None,
        "plan": asdict(result.plan) if result.plan else None,
        "regions": [{**asdict(one), "state": one.state.value} for one in result.regions],
        "missing_regions": list(result.missing_regions),
    }


def get_data(result: GetResult) -> dict[str, Any]:
    """For --json."""
    return {
        "documents": [_document_data(document) for document in result.documents],
        "missing_ids": list(result.missing_ids),
        "space": asdict(result.space),
    }


def _document_data(document: StoredDocument) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": document.id,
        "text": document.text,
        "fields": dict(document.fields),
    }
    if document.vector is not None:
        data["vector"] = document.vector.tolist()
    return data


def _space_data(space: Space) -> dict[str, Any]:
    return {"fingerprint": space.fingerprint, **space.to_dict()}


def collection_data(info: CollectionInfo) -> dict[str, Any]:
    """For --json; with what it holds where that is known."""
    data: dict[str, Any] = {
        "name": info.name,
        "space": _space_data(info.space),
        "store_dim": info.store_dim,
        "store_dtype": info.store_dtype.value,
        "tiers": list(info.tiers),
        "generation": info.generation,
        "partitions": info.partitions,
        "fields": {name: kind.value for name, kind in info.fields.items()},
        "coarse_code": info.coarse_code.value,
        "evidence": info.evidence.to_dict(),
        "calibration": None if info.calibration is None else info.calibration.to_dict(),
    }
    if isinstance(info, CollectionDescription):
        data["documents"] = info.documents
        data["shards"] = info.shards
        data["store"] = asdict(info.store)
        data["tier_status"] = [asdict(tier) for tier in info.tier_status]
    return data


def server_data(server: ServerInfo, collections: Sequence[CollectionInfo]) -> dict[str, Any]:
    """For --json."""
    return {
        "version": server.version,
        "space": _space_data(server.space),
        "spaces": [_space_data(one) for one in server.spaces],
        "search_classes": [asdict(one) for one in server.search_classes],
        "limits": asdict(server.limits),
        "cross_encoder": server.cross_encoder,
        "collections": [info.name for info in collections],
    }


# --- tables -------------------------------------------------------------------------------------


def print_search(console: Console, result: SearchResult) -> None:
    """Hits, then one line on how they came about."""
    crossed = ["cross-encoder"] if result.cross_encoder else []
    shared = ["region"] if result.regions else []
    table = _table("", *crossed, "score", *shared, "id", "text")
    for rank, hit in enumerate(result.hits, 1):
        given = "-" if hit.cross_score is None else f"{hit.cross_score:.4f}"
        scores = [given, f"{hit.score:.4f}"] if crossed else [f"{hit.score:.4f}"]
        where = [one_line(hit.region)] if shared else []
        table.add_row(str(rank), *scores, *where, one_line(hit.id), one_line(hit.text))
    console.print(table if result.hits else "no hits")
    console.print(_summary(result), style="dim", soft_wrap=True)
    if result.explanation is not None:
        stages = (f"{stage} {ms:.2f} ms" for stage, ms in result.explanation.stages.items())
        console.print(Text(", ".join(stages)), style="dim", soft_wrap=True)
    if result.regions:
        console.print(Text("; ".join(map(_region, result.regions))), style="dim", soft_wrap=True)
    for one in result.degradations:
        console.print(Text(f"{one.kind}: {one_line(one.detail)}"), style="yellow", soft_wrap=True)


def _summary(result: SearchResult) -> Text:
    parts = [
        f"class {result.search_class}",
        f"searched at {result.coarse.dim}, scored at {result.scoring.dim}",
    ]
    if result.cross_encoder:
        parts.append(f"first hits ordered by {one_line(result.cross_encoder)}")
    if result.explanation is not None:
        parts.append(
            f"{result.explanation.matching:,} documents match, "
            f"{result.explanation.candidates:,} candidates, "
            f"{result.explanation.fetched:,} full vectors fetched"
        )
    if result.plan is not None:
        parts.append(_plan(result.plan))
    certificate = result.certificate.value.replace("_", " ")
    parts.append(f"certificate: {certificate}")
    coverage = result.coverage
    parts.append(f"{coverage.fraction:.1%} of {coverage.documents_total:,} documents answered")
    if result.missing_regions:
        parts.append(f"without region {', '.join(map(one_line, result.missing_regions))}")
    return Text("; ".join(parts))


def _region(outcome: RegionOutcome) -> str:
    words = f"region {one_line(outcome.name)}: {outcome.state.value.replace('_', ' ')}"
    if outcome.milliseconds:
        words += f" in {outcome.milliseconds:.1f} ms"
    if outcome.staleness_s is not None and outcome.staleness_s > 0.0:
        words += f", up to {outcome.staleness_s:.3g} s behind"
    return words


def _plan(plan: CalibratedPlan) -> str:
    how = f"{plan.candidates:,} candidates" if plan.rerank else "no rerank"
    if not plan.confidence:
        return f"recall {plan.target_recall:g} asked, {how} of the class, not measured"
    return (
        f"recall {plan.target_recall:g} asked, {how} measured to reach {plan.measured_recall:.4f} "
        f"({plan.recall_low:.4f} to {plan.recall_high:.4f})"
    )


def print_documents(console: Console, result: GetResult) -> None:
    """One after the other, texts in full."""
    for document in result.documents:
        console.print(Text(one_line(document.id), style="bold"))
        console.print(Text(_printable(document.text)), soft_wrap=True)
        for name, value in document.fields.items():
            console.print(Text(f"  {one_line(name)}: {one_line(str(value))}", style="dim"))
        if document.vector is not None:
            start = ", ".join(f"{value:.4f}" for value in document.vector[:6])
            console.print(Text(f"  vector ({len(document.vector)}): {start}, ...", style="dim"))


def _printable(text: str) -> str:
    """Lines stay lines; what else a terminal would obey goes."""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)


def print_collections(console: Console, collections: Sequence[CollectionInfo]) -> None:
    """One a row."""
    table = _table("collection", "model", "tiers", "stored", "generation")
    for info in collections:
        table.add_row(
            info.name,
            one_line(info.space.model),
            ", ".join(map(str, info.tiers)),
            f"{info.store_dim} x {info.store_dtype.value}",
            str(info.generation),
        )
    console.print(table if collections else "no collections")


def print_description(console: Console, info: CollectionDescription) -> None:
    """One collection."""
    facts = _table("", "")
    store = info.store
    for name, value in (
        ("collection", info.name),
        ("documents", f"{info.documents:,}"),
        ("model", one_line(info.space.model)),
        ("fingerprint", info.space.fingerprint),
        ("trained tiers", ", ".join(map(str, info.space.trained_dims))),
        ("stored", f"{info.store_dim} x {info.store_dtype.value}"),
        ("code", info.coarse_code.value),
        ("budget", _budget(info)),
        ("calibrated", _calibrated(info)),
        ("fields", ", ".join(f"{name}:{kind}" for name, kind in info.fields.items()) or "none"),
        ("vector", f"{store.vector_bytes_per_document:,.0f} bytes a document"),
        ("payload", f"{store.payload_bytes_per_document:,.0f} bytes a document"),
        ("ids at hand", megabytes(max((t.name_nbytes for t in info.tier_status), default=0))),
        ("log", f"{store.log_entries:,} entries, {store.tombstones:,} deletions remembered"),
        ("store in all", megabytes(store.used_memory_bytes)),
        ("shards", str(info.shards)),
        ("partitions", str(info.partitions)),
        ("generation", str(info.generation)),
    ):
        facts.add_row(name, value)
    console.print(facts)
    tiers = _table("tier", "documents", "deleted", "memory", "bytes a vector", "segments")
    for tier in info.tier_status:
        rows = tier.documents + tier.deleted
        each = f"{tier.nbytes / rows:,.0f}" if rows else "-"
        tiers.add_row(
            str(tier.dim),
            f"{tier.documents:,}",
            f"{tier.deleted:,}",
            megabytes(tier.nbytes),
            each,
            one_line(", ".join(tier.segments)),
        )
    console.print(tiers)


def _budget(info: CollectionInfo) -> str:
    """In words, with what was said to override it."""
    budget, words = info.evidence.budget, info.evidence.override
    limits = "none" if budget is None else f"{budget.ndcg:g} nDCG@10, {budget.recall:g} recall@10"
    return f"{limits}; overridden: {one_line(words)}" if words else limits


def _calibrated(info: CollectionInfo) -> str:
    """By which classes a recall may be asked for, and what the best of their plans reaches."""
    one = info.calibration
    if one is None:
        return "no"
    best = (
        f"{each.name} to {max(point.window_low for point in each.points):.4f} of {each.k} hits"
        for each in one.classes
    )
    when = datetime.fromtimestamp(one.created_ms / 1e3, UTC)
    return (
        f"{', '.join(best)}; {when:%Y-%m-%d}, {one.documents:,} documents, {one.queries:,} "
        f"queries of {one_line(one.source)}"
    )


def print_server(
    console: Console, server: ServerInfo, collections: Sequence[CollectionInfo]
) -> None:
    """The server, its classes and what it holds."""
    console.print(
        Text(f"nestvec {server.version}, model {_model_line(server.space)}"), soft_wrap=True
    )
    for space in server.spaces[1:]:
        console.print(Text(f"also serves {_model_line(space)}"), soft_wrap=True)
    classes = _table(
        "class", "searches at", "hits", "candidates", "rerank", "least coverage", "regions"
    )
    for one in server.search_classes:
        classes.add_row(
            one.name,
            str(one.coarse_dim),
            str(one.k),
            f"{one.candidates:,}",
            "yes" if one.rerank else "no",
            f"{one.min_coverage:.0%}",
            _regions_asked(one),
        )
    console.print(classes)
    print_collections(console, collections)


def _regions_asked(one: SearchClassInfo) -> str:
    """With LOCAL_FIRST: below which score of the last hit here others are asked."""
    if one.regions is RegionPolicy.LOCAL_FIRST and one.local_score is not None:
        return f"{one.regions} < {one.local_score:g}"
    return "" if one.regions is None else one.regions


def _model_line(space: Space) -> str:
    tiers = ", ".join(map(str, space.trained_dims))
    return f"{one_line(space.model)} ({space.fingerprint}), tiers {tiers}"


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", show_header=any(headers), pad_edge=False)
    for number, header in enumerate(headers):
        last = number == len(headers) - 1
        table.add_column(header, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    return table


def megabytes(count: int) -> str:
    """Of bytes: with one decimal."""
    return f"{count / 1e6:,.1f} MB"
