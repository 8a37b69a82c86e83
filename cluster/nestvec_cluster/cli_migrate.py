"""`nestvec migrate` and `nestvec rollback`: another model for a collection, while it serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from nestvec_cluster.cli_group import Commands
from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    CollectionArgument,
    Json,
    connected,
    numbers,
    out,
)
from nestvec_cluster.evidence import BudgetText, read_budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from nestvec.client import NestvecClient
    from nestvec.client.migrations import StepName
    from nestvec.core.migration import Gate, MigrationStatus
    from nestvec.core.model_spec import ModelSpec

_BEGIN = "begin"
_LONG_S = 300.0
_DEFAULT_BUDGET = "0.01,0.02"


class MigrateGroup(Commands):
    """A collection's name in the place of a step begins a migration of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`migrate docs --model NEW` as `migrate begin docs --model NEW`."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [_BEGIN, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


migrate_app = typer.Typer(
    cls=MigrateGroup,
    no_args_is_help=True,
    help="Move a collection to another model while it serves.\n\n"
    "`nestvec migrate COLLECTION --model NEW` fills a new generation beside the old one, holds it "
    "against it, and switches. `nestvec rollback COLLECTION` takes it back.",
)
Override = Annotated[
    str,
    typer.Option(
        help="Why a gate that did not pass, or was not measured, shall not stop it: in your own "
        "words, which are kept and logged."
    ),
]
Rate = Annotated[
    float | None, typer.Option(min=0, help="Documents a second at most; 0 for no bound.")
]


@migrate_app.command(_BEGIN)
def begin(
    collection: CollectionArgument,
    model: Annotated[
        str | None,
        typer.Option(
            help="A folder, a known model's name or `default`; left out, wait for the "
            "migration that is under way."
        ),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Another prompt or recipe for it: a card, as JSON.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="A golden set of the collection's documents, in BEIR layout."),
    ] = None,
    no_golden: Annotated[
        bool, typer.Option("--no-golden", help="Switch without a golden set.")
    ] = False,
    budget: BudgetText = _DEFAULT_BUDGET,
    search_class: Annotated[
        str, typer.Option("--class", help="What the golden set is asked as.")
    ] = "search",
    shadow: Annotated[
        int, typer.Option(min=0, help="Live queries that both generations are asked; 0 asks none.")
    ] = 200,
    shadow_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the live queries, those that are asked twice.")
    ] = 0.1,
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="The least mean overlap of the first ten hits.")
    ] = 0.3,
    latency_ratio: Annotated[
        float, typer.Option(min=0, help="The most that the new latency may be of the old.")
    ] = 2.0,
    tiers: Annotated[
        str | None, typer.Option(help="As in 128,256; by default as near the old ones as can be.")
    ] = None,
    rate: Rate = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Do not switch; `nestvec migrate switch` does.")
    ] = False,
    override: Override = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Begin, show how far it is, and wait for the switch.

    The server does the work: interrupted, it goes on, and this command without --model waits for it
    again. With --golden, this command measures the set when the new generation is filled.
    """
    from nestvec.core.errors import ConfigError
    from nestvec.core.migration import MigrationWish, ShadowTerms

    if model is None and card is not None:
        raise ConfigError("--card goes with --model")
    if model is not None and (golden is None) != no_golden:
        raise ConfigError("give one of --golden FOLDER and --no-golden")
    measure = _golden_measure(golden, budget, search_class)
    with connected(address, _LONG_S) as client:
        if model is not None:
            wish = MigrationWish(
                model=_spec(model, card),
                tiers=numbers(tiers, "--tiers"),
                golden=golden is not None,
                shadow=ShadowTerms(shadow, shadow_share, overlap, latency_ratio),
                rate=rate or 0.0,
                hold=hold,
                override=override,
            )
            client.begin_migration(collection, wish)
        _wait(client, collection, measure, as_json)


@migrate_app.command()
def status(
    collection: CollectionArgument, address: Address = DEFAULT_ADDRESS, as_json: Json = False
) -> None:
    """Say how far it is, and what it waits for."""
    with connected(address) as client:
        _show(client.migration(collection), as_json)


@migrate_app.command()
def pause(collection: CollectionArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Copy nothing more until `resume`; the old generation serves on."""
    _step(collection, "pause", address)


