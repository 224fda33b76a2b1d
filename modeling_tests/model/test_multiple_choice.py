"""Multiple choice, compared with single choices, and trained by an unmodified Trainer."""

import copy

import pytest
import torch
from transformers import AutoModelForMultipleChoice, DataCollatorForMultipleChoice, Trainer, TrainingArguments

from elmo_hf import (
    ElmoDataCollatorForMultipleChoice,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForSequenceClassification,
    ElmoTokenizer,
)
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights

QUESTIONS = [
    ("who sat", ["the cat", "no", "a dog that ran off"]),
    ("why", ["", "so", "because the dogs ran"]),
]
VARIANTS = {
    "plain": {},
    "pairs": {"sentence_pairs": True},
    "word input": WORD_INPUT,
    "everything": {
        "sentence_pairs": True, "pooling": ["max", "attention"], "maxout_sizes": [4], "elmo_at": ["input", "output"],
        "task_lstm_size": 3, "word_vector_size": 2,
    },
    "no biLM": {"elmo_at": [], "word_vector_size": 3},
}  # fmt: skip
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make_model(cls=ElmoForMultipleChoice, **overrides):
    return with_large_weights(cls(tiny_config(**overrides))).eval()


def make_tokenizer(side="right"):
    return ElmoTokenizer(max_characters_per_word=9, padding_side=side)


def make_batch(side="right", questions=QUESTIONS, labels=None):
    tokenizer = make_tokenizer(side)
    examples = [dict(tokenizer([question] * len(choices), choices)) for question, choices in questions]
    for example, label in zip(examples, labels or [], strict=False):
        example["label"] = label
    return ElmoDataCollatorForMultipleChoice(tokenizer)(examples)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@every_variant
def test_every_choice_is_scored_by_itself(variant, side):
    """The score of a choice is the only output of a text classifier with the same weights."""
    model = make_model(**VARIANTS[variant]).double()
    single = make_model(ElmoForSequenceClassification, **VARIANTS[variant], num_labels=1).double()
    single.load_state_dict(model.state_dict())
    logits = model(**make_batch(side)).logits
    assert logits.shape == (2, 3)
    for found, (question, choices) in zip(logits, QUESTIONS, strict=True):
        for score, choice in zip(found, choices, strict=True):
            expected = single(**make_tokenizer()(question, choice, return_tensors="pt")).logits
            torch.testing.assert_close(score, expected[0, 0], rtol=0, atol=1e-10)


def test_loss():
    model, batch = make_model(scalar_mix_l2=0.1), make_batch(labels=[2, 0])
    output = model(**batch)
    log_probs = output.logits.log_softmax(-1)
    penalty = 0.1 * model.elmo.scalar_mixes[0].weights.square().sum()
    expected = -(log_probs[0, 2] + log_probs[1, 0]) / 2 + penalty
    torch.testing.assert_close(output.loss, expected)
    for items in (4, torch.tensor(4)):
        torch.testing.assert_close(model(**batch, num_items_in_batch=items).loss, expected / 2)
    batch["labels"][1] = -100
    torch.testing.assert_close(model(**batch).loss, -log_probs[0, 2] + penalty)


def test_inputs_embeds_in_place_of_characters():
    model, batch = make_model(), make_batch()
    expected = model(**batch).logits
    characters = batch.pop("character_ids")
    mask = batch["attention_mask"].bool()
    vectors = model.elmo.embeddings(characters.flatten(0, 1), mask=mask.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(model(**batch, inputs_embeds=vectors).logits, expected, rtol=0, atol=1e-6)


def test_tuple_output_and_hidden_states():
    model, batch = make_model(), make_batch()
    output = model(**batch, output_hidden_states=True)
    assert torch.equal(model(**batch, return_dict=False)[0], output.logits)
    assert len(output.hidden_states) == 3 and output.hidden_states[0].shape == (6, batch["input_ids"].shape[2], 8)


class TestBadInput:
    @pytest.mark.parametrize("label", [3, -1])
    def test_label_out_of_range(self, label):
        with pytest.raises(ValueError, match=f"{label}.*0.*2.*-100"):
            make_model()(**make_batch(labels=[0, label]))

    @pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 3).long(), torch.zeros(3).long()])
    def test_labels_of_another_kind(self, labels):
        with pytest.raises(ValueError, match=r"labels.*\(2,\) integers"):
            make_model()(**make_batch(), labels=labels)

    def test_no_axis_of_choices(self):
        batch = make_tokenizer()(["a b", "c"], padding=True, return_tensors="pt")
        with pytest.raises(ValueError, match=r"input_ids.*\(2.*4\).*\(batch.*choices.*words\)"):
            make_model()(**batch)

    def test_another_number_of_choices(self):
        batch = make_batch()
        batch["character_ids"] = batch["character_ids"][:, :2]
        with pytest.raises(ValueError, match=r"character_ids.*\(2, 2, .*input_ids \(2, 3, "):
            make_model()(**batch)

    def test_word_ids_are_needed(self):
        with pytest.raises(ValueError, match="input_ids missing"):
            make_model()(character_ids=make_batch()["character_ids"])


