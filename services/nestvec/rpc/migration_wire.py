"""Messages of migrations <-> core types."""

from __future__ import annotations

from nestvec.core.errors import InvalidRequest
from nestvec.core.migration import (
    Gate,
    GateKind,
    GenerationFacts,
    MigrationStatus,
    MigrationWish,
    Phase,
    ShadowTerms,
)
from nestvec.core.model_spec import ModelSpec, SpecCard
from nestvec.rpc.wire import space_from_wire, space_to_wire
from nestvec.v1 import migration_pb2

_PHASES = {
    Phase.CHECKING: migration_pb2.MIGRATION_PHASE_CHECKING,
    Phase.FILLING: migration_pb2.MIGRATION_PHASE_FILLING,
    Phase.GATING: migration_pb2.MIGRATION_PHASE_GATING,
    Phase.READY: migration_pb2.MIGRATION_PHASE_READY,
    Phase.SWITCHING: migration_pb2.MIGRATION_PHASE_SWITCHING,
    Phase.SWITCHED: migration_pb2.MIGRATION_PHASE_SWITCHED,
    Phase.ROLLED_BACK: migration_pb2.MIGRATION_PHASE_ROLLED_BACK,
    Phase.FINISHING: migration_pb2.MIGRATION_PHASE_FINISHING,
    Phase.FINISHED: migration_pb2.MIGRATION_PHASE_FINISHED,
    Phase.ABORTED: migration_pb2.MIGRATION_PHASE_ABORTED,
    Phase.REFUSED: migration_pb2.MIGRATION_PHASE_REFUSED,
}
_PHASES_READ = {number: phase for phase, number in _PHASES.items()}
_GATES = {
    GateKind.COMPLETE: migration_pb2.GATE_KIND_COMPLETE,
    GateKind.GOLDEN: migration_pb2.GATE_KIND_GOLDEN,
    GateKind.SHADOW: migration_pb2.GATE_KIND_SHADOW,
}
_GATES_READ = {number: kind for kind, number in _GATES.items()}


def wish_to_wire(collection: str, wish: MigrationWish) -> migration_pb2.BeginMigrationRequest:
    """All of it."""
    shadow = wish.shadow
    return migration_pb2.BeginMigrationRequest(
        collection=collection,
        model=None if wish.model is None else _model_to_wire(wish.model),
        tiers=wish.tiers,
        store_dim=wish.store_dim,
        golden=wish.golden,
        shadow=migration_pb2.ShadowTerms(
            queries=shadow.queries,
            share=shadow.share,
            overlap=shadow.overlap,
            latency_ratio=shadow.latency_ratio,
            score_shift=shadow.score_shift,
        ),
        rate=wish.rate,
        hold=wish.hold,
        override=wish.override,
    )


def wish_from_wire(message: migration_pb2.BeginMigrationRequest) -> MigrationWish:
    """Raises InvalidRequest."""
    shadow = ShadowTerms()
    if message.HasField("shadow"):
        told = message.shadow
        shadow = ShadowTerms(
            told.queries, told.share, told.overlap, told.latency_ratio, told.score_shift
        )
    return MigrationWish(
        model=_model_from_wire(message.model) if message.HasField("model") else None,
        tiers=tuple(message.tiers),
        store_dim=message.store_dim,
        golden=message.golden,
        shadow=shadow,
        rate=message.rate,
        hold=message.hold,
        override=message.override.strip(),
    )


def _model_to_wire(model: ModelSpec) -> migration_pb2.MigrationModel:
    card = model.card
    return migration_pb2.MigrationModel(
        model=model.model,
        url=model.url,
        revision=model.revision,
        card=None
        if card is None
        else migration_pb2.MigrationCard(
            name=card.name,
            trained_dims=card.trained_dims,
            layer_norm=card.layer_norm,
            query_prompt=card.query_prompt,
            document_prompt=card.document_prompt,
            query_task=card.query_task,
            document_task=card.document_task,
        ),
    )


def _model_from_wire(message: migration_pb2.MigrationModel) -> ModelSpec:
    card = None
    if message.HasField("card"):
        told = message.card
        card = SpecCard(
            told.name,
            tuple(told.trained_dims),
            told.layer_norm,
            told.query_prompt,
            told.document_prompt,
            told.query_task,
            told.document_task,
        )
    return ModelSpec(message.model, message.url, message.revision, card)


def gate_to_wire(gate: Gate) -> migration_pb2.MigrationGate:
    """All of it."""
    return migration_pb2.MigrationGate(kind=_GATES[gate.kind], passed=gate.passed, said=gate.said)


def gate_from_wire(message: migration_pb2.MigrationGate) -> Gate:
    """Raises InvalidRequest on a kind that is not known here."""
    kind = _GATES_READ.get(message.kind)
    if kind is None:
        known = ", ".join(GateKind)
        raise InvalidRequest("gate.kind", f"no gate has number {message.kind} here; known: {known}")
    return Gate(kind, message.passed, message.said)


def status_to_wire(status: MigrationStatus) -> migration_pb2.MigrationDescription:
    """All of it."""
    return migration_pb2.MigrationDescription(
        collection=status.collection,
        phase=_PHASES[status.phase],
        paused=status.paused,
        source=None if status.source is None else _facts_to_wire(status.source),
        target=None if status.target is None else _facts_to_wire(status.target),
        serving=status.serving,
        gates=map(gate_to_wire, status.gates),
        said=status.said,
        lag=status.lag,
        lag_back=status.lag_back,
        refused=status.refused,
        at_ms=status.at_ms,
    )


def status_from_wire(message: migration_pb2.MigrationDescription) -> MigrationStatus:
    """Raises InvalidRequest where a newer server says what is not known here."""
    phase = _PHASES_READ.get(message.phase)
    if phase is None:
        raise InvalidRequest(
            "phase", f"no phase has number {message.phase} here; use a newer client"
        )
    return MigrationStatus(
        collection=message.collection,
        phase=phase,
        serving=message.serving,
        paused=message.paused,
        source=_facts_from_wire(message.source) if message.HasField("source") else None,
        target=_facts_from_wire(message.target) if message.HasField("target") else None,
        gates=tuple(map(gate_from_wire, message.gates)),
        said=message.said,
        lag=message.lag,
        lag_back=message.lag_back,
        refused=message.refused,
        at_ms=message.at_ms,
    )


def _facts_to_wire(facts: GenerationFacts) -> migration_pb2.MigrationGeneration:
    return migration_pb2.MigrationGeneration(
        generation=facts.generation,
        space=space_to_wire(facts.space),
        store_dim=facts.store_dim,
        tiers=facts.tiers,
        documents=facts.documents,
    )


def _facts_from_wire(message: migration_pb2.MigrationGeneration) -> GenerationFacts:
    return GenerationFacts(
        message.generation,
        space_from_wire(message.space),
        message.store_dim,
        tuple(message.tiers),
        message.documents,
    )
