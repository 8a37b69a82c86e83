"""The work of one migration: each phase, until it is done or somebody else has the claim.

A runner may be killed at any moment. What it did stands in the store: the record says which phase
it is in, the positions say what was copied, and every step may be taken again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, MigrationRefused, NestvecError, SpaceMismatch
from nestvec.core.migration import BEFORE_SWITCH, Gate, Listing, Migration, Phase
from nestvec.core.placement import partitions_of
from nestvec.core.ports import Catalogue, Encoders, Generations, Shards, VectorStore
from nestvec.core.shadowing import SHADOW, shadow_gate
from nestvec.core.watermark import Watermark
from nestvec.replication.copier import Copier
from nestvec.replication.copy_ends import End, SinkEnd
from nestvec.replication.design import designed
from nestvec.replication.following import Follower
from nestvec.replication.gates import complete_gate
from nestvec.replication.headings import PROGRESS, copied
from nestvec.replication.pace import Pace
from nestvec.replication.texts import count_texts
from nestvec.replication.transform import EncodeTexts
from nestvec.telemetry.logs import logger

# A switch that is not done by then lets acknowledgements go again, and is begun anew later.
_SWITCH_S = 15.0
_SWITCH_AGAIN_S = 10.0
_REACH_S = 10.0
# Partitions between two looks at the log.
_COMPARED = 8
_OPEN_MODEL_S = 300.0
_log = logger()


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds. notice: after so long every process has heard of a change of the catalogue. idle:
    between looks that found nothing. retry: after a failure. figures: between two counts. claim:
    how long the right to do the work lasts; it is renewed three times while it does.
    """

    notice: float = 1.0
    idle: float = 0.05
    retry: float = 0.5
    figures: float = 1.0
    claim: float = 3.0


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a migration needs of the others."""

    store: VectorStore
    catalogue: Catalogue
    generations: Generations
    shards: Shards
    encoders: Encoders
    pauses: Pauses
    now_ms: Callable[[], int]
    # Told how far a generation was written: what was replaced there is to be freed.
    wrote: Callable[[Collection, Watermark], None]


def _differs(before: Migration, after: Migration) -> bool:
    """In more than the figures of gates that stand as they stood."""
    stood = {one.kind: one.passed for one in before.gates}
    stands = {one.kind: one.passed for one in after.gates}
    return before.phase is not after.phase or stood != stands


class TallyKeeper:
    """A copier's positions, in the store. Fills PositionKeeper."""

    def __init__(self, store: VectorStore, name: str, what: str) -> None:
        self._store = store
        self._name = name
        self._what = what

    async def load(self) -> dict[str, int]:
        return await self._store.tally(self._name, self._what)

    async def save(self, numbers: Mapping[str, int]) -> None:
        await self._store.set_tally(self._name, self._what, numbers)


