"""Splits: data that is read, held out or left out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf.finetuning import CorpusError, ModelArguments, SplitArguments, TaskTrainingArguments, parse
from elmo_hf.finetuning.splits import hold_out, load_splits, share_of


def test_held_out_examples_are_the_same_for_every_seed() -> None:
    torch.manual_seed(1)
    kept, held = hold_out(list(range(100)), 0.1)
    assert sorted(kept + held) == list(range(100)) and (kept, held) == (sorted(kept), sorted(held))
    assert len(held) == 10 and held != list(range(90, 100))
    torch.manual_seed(2)
    assert hold_out(list(range(100)), 0.1) == (kept, held)
    assert len(hold_out([1, 2], 0.01)[1]) == len(hold_out([1, 2], 0.99)[1]) == 1
    with pytest.raises(CorpusError, match="1.*--validation_file"):
        hold_out([1], 0.5)


class Lines(SplitArguments):
    """Ten examples per file."""

    def read_file(self, path: str, labels: Any) -> list[str]:
        return [f"{path} {number}" for number in range(10)]

    def label_set(self, examples: list[str]) -> list[str]:
        return [str(len(examples))]


def arguments(*stages: str, seed: int = 1) -> TaskTrainingArguments:
    argv = ["--preset", "small", "--output_dir", "unused", "--use_cpu", "--do_train", "--seed", str(seed)]
    args = parse(argv, ModelArguments, TaskTrainingArguments)[-1]
    args.do_train, args.do_eval = "do_train" in stages, "do_eval" in stages
    return args


@pytest.mark.parametrize("stages", [("do_train", "do_eval"), ("do_eval",), ("do_train",)])
def test_splits_with_held_out_validation(stages: tuple[str, ...]) -> None:
    data = Lines(train_file="train", validation_share=0.2)
    splits, labels = data.read(arguments(*stages))
    sizes = {"train": 8, "validation": 2}
    wanted = [name for name, stage in (("train", "do_train"), ("validation", "do_eval")) if stage in stages]
    assert {name: len(examples) for name, examples in splits.items()} == {name: sizes[name] for name in wanted}
    assert labels == ["10"]
    # A validation file takes precedence.
    data.validation_file = "validation"
    splits, _ = data.read(arguments(*stages))
    assert {name: len(examples) for name, examples in splits.items()} == dict.fromkeys(wanted, 10)


def test_shares_of_the_training_data() -> None:
    examples = list(range(200))
    tenth, half = share_of(examples, 0.1, 1), share_of(examples, 0.5, 1)
    assert (len(tenth), len(half)) == (20, 100)
    assert set(tenth) < set(half) and tenth == sorted(tenth) != list(range(20))
    assert share_of(examples, 0.1, 1) == tenth != share_of(examples, 0.1, 2)
    assert share_of(examples, 1.0, 1) == examples and len(share_of(examples, 0.0001, 1)) == 1
    # Validation data are held out before the share is taken, so that all shares have the same.
    args = arguments("do_train", "do_eval")
    splits, labels = Lines(train_file="train", validation_share=0.2, train_share=0.5).read(args)
    whole, _ = Lines(train_file="train", validation_share=0.2).read(args)
    assert (len(splits["train"]), labels) == (4, ["10"]) and splits["validation"] == whole["validation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 1}, "--validation_share 1"),
        ({"train_share": 0}, "--train_share 0"),
        ({"train_share": 1.5}, "--train_share 1.5: expected"),
        ({"dataset_name": "a", "train_file": "b"}, "either --dataset_name"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitArguments(**options)


def test_null_like_words_in_csv_datasets_are_kept(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan", "NULL", "n/a", "fine"]
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f"{word},good\n" for word in words))
    assert load_splits(str(tmp_path), None)["train"]["sentence"][:] == words
