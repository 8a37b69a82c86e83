"""Copying one collection into another by following its log, as a shard of the coarse tier does.

Every document keeps its version, and the greater one stands at the sink: so a batch may be copied
twice, and two copiers may run against each other. Where the log does not continue from where the
copier stands (it has just begun, entries were trimmed, a store lost its last writes) the partition
is compared by ids and versions, and only what differs is read and copied: filling is comparing with
nothing.

What comparing cannot see: a deletion that nobody remembers any more, once the sink takes writes of
its own; and a document that was written again at the version it had, with other content. Both take
a copier that was away longer than tombstones are kept, or longer than the log. Between regions
they are kept until every region has them, however long it is away (ingest.tidying).
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, field

from nestvec.concurrency import all_of
from nestvec.core.errors import StoreUnavailable
from nestvec.core.placement import internal_ids, partition_of, split_id
from nestvec.core.ports import (
    LogBatch,
    StoreDeletion,
    StoredVersion,
)
from nestvec.core.watermark import Watermark, follows, split_sequence
from nestvec.replication.copy_ends import End, Peek, PositionKeeper, SinkEnd
from nestvec.replication.headings import REFUSED
from nestvec.replication.pace import Pace
from nestvec.replication.transform import Transform
from nestvec.telemetry.logs import logger

_EPOCH = "epoch-"
# Partitions that are compared side by side: each waits mostly for the store and the encoder.
_AT_ONCE = 8
_log = logger()


@dataclass(slots=True)
class Figures:
    """Since the copier was made. refused: external id -> why it could not be carried over."""

    refused: dict[str, str] = field(default_factory=dict)


class Copier:
    """One direction. Not for two tasks at once.

    alone: nobody else writes to the sink, so what the source does not have is deleted there, and
    what was written again at the version it had is copied again. batch: documents at once. holds:
    whether that is still so; asked before what the source does not have is deleted. peek: for a
    source that is far away: of what its log tells, values are read only where they are missing in
    the sink, so that what was copied there from here does not come back. ahead: batches of the log
    that are read at once and copied side by side, where each of them mostly waits.
    """

    def __init__(
        self,
        source: End,
        sink: SinkEnd,
        transform: Transform,
        keeper: PositionKeeper,
        pace: Pace,
        *,
        alone: bool,
        batch: int = 256,
        holds: Callable[[], bool] = lambda: True,
        peek: Peek | None = None,
        ahead: int = 1,
    ) -> None:
        self._source = source
        self._sink = sink
        self._transform = transform
        self._keeper = keeper
        self._pace = pace
        self._alone = alone
        self._batch = batch
        self._holds = holds
        self._peek = peek
        self._ahead = ahead
        self._positions: dict[int, int] | None = None
        # Where the source stood when it was last looked at.
        self.seen: Mapping[int, int] = {}
        # Partition of the sink -> the last sequence that was written there: see `take_written`.
        self._written: dict[int, int] = {}
        # In which epoch each partition of the sink was written, as of when it was last compared,
        # or first written; and those found in a later one since, which may have lost what came
        # last.
        self._epochs: dict[int, int] = {}
        self._doubtful: dict[int, int] = {}
        # Partitions in which an earlier copier refused documents, how many it counted in all, and
        # not which: they are compared once, to know.
        self._unknown: set[int] = set()
        self._refused_before = 0
        self.figures = Figures()

    @property
    def partitions(self) -> range:
        """Of the source."""
        return self._source.partitions

    @property
    def refused(self) -> int:
        """How many documents could not be carried over, also by a copier before this one."""
        known = len(self.figures.refused)
        return max(known, self._refused_before) if self._unknown else known

    # --- where it stands ------------------------------------------------------------------------

    async def _load(self) -> dict[int, int]:
        if self._positions is not None:
            return self._positions
        kept = await self._keeper.load()
        # Whoever asks for figures may have read them meanwhile.
        if self._positions is None:
            self._epochs = {
                int(name.removeprefix(_EPOCH)): number
                for name, number in kept.items()
                if name.startswith(_EPOCH)
            }
            self._positions = {
                int(name): number for name, number in kept.items() if name.isdecimal() and number
            }
            self._refused_before = kept.get(REFUSED, 0)
            self._unknown = set(self._positions) if self._refused_before else set()
        return self._positions

    async def _advance(self, positions: Mapping[int, int]) -> None:
        """What is in the sink now. It is saved last: what is copied twice does no harm."""
        known = await self._load()
        numbers = {str(partition): position for partition, position in positions.items()}
        numbers |= {f"{_EPOCH}{partition}": epoch for partition, epoch in self._epochs.items()}
        numbers[REFUSED] = self.refused
        await self._keeper.save(numbers)
        known.update(positions)

    async def lag(self) -> int:
        """How many changes of the source are not in the sink. Of a partition that was never
        compared, every one that it ever had.
        """
        await self._load()
        return self.behind(
            await self._source.store.positions(self._source.collection, self._source.partitions)
        )

    def behind(self, there: Mapping[int, int]) -> int:
        """`lag`, where the source is known to stand somewhere."""
        known = self._positions or {}
        return sum(
            max(0, split_sequence(position)[1] - split_sequence(known.get(partition, 0))[1])
            for partition, position in there.items()
        )

    @property
    def doubtful(self) -> bool:
        """Whether the sink may have lost some of what was copied."""
        return bool(self._doubtful)

    def take_written(self) -> Watermark:
        """What was written to the sink since this was called last."""
        written, self._written = self._written, {}
        return Watermark(self._sink.collection.generation, written)

    async def has_reached(self, wanted: Mapping[int, int]) -> bool:
        """Whether everything up to some positions of the source is in the sink."""
        known = await self._load()
        return all(known.get(partition, 0) >= position for partition, position in wanted.items())

    async def start_from(self, positions: Mapping[int, int]) -> None:
        """All up to there is known to be in the sink already."""
        await self._advance(positions)

    # --- one step -------------------------------------------------------------------------------

    async def look(self) -> bool:
        """Copy some of what is new, or compare one partition. Returns whether there was anything.
        Raises what the stores and the transform raise; then it may be called again.
        """
        source = self._source
        known = await self._load()
        there = await source.store.positions(source.collection, source.partitions)
        self.seen = there
        fresh = [p for p, position in there.items() if position and p not in known]
        if not self._alone:
            # What was begun a moment ago is in the log from its beginning, and else is a gap there.
            fresh = [p for p in fresh if split_sequence(there[p])[1] > self._batch]
        lost = [p for p, position in there.items() if position < known.get(p, 0)]
        lost = list(dict.fromkeys([*lost, *self._doubtful, *self._unknown]))
        if fresh or lost:
            await self.compare((fresh or lost)[:_AT_ONCE])
            return True
        behind = {p: known.get(p, 0) for p, at in there.items() if at > known.get(p, 0)}
        if not behind:
            return False
        limit = self._batch * self._ahead
        batches = await source.store.read_log(source.collection, behind, limit)
        sound = [one for one in batches if follows(behind[one.partition], one.first)]
        await self._apply(sound)
        gaps = [one.partition for one in batches if one not in sound]
        # Where the store says that there is more and the log has none of it, all was trimmed.
        gaps += sorted(behind.keys() - {one.partition for one in batches})
        for partition in gaps:
            _log.warning(
                "copying.log_gap",
                collection=source.collection.name,
                generation=source.collection.generation,
                partition=partition,
            )
        await self.compare(gaps)
        return True

    async def _apply(self, batches: Sequence[LogBatch]) -> None:
        if not batches:
            return
        await self._delete([deletion for one in batches for deletion in one.deletions])
        added = [internal for one in batches for internal in one.added.tolist()]
        parts = [added[start : start + self._batch] for start in range(0, len(added), self._batch)]
        for start in range(0, len(parts), self._ahead):
            await all_of(self._copy_added(part) for part in parts[start : start + self._ahead])
        await self._advance({one.partition: one.last for one in batches})

    async def _copy_added(self, ids: list[int]) -> None:
        wanted = ids if self._peek is None else await self._not_here(self._peek, ids)
        await self._copy_ids(wanted, rewritten=self._alone)

    async def _not_here(self, peek: Peek, ids: list[int]) -> list[int]:
        """Those of which the sink has nothing, or something older."""
        wanted = internal_ids(*zip(*map(split_id, ids), strict=True))
        named = [
            (internal, one)
            for internal, one in zip(ids, await peek(self._source.collection, wanted), strict=True)
            if one is not None
        ]
        stands = await self._versions_there([one.external_id for _, one in named])
        missing = []
        for (internal, one), other in zip(named, stands, strict=True):
            if other is None or other < one.version:
                missing.append(internal)
            else:
                self.figures.refused.pop(one.external_id, None)
        return missing

    # --- comparing ------------------------------------------------------------------------------

    async def compare(self, partitions: Iterable[int]) -> None:
        """Bring the sink in line with some partitions of the source, several at a time. Raises the
        first error, when the others are done.
        """
        waiting = list(partitions)
        while waiting:
            some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            await all_of(self._compare_one(partition) for partition in some)

    async def _compare_one(self, partition: int) -> None:
        """Its position is read first: what changes meanwhile is in the log after it."""
        source = self._source
        there = await source.store.positions(source.collection, range(partition, partition + 1))
        epoch = self._doubtful.get(partition, 0)
        async for buried in source.store.tombstones(source.collection, partition):
            await self._delete(buried)
        listed: set[str] = set()
        async for entries in source.store.entries(source.collection, partition):
            await self._copy_missing(entries)
            if self._alone:
                listed.update(one.external_id for one in entries)
        if self._alone:
            await self._delete_surplus(partition, listed)
        if epoch:
            self._epochs[partition] = epoch
        if self._doubtful.get(partition, 0) == epoch:
            self._doubtful.pop(partition, None)
        self._unknown.discard(partition)
        await self._advance({partition: there[partition]})

    async def _copy_missing(self, entries: Sequence[StoredVersion]) -> None:
        for start in range(0, len(entries), self._batch):
            some = entries[start : start + self._batch]
            stands = await self._versions_there([one.external_id for one in some])
            missing = [
                one
                for one, other in zip(some, stands, strict=True)
                if other is None or other < one.version
            ]
            partitions = [
                partition_of(one.external_id, self._source.collection.partitions) for one in missing
            ]
            ids = internal_ids(partitions, [one.sequence for one in missing])
            read = await self._copy_ids(ids.tolist(), rewritten=False)
            await self._refuse_unread([one for one in missing if one.external_id not in read])

    async def _refuse_unread(self, entries: Sequence[StoredVersion]) -> None:
        """Of what the id map names and could not be read: it stands still, or is another by now."""
        if not entries:
            return
        source = self._source
        stands = await source.store.versions(
            source.collection, [one.external_id for one in entries]
        )
        for one, other in zip(entries, stands, strict=True):
            if other == one:
                self.figures.refused[one.external_id] = "its payload is missing or damaged"

    async def _delete_surplus(self, partition: int, listed: Set[str]) -> None:
        """What the source no longer has, and does not remember to have deleted. listed: what it was
        just seen to have; it is asked of the others alone.

        A sink with as many partitions has it in the same one; of another number, all are gone
        through with each.
        """
        sink, source = self._sink, self._source
        same = sink.collection.partitions == source.collection.partitions
        for there in [partition] if same else range(sink.collection.partitions):
            async for entries in sink.store.entries(sink.collection, there):
                mine = [
                    one
                    for one in entries
                    if one.external_id not in listed
                    and (
                        same
                        or partition_of(one.external_id, source.collection.partitions) == partition
                    )
                ]
                if not mine:
                    continue
                stands = await source.store.versions(
                    source.collection, [one.external_id for one in mine]
                )
                self._require_held()
                await self._delete(
                    [
                        (one.external_id, one.version)
                        for one, other in zip(mine, stands, strict=True)
                        if other is None
                    ]
                )

    def _require_held(self) -> None:
        """Whoever works on without its claim may do so after the switch, and would take for surplus
        what clients wrote to the sink since.
        """
        if not self._holds():
            raise StoreUnavailable("the claim of a migration could not be renewed in time")

    async def _versions_there(self, external_ids: Sequence[str]) -> list[int | None]:
        found = await self._sink.store.versions(self._sink.collection, external_ids)
        return [None if one is None else one.version for one in found]

    # --- writing --------------------------------------------------------------------------------

    async def _delete(self, deletions: Sequence[tuple[str, int]]) -> None:
        """Also where the sink knows nothing of it: an older write may still be on its way."""
        newest: dict[str, int] = {}
        for external_id, version in deletions:
            newest[external_id] = max(version, newest.get(external_id, 0))
            self.figures.refused.pop(external_id, None)
        asked = [StoreDeletion(name, version, remember=True) for name, version in newest.items()]
        for start in range(0, len(asked), self._batch):
            some = asked[start : start + self._batch]
            answers = await self._sink.store.delete(self._sink.collection, some)
            self._see_written(one.position for one in answers)

    async def _copy_ids(self, ids: Sequence[int], rewritten: bool) -> set[str]:
        """Documents by internal ids of the source. Returns the external ids of those that were
        read; what was replaced or deleted by now is passed over: a later entry of the log tells of
        it. rewritten: also those that stand in the sink at the same version.
        """
        if not ids:
            return set()
        source = self._source
        wanted = internal_ids(*zip(*map(split_id, ids), strict=True))
        documents = [
            one
            for one in await source.store.live_documents(
                source.collection, wanted, self._transform.needs_vectors
            )
            if one is not None
        ]
        read = {one.external_id for one in documents}
        stands = await self._versions_there([one.external_id for one in documents])
        missing = [
            one
            for one, other in zip(documents, stands, strict=True)
            if other is None or other < one.version or (rewritten and other == one.version)
        ]
        for one, other in zip(documents, stands, strict=True):
            if other is not None and other >= one.version:
                # What was refused was written again there, by somebody else.
                self.figures.refused.pop(one.external_id, None)
        if not missing:
            return read
        await self._pace.take(len(missing))
        done = await self._transform.apply(missing)
        sink = self._sink
        put = sink.store.put if self._alone else sink.store.put_newer
        placed = await put(sink.collection, done.records) if done.records else []
        self._see_written(one.internal_id for one in placed)
        for record in done.records:
            self.figures.refused.pop(record.external_id, None)
        self.figures.refused.update(done.refused)
        return read

    def _see_written(self, ids: Iterable[int]) -> None:
        """Remember how far the sink was written. A partition of it that is written in a later epoch
        than before may have lost what came last: it is compared again.
        """
        same = self._sink.collection.partitions == self._source.collection.partitions
        for internal in ids:
            if internal < 0:
                continue
            partition, sequence = split_id(internal)
            self._written[partition] = max(sequence, self._written.get(partition, 0))
            epoch = split_sequence(sequence)[0]
            if epoch > self._epochs.setdefault(partition, epoch):
                lost = [partition] if same else self._source.partitions
                self._doubtful.update((one, epoch) for one in lost)
