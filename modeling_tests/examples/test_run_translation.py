"""`examples/run_translation.py` end to end on a tiny language: search, resuming, both tokenizers, summaries."""

import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoTokenizer, EncoderDecoderModel

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer, translate_iter
from elmo_hf.finetuning import PairColumns, read_pairs
from elmo_hf.finetuning import splits as splits_of_data
from elmo_hf.hub.pushing import check_weights
from elmo_hf.inference.describing import describe
from elmo_hf.metrics import Bleu, Rouge
from elmo_hf.model.task_encoder import ElmoTaskEncoder
from examples import run_translation

# Every EncoderDecoderModel with labels gives this warning.
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")

TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16], [3, 16]],
    "max_characters_per_word": 20,
    "projection_size": 32,
    "cell_size": 48,
    "representation_dropout": 0.0,
}
DECODER = (
    "--decoder_type gpt2 --decoder_hidden_size 48 --decoder_layers 1 --decoder_heads 2 --decoder_dropout 0 "
    "--decoder_initializer_range 0.15 "
    "--target_vocab_size 330 --max_target_tokens 24"
)
# Each with its translation; a sentence is "A <adjective> <noun> <verb> .".
ADJECTIVES = {"red": "rote", "big": "große", "old": "alte", "small": "kleine", "wild": "wilde", "white": "weiße"}
NOUNS = {"dog": "Hund", "cat": "Katze", "bird": "Vogel", "horse": "Pferd", "man": "Mann", "girl": "Mädchen"}
VERBS = {"sleeps": "schläft", "runs": "läuft", "sings": "singt", "eats": "isst", "jumps": "springt", "sits": "sitzt"}
SIZES = {"test": 24, "validation": 24, "train": 504}  # 168 different training sentences, none of them in the others


