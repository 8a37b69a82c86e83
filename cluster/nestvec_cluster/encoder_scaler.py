"""The actor that looks after encoder replicas: it starts, drains, ends, and kills what is silent.

It keeps nothing that cannot be seen in Ray and in the registry: one that is started again goes on
from there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import ray

from nestvec.adapters.opening import open_registry
from nestvec.config import Settings
from nestvec.core.errors import NestvecError
from nestvec.core.members import ClusterView, MemberRole
from nestvec.core.ports import Registry
from nestvec.telemetry.logs import configure_logs, logger
from nestvec_cluster.actors import EncoderReplica, Report
from nestvec_cluster.background import run_on_fastest_loop
from nestvec_cluster.encoder_scaling import SLOT, Demand, EncoderPlan, Seen, Steps, next_steps
from nestvec_cluster.placing import asked, running

LOOK_S = 0.5
_REPORT_S = 2.0
# A replica that is silent for so long is started again: one that was up; one that starts, which
# answers while it loads its model.
_SILENT_S = 6.0
_START_S = 30.0
# What a replica was made from that this scaler did not start and that has not told yet: from this
# plan at first; after so long, it does not matter.
_UNKNOWN_S = 10.0
# A new replica that is not ready by then finds no room: see next_steps.
_LATE_S = 60.0
# Beyond drain_s: two heartbeats, and closing what was opened.
_STOP_MARGIN_S = 15.0
_DRAIN_S = 10.0
_log = logger()


class Scaler:
    """Looks twice a second and takes the next step. An actor; `plan` as EncoderPlan.to_dict."""

    def __init__(self, plan: dict[str, Any], namespace: str) -> None:
        self._plan = EncoderPlan(**plan)
        self._namespace = namespace
        self._demand: Demand | None = None
        self._made: dict[str, str] = {}
        self._started_at: dict[str, float] = {}
        # Those that have answered, or joined, since they were started last.
        self._up: set[str] = set()
        self._silent_since: dict[str, float] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._status: dict[str, Any] = {"plan": plan, "settled": False, "wanted": 0}
        self._status |= {"ready": [], "fresh": [], "slots": [], "errors": {}}
        threading.Thread(target=self._run, name="nestvec-scaler", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """As it was at the last look; see encoder_status."""
        return self._status

    def _run(self) -> None:
        settings = Settings.model_validate(with_host(self._plan.settings, "127.0.0.1"))
        configure_logs(settings.log.level, settings.log.format)
        while True:
            try:
                run_on_fastest_loop(self._look_for_good(settings))
            except Exception as error:  # noqa: BLE001  whatever it was, it must go on
                ours = isinstance(error, NestvecError)
                _log.warning("scaler.failed", reason=str(error), exc_info=None if ours else error)
            time.sleep(LOOK_S)

    async def _look_for_good(self, settings: Settings) -> None:
        self._ending.clear()
        async with AsyncExitStack() as stack:
            registry = await open_registry(settings.store, settings.cluster, stack)
            while True:
                await self._look(registry)
                await asyncio.sleep(LOOK_S)

    async def _look(self, registry: Registry) -> None:
        view = await registry.view()
        handles = await asyncio.to_thread(replicas_in, self._namespace)
        self._ending = {slot: task for slot, task in self._ending.items() if not task.done()}
        ready = view.ready()
        answers = await asyncio.gather(
            *(self._ask(slot, handle, slot in ready) for slot, handle in handles.items())
        )
        reports = dict(zip(handles, answers, strict=True))
        seen = [
            self._seen(slot, told, view)
            for slot, told in reports.items()
            if slot not in self._ending
        ]
        if self._demand is None:
            self._demand = Demand(self._plan, sum(one.ready for one in seen))
        wanted = self._demand.note(time.monotonic(), _under_way(view))
        steps = next_steps(seen, list(self._ending), wanted)
        self._take(steps)
        self._tell(seen, reports, wanted, steps)

    def _seen(self, slot: str, told: Report | None, view: ClusterView) -> Seen:
        if told is not None:
            self._made[slot] = told.digest
        now = time.monotonic()
        started = self._started_at.setdefault(slot, now)
        made = self._made.get(slot, self._plan.made_from if now - started < _UNKNOWN_S else "")
        late = now - started > _LATE_S
        return Seen(slot, made == self._plan.made_from, slot in view.ready(), late)

    async def _ask(self, slot: str, handle: Any, is_ready: bool) -> Report | None:
        """What it says; one that is silent for too long is started again."""
        try:
            answer = await asked(handle.report.remote(), _REPORT_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            # It died and Ray starts it again; or it is frozen, which looks the same for a while.
            if is_ready:
                self._up.add(slot)
            elif isinstance(error, ray.exceptions.RayError):
                self._up.discard(slot)
            self._restart_silent(slot, handle)
            return None
        self._up.add(slot)
        self._silent_since.pop(slot, None)
        return Report(**answer)

    def _restart_silent(self, slot: str, handle: Any) -> None:
        now = time.monotonic()
        since = self._silent_since.setdefault(slot, now)
        limit_s = _SILENT_S if slot in self._up else _START_S
        if now - since < limit_s or slot in self._ending:
            return
        _log.warning("scaler.replica_silent", slot=slot, seconds=round(now - since, 1))
        self._forget(slot)
        ray.kill(handle, no_restart=False)

    def _forget(self, slot: str) -> None:
        self._silent_since.pop(slot, None)
        self._up.discard(slot)

    def _take(self, steps: Steps) -> None:
        for slot in steps.start:
            _log.info("scaler.starting", slot=slot)
            self._made[slot] = self._plan.made_from
            self._started_at[slot] = time.monotonic()
            self._forget(slot)
            self._start(slot)
        for slot in steps.end:
            _log.info("scaler.ending", slot=slot)
            ending = end_replica(self._namespace, slot, drain_s_of(self._plan))
            self._ending[slot] = asyncio.get_running_loop().create_task(ending)
            self._forget(slot)

    def _start(self, slot: str) -> None:
        plan = self._plan
        cluster = {**plan.settings.get("cluster", {}), "slot": slot}
        actor: Any = ray.remote(EncoderReplica)
        actor.options(
            name=slot,
            namespace=self._namespace,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            memory=plan.memory_bytes or None,
            scheduling_strategy="SPREAD",
        ).remote({**plan.settings, "cluster": cluster}, plan.made_from)

    def _tell(
        self, seen: Sequence[Seen], reports: dict[str, Report | None], wanted: int, steps: Steps
    ) -> None:
        ready = sorted(one.slot for one in seen if one.ready and one.fresh)
        errors = {slot: told.error for slot, told in reports.items() if told and told.error}
        still = not steps.start and not steps.end and not self._ending
        self._status = {
            "plan": self._plan.to_dict(),
            "settled": still and len(ready) == wanted == len(seen),
            "wanted": wanted,
            "ready": ready,
            "fresh": sorted(one.slot for one in seen if one.fresh),
            "slots": sorted(reports),
            "errors": errors,
        }


def _under_way(view: ClusterView) -> float:
    return float(sum(one.facts.queue for one in view.of_role(MemberRole.ENCODER)))


# --- what a deployment does with them as well ---------------------------------------------------


def replicas_in(namespace: str) -> dict[str, Any]:
    """Slot -> handle."""
    return {slot: one for slot, one in running(namespace).items() if slot.startswith(SLOT)}


def drain_s_of(plan: EncoderPlan) -> float:
    """How long a replica may take to end."""
    server = plan.settings.get("server", {})
    return float(server.get("drain_s", _DRAIN_S)) + _STOP_MARGIN_S


async def end_replica(namespace: str, slot: str, limit_s: float) -> None:
    """Drain a replica and remove it; one that does not answer is killed."""
    try:
        handle = await asyncio.to_thread(ray.get_actor, slot, namespace)
    except ValueError:
        return
    with suppress(TimeoutError, ray.exceptions.RayError):
        await asked(handle.stop.remote(), limit_s)
    ray.kill(handle, no_restart=True)
    await until_gone(namespace, slot)


async def until_gone(namespace: str, name: str) -> None:
    """Until the name is free again."""
    for _ in range(200):
        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        if {"name": name, "namespace": namespace} not in named:
            return
        await asyncio.sleep(0.05)


def with_host(settings: Any, host: str) -> dict[str, Any]:
    """The same settings, with an address to listen on."""
    return {**settings, "server": {**settings.get("server", {}), "host": host}}
