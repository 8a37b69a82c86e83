"""`nestvec train`, end to end: from pairs and a base to a folder that serves."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.adapters.models.known import DEFAULT_FOLDER
from tests.support.cli import Ran, run_cli
from tests.support.sentences import sentences

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("datasets", reason="needs the extra train")

from nestvec.training.bases import read_tokenizer, static_base

DIM = 32
QUICK = ("--dims", "8,16", "--batch", "16", "--rate", "0.05", "--epochs", "2")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A sentence's words, asked for by some of them."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": text.removeprefix("A program ").rstrip("."), "document": text}
        for text in sentences(120)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A static model of 32 dimensions, drawn at random."""
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    shape = (tokenizer.get_vocab_size(), DIM)
    table = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    static_base(table, tokenizer).save(str(tmp_path / "base"))
    return tmp_path / "base"


def trained(pairs: Path, base: Path, *options: object, out: str = "made") -> Ran:
    return run_cli("train", pairs, "--out", pairs.parent / out, "--base", base, *QUICK, *options)


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return card


def test_a_model_is_trained_measured_and_serves(pairs: Path, base: Path) -> None:
    ran = trained(pairs, base, "--query-prompt", "ask: ", "--json")
    assert ran.code == 0, ran.err
    tiers = ran.json["measured"]["tiers"]
    assert list(tiers) == ["8", "16", "32"]
    assert "12 held-out pairs" in ran.json["measured"]["what"]
    for one in tiers.values():
        assert 0.0 <= one["recall_at_1"] <= one["mrr"] <= 1.0
    assert tiers["8"]["energy"] < tiers["16"]["energy"] < tiers["32"]["energy"]
    card = card_of(pairs.parent / "made")
    assert card["trained_dims"] == [8, 16, 32]
    for dim, figures in tiers.items():
        assert card["measured"]["tiers"][dim] == pytest.approx(figures, abs=1e-4)
    assert card["provenance"]["pairs"] == 108
    with closing(load_model(str(pairs.parent / "made"))) as model:
        assert model.space.trained_dims == (8, 16, 32)
        assert model.space.prompts.query == "ask: "
        assert model.embed(["reads files"]).shape == (1, DIM)


def test_training_teaches_something(pairs: Path, base: Path) -> None:
    options = ("--contrastive", "1", "--seed", "1", "--json")
    hardly = trained(pairs, base, *options, "--rate", "1e-9", out="hardly").json["measured"]
    much = trained(pairs, base, *options, "--epochs", "6").json["measured"]
    assert much["tiers"]["8"]["mrr"] > hardly["tiers"]["8"]["mrr"]


def test_the_same_seed_gives_the_same_model(pairs: Path, base: Path) -> None:
    first, again = (trained(pairs, base, "--seed", "5", out=name) for name in ("first", "again"))
    assert (first.code, again.code) == (0, 0)
    weights = [
        (pairs.parent / name / "model.safetensors").read_bytes() for name in ("first", "again")
    ]
    assert weights[0] == weights[1]
    assert "is a model: nestvec serve --model" in first.out