@migrate_app.command()
def resume(
    collection: CollectionArgument,
    rate: Rate = None,
    override: Override = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Go on; with another rate, or with words that open a gate."""
    _step(collection, "resume", address, rate, override)


@migrate_app.command()
def switch(collection: CollectionArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Let one that is held go on; after a rollback, serve the new generation again."""
    _step(collection, "switch", address)


@migrate_app.command()
def abort(collection: CollectionArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Give the new generation up, and free what it takes."""
    _step(collection, "abort", address)


@migrate_app.command()
def finish(collection: CollectionArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Drop the old generation: after that there is no way back."""
    _step(collection, "finish", address)


def rollback(collection: CollectionArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Serve the generation before the last migration again, at once."""
    _step(collection, "rollback", address)


def _step(
    collection: str, step: StepName, address: str, rate: float | None = None, override: str = ""
) -> None:
    with connected(address, _LONG_S) as client:
        after = client.step_migration(collection, step, rate=rate, override=override)
    _show(after, as_json=False)


def _golden_measure(
    folder: Path | None, budget: str | None, search_class: str
) -> Callable[[NestvecClient, MigrationStatus], Gate] | None:
    """Read before anything begins: a set that does not fit together stops it."""
    if folder is None:
        return None
    from nestvec.quality.golden import load_golden
    from nestvec_cluster.migrating import golden_gate

    golden, most = load_golden(folder), read_budget(budget or _DEFAULT_BUDGET)
    assert most is not None
    return lambda client, status: golden_gate(client, status, golden, most, search_class)


def _wait(
    client: NestvecClient,
    collection: str,
    measure: Callable[[NestvecClient, MigrationStatus], Gate] | None,
    as_json: bool,
) -> None:
    from nestvec.core.migration import Phase
    from nestvec_cluster.migrating import closed, watch

    said = ""

    def tell(status: MigrationStatus) -> None:
        nonlocal said
        line = _line(status)
        if line != said:
            typer.echo(line, err=True)
        said = line

    measured = None if measure is None else lambda status: measure(client, status)
    try:
        after = watch(client, collection, tell, measured)
    except KeyboardInterrupt:
        typer.echo(
            f"it goes on without this command; `nestvec migrate {collection}` waits for it again, "
            f"`nestvec migrate abort {collection}` gives it up",
            err=True,
        )
        raise
    _show(after, as_json)
    stopped = after.phase in (Phase.ABORTED, Phase.REFUSED)
    if stopped or (after.phase is Phase.GATING and closed(after)):
        raise typer.Exit(1)


def _line(status: MigrationStatus) -> str:
    old = status.source.documents if status.source else 0
    new = status.target.documents if status.target else 0
    parts = [f"{status.collection}: {status.phase.value}"]
    parts += ["paused"] if status.paused else []
    parts += [f"{new:,} of {old:,} documents"] if status.target else []
    parts += [f"{status.lag:,} changes behind"] if status.lag else []
    parts += [status.said] if status.said else []
    return ", ".join(parts)


def _data(status: MigrationStatus) -> dict[str, Any]:
    def facts(one: Any) -> dict[str, Any] | None:
        return one and {
            "generation": one.generation,
            "model": one.space.model,
            "fingerprint": one.space.fingerprint,
            "store_dim": one.store_dim,
            "tiers": list(one.tiers),
            "documents": one.documents,
        }

    return {
        "collection": status.collection,
        "phase": status.phase.value,
        "paused": status.paused,
        "serving": status.serving,
        "source": facts(status.source),
        "target": facts(status.target),
        "gates": [
            {"gate": one.kind.value, "passed": one.passed, "said": one.said} for one in status.gates
        ],
        "said": status.said,
        "lag": status.lag,
        "lag_back": status.lag_back,
        "refused": status.refused,
    }


def _show(status: MigrationStatus, as_json: bool) -> None:
    from nestvec_cluster.tables import dump_json

    if as_json:
        typer.echo(dump_json(_data(status)))
        return
    console = out()
    console.print(_line(status), soft_wrap=True)
    for name, one in (("old", status.source), ("new", status.target)):
        if one is not None:
            serves = ", serves" if one.generation == status.serving else ""
            console.print(
                f"  {name}: generation {one.generation}{serves}, {one.space.model} "
                f"({one.space.fingerprint}), tiers {', '.join(map(str, one.tiers))}",
                soft_wrap=True,
            )
    for gate in status.gates:
        verdict = "passed" if gate.passed else "not passed"
        console.print(f"  gate {gate.kind.value} {verdict}: {gate.said}", soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Register them."""
    app.add_typer(migrate_app, name="migrate")
    app.command()(rollback)


def _spec(model: str, card: Path | None) -> ModelSpec:
    from nestvec.adapters.models.card import read_card, spec_card
    from nestvec.core.model_spec import ModelSpec

    folder = Path(model).expanduser()
    place = str(folder.resolve()) if folder.is_dir() else model
    return ModelSpec(place, card=None if card is None else spec_card(read_card(card)))