def test_the_stock_collator():
    """Transformers' collator joins the character rows of a text into one axis, which the model also reads."""
    examples = make_examples()[:4]
    found = DataCollatorForMultipleChoice(make_tokenizer())(examples)
    expected = ElmoDataCollatorForMultipleChoice(make_tokenizer())(examples)
    assert found["character_ids"].dim() == 3 and expected["character_ids"].dim() == 4
    model = make_model().eval()
    torch.testing.assert_close(model(**found).logits, model(**expected).logits, rtol=0, atol=0)


@pytest.mark.slow
@every_variant
def test_round_trip_is_bit_identical(variant, tmp_path):
    model = make_model(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    again, info = AutoModelForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is ElmoForMultipleChoice
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    batch = make_batch()
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)


def test_starts_from_a_language_model(tmp_path):
    make_model(ElmoForPreTraining).save_pretrained(tmp_path)
    model, info = ElmoForMultipleChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    assert model.classifier.weight.shape == (1, 8) and (model.classifier.bias == 0).all()


@every_variant
def test_every_weight_gets_a_gradient(variant):
    model = make_model(**VARIANTS[variant] | {"cell_clip": None, "projection_clip": None, "maxout_pieces": 1}).train()
    model(**make_batch(labels=[2, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        # A common bias does not change the comparison.
        if parameter.requires_grad and name != "classifier.bias":
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def train(model, examples, folder, **options):
    options = {
        "learning_rate": 0.03, "num_train_epochs": 30, "per_device_train_batch_size": 12, "weight_decay": 0.0,
        "lr_scheduler_type": "constant", "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, **options,
    }  # fmt: skip
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **options),
        train_dataset=examples,
        data_collator=ElmoDataCollatorForMultipleChoice(make_tokenizer()),
    )
    trainer.train()
    return trainer


def make_examples():
    """The right choice repeats the question's animal."""
    tokenizer, animals, examples = make_tokenizer(), ["cat", "dog", "owl"], []
    for number in range(12):
        first, second, third = (animals[(number + step * (1 + number % 2)) % 3] for step in range(3))
        choices = [f"the {animal} sat" for animal in (second, third)]
        choices.insert(number % 3, f"a {first} ran")
        examples.append({**tokenizer([f"some {first}"] * 3, choices), "label": number % 3})
    return examples


@pytest.mark.slow
def test_overfits_a_small_task(tmp_path):
    torch.manual_seed(1)
    config = tiny_config(projection_size=8, cell_size=8, cell_clip=3.0, projection_clip=3.0, sentence_pairs=True)
    trainer = train(ElmoForMultipleChoice(config), make_examples(), tmp_path)
    result = trainer.predict(make_examples())
    assert (result.predictions.argmax(-1) == result.label_ids).all()


@pytest.mark.slow
def test_accumulated_small_batches_equal_a_large_one(tmp_path):
    start, weights = make_model(scalar_mix_l2=0.05), []
    for size, accumulation in ((8, 1), (2, 4)):
        model = copy.deepcopy(start).double()
        options = {"optim": "sgd", "learning_rate": 0.5, "num_train_epochs": 1, "max_grad_norm": 0.0}
        trainer = train(
            model, make_examples(), tmp_path, **options, per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        assert trainer.state.global_step == 2
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-9, msg=name)
    assert (weights[0]["classifier.weight"] - start.classifier.weight).abs().sum() > 0.01
