"""Training, with the real library, on a few dozen pairs."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.core.errors import ConfigError
from nestvec.core.space import Prompts, Space

pytest.importorskip("accelerate", reason="needs the extra train")

from nestvec.training.bases import open_base, read_tokenizer, set_table, static_base, table_of
from nestvec.training.losses import NoNumber
from nestvec.training.pairs import Pair, read_pairs, split
from nestvec.training.run import train
from nestvec.training.saving import quantize, save_model
from nestvec.training.settings import Stage, TrainSettings

_WORDS = """wing boundary layer heat shock flow pressure plate cone wave jet mach lift drag gas tube
panel shell stress load beam crack steel glass water oil fuel engine rotor blade"""
WORDS = re.findall("[a-z]+", _WORDS)
PAIRS = [
    Pair(f"{WORDS[i % 30]} {WORDS[(i * 7 + 1) % 30]}", f"about the {WORDS[i % 30]}, number {i}")
    for i in range(96)
]
DIM = 32


def _base(seed: int = 0, lead: float = 0.0) -> Any:
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    generator = np.random.default_rng(seed)
    table = generator.standard_normal((tokenizer.get_vocab_size(), DIM)).astype(np.float32)
    return static_base(table, tokenizer, lead)


def _settings(**named: Any) -> TrainSettings:
    usual: dict[str, Any] = {"dims": (8, 16), "batch": 16, "rate": 1e-1, "epochs": 2.0}
    return TrainSettings(**(usual | named))


def _gap(model: Any, dim: int) -> float:
    """How much nearer a query is to its own document than to the others."""
    sides = [model.encode([pair[side] for pair in PAIRS])[:, :dim] for side in (0, 1)]
    queries, documents = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    scores = queries @ documents.T
    return float(np.diagonal(scores).mean() - scores.mean())


def _likeness(model: Any, taught: np.ndarray, dim: int) -> float:
    """How the documents' similarities go with the teacher's: a correlation."""
    sides = [np.asarray(model.encode([pair.document for pair in PAIRS]))[:, :dim], taught]
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    upper = np.triu_indices(len(PAIRS), 1)
    return float(np.corrcoef(*[(unit @ unit.T)[upper] for unit in units])[0, 1])


def test_every_tier_learns_and_the_seed_decides(tmp_path: Path) -> None:
    first, again = _base(), _base()
    before = {dim: _gap(first, dim) for dim in (8, 16, 32)}
    steps: list[tuple[int, int]] = []
    train(first, PAIRS, _settings(), tmp_path / "a", report=lambda d, t, _: steps.append((d, t)))
    train(again, PAIRS, _settings(), tmp_path / "b")
    assert all(_gap(first, dim) > before[dim] + 0.1 for dim in before)
    assert steps[-1] == (12, 12)
    np.testing.assert_array_equal(table_of(first), table_of(again))


def test_a_stage_trains_its_dims_only(tmp_path: Path) -> None:
    model = _base()
    before = table_of(model)
    stages = (Stage(0.0, (8,), ()), Stage(0.9, (8, 32), ()))
    train(model, PAIRS, _settings(dims=(8,), schedule=stages, epochs=1.0), tmp_path)
    moved = np.abs(table_of(model) - before).max(axis=0)
    assert moved[:8].min() > moved[8:].max()


def test_a_teacher_is_followed(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    topics = generator.standard_normal((30, 12))
    rows = topics[[i % 30 for i in range(len(PAIRS))]]
    taught = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    model = _base()
    before = _likeness(model, taught, 8)
    settings = _settings(contrastive=0.0, distillation=1.0, epochs=10.0)
    train(model, PAIRS, settings, tmp_path, (taught, taught))
    assert _likeness(model, taught, 8) > before + 0.1
    with pytest.raises(ConfigError, match="every query and document"):
        train(model, PAIRS, settings, tmp_path / "other", (taught[:5], taught))


def test_negatives_are_mined_and_prompts_are_put_before(tmp_path: Path) -> None:
    model = _base()
    settings = _settings(negatives=1, prompts=Prompts("ask: ", "tell: "), epochs=1.0)
    asked: list[str] = []
    module = model[0]
    original = module.tokenizer

    class Listening:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def encode_batch(self, texts: list[str], **named: Any) -> object:
            asked.extend(texts)
            return original.encode_batch(texts, **named)

    module.tokenizer = Listening()
    train(model, PAIRS, settings, tmp_path)
    assert {text.partition(":")[0] for text in asked} == {"ask", "tell"}
    assert len([text for text in asked if text.startswith("tell: ")]) > len(PAIRS) * 2


@pytest.mark.parametrize("lead", [0.0, 5.0])
def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path: Path, lead: float) -> None:
    whole, broken, resumed = (_base(lead=lead) for _ in range(3))
    settings = _settings(checkpoint_steps=4)
    train(whole, PAIRS, settings, tmp_path / "whole")

    def stop(done: int, total: int, loss: float | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, PAIRS, settings, tmp_path / "broken", report=stop)
    train(resumed, PAIRS, settings, tmp_path / "broken")
    np.testing.assert_allclose(table_of(resumed), table_of(whole), atol=1e-6)
    with pytest.raises(ConfigError, match="another training"):
        train(_base(), PAIRS, _settings(rate=5e-3, checkpoint_steps=4), tmp_path / "broken")
    with pytest.raises(ConfigError, match="another training"):
        train(_base(), PAIRS, settings, tmp_path / "broken", base="another")


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    model = _base()
    model[0].embedding.weight.data[:] = np.nan
    with pytest.raises(NoNumber, match="the loss is nan"):
        train(model, PAIRS, _settings(), tmp_path)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        quantize(table_of(model))


def test_a_base_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    model = _base()
    model.save(str(tmp_path / "base"), create_model_card=False)
    for path in (tmp_path / "base").rglob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        open_base(str(tmp_path / "base"))


def test_what_is_saved_is_served(tmp_path: Path) -> None:
    model = _base()
    space = Space("mine", DIM, "", (8, 16, DIM))
    save_model(model, tmp_path, space, {"tiers": {"8": 0.123456}}, {"base": "drawn"})
    with closing(load_model(str(tmp_path))) as served:
        assert served.space.trained_dims == (8, 16, DIM)
        texts = [pair.document for pair in PAIRS]
        exact, vectors = np.asarray(model.encode(texts)), served.embed(texts)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(vectors, axis=1)
    assert ((exact * vectors).sum(axis=1) / norms).min() > 0.999
    reopened = open_base(str(tmp_path))
    assert reopened.get_embedding_dimension() == DIM


def test_a_static_models_table_is_read_and_replaced() -> None:
    model, other = _base(), table_of(_base(seed=1))
    before = table_of(model)
    set_table(model, other)
    np.testing.assert_array_equal(table_of(model), other)
    assert not np.array_equal(before, other)
    # What was read is a copy: no change of it is one of the model.
    other[:] = 0.0
    assert np.abs(model.encode(["wing"])).max() > 0.0


def test_pairs_are_read_once_and_bad_lines_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"query": "a", "document": "b"})] * 2
    file.write_text("\n".join(lines))
    assert read_pairs(file) == [Pair("a", "b")]
    for bad in ('{"query": "a"}', "[]", "no", '{"query": " ", "document": "b"}'):
        file.write_text(f"{lines[0]}\n{bad}\n")
        with pytest.raises(ConfigError, match=r"pairs\.jsonl:2"):
            read_pairs(file)
    file.write_text("")
    with pytest.raises(ConfigError, match="holds no pair"):
        read_pairs(file)


def test_nothing_held_out_is_trained_on() -> None:
    rows, held = split(PAIRS, 9, 0)
    texts = {text for row in held for text in PAIRS[row]}
    assert len(held) == 9
    assert not any(texts.intersection(PAIRS[row]) for row in rows)


def test_the_pairs_of_a_document_are_held_out_together() -> None:
    many = [Pair(f"query {i}", f"document {i // 4}") for i in range(200)]
    rows, held = split(many, 500, 0)
    documents = {many[row].document for row in held}
    assert len(documents) == len(held) == 5
    assert len(rows) == 200 - 4 * 5
    assert not documents.intersection(many[row].document for row in rows)


def test_a_text_is_no_other_ones_negative_twice(tmp_path: Path) -> None:
    """Of pairs that all have one document none can be a negative: no batch is ever full."""
    same = [Pair(f"{word} ({i})", "one document") for i, word in enumerate(WORDS)]

    def steps(no_duplicates: bool) -> int:
        told: list[int] = []
        settings = _settings(no_duplicates=no_duplicates, batch=4, epochs=1.0)
        work = tmp_path / str(no_duplicates)
        train(_base(), [*same, *PAIRS[:4]], settings, work, report=lambda d, *_: told.append(d))
        return max(told)

    assert steps(no_duplicates=False) > steps(no_duplicates=True) > 0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"weights": (1.0,)}, "expected one above 0 each"),
        ({"dims": (8, 64)}, "expected 1 to 32"),
        ({"schedule": (Stage(0.0, (8,), ()),)}, "never trains 16, 32"),
        ({"schedule": (Stage(0.5, (8, 16, 32), ()),)}, "expected 0 first"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _settings(**named).stages(DIM)


def test_losses_without_weight_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of them above 0"):
        TrainSettings(contrastive=0.0)
