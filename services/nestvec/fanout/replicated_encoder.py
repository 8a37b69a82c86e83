"""The encoders of a cluster as one encoder of one space."""

from __future__ import annotations

from collections.abc import Sequence

from nestvec.core.arrays import Floats
from nestvec.core.errors import WorkerUnavailable
from nestvec.core.members import ClusterView, MemberRole
from nestvec.core.ports import Encoder
from nestvec.core.space import Role, Space
from nestvec.fanout.asking import ReplicaGroup
from nestvec.fanout.following import Follower, Views
from nestvec.fanout.race import Question
from nestvec.fanout.replica import Connect, Replicas
from nestvec.telemetry.logs import logger

_STAGE = "encode"
_log = logger()


class ReplicatedEncoder:
    """Fills ports.Encoder over the members of the cluster that encode into `space`.

    Members of another fingerprint are left alone, and that is logged: their vectors must never be
    compared with this space's. Queries are hedged; documents are too much work to do twice.
    """

    def __init__(self, views: Views, space: Space, connect: Connect[Encoder]) -> None:
        self.space = space
        self.group: ReplicaGroup[Encoder] = ReplicaGroup(
            f"encoder {space.model} (space {space.fingerprint})"
        )
        self._replicas = Replicas(connect)
        self._others: set[tuple[str, str]] = set()
        self._follower = Follower(views, self._take)

    def start(self) -> None:
        """Follow the cluster from now on."""
        self._follower.start()

    async def close(self) -> None:
        """Hang up everywhere. Safe to repeat."""
        await self._follower.close()
        await self.group.close()
        await self._replicas.close()

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """See ports.Encoder. Raises WorkerUnavailable where no encoder of this space is ready."""
        self._follower.catch_up()
        if not self.group.ready() and self._others:
            raise WorkerUnavailable(
                f"{self.group.missing()}; there are encoders of other spaces: "
                f"{', '.join(sorted(f'{name} ({space})' for name, space in self._others))}"
            )
        question: Question[Encoder, Floats] = Question(
            lambda peer, left_s: peer.encode(texts, role, left_s),
            (role, len(texts).bit_length(), sum(map(len, texts)).bit_length()),
            _STAGE,
            hedged=role is Role.QUERY,
        )
        return await self.group.ask(question, timeout_s)

    def _take(self, view: ClusterView) -> None:
        encoders = view.of_role(MemberRole.ENCODER)
        mine = [one for one in encoders if one.fingerprint == self.space.fingerprint]
        self.group.members = self._replicas.follow(mine)
        others = {(one.name, one.fingerprint) for one in encoders if one not in mine}
        for name, fingerprint in sorted(others - self._others):
            _log.warning(
                "fanout.encoder_of_another_space",
                member=name,
                fingerprint=fingerprint,
                expected=self.space.fingerprint,
            )
        self._others = others