def test_texts_alone_are_enough(base: Path, tmp_path: Path) -> None:
    """One text of twelve is held out, with all of its pieces."""
    said = [" ".join(sentences(240)[start : start + 9]) for start in range(0, 240, 20)]
    texts = tmp_path / "texts.tsv"
    texts.write_text("id\tsaid\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(said)))
    ran = run_cli(
        "train", "--texts", texts, "--column", "said", "--pieces", 10, "--base", base,
        "--out", tmp_path / "made", "--dims", "8,16", "--batch", "4", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "1 held-out pairs" in ran.json["measured"]["what"]
    told = card_of(tmp_path / "made")["provenance"]
    counts = [min(len(text.split()) // 20, 10) for text in said]
    assert told["pairs"] in {sum(counts) - held_out for held_out in counts}
    assert told["no_duplicates"] is True


def test_what_a_base_says_of_itself_holds_unless_other_is_asked(
    pairs: Path, base: Path, tmp_path: Path
) -> None:
    """Its tiers and its prompts; `default` is a base by that name."""
    assert trained(pairs, base, "--query-prompt", "ask: ", "--document-prompt", "is: ").code == 0
    common = ("--base", pairs.parent / "made", "--batch", "16")
    assert run_cli("train", pairs, "--out", tmp_path / "again", *common).code == 0
    again = card_of(tmp_path / "again")
    assert again["trained_dims"] == [8, 16, 32]
    assert again["prompts"] == {"query": "ask: ", "document": "is: "}
    options = ("--dims", "16", "--query-prompt", "")
    assert run_cli("train", pairs, "--out", tmp_path / "other", *common, *options).code == 0
    other = card_of(tmp_path / "other")
    assert other["trained_dims"] == [16, 32]
    assert other["prompts"] == {"query": "", "document": "is: "}
    named = ("--base", "default", "--batch", "32", "--out", tmp_path / "named")
    assert run_cli("train", pairs, *named).code == 0
    assert card_of(tmp_path / "named")["trained_dims"] == [64, 128, 256, 512, 768]


def test_a_teacher_and_a_schedule_are_written_down_and_its_vectors_kept(
    pairs: Path, base: Path
) -> None:
    work = pairs.parent / "work"
    ran = trained(
        pairs, base, "--teacher", "hash:64", "--distillation", "0.5", "--work", work,
        "--schedule", "0:32 0.3:8,16,32",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    told = card_of(pairs.parent / "made")["provenance"]
    assert (told["teacher"], told["distillation"]) == ("hash:64", 0.5)
    assert [stage["dims"] for stage in told["schedule"]] == [[32], [8, 16, 32]]
    assert list((work / "teacher").iterdir())


def test_a_run_goes_on_from_its_checkpoint_and_only_from_its_own(pairs: Path, base: Path) -> None:
    work = pairs.parent / "work"
    options = ("--work", work, "--checkpoint-steps", "4")
    whole = trained(pairs, base, *options)
    assert whole.code == 0, whole.err
    checkpoints = sorted((work / "run").glob("checkpoint-*"))
    assert checkpoints
    # Its last checkpoint is the end of it: nothing is left to train, and the model is the same.
    again = trained(pairs, base, *options, out="again")
    assert again.code == 0, again.err
    folders = [pairs.parent / name / "model.safetensors" for name in ("made", "again")]
    assert folders[0].read_bytes() == folders[1].read_bytes()
    other = trained(pairs, base, *options, "--seed", "9", out="other")
    assert other.code == 1
    assert "holds checkpoints of another training" in other.err


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(pairs: Path, base: Path) -> None:
    broken = pairs.parent / "broken.jsonl"
    broken.write_text('{"query": "a"}\n', encoding="utf-8")
    bare = pairs.parent / "bare"
    bare.mkdir()
    for source, start, options, code, named in (
        (broken, base, (), 1, "broken.jsonl:1: expected"),
        (pairs.parent / "none.jsonl", base, (), 1, "cannot be read"),
        (pairs, bare, (), 1, "has no tokenizer"),
        (pairs, base, ("--dims", "64"), 1, "expected 1 to 32"),
        (pairs, base, ("--weights", "1,2"), 1, "expected one above 0 each"),
        (pairs, base, ("--weights", "heavy"), 2, "numbers with commas"),
        (pairs, base, ("--schedule", "8,16"), 2, "a share of the steps"),
        (pairs, base, ("--schedule", "0:8"), 1, "the schedule never trains"),
        (pairs, base, ("--contrastive", "0"), 1, "expected one of them above 0"),
    ):
        ran = trained(source, start, *options)
        assert ran.code == code, ran.err
        assert named in ran.err
        assert not (pairs.parent / "made").exists()


def test_texts_of_which_nothing_can_be_made_are_refused(pairs: Path, base: Path) -> None:
    short = pairs.parent / "short.txt"
    short.write_text("a few words\n", encoding="utf-8")
    made = ("--out", pairs.parent / "made", "--base", base)
    for options, code, named in (
        ((), 2, "give pairs, or --texts"),
        (("--texts", short), 1, "none of 1 texts has 20 words"),
        (("--texts", pairs.parent / "none.txt"), 1, "none.txt"),
        (("--texts", pairs, "--column", "other"), 1, "pairs.jsonl"),
    ):
        ran = run_cli("train", *made, *options)
        assert ran.code == code, ran.err
        assert named in ran.err
        assert not (pairs.parent / "made").exists()
