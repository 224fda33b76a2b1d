"""Training of a task model: optimizer, Trainer, checkpoints, and the stages of a run with their report."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput

from elmo_hf.model.pretrained import ElmoPreTrainedModel

from .options import TaskTrainingArguments
from .record import check_continues, write_record
from .report import plot_training_curve

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written; the message names it, the last whole one and the remedy."""


# ---- optimizer


def parameter_groups(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate (biLM, or layer mix and task) and weight decay (matrices only)."""
    elmo = getattr(model, "elmo", getattr(model, "encoder", None))  # the encoder of an EncoderDecoderModel
    bilm = set() if elmo is None else {id(p) for part in (elmo.embeddings, elmo.encoder) for p in part.parameters()}
    bilm_rate = args.learning_rate if args.bilm_learning_rate is None else args.bilm_learning_rate
    groups = []
    for in_bilm, rate in ((True, bilm_rate), (False, args.learning_rate)):
        for is_matrix, decay in ((True, args.weight_decay), (False, 0.0)):
            params = [
                p
                for p in model.parameters()
                if p.requires_grad and (id(p) in bilm) is in_bilm and (p.ndim > 1) is is_matrix
            ]
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay})
    return groups


def make_optimizer(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> torch.optim.Optimizer:
    """The optimizer that `--optim` names; the Trainer adds the schedule that `--lr_scheduler_type` names."""
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    return optimizer_class(parameter_groups(model, args), **options)


# ---- trainer


class TaskTrainer(Trainer):
    """A Trainer of a task model.

    It evaluates and predicts in the order of the data: with `--train_sampling_strategy group_by_length` the Trainer
    sorts evaluation data by length too, and predictions would stand beside other examples. A checkpoint that cannot be
    written, as on a full disk, is removed again, and the error says which one is whole.

    Args:
        model: to train.
        args: the options; `--early_stopping_patience` is one of them.
        datasets: of each split that the run reads, the model inputs.
        sizes: of each split, how many examples to report, where an example of the user's is several of the model's.
        callbacks: further ones.
        keywords: as of the Trainer.

    Attributes:
        record: what the run is trained on (`run_record`), kept beside each checkpoint.
        evaluated: the data whose predictions `compute_metrics` gets.
    """

    record: Mapping[str, Any] | None = None
    evaluated: Any = None

    def __init__(
        self,
        model: Any,
        args: TaskTrainingArguments,
        datasets: Mapping[str, Dataset],
        sizes: Mapping[str, int] | None = None,
        callbacks: Iterable[TrainerCallback] = (),
        **keywords: Any,
    ) -> None:
        self.datasets = dict(datasets)
        self.sizes = {name: len(dataset) for name, dataset in datasets.items()} | dict(sizes or {})
        patience = args.early_stopping_patience
        stopping = [] if patience is None else [EarlyStoppingCallback(patience)]
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.datasets.get("train"),
            eval_dataset=self.datasets.get("validation"),
            optimizers=(make_optimizer(model, args) if args.do_train else None, None),
            callbacks=[*stopping, *callbacks],
            **keywords,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        self.evaluated = self.eval_dataset if eval_dataset is None else eval_dataset
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        self.evaluated = test_dataset
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        chosen = self.args.train_sampling_strategy
        self.args.train_sampling_strategy = "sequential"
        try:
            yield
        finally:
            self.args.train_sampling_strategy = chosen

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self.saving(folder):
            if self.record is not None and self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                write_record(self.record, folder)
            super()._save_checkpoint(model, trial)

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """Context in which `folder` is written; errors say what is whole, and a half-written checkpoint goes.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            checkpoints = complete_checkpoints(Path(str(self.args.output_dir)))
            whole = f"{checkpoints[-1]} is whole" if checkpoints else "there is no whole checkpoint yet"
            raise CheckpointError(
                f"{folder} cannot be written ({error}); {whole}. Make room, or remove what is in the way; the same "
                "command then continues"
            ) from error


# ---- checkpoints


def complete_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first; the Trainer writes its state last."""
    found = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if step.isdecimal() and isinstance(state, dict):
            found.append((int(step), path))
    return [path for _, path in sorted(found)]


def checkpoint_to_resume(args: TrainingArguments) -> Path | None:
    """`--resume_from_checkpoint FOLDER`, `false` to start anew, or else the last whole checkpoint in the output folder.

    Earlier checkpoints of a run that is started anew go into the folder `earlier`: mixed with the new ones, they would
    be taken for the latest.
    """
    choice, output = args.resume_from_checkpoint, Path(str(args.output_dir))
    if choice is not None and str(choice).lower() in ("false", "no"):
        if args.should_save:
            _set_aside(output)
        return None
    if choice is not None and str(choice).lower() not in ("true", "yes"):
        return Path(choice)
    checkpoints = complete_checkpoints(output)
    if not checkpoints:
        return None
    logger.info("Continuing from %s (--resume_from_checkpoint false starts anew)", checkpoints[-1])
    return checkpoints[-1]


def _set_aside(output: Path) -> None:
    earlier = sorted(output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    if earlier:
        aside = output / "earlier"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for path in earlier:
            path.rename(aside / path.name)
        logger.info("The checkpoints of the run before are in %s now", aside)


# ---- stages


def run_stages(
    trainer: TaskTrainer, record: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> tuple[dict[str, float], PredictionOutput | None]:
    """Train, evaluate and predict, as far as the Trainer's arguments ask for it.

    Args:
        trainer: its output folder gets the model and its tokenizer, the metrics (`all_results.json`), the log
            (`trainer_state.json`) and `training_curve.png`.
        record: what the run is trained on, from `run_record`.
        names: what to call `metric_for_best_model` in the picture, for each metric that is not its own name.

    Returns:
        All metrics, and what was predicted for the test data.

    Raises:
        ValueError: a checkpoint to continue that was trained on something else.
        CheckpointError: what was learned cannot be written.
    """
    args, prediction = trainer.args, None
    metrics: dict[str, float] = {}
    if args.do_train:
        trainer.record = record
        checkpoint = checkpoint_to_resume(args)
        if checkpoint is not None and (note := check_continues(record, checkpoint)):
            logger.warning("%s", note)
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        with trainer.saving(Path(str(args.output_dir))):
            trainer.save_model()
            trainer.save_state()
        metrics |= report(trainer, "train", result.metrics, trainer.sizes["train"])
        if trainer.is_world_process_zero():
            best = (args.metric_for_best_model or "loss").removeprefix("eval_")
            path = Path(str(args.output_dir)) / "training_curve.png"
            plot_training_curve(trainer.state.log_history, path, best, (names or {}).get(best, best))
    if args.do_eval:
        metrics |= report(trainer, "eval", trainer.evaluate(), trainer.sizes["validation"])
    if args.do_predict:
        prediction = trainer.predict(trainer.datasets["test"], metric_key_prefix="test")
        metrics |= report(trainer, "test", prediction.metrics or {}, trainer.sizes["test"])
    return metrics, prediction


def report(trainer: Trainer, name: str, metrics: dict[str, float], samples: int) -> dict[str, float]:
    """Print metrics, add them to the output folder's `{name}_results.json` and `all_results.json`, return them."""
    metrics[f"{name}_samples"] = samples
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


def warn_of_one_class(predicted: Iterable[Any], gold: Iterable[Any], name_of: Callable[[Any], str] = str) -> None:
    """Say so if all predictions are one class and the data are not: such a score may look better than it is."""
    classes = set(predicted)
    if len(classes) == 1 and len(set(gold)) > 1:
        logger.warning(
            "Every prediction is %s, whatever the input: nothing else is learned yet. If it stays so, train longer, or "
            "with another --learning_rate",
            name_of(classes.pop()),
        )