class Run(NamedTuple):
    output: Path
    metrics: dict[str, float]
    argv: list[str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a small language, and their translations."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        tuple(f"{start} {' '.join(words)} ." for start, words in (("A", sources), ("Ein", targets)))
        for sources, targets in (
            zip(*words, strict=True) for words in product(ADJECTIVES.items(), NOUNS.items(), VERBS.items())
        )
    ]
    rows = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    splits = {"test": rows[:24], "validation": rows[24:48], "train": 3 * rows[48:]}
    for name, pairs in splits.items():
        for suffix, texts in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            (folder / f"{name}.{suffix}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


def files_of(corpus: Path, *splits: str) -> list[str]:
    return [part for split in splits for part in (f"--{split}_file", f"{corpus}/{split}.en", f"{corpus}/{split}.de")]


def options(corpus: Path, output: Path, *more: str, start: Sequence[str] = ("--preset", "small")) -> list[str]:
    """A complete run: training, evaluation in every epoch, prediction."""
    if start[0] == "--preset":
        start = (*start, "--config_overrides", json.dumps(TINY))
    fixed = "--do_train --do_eval --do_predict --disable_tqdm true --use_cpu --learning_rate 5e-3"
    batches = "--per_device_train_batch_size 8 --per_device_eval_batch_size 10 --num_train_epochs 4"
    files = files_of(corpus, *SIZES)
    return [*start, *files, "--output_dir", str(output), *f"{fixed} {batches} {DECODER}".split(), *more]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("run")
    argv = options(corpus, output, "--save_total_limit", "9")
    return Run(output, run_translation.main(argv), argv)


def load(folder: Path) -> tuple[EncoderDecoderModel, Any, Any]:
    """The code in the script's docstring."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    target_tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="target_tokenizer")
    return EncoderDecoderModel.from_pretrained(folder), tokenizer, target_tokenizer


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_output_folder(run: Run) -> None:
    names = {path.name for path in run.output.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "target_tokenizer"} <= names
    assert {"train_results.json", "eval_results.json", "test_results.json", "all_results.json"} <= names
    assert (run.output / "training_curve.png").is_file()
    assert not [name for name in names if name.endswith(".part")]
    results = json.loads((run.output / "all_results.json").read_text())
    assert results["test_bleu"] == run.metrics["test_bleu"]


@pytest.mark.slow
def test_it_learns_the_language(run: Run) -> None:
    history = json.loads((run.output / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < 0.2 * losses[0]
    assert run.metrics["test_bleu"] > 60
    assert run.metrics["eval_bleu"] > 60


@pytest.mark.slow
def test_predictions_keep_the_file_order_and_reproduce_the_score(run: Run, corpus: Path) -> None:
    found, references = lines_of(run.output / "predictions.txt"), lines_of(corpus / "test.de")
    assert len(found) == len(references) == SIZES["test"]
    assert Bleu().compute(predictions=found, references=references)["bleu"] == run.metrics["test_bleu"]


@pytest.mark.slow
@pytest.mark.parametrize("trains", [True, False])
def test_predictions_keep_the_file_order_with_length_grouping(
    trains: bool, run: Run, corpus: Path, tmp_path: Path
) -> None:
    more = ["--train_sampling_strategy", "group_by_length", "--max_steps", "1", "--learning_rate", "1e-9"]
    argv = options(corpus, tmp_path, *more, *NO_EVALUATION, start=("--model_name_or_path", str(run.output)))
    run_translation.main([part for part in argv if trains or part != "--do_train"])
    assert lines_of(tmp_path / "predictions.txt") == lines_of(run.output / "predictions.txt")


@pytest.mark.slow
def test_new_text_is_translated_from_the_saved_folder(run: Run, corpus: Path) -> None:
    model, tokenizer, target_tokenizer = load(run.output)
    config = model.generation_config
    assert (config.num_beams, config.early_stopping, config.max_length) == (4, True, 24)
    sources = lines_of(corpus / "test.en")
    ids = model.generate(**tokenizer(sources, padding=True, return_tensors="pt"))
    together = [text.strip() for text in target_tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert together == lines_of(run.output / "predictions.txt")
    for source, expected in list(zip(sources, together))[:4]:
        (ids,) = model.generate(**tokenizer(source, return_tensors="pt"))
        assert target_tokenizer.decode(ids, skip_special_tokens=True).strip() == expected
    unseen = "Äpfel, 日本 !"
    assert target_tokenizer.decode(target_tokenizer(unseen)["input_ids"], skip_special_tokens=True) == unseen


@pytest.mark.slow
def test_beam_search_finds_likelier_texts(run: Run, corpus: Path) -> None:
    """The best of each step, and the best of four beams, judged by the model."""
    model, tokenizer, _ = load(run.output)
    torch.manual_seed(0)
    for parameter in model.decoder.parameters():  # a model with flat distributions
        parameter.data += 0.15 * torch.randn_like(parameter)
    batch = tokenizer(lines_of(corpus / "test.en"), padding=True, return_tensors="pt")
    scores = []
    for beams in (1, 4):
        ids = model.generate(**batch, num_beams=beams, early_stopping=False, min_new_tokens=6, max_new_tokens=6)
        with torch.no_grad():
            logits = model(**batch, decoder_input_ids=ids[:, :-1]).logits
        scores.append(-functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").sum(1))
    better = scores[1] - scores[0]
    assert better.mean() > 0.1 and (better > -1e-4).float().mean() > 0.8


@pytest.mark.slow
def test_encoder_runs_once_for_a_search(run: Run, corpus: Path) -> None:
    model, tokenizer, _ = load(run.output)
    rows: list[int] = []
    model.encoder.register_forward_hook(lambda module, args, output: rows.append(len(output.last_hidden_state)))
    batch = tokenizer(lines_of(corpus / "test.en"), padding=True, return_tensors="pt")
    model.generate(**batch, num_beams=4, min_new_tokens=8)
    assert rows == [SIZES["test"]]  # and not on every beam


@pytest.mark.slow
def test_saved_translator_evaluates_alike(run: Run, corpus: Path, tmp_path: Path) -> None:
    argv = ["--model_name_or_path", str(run.output), *files_of(corpus, "validation", "test"), "--output_dir"]
    argv += [str(tmp_path), *"--do_eval --do_predict --use_cpu --disable_tqdm true".split()]
    metrics = run_translation.main([*argv, "--per_device_eval_batch_size", "10"])
    for name in ("eval_bleu", "test_bleu"):
        assert metrics[name] == run.metrics[name]
    for name in ("eval_loss", "test_loss"):
        assert metrics[name] == pytest.approx(run.metrics[name], rel=1e-5)
    assert lines_of(tmp_path / "predictions.txt") == lines_of(run.output / "predictions.txt")


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(run: Run, corpus: Path, tmp_path: Path) -> None:
    # As after a kill in the third epoch: only the first two checkpoints exist.
    steps = sorted((int(path.name.split("-")[1]), path) for path in run.output.glob("checkpoint-*"))
    for _, path in steps[:2]:
        shutil.copytree(path, tmp_path / path.name)
    argv = [str(tmp_path) if part == str(run.output) else part for part in run.argv]
    metrics = run_translation.main(argv)
    expected, resumed = weights(run.output), weights(tmp_path)
    assert expected.keys() == resumed.keys()
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), name  # bit for bit
    assert metrics["test_bleu"] == run.metrics["test_bleu"]
    assert metrics["train_loss"] != run.metrics["train_loss"], "the first two epochs ran again"


@pytest.mark.slow
def test_checkpoints_hold_the_model_and_both_tokenizers(run: Run) -> None:
    folders = list(run.output.glob("checkpoint-*"))
    assert folders
    for folder in folders:
        model, tokenizer, target_tokenizer = load(folder)
        assert isinstance(tokenizer, ElmoTokenizer) and len(target_tokenizer) == model.config.decoder.vocab_size


# ---- encoders


@pytest.fixture(scope="module")
def bilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained biLM: a language model with its vocabulary."""
    folder = tmp_path_factory.mktemp("bilm")
    torch.manual_seed(5)
    # bilm-tf's order: the target's special tokens have other ids.
    tokenizer = ElmoTokenizer(vocab=["</S>", "<S>", "<UNK>", "dog", "the"], max_characters_per_word=20)
    ElmoForPreTraining(ElmoConfig(**TINY, vocab_size=len(tokenizer))).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


NO_EVALUATION = "--eval_strategy no --load_best_model_at_end false --save_strategy no".split()


def is_bilm(name: str) -> bool:
    return name.startswith(("encoder.embeddings.", "encoder.encoder."))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cached", "frozen", "rate 0", "rate 1e-2"])
def test_bilm_of_a_checkpoint(how: str, bilm: Path, corpus: Path, tmp_path: Path) -> None:
    more = {
        "frozen": ["--freeze_bilm"],
        "cached": ["--freeze_bilm", "--cache_layers", "0.1"],
        "rate 0": ["--bilm_learning_rate", "0", "--weight_decay", "0.1"],
        "rate 1e-2": ["--bilm_learning_rate", "1e-2"],
    }[how]
    start = ("--model_name_or_path", str(bilm))
    run_translation.main(options(corpus, tmp_path, "--max_steps", "3", *more, *NO_EVALUATION, start=start))
    before, after = ElmoModel.from_pretrained(bilm, dtype=torch.float32).state_dict(), weights(tmp_path)
    of_encoder = {name for name in after if name.startswith("encoder.")}
    assert of_encoder == {f"encoder.{name}" for name in before}
    for name in of_encoder:
        same = torch.equal(after[name], before[name.removeprefix("encoder.")])
        # The mix is trained in any case.
        assert same == (is_bilm(name) and how != "rate 1e-2"), name


def test_special_tokens_of_sources_and_of_targets_stay_apart(bilm: Path, corpus: Path, tmp_path: Path) -> None:
    start = ("--model_name_or_path", str(bilm))
    run_translation.main(options(corpus, tmp_path, "--max_steps", "2", *NO_EVALUATION, start=start))
    model, tokenizer, target_tokenizer = load(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1)
    assert (target_tokenizer.bos_token_id, target_tokenizer.eos_token_id) == (1, 2)
    for config in (model.config, model.generation_config):
        assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)


