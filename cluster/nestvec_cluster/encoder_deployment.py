"""Encoder replicas in Ray: how many there are follows their queues, and new ones are ready before
old ones drain.

Each replica is a detached actor that hosts `nestvec.encoder.main` with a gRPC server of its own;
Ray starts one again that dies, elsewhere if its node is gone. One more actor, the scaler, looks at
the registry and at Ray, and takes the next step: it starts, drains, ends, and kills what does not
answer. It keeps nothing that cannot be seen: a scaler that is started again goes on from there. A
change of the plan is a new scaler. They stand in a namespace of their own in Ray.

Why not a Serve deployment: callers speak to the replicas themselves, so of Serve only its
controller would be used. benchmarks/encoder_hosting.py measures both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from nestvec.config import Settings
from nestvec.core.errors import ConfigError
from nestvec_cluster.encoder_scaler import (
    LOOK_S,
    Scaler,
    drain_s_of,
    end_replica,
    replicas_in,
    until_gone,
    with_host,
)
from nestvec_cluster.encoder_scaling import EncoderPlan
from nestvec_cluster.placing import asked
from nestvec_cluster.ray_room import require_room

_SCALER = "scaler"
_ANSWER_S = 10.0
Tell = Callable[[str], None]


def namespace_of(cluster_namespace: str) -> str:
    """Where a cluster's encoders stand in Ray."""
    return f"{cluster_namespace}-encoder"


# --- what a deployment calls --------------------------------------------------------------------


async def deploy_encoder(
    cluster_namespace: str, plan: EncoderPlan, ready_s: float = 120.0, tell: Tell = lambda _: None
) -> list[str]:
    """Make what runs equal to `plan`; called again it changes nothing. Returns the slots that are
    ready, once there are as many as wanted and all are made from this plan. Raises ConfigError when
    the nodes have no room for the minimum, or after `ready_s`.
    """
    Settings.model_validate(with_host(plan.settings, "127.0.0.1"))
    require_room([("encoder", plan.resources())] * plan.minimum)
    namespace = namespace_of(cluster_namespace)
    before = await _told(namespace)
    if before is not None:
        # What was restarted by hand stays: a file knows nothing of that.
        plan = replace(plan, roll=max(plan.roll, before["plan"]["roll"]))
    if before is None or EncoderPlan(**before["plan"]) != plan:
        tell("starting the encoder's scaler")
        await _replace_scaler(namespace, plan)
    return await _settled(namespace, ready_s)


async def scale_encoder(
    cluster_namespace: str, minimum: int, maximum: int, ready_s: float = 120.0
) -> list[str]:
    """Other bounds. No replica is restarted for it. Raises ConfigError where none is deployed."""
    plan = replace(await _plan(cluster_namespace), minimum=minimum, maximum=maximum)
    return await deploy_encoder(cluster_namespace, plan, ready_s)


async def restart_encoder(cluster_namespace: str, ready_s: float = 300.0) -> list[str]:
    """Replace every replica, one after the other: a new one is ready before an old one drains, so
    that no call is lost. Raises ConfigError where none is deployed.
    """
    plan = (await _plan(cluster_namespace)).rolled()
    return await deploy_encoder(cluster_namespace, plan, ready_s)


async def remove_encoder(cluster_namespace: str) -> list[str]:
    """Drain and end every replica. Returns their slots. Safe to repeat."""
    namespace = namespace_of(cluster_namespace)
    told = await _told(namespace)
    await _end_scaler(namespace)
    replicas = replicas_in(namespace)
    limit_s = _ANSWER_S if told is None else drain_s_of(EncoderPlan(**told["plan"]))
    await asyncio.gather(*(end_replica(namespace, slot, limit_s) for slot in replicas))
    return sorted(replicas)


async def encoder_status(cluster_namespace: str) -> dict[str, Any] | None:
    """plan, wanted, ready, fresh, all slots, and what keeps one from being ready; None where no
    encoder is deployed, or its scaler does not answer now.
    """
    return await _told(namespace_of(cluster_namespace))


async def _plan(cluster_namespace: str) -> EncoderPlan:
    told = await encoder_status(cluster_namespace)
    if told is None:
        raise ConfigError("no encoder is deployed in this cluster; `nestvec up` deploys it")
    return EncoderPlan(**told["plan"])


async def _settled(namespace: str, ready_s: float) -> list[str]:
    deadline = time.monotonic() + ready_s
    while True:
        told = await _told(namespace)
        if told is not None and told["settled"]:
            return list(told["ready"])
        if time.monotonic() > deadline:
            why = "its scaler does not answer" if told is None else _reason(told)
            raise ConfigError(f"the encoder is not ready after {ready_s:g} s: {why}")
        await asyncio.sleep(LOOK_S / 2)


def _reason(told: dict[str, Any]) -> str:
    errors = "; ".join(f"{slot}: {error}" for slot, error in told["errors"].items())
    return errors or (
        f"{len(told['ready'])} of {told['wanted']} replicas are ready; a node may have no room"
    )


async def _told(namespace: str) -> dict[str, Any] | None:
    try:
        scaler: Any = ray.get_actor(_SCALER, namespace)
    except ValueError:
        return None
    try:
        answer: dict[str, Any] = await asked(scaler.status.remote(), _ANSWER_S)
    except (TimeoutError, ray.exceptions.RayError):
        return None
    return answer


async def _replace_scaler(namespace: str, plan: EncoderPlan) -> None:
    await _end_scaler(namespace)
    actor: Any = ray.remote(Scaler)
    actor.options(
        name=_SCALER,
        namespace=namespace,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
    ).remote(plan.to_dict(), namespace)


async def _end_scaler(namespace: str) -> None:
    try:
        scaler = ray.get_actor(_SCALER, namespace)
    except ValueError:
        return
    ray.kill(scaler, no_restart=True)
    await until_gone(namespace, _SCALER)
