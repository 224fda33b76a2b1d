"""The collator for multiple choice, compared with single encodings."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorForMultipleChoice

from elmo_hf import ElmoDataCollatorForMultipleChoice, ElmoForMultipleChoice, ElmoTokenizer

from .tiny import tiny_config

QUESTIONS = [("who sat", ["the cat", "no", "a dog that ran off"]), ("why", ["", "so", "because"])]


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    return ElmoTokenizer(max_characters_per_word=9, padding_side=request.param)


def make_examples(tokenizer, questions=QUESTIONS, **labels):
    examples = []
    for number, (question, choices) in enumerate(questions):
        example = dict(tokenizer([question] * len(choices), choices))
        examples.append(example | {name: values[number] for name, values in labels.items()})
    return examples


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize(
    ("options", "words"),
    [({}, 11), ({"pad_to_multiple_of": 8}, 16), ({"padding": "max_length", "max_length": 13}, 13)],
)
def test_equals_every_choice_by_itself(tokenizer, options, words, return_tensors):
    collate = ElmoDataCollatorForMultipleChoice(tokenizer, **options, return_tensors=return_tensors)
    batch = collate(make_examples(tokenizer, label=[2, 1]))
    kind = torch.Tensor if return_tensors == "pt" else np.ndarray
    assert set(batch) == {"input_ids", "attention_mask", "character_ids", "labels"}
    for name, shape in {"input_ids": (2, 3, words), "character_ids": (2, 3, words, 9), "labels": (2,)}.items():
        assert isinstance(batch[name], kind) and tuple(batch[name].shape) == shape
        assert str(batch[name].dtype).endswith("int64")
    assert batch["labels"].tolist() == [2, 1]
    for row, (question, choices) in enumerate(QUESTIONS):
        for column, choice in enumerate(choices):
            alone = tokenizer(question, choice, padding="max_length", max_length=words, return_tensors="np")
            for name in ("input_ids", "attention_mask", "character_ids"):
                np.testing.assert_array_equal(batch[name][row, column], alone[name][0])


def test_the_collator_of_transformers_joins_the_rows_of_a_text(tokenizer):
    """Choices joined into one axis, which the model also reads."""
    examples = make_examples(tokenizer, label=[0, 1])
    batch = DataCollatorForMultipleChoice(tokenizer)(make_examples(tokenizer, label=[0, 1]))
    assert batch["character_ids"].shape == (2, 3, 11 * 9)
    model = ElmoForMultipleChoice(tiny_config())
    ours = ElmoDataCollatorForMultipleChoice(tokenizer)(examples)
    torch.testing.assert_close(model.eval()(**batch).logits, model(**ours).logits)
    with pytest.raises(ValueError, match=r"\(2, 3, 98\)"):
        model(**{**batch, "character_ids": batch["character_ids"][..., :98]})
    # Everything else is equal.
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(ours[name], batch[name])


def test_rows_that_a_dataset_stored(tokenizer):
    """`datasets` gives nested lists back."""
    examples = make_examples(tokenizer, labels=[0, 1])
    stored = [
        {name: value if name == "labels" else [np.asarray(row).tolist() for row in value] for name, value in e.items()}
        for e in examples
    ]
    collate = ElmoDataCollatorForMultipleChoice(tokenizer)
    expected = collate(examples)
    for name, value in collate(stored).items():
        assert torch.equal(value, expected[name]), name


def test_labels_are_optional(tokenizer):
    collate = ElmoDataCollatorForMultipleChoice(tokenizer)
    assert "labels" not in collate(make_examples(tokenizer))
    assert "labels" not in collate(make_examples(tokenizer, label=[None, None]))
    with pytest.raises(ValueError, match="1 labels.*2 examples"):
        collate(make_examples(tokenizer, label=[None, 1]))


def test_numbers_of_choices_that_differ_are_refused(tokenizer):
    collate = ElmoDataCollatorForMultipleChoice(tokenizer)
    questions = [*QUESTIONS, ("and", ["a", "b"])]
    with pytest.raises(ValueError, match="2.*2.*'input_ids'.*0.*3"):
        collate(make_examples(tokenizer, questions))
    with pytest.raises(ValueError, match="^examples "):
        collate([])