@pytest.mark.slow
def test_encoder_wider_than_the_decoder_is_projected(run: Run) -> None:
    model, tokenizer, _ = load(run.output)
    assert model.config.encoder.hidden_size == 64 and model.config.decoder.hidden_size == 48
    assert model.enc_to_dec_proj.weight.shape == (48, 64)
    saved = weights(run.output)["enc_to_dec_proj.weight"]
    assert torch.equal(model.enc_to_dec_proj.weight, saved)
    seen: list[torch.Tensor] = []
    model.enc_to_dec_proj.register_forward_hook(lambda module, args, output: seen.append(output))
    batch = tokenizer(["red dog", "see"], padding=True, return_tensors="pt")
    states = model.encoder(**batch).last_hidden_state
    start = torch.ones(2, 1, dtype=torch.long)
    logits = model(**batch, decoder_input_ids=start).logits
    assert torch.equal(seen[0], functional.linear(states, saved, model.enc_to_dec_proj.bias))
    plain = model.decoder(start, encoder_hidden_states=seen[0], encoder_attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("elmo", [True, False], ids=["ELMo", "baseline"])
def test_layers_of_the_task(elmo: bool, bilm: Path, corpus: Path, tmp_path: Path) -> None:
    """Word vectors, characters and a biLSTM, with the frozen biLM or, as a baseline, without ELMo."""
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("dog" + " 0.5" * 16 + "\ncat" + " -0.5" * 16 + "\n")
    start = ("--model_name_or_path", str(bilm), "--freeze_bilm", "--cache_layers", "1") if elmo else ("--without_elmo",)
    own = f"--word_vectors {vectors} --task_character_size 8 --task_lstm_size 32 --task_dropout 0.1".split()
    output = tmp_path / "output"
    metrics = run_translation.main(options(corpus, output, *own, start=start))
    model, tokenizer, _ = load(output)
    assert type(model.encoder) is ElmoTaskEncoder and model.config.encoder.hidden_size == 64
    assert model.enc_to_dec_proj.weight.shape == (48, 64)
    words = {"A", ".", *ADJECTIVES, *NOUNS, *VERBS}
    assert set(tokenizer.get_vocab()) == {"<pad>", "<S>", "</S>", "<UNK>", "<mask>", *words}
    table = model.encoder.task_layers.word_vectors.word_embeddings.weight
    assert model.config.encoder.vocab_size == len(tokenizer) == len(table)
    assert metrics["test_bleu"] > 60
    saved = weights(output)
    before = ElmoModel.from_pretrained(bilm, dtype=torch.float32).state_dict()
    found = {name for name in saved if name.startswith("encoder.elmo.")}
    assert found == ({f"encoder.elmo.{name}" for name in before} if elmo else set())
    for name in found:
        same = torch.equal(saved[name], before[name.removeprefix("encoder.elmo.")])
        assert same == ("scalar_mixes" not in name), name
    found = describe(str(output))
    assert found.family == f"{'biLSTM over characters' if elmo else 'task model without ELMo'}, with a decoder"
    assert ("cell_size" in found.shape) == elmo and found.shape["word_vectors"] == 16
    check_weights(output)
    assert list(translate_iter(lines_of(corpus / "test.en"), output)) == lines_of(output / "predictions.txt")


@pytest.mark.slow
def test_bilm_of_word_ids(corpus: Path, tmp_path: Path) -> None:
    """From random weights, with a vocabulary of the training sources."""
    fields = {**TINY, "character_filters": [], "word_embedding_size": 32}
    more = ("--config_overrides", json.dumps(fields))
    metrics = run_translation.main(options(corpus, tmp_path, *more))
    model, tokenizer, _ = load(tmp_path)
    words = {"A", ".", *ADJECTIVES, *NOUNS, *VERBS}
    assert set(tokenizer.get_vocab()) == {"<pad>", "<S>", "</S>", "<UNK>", "<mask>", *words}
    assert len(tokenizer) == len(model.encoder.get_input_embeddings().weight)
    assert metrics["test_bleu"] > 60


@pytest.mark.slow
def test_training_continues_from_a_saved_translator(run: Run, corpus: Path, tmp_path: Path) -> None:
    start = ("--model_name_or_path", str(run.output))
    more = ("--max_steps", "2", "--learning_rate", "1e-5", "--num_beams", "2")
    metrics = run_translation.main(options(corpus, tmp_path, *more, *NO_EVALUATION, start=start))
    assert metrics["test_loss"] == pytest.approx(run.metrics["test_loss"], rel=0.05)
    _, _, target_tokenizer = load(tmp_path)
    assert target_tokenizer.get_vocab() == load(run.output)[2].get_vocab()
    assert json.loads((tmp_path / "generation_config.json").read_text())["num_beams"] == 2


@pytest.mark.slow
def test_bert_decoder(corpus: Path, tmp_path: Path) -> None:
    more = ("--decoder_type", "bert", "--max_steps", "3", *NO_EVALUATION)
    metrics = run_translation.main(options(corpus, tmp_path, *more))
    model, *_ = load(tmp_path)
    assert type(model.decoder).__name__ == "BertLMHeadModel"
    assert metrics["test_samples"] == SIZES["test"]
    # Written once, tied when read.
    assert model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight


# ---- summaries, forms of data


@pytest.mark.slow
def test_gradient_accumulation_equals_a_large_batch(corpus: Path, tmp_path: Path) -> None:
    found = []
    for size, steps in ((8, 1), (2, 4)):
        output = tmp_path / str(size)
        more = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {steps} --max_steps 3 --optim sgd"
        run_translation.main(options(corpus, output, *more.split(), *NO_EVALUATION))
        found.append(weights(output))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_summaries(corpus: Path, tmp_path: Path) -> None:
    """The noun of a text, in a file of records; held-out validation, early stopping."""
    for split in ("train", "test"):
        rows = [{"document": line, "summary": line.split()[2]} for line in lines_of(corpus / f"{split}.en")]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    output = tmp_path / "out"
    argv = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--task", "summarization"]
    argv += ["--train_file", f"{tmp_path}/train.jsonl", "--test_file", f"{tmp_path}/test.jsonl"]
    argv += ["--source_column", "document", "--target_column", "summary", "--validation_share", "0.1"]
    argv += ["--output_dir", str(output), *DECODER.split(), *"--do_train --do_eval --do_predict --use_cpu".split()]
    argv += "--learning_rate 5e-3 --per_device_train_batch_size 16 --num_train_epochs 5 --disable_tqdm true".split()
    argv += "--max_source_words 4 --early_stopping_patience 1 --no_repeat_ngram_size 3 --length_penalty 0.8".split()
    metrics = run_translation.main(argv)
    found, rows = lines_of(output / "predictions.txt"), lines_of(tmp_path / "test.jsonl")
    references = [json.loads(row)["summary"] for row in rows]
    scores = Rouge().compute(predictions=found, references=references)
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert metrics[f"test_{name}"] == pytest.approx(scores[name], abs=1e-12)
    assert metrics["test_rougeL"] > 0.7
    assert (metrics["train_samples"], metrics["eval_samples"]) == (454, 50)
    config = json.loads((output / "generation_config.json").read_text())
    assert (config["no_repeat_ngram_size"], config["length_penalty"]) == (3, 0.8)
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    best = [row["eval_rougeL"] for row in history if "eval_rougeL" in row]
    improved = [score > max(best[:number], default=-1.0) for number, score in enumerate(best)]
    # Training stops once the score no longer improves.
    assert all(improved[:-1]) and (len(best) == 5 or not improved[-1]), best


@pytest.mark.slow
def test_dataset_by_name(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {
        split: [
            {"translation": {"en": pair.source, "de": pair.target}}
            for pair in read_pairs([corpus / f"{split}.en", corpus / f"{split}.de"], PairColumns())
        ]
        for split in SIZES
    }
    whole = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})
    asked: list[Any] = []
    monkeypatch.setattr(splits_of_data, "load_dataset", lambda *names: asked.append(names) or whole)
    monkeypatch.setattr(splits_of_data, "load_dataset_builder", lambda *names: SimpleNamespace(config=None))
    argv = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--dataset_name", "mine"]
    argv += ["--dataset_config_name", "de-en", "--source_column", "translation.en", "--target_column", "translation.de"]
    argv += ["--output_dir", str(tmp_path), *DECODER.split(), *"--do_train --do_predict --use_cpu".split()]
    metrics = run_translation.main([*argv, "--max_steps", "2", "--disable_tqdm", "true", *NO_EVALUATION])
    assert asked == [("mine", "de-en")]
    assert metrics["test_samples"] == SIZES["test"]


