"""`nestvec adapt`: tiers for a model that has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nestvec.adapters.models.adapted import Adapter, write_adapter
from nestvec.adapters.models.card import CARD_FILE
from nestvec.adapters.models.factory import load_model
from nestvec.adapters.models.settings import ModelSettings
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Role
from nestvec.core.tiers import prepare
from nestvec.training.agreement import Vectors, agreement
from nestvec.training.head import HeadSettings, fit_head
from nestvec.training.rotation import energy, fit_rotation
from nestvec_cluster.cli_options import Json, numbers, out, require_new
from nestvec_cluster.progress import Phases
from nestvec_cluster.tables import dump_json
from nestvec_cluster.texts import read_texts, sample

if TYPE_CHECKING:
    from nestvec_cluster.progress import Meter

_ENCODED_AT_ONCE = 256
_K = 10
# Of the texts, so many are left out of the fit and asked as queries.
_HELD_OUT_SHARE = 0.1
_HELD_OUT_MOST = 500


class Method(StrEnum):
    """How the map behind the model is fitted."""

    ROTATION = "rotation"
    HEAD = "head"


def adapt(
    model: Annotated[str, typer.Argument(help="A model's folder or name: what is to get tiers.")],
    texts: Annotated[Path, typer.Argument(help="Your own texts: anything `nestvec index` reads.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the result.")],
    method: Annotated[
        Method,
        typer.Option(help="rotation keeps full-dimension cosines; head is trained, and may not."),
    ] = Method.ROTATION,
    dims: Annotated[
        str | None, typer.Option(help="Tiers, as 64,128,256; by default the powers of two.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Queries to measure with; by default texts left out.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of the texts.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Use so many of the texts at most.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the sample, and of the head's training.")] = 0,
    as_json: Json = False,
) -> None:
    """Give a model tiers that it was never trained for: fit a map on your own texts.

    Writes a folder that `--model` takes like any other model's. It names its base and its base's
    fingerprint, and does not load over another one. Each tier's agreement with the full search is
    measured before and after, and written into the card.
    """
    require_new(folder)
    phases = Phases(Console(stderr=True))
    fitted_on = sample(read_texts(texts, column), count, seed)
    asked = None if queries is None else sample(read_texts(queries, column), _HELD_OUT_MOST, seed)
    if asked is None:
        fitted_on, asked = _hold_out(fitted_on, seed)
    base = load_model(ModelSettings(model))
    try:
        tiers = _tiers(dims, base.space.dim)
        with phases.timed("encode", "encoding") as meter:
            documents = _encode(base, fitted_on, Role.DOCUMENT, meter)
            questions = _encode(base, asked, Role.QUERY, meter)
        with phases.timed("fit", f"fitting the {method}") as meter:
            matrix = _fit(method, documents, tiers, seed, meter)
        measured = _measure(matrix, questions, documents, tiers)
        card = _card(base, folder.name, tiers, method, measured, len(fitted_on), len(asked))
        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        folder.mkdir(parents=True, exist_ok=True)
        write_adapter(folder, Adapter(matrix, name, base.space.fingerprint, str(method)))
        (folder / CARD_FILE).write_text(dump_json(card) + "\n", encoding="utf-8")
    finally:
        base.close()
    _show(folder, measured, as_json)


def _hold_out(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """(those to fit on, those to ask with). Raises ConfigError when there are too few."""
    count = min(_HELD_OUT_MOST, int(len(texts) * _HELD_OUT_SHARE))
    if count < 1:
        raise ConfigError(f"{len(texts)} texts; a map needs hundreds, and some to measure with")
    asked = sample(texts, count, seed)
    left_out = frozenset(asked)
    return [text for text in texts if text not in left_out], asked


def _tiers(dims: str | None, full: int) -> tuple[int, ...]:
    asked = numbers(dims, "--dims")
    if wrong := [dim for dim in asked if not 0 < dim <= full]:
        raise typer.BadParameter(f"{wrong[0]}: expected 1 to {full}", param_hint="--dims")
    shorter = asked or tuple(2**power for power in range(6, 16))
    return tuple(sorted({dim for dim in shorter if dim < full} | {full}))


def _encode(model: EmbeddingModel, texts: Sequence[str], role: Role, meter: Meter) -> Floats:
    """(n, dim) float32, unit rows."""
    report = meter.count(f"encoding ({role.name.lower()}s)", len(texts))
    prompted = [model.space.prompts.apply(text, role) for text in texts]
    parts = []
    for start in range(0, len(prompted), _ENCODED_AT_ONCE):
        outputs = model.embed(prompted[start : start + _ENCODED_AT_ONCE])
        # A text without a token has no vector, and nothing to say about the others.
        parts.append(prepare(outputs[np.linalg.norm(outputs, axis=1) > 0], model.space))
        report(min(start + _ENCODED_AT_ONCE, len(prompted)))
    return np.concatenate(parts)


def _fit(
    method: Method, vectors: Floats, tiers: tuple[int, ...], seed: int, meter: Meter
) -> Floats:
    if method is Method.ROTATION:
        return fit_rotation(vectors)
    settings = HeadSettings(tiers, seed=seed)
    report: Callable[[int], None] = meter.count("training the head", settings.steps)
    return fit_head(vectors, settings, report)


def _measure(
    matrix: Floats, queries: Floats, documents: Floats, tiers: tuple[int, ...]
) -> dict[str, dict[int, float]]:
    """Agreement before and after, each against the base's own full search, and energy."""
    base = Vectors(queries, documents)
    mapped = Vectors(_unit(queries @ matrix), _unit(documents @ matrix))
    return {
        "agreement_before": agreement(base, base, tiers, _K),
        "agreement_after": agreement(base, mapped, tiers, _K),
        "energy_before": energy(documents, tiers),
        "energy_after": energy(mapped.documents, tiers),
    }


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _card(
    base: EmbeddingModel,
    name: str,
    tiers: tuple[int, ...],
    method: Method,
    measured: dict[str, dict[int, float]],
    fitted_on: int,
    asked: int,
) -> dict[str, Any]:
    space = base.space
    return {
        "name": name,
        "kind": "adapted",
        "dim": space.dim,
        "trained_dims": list(tiers),
        "recipe": {"layer_norm": False},
        "prompts": {"query": space.prompts.query, "document": space.prompts.document},
        "source": "nestvec adapt, measured on its user's texts",
        "provenance": {
            "base": space.model,
            "base_fingerprint": space.fingerprint,
            "method": str(method),
            "texts": fitted_on,
        },
        "measured": {
            "what": f"recall@{_K} of a search at the tier, without rerank, against the base's "
            f"search at full dimension; {asked} queries; energy: share of squared length",
            **{
                key: {str(dim): round(value, 4) for dim, value in values.items()}
                for key, values in measured.items()
            },
        },
    }


def _show(folder: Path, measured: dict[str, dict[int, float]], as_json: bool) -> None:
    if as_json:
        typer.echo(dump_json({"folder": str(folder), "measured": measured}))
        return
    from rich.table import Table

    table = Table("dims", "agreement before", "after", "energy before", "after", box=None)
    for dim, before in measured["agreement_before"].items():
        others = (measured[key][dim] for key in list(measured)[1:])
        table.add_row(str(dim), f"{before:.3f}", *(f"{value:.3f}" for value in others))
    out().print(table)
    typer.echo(f"{folder} is a model: nestvec serve --model {folder}")
