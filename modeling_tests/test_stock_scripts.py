"""The calls that Transformers' example scripts make: run_ner, run_glue, run_qa, run_swag, run_mlm and run_clm.

Their own code is not part of this project; docs/transformers.md says how they run. What `run_translation` calls is in
`model/test_encoder_decoder.py`.
"""

from itertools import chain

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from modeling_tests.tiny import tiny_config

WORDS = "the cat dog sat on a mat ran to see".split()
RNG = np.random.default_rng(0)


def sentence(words: int = 6) -> str:
    return " ".join(RNG.choice(WORDS, words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained language model."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *WORDS], max_characters_per_word=9)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    ElmoForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train_and_evaluate(model, data, folder, collator=None, **options):
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, data_collator=collator, **options)
    assert np.isfinite(trainer.train().training_loss)
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    trainer.save_model()
    return trainer


@pytest.mark.slow
def test_run_ner(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder, num_labels=2, finetuning_task="ner")
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    model = AutoModelForTokenClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=False)
    assert model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1}

    def tokenize_and_align(examples):
        inputs = tokenizer(examples["tokens"], padding=False, truncation=True, max_length=8, is_split_into_words=True)
        inputs["labels"] = [
            [-100 if word is None else tags[word] for word in inputs.word_ids(batch_index=row)]
            for row, tags in enumerate(examples["tags"])
        ]
        return inputs

    rows = [{"tokens": sentence().split(), "tags": RNG.integers(0, 2, 6).tolist()} for _ in range(8)]
    data = Dataset.from_list(rows).map(tokenize_and_align, batched=True)
    collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8)
    trainer = train_and_evaluate(model, data, tmp_path, collator, processing_class=tokenizer)
    predictions, labels, _ = trainer.predict(data, metric_key_prefix="predict")
    assert predictions.shape == (*labels.shape, 2)


@pytest.mark.slow
def test_run_glue(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder, num_labels=2, finetuning_task=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config)
    model.config.label2id = {"neg": 0, "pos": 1}
    model.config.id2label = {0: "neg", 1: "pos"}
    rows = [{"sentence": sentence(), "label": int(RNG.integers(0, 2))} for _ in range(8)]
    limit = min(16, tokenizer.model_max_length)
    data = Dataset.from_list(rows).map(
        lambda rows: tokenizer(rows["sentence"], padding="max_length", max_length=limit, truncation=True), batched=True
    )
    train_and_evaluate(model, data, tmp_path, default_data_collator, processing_class=tokenizer)


@pytest.mark.slow
def test_run_qa(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    rows = [{"question": sentence(3), "context": sentence(20)} for _ in range(4)]

    def prepare(examples):
        tokenized = tokenizer(
            examples["question"], examples["context"], truncation="only_second", max_length=16, stride=4,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
        )  # fmt: skip
        tokenized.pop("overflow_to_sample_mapping")
        starts = []
        for row, offsets in enumerate(tokenized.pop("offset_mapping")):
            ids, sequences = tokenized["input_ids"][row], tokenized.sequence_ids(row)
            assert ids.index(tokenizer.bos_token_id) == 0 and len(offsets) == len(ids)
            starts.append(sequences.index(1) if row % 2 else 0)
        return {**tokenized, "start_positions": starts, "end_positions": starts}

    data = Dataset.from_list(rows).map(prepare, batched=True, remove_columns=["question", "context"])
    assert len(data) > 4
    train_and_evaluate(model, data, tmp_path, default_data_collator, processing_class=tokenizer)


@pytest.mark.slow
def test_run_swag(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMultipleChoice.from_pretrained(folder)
    rows = [{"sent1": sentence(), "ends": [sentence(2 + k) for k in range(4)], "label": k % 4} for k in range(8)]

    def prepare(examples):
        first = list(chain(*[[text] * 4 for text in examples["sent1"]]))
        tokenized = tokenizer(first, list(chain(*examples["ends"])), truncation=True, max_length=24, padding=False)
        return {k: [v[i : i + 4] for i in range(0, len(v), 4)] for k, v in tokenized.items()}

    data = Dataset.from_list(rows).map(prepare, batched=True)
    collator = DataCollatorForMultipleChoice(tokenizer=tokenizer, pad_to_multiple_of=None, return_tensors="pt")
    train_and_evaluate(model, data, tmp_path, collator, processing_class=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("task", ["mlm", "clm"])
def test_run_mlm_and_run_clm(task, from_scratch, folder, tmp_path):
    auto, mapping = {
        "mlm": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
        "clm": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    }[task]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "elmo" in [config.model_type for config in mapping]
    if from_scratch:
        config = CONFIG_MAPPING["elmo"]()
        config.update_from_string("projection_size=8,cell_size=12,max_characters_per_word=9,num_highway_layers=1")
        config.character_filters = [[1, 4], [2, 4]]
        model = auto.from_config(config)
    else:
        model = auto.from_pretrained(folder)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.mask_token_id == (None if from_scratch else tokenizer.mask_token_id)

    def group(examples):
        joined = {name: list(chain(*values)) for name, values in examples.items()}
        total = len(joined["input_ids"]) // 12 * 12
        result = {name: [values[i : i + 12] for i in range(0, total, 12)] for name, values in joined.items()}
        return {**result, "labels": [list(ids) for ids in result["input_ids"]]}

    rows = Dataset.from_dict({"text": [sentence(8) for _ in range(30)]})
    data = rows.map(
        lambda rows: tokenizer(rows["text"], return_special_tokens_mask=task == "mlm"),
        batched=True,
        remove_columns=["text"],
    )
    data = data.map(group, batched=True)
    collator = default_data_collator
    if task == "mlm":
        collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15, pad_to_multiple_of=None)
        data = data.remove_columns("labels")

    def metrics(found):
        predictions, labels = found
        assert predictions.shape == labels.shape
        return {"accuracy": float((predictions == labels).mean())}

    train_and_evaluate(
        model,
        data,
        tmp_path,
        collator,
        processing_class=tokenizer,
        compute_metrics=metrics,
        preprocess_logits_for_metrics=lambda logits, labels: (
            logits[0] if isinstance(logits, tuple) else logits
        ).argmax(dim=-1),
    )


def test_no_trainer(folder):
    """The loop of the `no_trainer` twins, here of run_ner: prepared, trained, padded and gathered by Accelerate."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    model.resize_token_embeddings(len(tokenizer))
    rows = [dict(tokenizer(sentence(2 + k % 3))) for k in range(7)]
    rows = [{**row, "labels": [-100, *[1] * (len(row["input_ids"]) - 2), -100]} for row in rows]
    accelerator = Accelerator(gradient_accumulation_steps=2)
    collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=None)
    loader = DataLoader(rows, shuffle=True, collate_fn=collator, batch_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(3):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss))
    assert losses[-1] < losses[0]
    seen = 0
    for batch in loader:
        with torch.no_grad():
            predictions = model(**batch).logits.argmax(dim=-1)
        predictions = accelerator.pad_across_processes(predictions, dim=1, pad_index=-100)
        predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
        seen += len(predictions)
        assert predictions.shape == labels.shape
    assert seen == len(rows)
    assert "elmo.embeddings.character_embeddings.weight" in accelerator.unwrap_model(model).state_dict()
