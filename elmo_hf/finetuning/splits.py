"""Splits of a task's data: sources, splits needed by a run, held-out data, and subsets."""

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, load_dataset, load_dataset_builder
from transformers import TrainingArguments

from elmo_hf.fields import option

from .files import CorpusError

logger = logging.getLogger(__name__)


@dataclass
class SourceArguments:
    """Options for the sources of examples. A task's subclass adds columns and readers."""

    train_file: str | None = option(None, "Training data; its suffix determines the format.")
    validation_file: str | None = option(None, "Likewise, for choosing the best model.")
    test_file: str | None = option(None, "Likewise, for the final score and predictions.")
    dataset_name: str | None = option(None, "Instead of files: a dataset with train, validation and test splits.")
    dataset_config_name: str | None = option(None, "Configuration of that dataset.")
    train_share: float | None = option(
        None, "Train on this share of the training data, sampled by --seed; smaller shares are subsets."
    )

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_file or self.validation_file or self.test_file):
            raise ValueError("give either --dataset_name or files")
        if self.train_share is not None and not 0 < self.train_share <= 1:
            raise ValueError(f"--train_share {self.train_share}: expected a number above 0, at most 1")
        held_out = self._option("validation_share")
        if held_out is not None and not 0 < held_out < 1:
            raise ValueError(f"--validation_share {held_out}: expected a number between 0 and 1")

    def _option(self, name: str) -> Any:
        """Value of an option that only some tasks have; `None` for the others."""
        return getattr(self, name, None)

    def read_file(self, path: Any, labels: Sequence[str] | None) -> list[Any]:
        """Read the examples of the file(s) in a split's option; if `labels` are given, only these may occur."""
        raise NotImplementedError

    def read_dataset(self, split: Dataset, name: str, labels: Sequence[str] | None) -> list[Any]:
        """Read the examples of a dataset's split, called `name` in messages."""
        raise NotImplementedError

    def label_set(self, examples: list[Any]) -> list[str]:
        """The labels of examples, in the order of their numbers."""
        return []

    def read(
        self, args: TrainingArguments, known_labels: list[str] | None = None
    ) -> tuple[dict[str, list[Any]], list[str]]:
        """Read the splits (train, validation, test) that a run needs, and return examples and labels.

        Args:
            args: the Trainer's arguments.
            known_labels: labels of the checkpoint's classifier, which are kept; by default `--labels` or the data's.

        Raises:
            CorpusError: a split is missing, or cannot be read.
            ValueError: `--labels` that the checkpoint does not have.
        """
        given = self._option("labels")
        labels = known_labels or given
        if given and not set(given) <= set(labels):
            raise ValueError(
                f"--labels {' '.join(given)}: the checkpoint has {' '.join(labels)}; for others give --new_classifier"
            )
        sources: dict[str, Any] = {}
        if self.dataset_name:
            sources.update(load_splits(self.dataset_name, self.dataset_config_name))
        for name in ("train", "validation", "test"):
            path = getattr(self, f"{name}_file")
            if path is not None:
                sources[name] = path
        share = self._option("validation_share")
        holds_out = share is not None and "validation" not in sources
        needed = needed_splits(args, [*sources, "validation"] if holds_out and "train" in sources else sources)
        to_read = {"train" if holds_out and name == "validation" else name for name in needed}
        splits: dict[str, list[Any]] = {}
        # The first available split defines the labels, even if the run only evaluates.
        for name in ("train", "validation", "test"):
            if name in to_read or (name in sources and labels is None):
                splits[name] = self._read(name, sources[name], labels)
                labels = labels or self.label_set(splits[name])
        if holds_out and "train" in to_read:
            splits["train"], splits["validation"] = hold_out(splits["train"], share)
        if self.train_share is not None and "train" in splits:
            splits["train"] = share_of(splits["train"], self.train_share, args.seed)
        if labels:
            logger.info("Labels: %s", " ".join(labels))
        return {name: splits[name] for name in needed}, list(labels or [])

    def _read(self, name: str, source: Any, labels: Sequence[str] | None) -> list[Any]:
        if isinstance(source, Dataset):
            return self.read_dataset(source, f"{self.dataset_name}, {name}", labels)
        return self.read_file(source, labels)


@dataclass
class SplitArguments(SourceArguments):
    """Options for the sources of labeled examples."""

    validation_share: float | None = option(
        None, "Without validation data: hold out this share of the training data, the same for any seed."
    )
    labels: list[str] | None = option(None, "All labels, in the order of integer ones (default: the training data's).")


def load_splits(name: str, configuration: str | None) -> dict[str, Dataset]:
    """Load the splits of a dataset. In CSV files, null, NA, None and nan are read as words."""
    builder = load_dataset_builder(name, configuration)
    options = {"keep_default_na": False} if hasattr(builder.config, "keep_default_na") else {}
    return dict(load_dataset(name, configuration, **options))


def needed_splits(args: TrainingArguments, available: Iterable[str]) -> list[str]:
    """The splits (of train, validation, test) that a run needs.

    Raises:
        CorpusError: one of them is not `available`; the message names the option for it.
    """
    needed = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    names = [name for name in needed if needed[name]]
    for name in names:
        if name not in set(available):
            remedy = f"give --{name}_file"
            if args.do_train and name == "validation":
                remedy += ", or --eval_strategy no --load_best_model_at_end false to train without"
            raise CorpusError(f"no {name} data; {remedy}")
    return names


def hold_out(examples: list[Any], share: float) -> tuple[list[Any], list[Any]]:
    """Split examples at random, identically in every run, into kept and held-out ones; both keep their order."""
    if len(examples) < 2:
        raise CorpusError(f"{len(examples)} training example: too few to hold any out; give --validation_file")
    count = min(max(1, round(share * len(examples))), len(examples) - 1)
    held = set(random.Random(0).sample(range(len(examples)), count))
    logger.info("%s of %s training examples are held out for validation", f"{count:,}", f"{len(examples):,}")
    kept, held_out = ([e for i, e in enumerate(examples) if (i in held) is out] for out in (False, True))
    return kept, held_out


def share_of(examples: list[Any], share: float, seed: int) -> list[Any]:
    """A random share of examples, at least one, in their order. Smaller shares of the same seed are subsets."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    kept = sorted(order[: max(1, round(share * len(examples)))])
    logger.info("Trained on %s of %s examples", f"{len(kept):,}", f"{len(examples):,}")
    return [examples[index] for index in kept]