# ---- bad input


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "small", "--model_name_or_path", "x"], "--model_name_or_path.*--preset"),
        (["--without_elmo", "--elmo_at", "input"], "--elmo_at input.*--without_elmo"),
        (["--preset", "small", "--decoder_hidden_size", "30"], "--decoder_hidden_size 30: expected a multiple"),
        (["--preset", "small", "--target_vocab_size", "258"], "--target_vocab_size 258.*259"),
        (["--preset", "small", "--min_count", "0"], "--min_count 0"),
        (["--preset", "small", "--max_source_words", "0"], "--max_source_words 0"),
        (["--preset", "small", "--max_target_tokens", "1"], "--max_target_tokens 1.*2"),
        (["--preset", "small", "--validation_share", "1"], "--validation_share 1.0"),
        (["--preset", "small", "--dataset_name", "d", "--train_file", "f"], "either --dataset_name"),
        (["--preset", "small", "--do_train"], "no train data.*--train_file"),
        (["--preset", "small"], "--do_train"),
    ],
)
def test_contradicting_options(more: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_translation.main([*more, "--do_predict", "--output_dir", str(tmp_path), "--use_cpu"])


@pytest.mark.slow
def test_options_that_change_a_saved_translator_are_refused(run: Run, tmp_path: Path) -> None:
    for more in (["--without_elmo"], ["--config_overrides", "{}"], ["--task_lstm_size", "8"]):
        argv = ["--model_name_or_path", str(run.output), *more, "--do_predict", "--output_dir", str(tmp_path)]
        with pytest.raises(ValueError, match=f"^{more[0]}: .*translator"):
            run_translation.main([*argv, "--use_cpu"])


def test_errors_of_the_data_end_the_program_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.en").write_text("a\nb\n")
    (tmp_path / "a.de").write_text("x\n")
    argv = ["--preset", "small", "--train_file", f"{tmp_path}/a.en", f"{tmp_path}/a.de", "--do_train", "--use_cpu"]
    argv = ["run_translation.py", *argv, "--output_dir", str(tmp_path / "o"), *NO_EVALUATION]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(run_translation.__file__, run_name="__main__")
    # Python prints the message, with exit status 1.
    assert str(stop.value.code).startswith(f"error: {tmp_path}/a.en:2: no counterpart in {tmp_path}/a.de")
    assert len(str(stop.value.code).splitlines()) == 1
