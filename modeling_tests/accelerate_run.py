"""Fine-tuning runs of a few steps for `test_accelerate`: the output folder and the runs are its arguments.

A run is a task, or a task and a setting: `names:checkpointing`, `names:bf16`, `names:whole` (no accumulation). The
batch of an optimizer step has four examples over all processes. One process group serves all runs.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertGenerationConfig,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from elmo_hf import (
    ElmoEncoderDecoderConfig,
    ElmoEncoderDecoderModel,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoTokenizer,
)
from elmo_hf.finetuning.translation import ExactSeq2SeqTrainer
from modeling_tests.tiny import tiny_config

TOKENIZER = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *"a b c d e f".split()], max_characters_per_word=9)
TEXTS = ["a b c", "d", "e f a b", "c c", "f e d c b", "a", "b d f", "c a", "e e e", "d a b", "f", "b c d e"]


def names():
    model = ElmoForTokenClassification(tiny_config(num_labels=3, scalar_mix_l2=0.01))
    data = []
    for text in TEXTS:
        encoding = dict(TOKENIZER(text))
        encoding["labels"] = [-100, *[number % 3 for number in encoding["input_ids"][1:-1]], -100]
        data.append(encoding)
    return model, data, DataCollatorForTokenClassification(TOKENIZER)


def sentiment():
    model = ElmoForSequenceClassification(tiny_config(num_labels=2, pooling=["mean", "max"]))
    return model, [{**TOKENIZER(text), "label": len(text) % 2} for text in TEXTS], DataCollatorWithPadding(TOKENIZER)


def answers():
    model = ElmoForQuestionAnswering(tiny_config())
    data = [
        {**TOKENIZER("a b", text), "start_positions": 5, "end_positions": 4 + (len(text) + 1) // 2} for text in TEXTS
    ]
    return model, data, DataCollatorWithPadding(TOKENIZER)


def translation():
    decoder = BertGenerationConfig(
        vocab_size=len(TOKENIZER), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config = ElmoEncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config(), decoder, pad_token_id=0, decoder_start_token_id=1, eos_token_id=2
    )
    model = ElmoEncoderDecoderModel(config)
    model.generation_config.update(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, max_new_tokens=6)
    data = [{**TOKENIZER(text), "labels": TOKENIZER(text_target=text[::-1])["input_ids"]} for text in TEXTS]
    return model, data, DataCollatorForSeq2Seq(TOKENIZER, model=model)


def train(name: str, folder: Path) -> None:
    """Write the weights after three steps, and the predictions for seven examples."""
    task, _, setting = name.partition(":")
    torch.manual_seed(0)
    model, data, collator = {each.__name__: each for each in (names, sentiment, answers, translation)}[task]()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    processes = int(os.environ.get("WORLD_SIZE", 1))
    writes = task == "translation"
    options = {"predict_with_generate": True} if writes else {}
    arguments = (Seq2SeqTrainingArguments if writes else TrainingArguments)(
        str(folder / "trainer"),
        per_device_train_batch_size=(4 if setting == "whole" else 2) // processes,
        gradient_accumulation_steps=1 if setting == "whole" else 2,
        activation_checkpointing=setting == "checkpointing",
        bf16=setting == "bf16",
        per_device_eval_batch_size=2,
        max_steps=3,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
        **options,
    )
    trainer = (ExactSeq2SeqTrainer if writes else Trainer)(
        model, arguments, train_dataset=data, data_collator=collator, processing_class=TOKENIZER
    )
    trainer.train()
    predictions = trainer.predict(data[:7]).predictions
    predictions = np.concatenate(predictions, axis=-1) if isinstance(predictions, tuple) else predictions
    if trainer.is_world_process_zero():
        weights = model.state_dict()
        changed = sum(not torch.equal(weights[name], value) for name, value in start.items())
        (folder / f"{name}.json").write_text(json.dumps({"changed": changed}))
        torch.save(weights, folder / f"{name}.pt")
        np.save(folder / f"{name}.npy", predictions)


def main() -> None:
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        train(name, folder)


if __name__ == "__main__":
    main()