class Runner:
    """Of one collection, by whoever has the claim: see Keeper. holds: whether the claim is known to
    hold just now.
    """

    def __init__(
        self, rooms: Rooms, name: str, owner: str, holds: Callable[[], bool] = lambda: True
    ) -> None:
        self._rooms = rooms
        self._name = name
        self._owner = owner
        self._holds = holds
        self._pace = Pace()
        self._forward: Copier | None = None
        self._backward: Copier | None = None
        # Of both copiers, once both generations take writes.
        self._followers: list[Follower] = []
        # Of which generations, and whether both of them take writes, the two copiers are.
        self._made_for: tuple[int, int, bool] | None = None
        self._listing = Listing(-1, ())
        self._switching_since_s = 0.0
        self._not_before_s = 0.0
        self._counted_s = 0.0
        # What it said last; None: nothing yet, what stands in the record is of an earlier runner.
        self._failing: str | None = None

    async def run(self) -> None:
        """Until it has ended. A failure is told in the record, and tried again. What was cancelled
        may be run again.
        """
        try:
            await self._run()
        finally:
            await self._stop_following()

    async def _run(self) -> None:
        while True:
            migration = await self._read()
            if migration is None or migration.ended:
                return
            try:
                rest_s = await self._step(migration)
                await self._tell("")
            except NestvecError as error:
                rest_s = self._rooms.pauses.retry
                await self._tell(str(error))
            await asyncio.sleep(rest_s)

    async def _read(self) -> Migration | None:
        """As it stands, with the catalogue. A store that does not answer is asked again."""
        failing = False
        while True:
            try:
                revision = await self._rooms.store.catalogue_revision()
                if revision != self._listing.revision:
                    self._listing = await self._rooms.store.listing()
                break
            except NestvecError as error:
                if not failing:
                    _log.warning("migration.waits", collection=self._name, reason=str(error))
                failing = True
                await asyncio.sleep(self._rooms.pauses.retry)
        migrations = self._listing.migrations
        return next((one for one in migrations if one.collection == self._name), None)

    async def _tell(self, said: str) -> None:
        """What it waits for, in the record: once for each reason. A store that is away is told of
        in the log alone.
        """
        if said == self._failing:
            return
        self._failing = said
        if said:
            _log.warning("migration.waits", collection=self._name, reason=said)
        written = False
        with suppress(NestvecError):
            written = await self._write_said(said)
        if not written and not said:
            # What is over must not stand there for good: it is taken back with the next step.
            self._failing = None

    async def _write_said(self, said: str) -> bool:
        """Whether the record says so now."""
        now = await self._rooms.store.migration(self._name)
        if now is None or now.ended or now.said == said:
            return True
        return await self._change(now, replace(now, said=said)) is not None

    async def _change(self, before: Migration, after: Migration) -> Migration | None:
        """None where somebody else has changed it: it is read again with the next step."""
        if after.phase is not before.phase:
            after = replace(after, at_ms=self._rooms.now_ms())
        written = await self._rooms.store.change_migration(before, after, self._owner)
        if written is not None and after.phase is not before.phase:
            _log.info("migration.phase", **self._named(after), phase=after.phase.value)
        return written

    def _named(self, migration: Migration) -> dict[str, object]:
        return {
            "collection": migration.collection,
            "source": migration.source,
            "target": migration.target,
        }

    # --- one step -------------------------------------------------------------------------------

    async def _step(self, migration: Migration) -> float:
        """Returns how long to rest before the next one."""
        generations = {
            one.generation: one for one in self._listing.generations if one.name == self._name
        }
        source = generations.get(migration.source)
        if source is None or (migration.target and migration.target not in generations):
            await self._gone(migration)
            return 0.0
        if migration.phase is Phase.CHECKING:
            return await self._check(migration, source)
        target = generations[migration.target]
        await self._make_copiers(migration, source, target)
        if migration.phase is not Phase.SWITCHING:
            self._switching_since_s = 0.0
        if migration.both_ways:
            self._follow_both()
        await self._count(source, target)
        if migration.paused and migration.phase in BEFORE_SWITCH:
            return await self._rest(migration)
        if migration.both_ways:
            return self._look_after_both()
        if migration.phase is Phase.SWITCHING:
            return await self._switch(migration, source, target)
        steps = {
            Phase.FILLING: self._fill,
            Phase.GATING: self._gate,
            Phase.READY: self._be_ready,
        }
        return await steps[migration.phase](migration, target)

    async def _rest(self, migration: Migration) -> float:
        """While it is paused. One that was switching lets acknowledgements go: they wait for what
        is not carried over now.
        """
        if migration.phase is Phase.SWITCHING:
            await self._change(migration, replace(migration, phase=Phase.READY))
        return self._rooms.pauses.idle

    async def _gone(self, migration: Migration) -> None:
        said = "the collection was dropped, or one of its generations"
        await self._change(migration, replace(migration, phase=Phase.ABORTED, said=said))

    async def _make_copiers(
        self, migration: Migration, source: Collection, target: Collection
    ) -> None:
        # What has switched, or is about to, must keep up with whatever is written.
        slow = migration.phase in (Phase.FILLING, Phase.GATING, Phase.READY)
        self._pace.change(migration.wish.rate if slow else 0.0)
        made_for = source.generation, target.generation, migration.both_ways
        if self._made_for == made_for:
            return
        await self._stop_following()
        alone = not migration.both_ways
        self._forward = self._copier(source, target, alone=alone)
        self._backward = None if alone else self._copier(target, source, alone=False)
        self._made_for = made_for

    def _copier(self, source: Collection, sink: Collection, alone: bool) -> Copier:
        rooms = self._rooms
        heading = copied(source.generation, sink.generation)
        return Copier(
            End(source, rooms.store),
            SinkEnd(sink, rooms.store),
            EncodeTexts(rooms.encoders, sink),
            TallyKeeper(rooms.store, self._name, heading),
            self._pace,
            alone=alone,
            holds=self._holds,
        )

    def _follow_both(self) -> None:
        """Each way by itself: an encoder that is gone must not keep the other way from draining."""
        assert self._forward is not None
        assert self._backward is not None
        pauses = self._rooms.pauses
        if not self._followers:
            self._followers = [
                Follower(one, pauses.idle, pauses.retry) for one in (self._forward, self._backward)
            ]

    def _look_after_both(self) -> float:
        for one in self._followers:
            one.require_well()
        return self._rooms.pauses.idle

    async def _stop_following(self) -> None:
        followers, self._followers = self._followers, []
        await asyncio.gather(*(one.close() for one in followers))

    # --- before the new generation is there -----------------------------------------------------

    async def _check(self, migration: Migration, source: Collection) -> float:
        for heading in (PROGRESS, SHADOW):
            await self._rooms.store.drop_tally(self._name, heading)
        counts = await count_texts(self._rooms.store, source)
        if counts.without_text:
            said = (
                f"{counts.without_text:,} of {counts.documents:,} documents have no text in the "
                f"store that could be encoded again ({counts.examples()}); ingest them again with "
                f"their texts, or delete them"
            )
            await self._change(migration, replace(migration, phase=Phase.REFUSED, said=said))
            return 0.0
        # What an earlier runner made, and was killed before it could write it down.
        for one in (await self._rooms.store.listing()).beside:
            if one.name == self._name:
                await self._rooms.generations.drop_generation(one)
        try:
            served = await self._rooms.encoders.named(migration.wish.model, _OPEN_MODEL_S)
            wanted = designed(source, served, migration.wish)
            target = await self._rooms.generations.add_generation(wanted)
        except (InvalidRequest, SpaceMismatch, MigrationRefused) as error:
            after = replace(migration, phase=Phase.REFUSED, said=str(error))
            await self._change(migration, after)
            return 0.0
        after = replace(migration, phase=Phase.FILLING, target=target.generation, said="")
        await self._change(migration, after)
        return 0.0

    # --- filling and gates ----------------------------------------------------------------------

    async def _fill(self, migration: Migration, target: Collection) -> float:
        if await self._forwards():
            return 0.0
        await self._settle(target)
        after = await self._with_complete(migration, target)
        await self._change(migration, replace(after, phase=Phase.GATING))
        return 0.0

    async def _forwards(self) -> bool:
        assert self._forward is not None
        return await self._forward.look()

    async def _settle(self, target: Collection) -> None:
        """Until the coarse tier has found all of it, and is merged."""
        shards = self._rooms.shards.of(self._name)
        await asyncio.gather(*(shard.settle(target) for shard in shards))

    async def _measured(self, target: Collection) -> Gate:
        assert self._forward is not None
        documents = await self._rooms.store.count(target)
        return complete_gate(documents, self._forward.figures.refused)

    async def _with_complete(self, migration: Migration, target: Collection) -> Migration:
        """As it stands, with that gate measured anew."""
        return replace(migration, gates=migration.with_gate(await self._measured(target)))

    async def _gate(self, migration: Migration, target: Collection) -> float:
        if await self._forwards():
            return 0.0
        after = await self._with_complete(migration, target)
        if migration.wish.shadow.queries:
            tally = await self._rooms.store.tally(self._name, SHADOW)
            measured = shadow_gate(migration.wish.shadow, tally)
            if measured is not None:
                after = replace(after, gates=after.with_gate(measured))
        if after.may_serve:
            for kind in after.closed_gates:
                gate = after.gate(kind)
                _log.warning(
                    "migration.overridden",
                    **self._named(migration),
                    gate=kind.value,
                    said="not measured" if gate is None else gate.said,
                    override=migration.wish.override,
                )
            after = replace(after, phase=Phase.READY)
        if _differs(migration, after):
            await self._change(migration, after)
        return self._rooms.pauses.idle

    async def _be_ready(self, migration: Migration, target: Collection) -> float:
        if await self._forwards():
            return 0.0
        if migration.wish.hold or time.monotonic() < self._not_before_s:
            return self._rooms.pauses.idle
        await self._compare_all()
        after = await self._with_complete(migration, target)
        # Another gate may have been measured again while it was held.
        phase = Phase.SWITCHING if after.may_serve else Phase.GATING
        await self._change(migration, replace(after, phase=phase))
        return 0.0

    async def _compare_all(self) -> None:
        """Every partition once more by ids and versions, without falling behind the log."""
        assert self._forward is not None
        partitions = list(self._forward.partitions)
        while partitions:
            some, partitions = partitions[:_COMPARED], partitions[_COMPARED:]
            await self._forward.compare(some)
            await self._forward.look()

    # --- the switch -----------------------------------------------------------------------------

    async def _switch(self, migration: Migration, source: Collection, target: Collection) -> float:
        """By now, or within `notice`, every writer waits until what it acknowledges as searchable
        is found in the target too. So all that was acknowledged before is in the source by then.
        """
        now_s = time.monotonic()
        if self._switching_since_s == 0.0:
            self._switching_since_s = now_s
        since_s = now_s - self._switching_since_s
        if since_s < self._rooms.pauses.notice:
            moved = await self._forwards()
            return 0.0 if moved else min(self._rooms.pauses.idle, self._rooms.pauses.notice)
        try:
            async with asyncio.timeout(_SWITCH_S):
                await self._carry_over(source, target)
                # What was written last may have been refused.
                measured = await self._with_complete(migration, target)
        except (NestvecError, TimeoutError) as error:
            return await self._switch_later(migration, error)
        self._switching_since_s = 0.0
        if not measured.may_serve:
            await self._change(migration, replace(measured, phase=Phase.GATING))
            return 0.0
        await self._serve(migration, measured, source, target)
        return 0.0

    async def _switch_later(self, migration: Migration, error: Exception) -> float:
        self._switching_since_s = 0.0
        self._not_before_s = time.monotonic() + _SWITCH_AGAIN_S
        # It stands in the record until it is tried again, though steps go well until then.
        self._failing = ""
        why = str(error) or "what was written last took too long"
        said = f"it could not be switched: {why}"
        await self._change(migration, replace(migration, phase=Phase.READY, said=said))
        return self._rooms.pauses.retry

    async def _serve(
        self, before: Migration, measured: Migration, source: Collection, target: Collection
    ) -> None:
        """Let the name stand for the target."""
        store = self._rooms.store
        after = replace(
            measured,
            phase=Phase.SWITCHED,
            serving=target.generation,
            said="",
            at_ms=self._rooms.now_ms(),
        )
        # All that is in the target by now came from the source.
        backward = copied(target.generation, source.generation)
        there = await store.positions(target, range(target.partitions))
        await store.set_tally(self._name, backward, {str(p): s for p, s in there.items() if s})
        if await store.switch_generation(before, after, self._owner) is not None:
            _log.info("migration.phase", **self._named(after), phase=after.phase.value)
        self._rooms.catalogue.forget(self._name)

    async def _carry_over(self, source: Collection, target: Collection) -> None:
        """All that the source holds now, into the target and into its coarse tier."""
        assert self._forward is not None
        store = self._rooms.store
        wanted = await store.positions(source, range(source.partitions))
        while not await self._forward.has_reached(wanted):
            await self._forward.look()
        there = await store.positions(target, range(target.partitions))
        mark = Watermark(target.generation, {p: s for p, s in there.items() if s})
        shards = self._rooms.shards.of(self._name)
        await asyncio.gather(
            *(
                shard.reach(
                    target,
                    mark.within(partitions_of(number, target.partitions, len(shards))),
                    _REACH_S,
                )
                for number, shard in enumerate(shards)
            )
        )

    # --- figures --------------------------------------------------------------------------------

    async def _count(self, source: Collection, target: Collection) -> None:
        now_s = time.monotonic()
        if now_s - self._counted_s < self._rooms.pauses.figures:
            return
        self._counted_s = now_s
        assert self._forward is not None
        store = self._rooms.store
        old, new = await asyncio.gather(store.count(source), store.count(target))
        forward, backward = self._forward, self._backward
        numbers = {
            "source_documents": old,
            "target_documents": new,
            "lag": await forward.lag(),
            "lag_back": 0 if backward is None else await backward.lag(),
            "refused": forward.refused,
            "refused_back": 0 if backward is None else backward.refused,
        }
        await store.set_tally(self._name, PROGRESS, numbers)
        for one in (target,) if self._backward is None else (target, source):
            there = await store.positions(one, range(one.partitions))
            self._rooms.wrote(one, Watermark(one.generation, {p: s for p, s in there.items() if s}))
