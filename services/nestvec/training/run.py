"""One training: sentence-transformers' own trainer, with our loss, schedule and checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from nestvec.core.errors import ConfigError
from nestvec.training.losses import PairLoss, ScheduledLoss
from nestvec.training.pairs import Pair, fingerprint
from nestvec.training.settings import TrainSettings
from nestvec.training.teacher import Halfs

# What a run in `work` was told: its checkpoints go on only under the same.
_SETTINGS_FILE = "settings.json"
# Candidates above this share of the positive's own similarity are likely answers themselves.
_NEGATIVE_MARGIN = 0.05
_NEGATIVE_RANKS = (5, 50)

Report = Callable[[int, int, float | None], None]


def train(
    model: SentenceTransformer,
    pairs: Sequence[Pair],
    settings: TrainSettings,
    work: Path,
    teacher: Sequence[Halfs] = (),
    report: Report | None = None,
    base: str = "",
) -> None:
    """Train `model` in place on `pairs`; resume where a checkpoint of the same run is in `work`.

    base: what the model is called; of another one nothing is resumed. teacher: vectors of the
    queries and of the documents, (len(pairs), any) float16 each, where settings.distillation is
    above 0. report: told the steps done, of how many, and the loss from time to time. Seeded: on
    one machine and one thread the same run gives the same weights. Raises NoNumber when the loss is
    NaN, and ConfigError when `work` holds another run.
    """
    if settings.distillation and [len(side) for side in teacher] != [len(pairs)] * 2:
        raise ConfigError("distillation needs the teacher's vectors of every query and document")
    stages = settings.stages(model.get_embedding_dimension() or 0)
    _claim(work, settings, pairs, base)
    dataset = _dataset(model, pairs, settings)
    loss = ScheduledLoss(model, PairLoss(model, settings, teacher), stages, settings.dims_per_step)
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, work),
        train_dataset=dataset,
        loss=loss,
        callbacks=[_Follow(loss, report)],
    )
    # Its lines on standard output would stand beside ours.
    trainer.remove_callback(PrinterCallback)
    # True: from the last one in `work`.
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)


def _claim(work: Path, settings: TrainSettings, pairs: Sequence[Pair], base: str) -> None:
    run = {"base": base, "settings": repr(settings), "pairs": fingerprint(pairs)}
    told = json.dumps(run, indent=2)
    file = work / _SETTINGS_FILE
    if file.is_file() and file.read_text(encoding="utf-8") != told:
        raise ConfigError(
            f"{work} holds checkpoints of another training; name another folder, or remove it"
        )
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(told, encoding="utf-8")


def _dataset(model: SentenceTransformer, pairs: Sequence[Pair], settings: TrainSettings) -> Any:
    columns: dict[str, list[Any]] = {
        "query": [pair.query for pair in pairs],
        "document": [pair.document for pair in pairs],
    }
    rows = list(range(len(pairs)))
    if settings.negatives:
        mined = _mine(model, columns, settings)
        row_of = {pair: row for row, pair in enumerate(pairs)}
        columns = {name: list(mined[name]) for name in mined.column_names}
        rows = [row_of[Pair(*pair)] for pair in zip(mined["query"], mined["document"], strict=True)]
    return Dataset.from_dict({**columns, "label": rows})


def _mine(
    model: SentenceTransformer, columns: dict[str, list[Any]], settings: TrainSettings
) -> Any:
    """With columns negative_1 and on; pairs for which too few are found are left out."""
    first, last = _NEGATIVE_RANKS
    mined = mine_hard_negatives(
        Dataset.from_dict(columns),
        model,
        anchor_column_name="query",
        positive_column_name="document",
        query_prompt=settings.prompts.query or None,
        corpus_prompt=settings.prompts.document or None,
        range_min=first,
        range_max=last,
        relative_margin=_NEGATIVE_MARGIN,
        num_negatives=settings.negatives,
        output_format="n-tuple",
        batch_size=settings.batch,
        verbose=False,
    )
    if not len(mined):
        raise ConfigError(
            f"no hard negatives among {len(columns['query'])} pairs: each needs {first} other "
            f"documents below its own; give more pairs, or negatives 0"
        )
    return mined


def _arguments(settings: TrainSettings, work: Path) -> SentenceTransformerTrainingArguments:
    prompts = {"query": settings.prompts.query}
    for column in ("document", *(f"negative_{n + 1}" for n in range(settings.negatives))):
        prompts[column] = settings.prompts.document
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.rate,
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        # Gradients of a table are sparse: clipping by their common length would stop its learning.
        max_grad_norm=0.0,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_drop_last=True,
        batch_sampler=(
            BatchSamplers.NO_DUPLICATES if settings.no_duplicates else BatchSamplers.BATCH_SAMPLER
        ),
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
        save_strategy="steps" if settings.checkpoint_steps else "no",
        save_steps=settings.checkpoint_steps or 500,
        save_total_limit=2,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


class _Trainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: the library's would encode examples without their prompts. Ours are measured."""
        del default_args_dict


class _Follow(TrainerCallback):
    """Moves the schedule on, and says how far the training is."""

    def __init__(self, loss: ScheduledLoss, report: Report | None) -> None:
        self._loss = loss
        self._report = report

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        del args, control, named
        self._loss.at(state.global_step / max(state.max_steps, 1))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any
    ) -> None:
        del args, control, named
        self._tell(state, None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **named: Any,
    ) -> None:
        del args, control, named
        if logs and "loss" in logs:
            self._tell(state, logs["loss"])

    def _tell(self, state: TrainerState, loss: float | None) -> None:
        if self._report:
            self._report(state.global_step, state.max_steps, loss)
