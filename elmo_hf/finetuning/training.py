"""Training of task models: optimizer, Trainer, checkpoints, and the stages of a run with their reports."""

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

from elmo_hf.hub.pushing import push
from elmo_hf.model.pretrained import ElmoPreTrainedModel

from .card import write_task_card
from .options import TaskTrainingArguments
from .record import check_continues, write_record
from .report import plot_training_curve

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written; the message names it, the last complete one and the remedy."""


# ---- optimizer


def parameter_groups(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate (biLM, or layer mix and task) and weight decay (matrices only)."""
    part: Any = model.encoder if hasattr(model, "decoder") else model  # of a translator
    elmo = part.bilm
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
    """Create the optimizer named by `--optim`; the Trainer adds the schedule of `--lr_scheduler_type`."""
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    return optimizer_class(parameter_groups(model, args), **options)


# ---- trainer


class TaskTrainer(Trainer):
    """A Trainer for task models.

    It evaluates and predicts in data order. Transformers' Trainer would also sort evaluation data with
    `--train_sampling_strategy group_by_length`, which mismatches predictions and examples. An incomplete checkpoint,
    for example on a full disk, is removed, and the error names the last complete one.

    Args:
        model: the model to train.
        args: the options, including `--early_stopping_patience`.
        datasets: model inputs of each split that the run needs.
        sizes: number of examples to report for each split, if one example gives several model inputs.
        callbacks: further callbacks.
        keywords: further arguments of the Trainer.

    Attributes:
        record: record of the run (`run_record`), saved with each checkpoint.
        evaluated: the data whose predictions `compute_metrics` receives.
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

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the output folder like `elmo-hub push`: the model, its card and metrics, and nothing else.

        Returns:
            A `PushReport`; `None` in all processes but the first.

        Raises:
            HubError: as in `elmo_hf.hub.push`.
        """
        if not self.is_world_process_zero():
            return None
        folder = Path(str(self.args.output_dir))
        return push(
            folder,
            getattr(self, "hub_model_id", None) or self.args.hub_model_id or folder.absolute().name,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            message=commit_message,
            token=token or self.args.hub_token,
        )

    @contextmanager
    def saving(self, folder: Path) -> Iterator[None]:
        """Context manager for writing `folder`. On errors, an incomplete checkpoint is removed.

        Raises:
            CheckpointError: it could not be written; the message names the last complete checkpoint.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            checkpoints = complete_checkpoints(Path(str(self.args.output_dir)))
            last = f"{checkpoints[-1]} is complete" if checkpoints else "there is no complete checkpoint yet"
            raise CheckpointError(
                f"{folder} cannot be written ({error}); {last}. Free some space, or remove the obstacle; the same "
                "command then continues"
            ) from error


# ---- checkpoints


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first, recognized by the state, which the Trainer writes last."""
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
    """The checkpoint to resume: `--resume_from_checkpoint FOLDER`, none for `false`, by default the last complete one.

    If a run starts over, earlier checkpoints in the output folder are moved to the folder `earlier`; otherwise they
    could be taken for the latest.
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
    logger.info("Continuing from %s (--resume_from_checkpoint false starts over)", checkpoints[-1])
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
    """Train, evaluate and predict, as requested by the Trainer's arguments.

    Args:
        trainer: the Trainer. Its output folder receives the model, tokenizer and card, the metrics
            (`all_results.json`), the log (`trainer_state.json`) and `training_curve.png`.
        record: record of the run, from `run_record`.
        names: labels of `metric_for_best_model` in the picture, for metrics that need another one.

    Returns:
        All metrics, and the predictions for the test data, in the main process.

    Raises:
        ValueError: the checkpoint to continue was trained with other data or options.
        CheckpointError: a checkpoint cannot be written.
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
            trainer.save_model(_internal_call=True)  # pushed later, when its card is complete
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
    if args.do_train and trainer.is_world_process_zero():
        write_task_card(Path(str(args.output_dir)), args, record, metrics)
    if args.push_to_hub:
        trainer.push_to_hub()
    return metrics, prediction if trainer.is_world_process_zero() else None


def report(trainer: Trainer, name: str, metrics: dict[str, float], samples: int) -> dict[str, float]:
    """Print metrics, add them to `{name}_results.json` and `all_results.json` in the output folder, and return them."""
    metrics[f"{name}_samples"] = samples
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


def warn_of_one_class(predicted: Iterable[Any], gold: Iterable[Any], name_of: Callable[[Any], str] = str) -> None:
    """Warn if all predictions are the same class and the data are not, since scores can be misleading then."""
    classes = set(predicted)
    if len(classes) == 1 and len(set(gold)) > 1:
        logger.warning(
            "Every prediction is %s, whatever the input: nothing else is learned yet. If it stays so, train longer, or "
            "with another --learning_rate",
            name_of(classes.pop()),
        )
