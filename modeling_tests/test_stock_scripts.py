"""The calls that Transformers' example scripts make.

Of run_ner, run_glue, run_classification, run_qa, run_swag, run_mlm and run_clm, and of their `no_trainer` twins.

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
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    get_scheduler,
    set_seed,
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
@pytest.mark.parametrize("kind", ["regression", "multi_label_classification", "single_label_classification"])
def test_run_classification(kind, folder, tmp_path):
    labels = ["animal", "place", "walk"]
    count = 1 if kind == "regression" else len(labels)
    config = AutoConfig.from_pretrained(folder, num_labels=count, finetuning_task="text-classification")
    config.problem_type = kind
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=False)
    if kind != "regression":
        model.config.label2id = config.label2id = {name: number for number, name in enumerate(labels)}
        model.config.id2label = config.id2label = dict(enumerate(labels))

    def label(k):
        return {"regression": k / 2, "single_label_classification": k % 3}.get(kind, [float(k % 2), 1.0, 0.0])

    def prepare(rows):
        result = tokenizer(rows["sentence"], padding="max_length", max_length=8, truncation=True)
        return {**result, "label": rows["label"]}

    def metrics(p):
        predictions = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        if kind == "regression":
            return {"mse": float(((np.squeeze(predictions) - p.label_ids) ** 2).mean())}
        found = np.where(predictions > 0, 1, 0) if kind.startswith("multi") else predictions.argmax(axis=1)
        return {"accuracy": float((found == p.label_ids).mean())}

    rows = [{"sentence": sentence(), "label": label(k)} for k in range(8)]
    data = Dataset.from_list(rows).map(prepare, batched=True)
    trainer = train_and_evaluate(
        model, data, tmp_path, default_data_collator, processing_class=tokenizer, compute_metrics=metrics
    )
    assert trainer.predict(data.remove_columns("label")).predictions.shape == (8, count)


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


def names(folder, tokenizer):
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    rows = [dict(tokenizer(sentence(2 + k % 3))) for k in range(7)]
    rows = [{**row, "labels": [-100, *[1] * (len(row["input_ids"]) - 2), -100]} for row in rows]
    return model, rows, DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=None)


def texts(folder, tokenizer):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    rows = [{**tokenizer(sentence(2 + k % 3)), "labels": 1} for k in range(7)]
    return model, rows, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=None)


def answers(folder, tokenizer):
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    encoded = [tokenizer(sentence(2), sentence(3), padding="max_length", max_length=12) for _ in range(7)]
    rows = [{**each, "start_positions": each.sequence_ids().index(1), "end_positions": 6} for each in encoded]
    return model, rows, default_data_collator


def choices(folder, tokenizer):
    model = AutoModelForMultipleChoice.from_pretrained(folder)
    encoded = [tokenizer([sentence(2)] * 2, [sentence(2 + k % 2), sentence(2)]) for k in range(7)]
    collator = DataCollatorForMultipleChoice(tokenizer=tokenizer, pad_to_multiple_of=None, return_tensors="pt")
    return model, [{**dict(each), "labels": 1} for each in encoded], collator


def masked_words(folder, tokenizer):
    rows = [tokenizer(sentence(4), return_special_tokens_mask=True) for _ in range(7)]
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.5)
    return AutoModelForMaskedLM.from_pretrained(folder), rows, collator


def next_words(folder, tokenizer):
    rows = [dict(tokenizer(sentence(4))) for _ in range(7)]
    rows = [{**row, "labels": list(row["input_ids"])} for row in rows]
    return AutoModelForCausalLM.from_pretrained(folder), rows, default_data_collator


@pytest.mark.samples(1)
@pytest.mark.parametrize("task", [names, texts, answers, choices, masked_words, next_words])
def test_no_trainer(task, folder, tmp_path):
    """The loop of the `no_trainer` twins: prepared, trained, padded, gathered and saved by Accelerate."""
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, rows, collator = task(folder, tokenizer)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    accelerator = Accelerator(gradient_accumulation_steps=2)
    loader = DataLoader(rows, shuffle=True, collate_fn=collator, batch_size=2)
    plain = ["bias", "layer_norm.weight"]
    grouped = [
        {"params": [p for n, p in model.named_parameters() if not any(x in n for x in plain)], "weight_decay": 0.01},
        {"params": [p for n, p in model.named_parameters() if any(x in n for x in plain)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(grouped, lr=0.05)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=40)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    means = []
    for _ in range(3):
        model.train()
        losses = []
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather_for_metrics(loss.detach().repeat(2)))
        means.append(float(torch.cat(losses).mean()))
    # The words to fill in are drawn anew for every epoch, so their losses differ by more than these steps learn.
    assert np.isfinite(means).all() and (task is masked_words or means[-1] < means[0])
    model.eval()
    seen = 0
    for batch in loader:
        with torch.no_grad():
            outputs = model(**batch)
        logits = outputs.start_logits if task is answers else outputs.logits
        logits = accelerator.pad_across_processes(logits, dim=1, pad_index=-100)
        predictions, first = accelerator.gather_for_metrics((logits.argmax(dim=-1), batch["input_ids"]))
        seen += len(predictions)
        assert len(first) == len(predictions)
    assert seen == len(rows)
    accelerator.wait_for_everyone()
    unwrapped = accelerator.unwrap_model(model)
    unwrapped.save_pretrained(tmp_path, is_main_process=accelerator.is_main_process, save_function=accelerator.save)
    again = type(unwrapped).from_pretrained(tmp_path).eval()
    inputs = {name: value for name, value in batch.items() if "label" not in name and "position" not in name}
    torch.testing.assert_close(again(**inputs)[0], unwrapped(**inputs)[0])
