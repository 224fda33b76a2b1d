"""Model cards of fine-tuning runs, and the files published on the Hub."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import DataCollatorForTokenClassification

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.finetuning import Sentence, TaskTrainer, TaskTrainingArguments, encode_tagged, run_record, run_stages
from elmo_hf.finetuning.tags import TagArguments
from modeling_tests.hub_server import Hub

TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16]],
    "max_characters_per_word": 20,
    "projection_size": 8,
    "cell_size": 12,
}


def run(output: Path, **options: object) -> None:
    torch.manual_seed(0)
    labels, sentences = ["O", "B-X"], [Sentence(["a", "b"], ["O", "B-X"])] * 4
    config = ElmoConfig(**TINY, id2label=dict(enumerate(labels)))
    model, tokenizer = ElmoForTokenClassification(config), ElmoTokenizer(max_characters_per_word=20)
    args = TaskTrainingArguments(
        output_dir=str(output),
        do_train=True,
        do_eval=True,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=False,
        max_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        **options,  # type: ignore[arg-type]
    )
    encoded = encode_tagged(sentences, tokenizer, dict(zip(labels, range(9), strict=False)))
    trainer = TaskTrainer(
        model,
        args,
        {"train": encoded, "validation": encoded},
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    data = TagArguments(train_file="/home/somebody/corpus/train.conll", validation_file="/home/somebody/dev.conll")
    run_stages(trainer, run_record(model, {"train": sentences, "validation": sentences}, labels, (data, args)))


@pytest.mark.slow
def test_run_is_pushed_once_with_its_card_and_without_local_paths(hub: Hub, tmp_path: Path) -> None:
    output = tmp_path / "tagger"
    run(output, push_to_hub=True, hub_model_id="writer/tagger", license="mit", language=["en"])
    assert (output / "training_args.bin").is_file() and (output / "checkpoint-2").is_dir()
    found = hub.files("writer/tagger")
    assert hub.asked("POST", "/commit/") == 1
    assert {
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "all_results.json",
        "training_curve.png",
    } <= found.keys()
    assert not any(name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name for name in found)
    assert "trainer_state.json" not in found and "run_record.json" not in found
    text = found["README.md"].decode()
    card = ModelCard(text)
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", ["en"], "token-classification")
    loss = json.loads(found["all_results.json"])["eval_loss"]
    results = {each.metric_type: (each.metric_value, each.dataset_name) for each in card.data.eval_results}
    assert results["loss"] == (pytest.approx(loss, abs=1e-6), "dev.conll")
    assert "| train examples | 4 |" in text and "train.conll" in text and "training_curve.png" in text
    everything = b"".join(content for name, content in found.items() if not name.endswith((".safetensors", ".png")))
    assert str(tmp_path).encode() not in everything and b"/home/somebody" not in everything


def test_missing_card_facts_are_reported_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--license and --language"):
        TaskTrainingArguments(output_dir=str(tmp_path), push_to_hub=True)
