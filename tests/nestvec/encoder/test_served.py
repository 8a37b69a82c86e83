"""Several encoders in one process: each opened once, when needed, and asked for its own space."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    BudgetSpent,
    ConfigError,
    InvalidRequest,
    SpaceMismatch,
    WorkerUnavailable,
)
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import ServedModel
from nestvec.core.space import Role
from nestvec.encoder.app import EncoderApp
from nestvec.encoder.lazy import LazyModel
from nestvec.encoder.served import _MOST_NAMED, ServedEncoders
from nestvec.encoders import encoder_of
from tests.support.faults import PATIENT_S, eventually

DEFAULT = HashModel(16)


def spec(dim: int) -> ModelSpec:
    return ModelSpec(f"hash:{dim}")


class Place:
    """Where models are opened from. opened: every try. A model waits for `gate`; `broken` ones
    fail, and `moved` ones are another model than their name says.
    """

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: dict[str, Exception] = {}
        self.moved: dict[str, int] = {}

    async def open(self, model: ModelSpec) -> ServedModel:
        name = model.model
        self.opened.append(name)
        await self.gate.wait()
        if name in self.broken:
            raise self.broken[name]
        dim = self.moved.get(name) or int(name.rpartition(":")[2])
        return ServedModel(EncoderApp(HashModel(dim)), model)

    def listed(self, dim: int) -> LazyModel:
        model = spec(dim)
        return LazyModel(model.model, model, lambda: self.open(model), 0.0)

    def encoders(self, *listed: int, named: bool = True, pause_s: float = 0.0) -> ServedEncoders:
        default = ServedModel(EncoderApp(DEFAULT), spec(16))
        models = [self.listed(dim) for dim in listed]
        return ServedEncoders(default, models, self.open if named else None, pause_s)


@pytest.fixture
async def place() -> Place:
    return Place()


async def begun(place: Place, *names: str) -> None:
    async def are_open() -> bool:
        return place.opened == list(names)

    await eventually(are_open)


# --- finding --------------------------------------------------------------------------------------


async def test_each_space_is_encoded_by_its_own_model(place: Place) -> None:
    encoders = place.encoders(32)
    for dim, model in [(16, None), (32, None), (48, spec(48)), (32, spec(32)), (48, None)]:
        wanted = HashModel(dim)
        encoder = await encoders.of(wanted.space, model)
        assert encoder.space == wanted.space
        vectors = await encoder.encode(["red door"], Role.QUERY, PATIENT_S)
        expected = wanted.embed(["red door"])
        np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected), atol=1e-6)
    assert place.opened == ["hash:32", "hash:48"]
    assert [one.encoder.space.dim for one in encoders.open_now] == [16, 32, 48]
    assert (await encoders.by_fingerprint(HashModel(48).space.fingerprint)).space.dim == 48


async def test_only_what_is_meant_is_opened(place: Place) -> None:
    encoders = place.encoders(32, 48, 80)
    await encoders.of(HashModel(80).space, spec(80))
    assert place.opened == ["hash:80"]
    # Without a record's word, by name first; a space that nobody has opens all of them, once.
    for _ in range(2):
        with pytest.raises(SpaceMismatch, match=r"hash-16 \(it also serves hash-80, .*hash-48\)"):
            await encoders.of(HashModel(99).space)
    assert sorted(place.opened) == ["hash:32", "hash:48", "hash:80"]


async def test_without_leave_only_the_settings_models_serve(place: Place) -> None:
    encoders = place.encoders(32, named=False)
    with pytest.raises(SpaceMismatch, match="hash-16"):
        await encoders.of(HashModel(48).space, spec(48))
    with pytest.raises(InvalidRequest, match=r"not among .*\(hash-16, hash:32\).*load_named"):
        await encoders.named(spec(48))
    assert (await encoders.named(ModelSpec("hash-32"))).spec == spec(32)
    assert place.opened == ["hash:32"]


async def test_a_refusal_names_the_collection_and_the_ways_out(place: Place) -> None:
    docs = Collection("docs", HashModel(48).space, 48, (12,))
    with pytest.raises(
        SpaceMismatch,
        match=r"model hash-16 \(collection 'docs' was made with hash-48: serve that one, or bring "
        rf"vectors\) is in space {DEFAULT.space.fingerprint}, expected {docs.space.fingerprint}",
    ):
        await encoder_of(place.encoders(named=False), docs, "bring vectors")
    found = await encoder_of(place.encoders(), replace(docs, model=spec(48)), "bring vectors")
    assert found.space == docs.space


async def test_a_model_is_found_by_the_names_that_people_use(place: Place) -> None:
    encoders = place.encoders(32)
    for name in ("hash:16", "hash-16"):
        assert (await encoders.named(ModelSpec(name))).encoder is encoders.default
    assert (await encoders.named()).spec == spec(16)
    assert place.opened == []
    assert (await encoders.named(spec(32))).encoder.space.dim == 32
    # Its own space's name, now that it is known; and as another card makes another space of it.
    assert (await encoders.named(ModelSpec("hash-32"))).encoder.space.dim == 32
    assert place.opened == ["hash:32"]


# --- opening --------------------------------------------------------------------------------------


async def test_a_model_is_opened_once_however_many_ask(place: Place) -> None:
    encoders = place.encoders(32)
    place.gate.clear()
    space = HashModel(32).space
    asking = [asyncio.create_task(encoders.of(space, spec(32), PATIENT_S)) for _ in range(20)]
    await begun(place, "hash:32")
    # Who gives up, or is in a hurry, ends it for nobody else; and the default serves meanwhile.
    asking[0].cancel()
    with pytest.raises(BudgetSpent, match="encode"):
        await encoders.of(space, spec(32), 0.0)
    assert (await encoders.default.encode(["red"], Role.QUERY, PATIENT_S)).shape == (1, 16)
    place.gate.set()
    found = await asyncio.gather(*asking[1:])
    assert len({id(one) for one in found}) == 1
    assert place.opened == ["hash:32"]


async def test_a_failure_is_one_for_those_who_need_it_and_tried_again(place: Place) -> None:
    encoders = place.encoders()
    place.broken["hash:32"] = ConfigError("the folder is not mounted")
    space = HashModel(32).space
    for _ in range(2):
        with pytest.raises(WorkerUnavailable, match=r"hash:32 cannot be .* not mounted\)"):
            await encoders.of(space, spec(32))
    assert place.opened == ["hash:32"] * 2
    assert await encoders.of(DEFAULT.space) is encoders.default
    # What a library raises is told by its kind: its text may be anything.
    place.broken["hash:32"] = RuntimeError("secret")
    with pytest.raises(WorkerUnavailable, match=r"\(RuntimeError\)") as caught:
        await encoders.of(space, spec(32))
    assert "secret" not in str(caught.value)
    place.broken.clear()
    assert (await encoders.of(space, spec(32))).space == space


async def test_a_failure_stands_for_a_pause(place: Place) -> None:
    encoders = place.encoders(pause_s=1e6)
    place.broken["hash:32"] = ConfigError("no such folder")
    for _ in range(3):
        with pytest.raises(WorkerUnavailable, match="no such folder"):
            await encoders.of(HashModel(32).space, spec(32))
    assert place.opened == ["hash:32"]
    with pytest.raises(InvalidRequest, match="model: no such folder"):
        await encoders.named(spec(32))


async def test_a_model_that_changed_under_its_name_is_refused_with_both_spaces(
    place: Place,
) -> None:
    encoders = place.encoders()
    place.moved["hash:32"] = 33
    wanted, found = HashModel(32).space, HashModel(33).space
    with pytest.raises(SpaceMismatch, match="changed under the same name: hash:32") as caught:
        await encoders.of(wanted, spec(32))
    assert (caught.value.expected, caught.value.got) == (wanted.fingerprint, found.fingerprint)
    # The default too may have been another model once.
    with pytest.raises(SpaceMismatch, match="changed under the same name: hash:16"):
        await encoders.of(wanted, spec(16))


async def test_another_model_of_the_settings_steps_in_for_one_that_cannot_be_opened(
    place: Place,
) -> None:
    encoders = place.encoders(48, 32)
    place.broken["elsewhere"] = ConfigError("no such folder")
    found = await encoders.of(HashModel(32).space, ModelSpec("elsewhere"))
    assert found.space.dim == 32


async def test_what_records_name_is_bounded(place: Place) -> None:
    encoders = place.encoders()
    place.broken["gone"] = ConfigError("no such folder")
    with pytest.raises(WorkerUnavailable):
        await encoders.of(HashModel(99).space, ModelSpec("gone"))
    for dim in range(17, 17 + _MOST_NAMED):
        await encoders.of(HashModel(dim).space, spec(dim))
    with pytest.raises(WorkerUnavailable, match=f"{_MOST_NAMED} models that collections name"):
        await encoders.of(HashModel(99).space, spec(99))
    assert (await encoders.of(HashModel(17).space)).space.dim == 17


async def test_what_is_expected_is_opened_before_it_is_asked_for(place: Place) -> None:
    encoders = place.encoders()
    place.broken["gone"] = ConfigError("no such folder")
    docs = Collection("docs", HashModel(32).space, 32, (16,), model=spec(32))
    lost = Collection("lost", HashModel(48).space, 48, (12,), model=ModelSpec("gone"))
    own = Collection("own", DEFAULT.space, 16, (16,))
    encoders.expect([own, lost, docs])
    await begun(place, "gone", "hash:32")
    assert (await encoders.by_fingerprint(docs.space.fingerprint)).space.dim == 32
    # Told again and again, as a catalogue does: what failed is for who needs it to try.
    encoders.expect([own, lost, docs])
    await asyncio.sleep(0)
    assert len(place.opened) == 2
    await encoders.close()


async def test_closing_waits_for_what_is_being_opened(place: Place) -> None:
    encoders = place.encoders(32)
    place.gate.clear()
    asking = asyncio.create_task(encoders.of(HashModel(32).space, spec(32)))
    await begun(place, "hash:32")
    closing = asyncio.create_task(encoders.close())
    await asyncio.sleep(0)
    assert not closing.done()
    place.gate.set()
    await closing
    assert (await asking).space.dim == 32
