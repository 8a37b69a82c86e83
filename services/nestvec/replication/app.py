"""The replication application: migrations, begun, watched, stopped and taken back.

Several processes may run it. Each looks after every migration of the store; a claim that expires
decides which of them does the work of one, so that a process that dies is followed by another. What
people ask for is a compare-and-set of the record, whoever they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from nestvec.core.collection import Collection
from nestvec.core.errors import MigrationRefused, NotFound
from nestvec.core.migration import (
    BEFORE_SWITCH,
    HELD,
    Gate,
    GateKind,
    GenerationFacts,
    Listing,
    Migration,
    MigrationStatus,
    MigrationWish,
    Phase,
)
from nestvec.core.ports import Catalogue, Encoders, Generations, Shards, VectorStore
from nestvec.core.shadowing import SHADOW, shadow_said
from nestvec.core.watermark import Watermark
from nestvec.replication.design import designed
from nestvec.replication.headings import PROGRESS, REFUSED, copied
from nestvec.replication.keeping import Keeper
from nestvec.replication.running import Pauses, Rooms
from nestvec.telemetry.logs import logger
from nestvec.wall_clock import wall_clock_ms

_TRIES = 16
_DRAIN_S = 60.0
_log = logger()


class MigrationApp:
    """Commands, and the work where this process has the claim."""

    def __init__(
        self,
        store: VectorStore,
        catalogue: Catalogue,
        generations: Generations,
        shards: Shards,
        encoders: Encoders,
        pauses: Pauses | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
        wrote: Callable[[Collection, Watermark], None] = lambda *_: None,
    ) -> None:
        """wrote: is told how far a generation was written by copying."""
        self._store = store
        self._catalogue = catalogue
        self._encoders = encoders
        self._pauses = pauses or Pauses()
        self._now_ms = now_ms
        self.keeper = Keeper(
            Rooms(store, catalogue, generations, shards, encoders, self._pauses, now_ms, wrote)
        )

    # --- commands -------------------------------------------------------------------------------

    async def begin(self, name: str, wish: MigrationWish) -> Migration:
        """Returns once it stands in the store. Raises NotFound, MigrationRefused while another one
        is under way or where nothing would change, TierNotTrained, or InvalidRequest: also for a
        model that cannot be had here.
        """
        source = await self._serving(name)
        before = await self._store.migration(name)
        self._require_free(before)
        # What is wrong with the wish is said now, not by the one who does the work.
        designed(source, await self._encoders.named(wish.model), wish)
        begun = Migration(
            name, source.generation, wish, serving=source.generation, at_ms=self._now_ms()
        )
        written = await self._store.change_migration(before, begun)
        if written is None:
            self._require_free(await self._store.migration(name))
            raise MigrationRefused(f"collection {name!r} was changed just now; begin again")
        _log.info("migration.begun", collection=name, source=source.generation, wish=str(wish))
        self.keeper.poke()
        return written

    async def _serving(self, name: str) -> Collection:
        """As the store has it. Raises NotFound: also for the name of one generation."""
        self._catalogue.forget(name)
        collection = await self._catalogue.get(name)
        if collection.name != name:
            raise NotFound("collection", name, f"give the collection's name, {collection.name!r}")
        return collection

    def _require_free(self, standing: Migration | None) -> None:
        if standing is not None and not standing.ended:
            raise MigrationRefused(
                f"collection {standing.collection!r} is being migrated already: from generation "
                f"{standing.source} to {standing.wish.model or 'the default model'}, "
                f"{standing.phase.value}; finish it or give it up (`nestvec migrate finish`, "
                f"`nestvec migrate abort`) before another one"
            )

    async def status(self, name: str) -> MigrationStatus:
        """Raises NotFound where there never was one."""
        listing = await self._store.listing()
        migration = await self._known(name)
        numbers = await self._store.tally(name, PROGRESS)
        source = _generation(listing, name, migration.source)
        target = _generation(listing, name, migration.target)
        return MigrationStatus(
            collection=name,
            phase=migration.phase,
            serving=migration.serving,
            paused=migration.paused,
            source=_facts(source, numbers.get("source_documents", 0)),
            target=_facts(target, numbers.get("target_documents", 0)),
            gates=migration.gates,
            said=await self._said(migration, numbers),
            lag=numbers.get("lag", 0),
            lag_back=numbers.get("lag_back", 0),
            refused=numbers.get("refused", 0),
            at_ms=migration.at_ms,
        )

    async def _said(self, migration: Migration, numbers: Mapping[str, int]) -> str:
        """What it waits for, or how it ended."""
        if migration.said or migration.ended:
            return migration.said
        if migration.paused:
            return "it is paused: `nestvec migrate resume` lets it go on"
        if migration.phase is Phase.GATING:
            return self._closed(migration, await self._store.tally(migration.collection, SHADOW))
        if migration.phase is Phase.READY and migration.wish.hold:
            return HELD
        back = numbers.get("refused_back", 0)
        if migration.both_ways and back:
            return (
                f"{back:,} documents of generation {migration.target} cannot be carried over to "
                f"{migration.source}; a rollback would miss them"
            )
        return ""

    def _closed(self, migration: Migration, shadow: Mapping[str, int]) -> str:
        said = []
        for kind in migration.closed_gates:
            gate = migration.gate(kind)
            if gate is not None:
                said.append(f"gate {kind.value} did not pass: {gate.said}")
            elif kind is GateKind.SHADOW:
                said.append(f"gate shadow: {shadow_said(migration.wish.shadow, shadow)}")
            else:
                said.append(f"gate {kind.value} was not measured yet")
        return "; ".join(said)

    async def record_gate(self, name: str, gate: Gate) -> Migration:
        """What a client measured. Raises MigrationRefused where nothing is being gated."""

        def after(before: Migration) -> Migration:
            if before.phase not in (Phase.GATING, Phase.READY):
                raise _unfit(before, "take a gate's result", "while it is gating")
            return replace(before, gates=before.with_gate(gate))

        _log.info(
            "migration.gate",
            collection=name,
            gate=gate.kind.value,
            passed=gate.passed,
            said=gate.said,
        )
        return await self._change(name, after)

    async def pause(self, name: str) -> Migration:
        """Copy nothing more until `resume`. Raises MigrationRefused after the switch: what is taken
        back must not lose what was written since.
        """

        def after(before: Migration) -> Migration:
            if before.phase not in BEFORE_SWITCH:
                raise _unfit(before, "be paused", "before the switch")
            return replace(before, paused=True)

        return await self._change(name, after)

    async def resume(self, name: str, rate: float | None = None, override: str = "") -> Migration:
        """Go on; with another rate, or with words that open what did not pass. Live queries that
        did not pass are counted anew. Raises MigrationRefused.
        """
        standing = await self._known(name)
        shadow = standing.gate(GateKind.SHADOW)
        measured_anew = shadow is not None and not shadow.passed and not standing.ended
        if measured_anew:
            await self._store.drop_tally(name, SHADOW)

        def after(before: Migration) -> Migration:
            if before.ended:
                raise _unfit(before, "be resumed", "while it is under way")
            kept = tuple(
                one for one in before.gates if not measured_anew or one.kind is not GateKind.SHADOW
            )
            wish = replace(
                before.wish,
                rate=before.wish.rate if rate is None else rate,
                override=override or before.wish.override,
            )
            return replace(before, paused=False, wish=wish, gates=kept)

        return await self._change(name, after)

    async def switch(self, name: str) -> Migration:
        """Let a migration that is held go on; after a rollback, serve the new generation again, at
        once. Raises MigrationRefused.
        """
        standing = await self._known(name)
        if standing.phase is Phase.ROLLED_BACK:
            return await self._serve(name, Phase.ROLLED_BACK, Phase.SWITCHED)

        def after(before: Migration) -> Migration:
            if before.phase not in (Phase.GATING, Phase.READY):
                raise _unfit(before, "be switched", "once it is filled")
            return replace(before, wish=replace(before.wish, hold=False))

        return await self._change(name, after)

    async def roll_back(self, name: str) -> Migration:
        """Serve the generation before, at once. Raises MigrationRefused: also when dropped."""
        return await self._serve(name, Phase.SWITCHED, Phase.ROLLED_BACK)

    async def _serve(self, name: str, standing: Phase, wanted: Phase) -> Migration:
        for _ in range(_TRIES):
            before = await self._known(name)
            if before.phase is not standing:
                raise (
                    self._not_back(before)
                    if wanted is Phase.ROLLED_BACK
                    else _unfit(before, "be switched", f"while it is {standing.value}")
                )
            after = replace(
                before, phase=wanted, serving=before.other, said="", at_ms=self._now_ms()
            )
            written = await self._store.switch_generation(before, after)
            self._catalogue.forget(name)
            if written is not None:
                _log.warning(
                    "migration.phase", collection=name, phase=wanted.value, serving=after.serving
                )
                return written
        raise MigrationRefused(f"the migration of {name!r} keeps changing; try again")

    def _not_back(self, before: Migration) -> MigrationRefused:
        if before.phase is Phase.FINISHED:
            return MigrationRefused(
                f"generation {before.source} of collection {before.collection!r} was dropped when "
                f"its migration was finished; there is nothing to go back to: migrate it to the "
                f"model before instead"
            )
        return _unfit(before, "be rolled back", "after its switch and before it is finished")

    async def abort(self, name: str) -> Migration:
        """Give the new generation up; what serves goes on. Raises MigrationRefused while it is the
        new one that serves.
        """

        def after(before: Migration) -> Migration:
            if before.phase not in BEFORE_SWITCH:
                raise _unfit(before, "be given up", "before the switch, or after a rollback")
            said = "given up"
            return replace(before, phase=Phase.ABORTED, said=said, at_ms=self._now_ms())

        standing = await self._known(name)
        if standing.phase in (Phase.ROLLED_BACK, Phase.FINISHING):
            return await self._finish(name, Phase.ROLLED_BACK)
        aborted = await self._change(name, after)
        await self.keeper.clean_up(name)
        return aborted

    async def finish(self, name: str) -> Migration:
        """Drop the generation that was before: after that there is no way back. Raises
        MigrationRefused, or BudgetSpent while changes of it are still to be carried over.
        """
        return await self._finish(name, Phase.SWITCHED)

    async def _finish(self, name: str, standing: Phase) -> Migration:
        """In three steps, so that no acknowledged write is lost: no writer begins with the other
        generation any more; what it still has is carried over; it is dropped.
        """

        def retire(before: Migration) -> Migration:
            if before.phase is Phase.FINISHING:
                return before
            if before.phase is not standing:
                raise _unfit(before, "be finished", "after its switch")
            return replace(before, phase=Phase.FINISHING, at_ms=self._now_ms())

        # Known before, it can still be taken back.
        await self._require_none_refused(await self._known(name))
        retired = await self._change(name, retire)
        await asyncio.sleep(2 * self._pauses.notice)
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self._until_drained(name, retired)
        except TimeoutError:
            raise MigrationRefused(
                f"generation {retired.other} of {name!r} has changes that are not carried over "
                f"after {_DRAIN_S:g} s; see `nestvec migrate status`, and finish it again"
            ) from None
        await self._require_none_refused(await self._known(name))
        end = Phase.FINISHED if retired.serving == retired.target else Phase.ABORTED

        def ended(before: Migration) -> Migration:
            if before.phase is not Phase.FINISHING:
                raise _unfit(before, "be finished", "after its switch")
            said = f"generation {before.other} was dropped"
            return replace(before, phase=end, said=said, at_ms=self._now_ms())

        finished = await self._change(name, ended)
        await self.keeper.clean_up(name)
        return finished

    async def _require_none_refused(self, migration: Migration) -> None:
        """What could not be carried over is dropped with its generation: not unless told so."""
        if not migration.both_ways or migration.wish.override:
            return
        heading = copied(migration.other, migration.serving)
        count = (await self._store.tally(migration.collection, heading)).get(REFUSED, 0)
        if count:
            raise MigrationRefused(
                f"{count:,} documents of generation {migration.other} of "
                f"{migration.collection!r} cannot be carried over to {migration.serving}, and "
                f"would be dropped with it; index or delete them again, or say why that is right "
                f"(`nestvec migrate resume --override`), and finish it again"
            )

    async def _until_drained(self, name: str, migration: Migration) -> None:
        listing = await self._store.listing()
        leaving = _generation(listing, name, migration.other)
        if leaving is None:
            return
        there = await self._store.positions(leaving, range(leaving.partitions))
        heading = copied(migration.other, migration.serving)
        while True:
            carried = await self._store.tally(name, heading)
            if all(carried.get(str(p), 0) >= position for p, position in there.items()):
                return
            await asyncio.sleep(self._pauses.idle)

    async def _known(self, name: str) -> Migration:
        """Not that of an earlier collection of this name."""
        migration = await self._store.migration(name)
        if migration is not None and not migration.ended:
            return migration
        serving = await self._serving(name)
        if migration is None or migration.serving != serving.generation:
            raise NotFound("migration", name, "this collection was never migrated")
        return migration

    async def _change(self, name: str, change: Callable[[Migration], Migration]) -> Migration:
        for _ in range(_TRIES):
            before = await self._known(name)
            after = change(before)
            if after == before:
                return before
            written = await self._store.change_migration(before, after)
            if written is not None:
                _log.info("migration.changed", collection=name, phase=written.phase.value)
                self.keeper.poke()
                return written
        raise MigrationRefused(f"the migration of {name!r} keeps changing; try again")

    # --- the work -------------------------------------------------------------------------------

    def start(self) -> None:
        """Look after migrations from now on, in the running loop."""
        self.keeper.start()

    async def close(self) -> None:
        """Stop; what is under way goes on where another process, or the next one, takes it up."""
        await self.keeper.close()


def _generation(listing: Listing, name: str, generation: int) -> Collection | None:
    return next(
        (one for one in listing.generations if one.name == name and one.generation == generation),
        None,
    )


def _facts(collection: Collection | None, documents: int) -> GenerationFacts | None:
    if collection is None:
        return None
    return GenerationFacts(
        collection.generation,
        collection.space,
        collection.store_dim,
        collection.tiers,
        documents,
    )


def _unfit(before: Migration, what: str, when: str) -> MigrationRefused:
    said = f" ({before.said})" if before.said else ""
    return MigrationRefused(
        f"the migration of collection {before.collection!r} is {before.phase.value}{said}; it can "
        f"{what} only {when}"
    )
