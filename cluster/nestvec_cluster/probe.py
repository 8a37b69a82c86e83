"""`nestvec probe`: is a model Matryoshka, at which dimensions, and what do mistakes cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import nestvec
from nestvec.adapters.opening_models import open_model
from nestvec.config import load_settings
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Space
from nestvec.quality.golden import load_golden
from nestvec.quality.matryoshka import DimTest, Verdict, decide, measure_dims
from nestvec.quality.subsets import asymmetric, energy
from nestvec_cluster import probing
from nestvec_cluster.cli_options import numbers
from nestvec_cluster.corpus import stdlib_passages
from nestvec_cluster.probing import Encoded, Texts
from nestvec_cluster.progress import Phases
from nestvec_cluster.report_tables import report_table
from nestvec_cluster.texts import read_texts, sample

# Of a model without a card: where published models have their tiers.
USUAL_DIMS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072)
_DRAWS = 199
_DOCUMENTS = 2000
_QUERIES = 300
_FEWEST = 200
# Queries are a tenth of the texts, where they are drawn from them.
_FEWEST_QUERIES = 20


def probe(
    model: Annotated[
        str, typer.Argument(help="A folder, `default`, a known name, or an installed package.")
    ],
    golden: Annotated[
        Path | None, typer.Option(help="Use the texts and queries of this golden set.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Use these texts: anything that `nestvec index` reads.")
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(help="Test these dimensions, as 64,128; by default what its card claims."),
    ] = None,
    documents: Annotated[int, typer.Option(min=_FEWEST, help="At most so many.")] = _DOCUMENTS,
    queries: Annotated[int, typer.Option(min=_FEWEST_QUERIES, help="At most so many.")] = _QUERIES,
    draws: Annotated[int, typer.Option(min=19, help="Random subsets a dimension.")] = _DRAWS,
    config: Annotated[
        Path | None, typer.Option(help="A nestvec.yaml, for how the model is reached.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the verdict and evidence to this file.")
    ] = None,
    card_file: Annotated[
        Path | None,
        typer.Option("--card", help="Write a card with the tiers, for encoder.card_file."),
    ] = None,
) -> None:
    """Say whether a model is Matryoshka, and at which dimensions, with the evidence.

    Needs no judgments: the documentation of Python's own library is encoded (or your texts), and
    each prefix is held against random subsets and the last coordinates, by how much of the full
    search's ten best it finds. Also measured: what a missing renormalisation, another recipe, a
    wrong prompt and asymmetric tiers cost.
    """
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading texts"):
        chosen = _read(golden, texts, documents, queries)
    settings = load_settings(config, {"encoder.model": model})
    with phases.timed("load", "loading the model"):
        opened = open_model(settings.encoder)
    try:
        tested = _tested(opened.space, numbers(dims, "--dims"))
        with phases.timed("encode", "encoding") as meter:
            total = len(chosen.queries) + len(chosen.documents)
            encoded = probing.encode(opened, chosen, meter.count("encoding", total))
        vectors = encoded.sample(opened.space)
        with phases.timed("test", "testing dimensions") as meter:
            shown = meter.count("testing dimensions", draws * len(tested))
            tests = measure_dims(vectors, tested, draws, on_progress=shown)
        verdict = decide(opened.space.dim, tests, _claimed(opened.space))
        with phases.timed("mistakes", "measuring what mistakes cost"):
            report = _report(opened, chosen, encoded, verdict)
    finally:
        opened.close()
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if card_file is not None:
        card = make_card(opened.space, verdict, chosen.name)
        card_file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    _print(Console(), report, verdict)


def _read(golden: Path | None, texts: Path | None, documents: int, queries: int) -> Texts:
    if golden is not None and texts is not None:
        raise typer.BadParameter("give one of --golden and --texts")
    if golden is not None:
        found = load_golden(golden)
        whole = {name: text for name, text in found.documents.items() if text}
        kept = sample(list(whole), documents)
        asked = sample(list(found.queries), queries)
        return Texts(
            found.name,
            {name: found.queries[name] for name in asked},
            {name: whole[name] for name in kept},
            found.judgments if len(kept) == len(whole) else {},
        )
    name = "Python's own documentation" if texts is None else texts.name
    every = [one.text for one in stdlib_passages()] if texts is None else read_texts(texts)
    if len(every) < _FEWEST:
        raise ConfigError(f"{name}: {len(every)} texts, expected at least {_FEWEST}")
    withheld = min(queries, max(_FEWEST_QUERIES, len(every) // 10))
    drawn = sample(every, min(documents + withheld, len(every)))
    rows = set(np.random.default_rng(0).choice(len(drawn), withheld, replace=False).tolist())
    return Texts(
        name,
        {f"query-{row}": drawn[row] for row in sorted(rows)},
        {f"text-{row}": text for row, text in enumerate(drawn) if row not in rows},
        {},
    )


def _claimed(space: Space) -> tuple[int, ...]:
    """What its card claims beyond the full dimension, which any model has."""
    return space.trained_dims if len(space.trained_dims) > 1 else ()


def _tested(space: Space, wished: Sequence[int]) -> list[int]:
    if bad := [dim for dim in wished if not 1 <= dim < space.dim]:
        raise ConfigError(
            f"--dims {bad[0]}: expected 1 to {space.dim - 1}; {space.model} has {space.dim} "
            f"dimensions"
        )
    shorter = sorted({*(wished or _claimed(space) or USUAL_DIMS)})
    return [dim for dim in shorter if dim < space.dim]


def _report(
    model: EmbeddingModel, texts: Texts, encoded: Encoded, verdict: Verdict
) -> dict[str, Any]:
    space = model.space
    vectors = encoded.sample(space)
    tested = [one.dim for one in verdict.tests]
    report: dict[str, Any] = {
        "model": space.model,
        "dim": space.dim,
        "mrl": verdict.mrl,
        "tiers": list(verdict.tiers),
        "verdict": verdict.summary,
        "claimed": list(_claimed(space)),
        "unconfirmed": list(verdict.unconfirmed),
        "monotone": verdict.monotone,
        "texts": texts.name,
        "documents": len(encoded.document_ids),
        "queries": len(encoded.query_ids),
        "dims": {str(one.dim): _dim(one) for one in verdict.tests},
        "energy": energy(vectors, [*tested, space.dim]),
        "renormalisation": probing.without_renormalising(vectors, tested),
        "layer_norm": probing.other_recipe(encoded, space),
        "prompts": probing.prompt_asymmetry(model, encoded, texts),
        "asymmetric_tiers": asymmetric(vectors, [*tested, space.dim]),
    }
    if texts.judgments:
        report["ndcg_at_10"] = probing.judged(encoded, space, texts, verdict.tests)
    return report


def _dim(test: DimTest) -> dict[str, Any]:
    return {**asdict(test), "confirmed": test.confirmed, "serves": test.serves}


def make_card(space: Space, verdict: Verdict, texts: str) -> dict[str, Any]:
    """A model card with the verdict's tiers: what `encoder.card_file` reads. It makes the same
    space, so that vectors keep their fingerprint.
    """
    return {
        "name": space.model,
        "dim": space.dim,
        "trained_dims": list(verdict.tiers),
        "recipe": {"layer_norm": space.recipe.layer_norm},
        "prompts": {"query": space.prompts.query, "document": space.prompts.document},
        "source": f"nestvec probe {nestvec.__version__}, over {texts}",
        "note": verdict.summary,
        "measured": {
            "what": "share of exact full search's ten best: by the first, last and random "
            "coordinates; among_100: found among the prefix's hundred best",
            "dims": {
                str(one.dim): {
                    "first": round(one.first, 4),
                    "last": round(one.last, 4),
                    "random": round(one.random, 4),
                    "among_100": round(one.among_100, 4),
                    "p_value": one.p_value,
                    "confirmed": one.confirmed,
                }
                for one in verdict.tests
            },
        },
    }


def _print(console: Console, report: dict[str, Any], verdict: Verdict) -> None:
    title = f"{report['model']}: agreement with full search at {report['dim']} dimensions"
    headings = ("dims", "first", "random", "last", "effect", "p", "among 100", "")
    table = report_table(title, None, *headings)
    for one in verdict.tests:
        table.add_row(
            str(one.dim),
            *(f"{value:.3f}" for value in (one.first, one.random, one.last)),
            f"{one.effect:+.3f}",
            f"{one.p_value:.3g}",
            f"{one.among_100:.3f}",
            "confirmed" if one.confirmed else "as chance",
        )
    console.print()
    console.print(table)
    console.print()
    for line in _lines(report):
        console.print(line, highlight=False, markup=False)


def _lines(report: dict[str, Any]) -> list[str]:
    tiers = ", ".join(map(str, report["tiers"]))
    lines = [report["verdict"], f"tiers: {tiers}"]
    if report["unconfirmed"]:
        lines.append(f"claimed but not confirmed: {', '.join(map(str, report['unconfirmed']))}")
    lines += [
        f"at {dim}, without renormalising: {one['as_cut']:.3f} instead of {one['renormalised']:.3f}"
        for dim, one in list(report["renormalisation"].items())[:1]
    ]
    norm = report["layer_norm"]
    verb = "without its layer-norm" if norm["card_says_layer_norm"] else "with a layer-norm added"
    lines.append(
        f"{verb}: {norm['other_on_both']:.3f} of full search's ten are found, "
        f"{norm['other_on_documents']:.3f} where only documents have it"
    )
    prompts = report["prompts"]
    if prompts["differ"]:
        lines.append(
            f"queries under the document's prompt: {prompts['as_documents']:.3f}; under none: "
            f"{prompts['without_prompt']:.3f}"
        )
    return lines
