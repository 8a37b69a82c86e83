"""`nestvec train`: a model that serves several dimensions, from pairs of texts, or from texts
alone (extra `train`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nestvec.adapters.models.card import card_in
from nestvec.adapters.models.factory import load_model
from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Prompts, Role, Space
from nestvec.core.tiers import prepare
from nestvec.training.extra import need
from nestvec.training.measuring import measure_tiers
from nestvec.training.pairs import Pair, read_pairs, split
from nestvec.training.pieces import LEAST_WORDS, pieces_of
from nestvec.training.settings import Stage, TrainSettings
from nestvec.training.teacher import Halfs, teacher_vectors
from nestvec_cluster.cli_options import Json, decimals, numbers, out, require_new
from nestvec_cluster.progress import Phases
from nestvec_cluster.tables import dump_json
from nestvec_cluster.texts import read_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ENCODED_AT_ONCE = 256


def train(
    folder: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the model.")],
    base: Annotated[
        str, typer.Option(help="What to begin with: `default`, a folder, or a hub name.")
    ],
    pairs: Annotated[
        Path | None, typer.Argument(help='JSON lines: {"query": ..., "document": ...}.')
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Your own texts, as `nestvec index` reads them: pieces ask for them."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of the texts.")] = None,
    pieces: Annotated[int, typer.Option(min=1, help="Pieces of a text, at most.")] = 6,
    dims: Annotated[
        str, typer.Option(help="Tiers, as 64,128,256; the full one is added. Or the base's own.")
    ] = "",
    weights: Annotated[str, typer.Option(help="The loss's weights, one a tier, ascending.")] = "",
    schedule: Annotated[
        str,
        typer.Option(help="Which tiers when: `0:768 0.3:256,768` begins with one, adds another."),
    ] = "",
    dims_per_step: Annotated[int, typer.Option(min=0, help="Draw so many tiers a step.")] = 0,
    teacher: Annotated[
        str | None, typer.Option(help="A model whose similarities are taught as well.")
    ] = None,
    distillation: Annotated[
        float, typer.Option(min=0.0, help="The weight of what the teacher says.")
    ] = 1.0,
    contrastive: Annotated[float, typer.Option(min=0.0, help="The weight of the pairs.")] = 1.0,
    negatives: Annotated[int, typer.Option(min=0, help="Hard negatives mined for a pair.")] = 0,
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before every query; else the base's own.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Put before every document; else the base's own.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="How often each pair is seen.")] = 1.0,
    batch: Annotated[int, typer.Option(min=2, help="Pairs at once.")] = 128,
    rate: Annotated[
        float | None, typer.Option(help="Of learning; 2e-3 for a static base, else 2e-5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of order and draws.")] = 0,
    work: Annotated[
        Path | None, typer.Option(help="Keep checkpoints and the teacher's vectors here.")
    ] = None,
    checkpoint_steps: Annotated[
        int, typer.Option(min=0, help="With --work: a checkpoint every so many steps; 0: none.")
    ] = 500,
    as_json: Json = False,
) -> None:
    """Train with the Matryoshka loss over in-batch negatives, and a teacher where one is named.

    From pairs, from texts alone (`--texts`), or from both. Writes a folder that `--model` takes,
    with a card of each tier's measured worth on pairs that were held out. Run again with the same
    --work, it goes on after the last checkpoint.
    """
    if pairs is None and texts is None:
        raise typer.BadParameter("nothing to train on: give pairs, or --texts")
    require_new(folder)
    for module in ("sentence_transformers", "accelerate", "datasets"):
        need(module)
    from nestvec.training.bases import is_static, open_base

    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading pairs and base"):
        known = [] if pairs is None else read_pairs(pairs)
        if texts is not None:
            known += _pieces(texts, column, pieces, seed)
        place = str(DEFAULT_FOLDER) if base == "default" else base
        model = open_base(place)
        card = card_in(Path(place))
    own = Prompts() if card is None else card.prompts
    settings = TrainSettings(
        dims=numbers(dims, "--dims") or (() if card is None else card.trained_dims),
        weights=decimals(weights, "--weights"),
        schedule=_stages(schedule),
        dims_per_step=dims_per_step,
        contrastive=contrastive,
        distillation=distillation if teacher else 0.0,
        negatives=negatives,
        prompts=Prompts(
            own.query if query_prompt is None else query_prompt,
            own.document if document_prompt is None else document_prompt,
        ),
        epochs=epochs,
        batch=batch,
        no_duplicates=True,
        rate=rate or (2e-3 if is_static(model) else 2e-5),
        seed=seed,
        checkpoint_steps=checkpoint_steps if work else 0,
    )
    measured = train_to(
        folder, model, known, settings, phases, base=base, teacher=teacher, work=work
    )
    _show(folder, measured, as_json)


def _pieces(path: Path, column: str | None, most: int, seed: int) -> list[Pair]:
    """Raises ConfigError when no text is long enough."""
    texts = read_texts(path, column)
    if found := pieces_of(texts, most, seed):
        return found
    raise ConfigError(
        f"{path}: none of {len(texts)} texts has {LEAST_WORDS} words, of which a piece could ask "
        f"for the rest; train on pairs of queries and documents instead"
    )


def train_to(
    folder: Path,
    model: SentenceTransformer,
    pairs: Sequence[Pair],
    settings: TrainSettings,
    phases: Phases,
    *,
    base: str,
    teacher: str | None = None,
    work: Path | None = None,
    finish: Callable[[SentenceTransformer], None] | None = None,
) -> dict[str, Any]:
    """Train, measure and save. finish: changes the trained model before it is measured. Returns
    what was measured, as the card has it.
    """
    import tempfile

    from nestvec.training.run import train as run_training
    from nestvec.training.saving import save_model

    full = model.get_embedding_dimension() or 0
    settings.stages(full)
    rows, held = split(pairs, settings.held_out, settings.seed)
    chosen = [pairs[row] for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        place = work or Path(scratch)
        vectors: tuple[Halfs, ...] = ()
        if teacher and settings.distillation:
            queries, documents = zip(*chosen, strict=True)
            sides = {Role.QUERY: queries, Role.DOCUMENT: documents}
            vectors = taught(teacher, sides, place / "teacher", phases)
        with phases.timed("train", "training") as meter:
            show: Callable[[int], None] | None = None

            def report(done: int, total: int, loss: float | None) -> None:
                nonlocal show
                if show is None or loss is not None:
                    doing = "training" if loss is None else f"training (loss {loss:.3f})"
                    show = meter.count(doing, total)
                show(done)

            run_training(model, chosen, settings, place / "run", vectors, report, base)
        if finish:
            finish(model)
    with phases.timed("measure", "measuring the tiers"):
        tiers = settings.tiers(full)
        measured = measure_tiers([pairs[row] for row in held], _embed(model, settings), tiers)
    space = Space(folder.name, full, "", tiers, prompts=settings.prompts)
    provenance = {"base": base, "teacher": teacher or "", "pairs": len(chosen)}
    provenance |= {key: value for key, value in asdict(settings).items() if value}
    save_model(model, folder, space, measured, provenance)
    return measured


def taught(
    name: str, sides: Mapping[Role, Sequence[str]], cache: Path, phases: Phases
) -> tuple[Halfs, ...]:
    """(n, dim) float16, unit, of each side: what a model makes of texts. Kept in `cache`."""
    teacher = load_model(name)
    try:
        with phases.timed("teacher", "asking the teacher") as meter:
            found = []
            for role, texts in sides.items():
                report = meter.count(f"asking the teacher ({role.name.lower()}s)", len(texts))
                encode, fingerprint = _encoder(teacher, role), teacher.space.fingerprint
                found.append(teacher_vectors(texts, encode, cache, fingerprint, report))
    finally:
        teacher.close()
    return tuple(found)


def _encoder(model: EmbeddingModel, role: Role) -> Callable[[list[str]], Floats]:
    def encode(texts: list[str]) -> Floats:
        prompted = [model.space.prompts.apply(text, role) for text in texts]
        starts = range(0, len(prompted), _ENCODED_AT_ONCE)
        parts = [model.embed(prompted[start : start + _ENCODED_AT_ONCE]) for start in starts]
        return prepare(np.concatenate(parts), model.space)

    return encode


def _embed(
    model: SentenceTransformer, settings: TrainSettings
) -> Callable[[Sequence[str], str], Floats]:
    def embed(texts: Sequence[str], role: str) -> Floats:
        prompts = settings.prompts
        prompt = prompts.query if role == "query" else prompts.document
        prompted = [prompt + text for text in texts]
        vectors: Floats = np.asarray(
            model.encode(prompted, prompt="", show_progress_bar=False, normalize_embeddings=True),
            np.float32,
        )
        return vectors

    return embed


def _stages(text: str) -> tuple[Stage, ...]:
    stages = []
    for part in text.split():
        begin, colon, dims = part.partition(":")
        shares = decimals(begin, "--schedule") if colon else ()
        if len(shares) != 1 or not 0 <= shares[0] < 1:
            raise typer.BadParameter(
                f"{part!r}: expected a share of the steps, a colon, and dims, as 0.3:256,768",
                param_hint="--schedule",
            )
        stages.append(Stage(shares[0], numbers(dims, "--schedule"), ()))
    return tuple(stages)


def _show(folder: Path, measured: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(dump_json({"folder": str(folder), "measured": measured}))
        return
    from rich.table import Table

    table = Table("dims", "recall@1", "MRR", "agreement@10", "energy", box=None)
    for dim, values in measured.get("tiers", {}).items():
        table.add_row(dim, *(f"{value:.3f}" for value in values.values()))
    out().print(table)
    typer.echo(f"{folder} is a model: nestvec serve --model {folder}")
