"""Pretraining of a Transformer: sentence by sentence, against the model's own loss, and resumed bit for bit."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.corpus.sentences import open_corpus
from elmo_hf.inference.perplexity import score_sentences
from elmo_hf.pretraining import StreamingObjective, perplexity, pretrain, warm_start
from elmo_hf.pretraining.start import open_streams
from elmo_hf.pretraining.streams import StreamBatch
from modeling_tests.pretraining.runs import losses, settings

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SHAPE: dict[str, Any] = {
    "encoder_type": "transformer",
    "character_filters": [[1, 4], [2, 4], [3, 8]],
    "projection_size": 8,
    "num_attention_heads": 2,
    "feed_forward_size": 12,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
}
WORDS: dict[str, Any] = {**SHAPE, "character_filters": [], "word_embedding_size": 5}
SHAPES = {"characters": SHAPE, "words": WORDS}


def run_settings(corpus: Path, output: Path, shape: dict[str, Any] = SHAPE, **changed: Any) -> Any:
    fields = {"unroll_steps": 16, "sentence_independent": True, "config_overrides": json.dumps(shape)}
    return settings(corpus, output, **{**fields, **changed})


def make_model(tokenizer: ElmoTokenizer, shape: dict[str, Any] = SHAPE, **changes: Any) -> ElmoForPreTraining:
    torch.manual_seed(3)
    ids = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    config = ElmoConfig(**{**shape, **ids, "max_characters_per_word": 50, **changes})
    model = ElmoForPreTraining(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model.eval()


def batches(corpus: Path, tokenizer: ElmoTokenizer, **changed: Any) -> list[StreamBatch]:
    return list(open_streams(run_settings(corpus, corpus / "none", epochs=1, **changed), tokenizer, 0, 1))


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> ElmoTokenizer:
    return ElmoTokenizer(corpus / "vocab.txt", pre_tokenization="whitespace")


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_equals_the_model(corpus: Path, tokenizer: ElmoTokenizer, shape: str) -> None:
    """Reading the sentence without its last (first) word gives the predictions of the whole sentence."""
    model = make_model(tokenizer, SHAPES[shape]).double()
    objective = StreamingObjective(model, loss="full").eval()
    sums, counts = np.zeros(2), np.zeros(2)
    for batch in batches(corpus, tokenizer):
        result = objective(batch)
        assert result.state is None
        sums += np.array([result.forward_loss, result.backward_loss]) * [result.forward_words, result.backward_words]
        counts += [result.forward_words, result.backward_words]
    lines = (corpus / "train.txt").read_text().splitlines()
    encoding = tokenizer([line.split() for line in lines], is_split_into_words=True, padding=True, return_tensors="pt")
    output = model(**encoding, labels=encoding["input_ids"].where(encoding["attention_mask"].bool(), -100))
    assert counts.tolist() == [sum(len(line.split()) + 1 for line in lines)] * 2
    np.testing.assert_allclose(sums / counts, [output.forward_loss, output.backward_loss], rtol=0, atol=1e-12)


def test_gradients_equal_the_model(corpus: Path, tokenizer: ElmoTokenizer) -> None:
    gradients = []
    lines = (corpus / "train.txt").read_text().splitlines()[:4]
    for through_streams in (True, False):
        model = make_model(tokenizer).double()
        if through_streams:
            batch = batches(corpus, tokenizer, shuffle=False)[0]
            StreamingObjective(model, loss="full")(batch).loss.backward()
        else:
            words = [line.split() for line in lines]
            encoding = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
            model(
                **encoding, labels=encoding["input_ids"].where(encoding["attention_mask"].bool(), -100)
            ).loss.backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.requires_grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@torch.no_grad()
def test_split_sentence_is_read_as_several_sentences(corpus: Path, tokenizer: ElmoTokenizer) -> None:
    """Parts of a sentence begin at position 0; every word is a target once per direction."""
    model = make_model(tokenizer)
    cut = batches(corpus, tokenizer, unroll_steps=3)
    whole = batches(corpus, tokenizer)
    assert sum(batch.words for batch in cut) == sum(batch.words for batch in whole)
    assert max(batch.forward_labels.shape[1] for batch in cut) == 3
    small = make_model(tokenizer, max_position_embeddings=4)
    small.load_state_dict(
        {**model.state_dict(), "elmo.encoder.positions.encodings": small.elmo.encoder.positions.encodings}
    )
    one, other = (StreamingObjective(each, loss="full").eval()(cut[0]).loss for each in (model, small))
    torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match=r"13 words.*max_position_embeddings=4\b"):
        StreamingObjective(small, loss="full").eval()(max(whole, key=lambda batch: batch.forward_labels.shape[1]))


def test_rows_without_words_have_no_part(corpus: Path, tokenizer: ElmoTokenizer) -> None:
    model = make_model(tokenizer)
    batch = batches(corpus, tokenizer)[0]
    empty = {
        name: torch.cat([value, torch.full_like(value[:2], -100 if "labels" in name else 0)])
        for name, value in vars(batch).items()
        if isinstance(value, torch.Tensor)
    }
    padded = StreamBatch(**{**vars(batch), **empty})
    objective = StreamingObjective(model, loss="full")
    torch.testing.assert_close(objective(padded).loss, objective(batch).loss)
    nothing = StreamBatch(**{**vars(padded), **{name: value[-2:] for name, value in empty.items()}, "words": 0})
    loss = objective(nothing).loss
    loss.backward()
    assert loss == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.elmo.encoder.parameters())


def test_running_text_is_refused(corpus: Path, tokenizer: ElmoTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoder_type='transformer'.*whole.*--sentence_independent"):
        pretrain(run_settings(corpus, tmp_path / "run", sentence_independent=False))
    with pytest.raises(ValueError, match="unroll_steps=40.*max_position_embeddings=40"):
        pretrain(run_settings(corpus, tmp_path / "run", unroll_steps=40))
    model = make_model(tokenizer)
    running = batches(corpus, tokenizer, sentence_independent=False)[0]
    with pytest.raises(ValueError, match="sentence_independent=True"):
        StreamingObjective(model, loss="full")(running)
    with pytest.raises(ValueError, match=r"carry_state=False \(--sentence_independent\)"):
        list(score_sentences(model, tokenizer, ["kara lose"]))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (5, 20)])
def test_perplexity_equals_the_model(corpus: Path, tokenizer: ElmoTokenizer, shape: str, rows: int, steps: int) -> None:
    model = make_model(tokenizer, SHAPES[shape])
    lines = ["", *(corpus / "held_out.txt").read_text().splitlines(), "kara unheard !"]
    options = {"rows": rows, "steps": steps, "carry_state": False}
    scores = sorted(score_sentences(model, tokenizer, lines, per_word=True, **options), key=lambda score: score.index)
    total = [0.0, 0.0]
    for line, score in zip(lines, scores, strict=True):
        encoding = tokenizer([line.split()], is_split_into_words=True, return_tensors="pt")
        output = model(**encoding)
        np.testing.assert_allclose(score.forward_log_probs, output.forward_log_probs[0, 1:], rtol=0, atol=1e-5)
        np.testing.assert_allclose(score.backward_log_probs, output.backward_log_probs[0, :-1], rtol=0, atol=1e-5)
        total = [total[0] + score.forward, total[1] + score.backward]
    found = perplexity(model, tokenizer, lines, **options)
    assert found.forward == pytest.approx(math.exp(-total[0] / found.targets), rel=1e-6)
    assert found.unknown >= 1


@pytest.mark.samples(1)
@pytest.mark.parametrize("shape", ["characters", "words"])
def test_a_run_interrupted_and_resumed_is_the_same_bit_for_bit(corpus: Path, tmp_path: Path, shape: str) -> None:
    """With dropout at all its places, the sampled softmax and sparse gradients."""
    fields = {"shape": SHAPES[shape], "dropout": 0.2, "max_steps": 9, "checkpoint_every": 20}
    pretrain(run_settings(corpus, tmp_path / "whole", **fields))
    interrupted = tmp_path / "interrupted"
    stopped = pretrain(run_settings(corpus, interrupted, **fields, stop_after=4))
    assert stopped.model_folder is None
    assert stopped.step == 4
    assert pretrain(run_settings(corpus, interrupted, **fields)).model_folder == interrupted / "model"
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "interrupted"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(tmp_path / "whole") == losses(interrupted)
    config = ElmoConfig.from_pretrained(interrupted / "model")
    rates = [
        getattr(config, f"{name}_dropout") for name in ("transformer", "attention", "transformer_input", "softmax")
    ]
    assert rates == [0.2] * 4
    assert config.lstm_input_dropout == 0.0
    # The weights have changed.
    assert not torch.equal(one["elmo.encoder.forward_norm.weight"], torch.ones(8))


@pytest.mark.slow
def test_run_learns_and_can_be_continued(corpus: Path, tmp_path: Path) -> None:
    shape = {**WORDS, "projection_size": 16, "word_embedding_size": 16, "feed_forward_size": 32, "num_hidden_layers": 1}
    optimizer = {"optimizer": "adamw", "learning_rate": 0.03}
    fields = {"loss": "full", "dropout": 0.0, "rows": 8, "epochs": 5, "max_steps": None, **optimizer}
    first = pretrain(run_settings(corpus, tmp_path / "run", shape, evaluate_every=40, **fields))
    # Chance is 29; each word has three possible successors.
    assert first.held_out_perplexity is not None
    assert first.held_out_perplexity < 14
    model = ElmoForPreTraining.from_pretrained(tmp_path / "run" / "model")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 40
    assert model.config.mask_token_id == tokenizer.mask_token_id
    held_out = open_corpus(str(corpus / "held_out.txt"))
    again = perplexity(model, tokenizer, held_out, carry_state=False, pre_tokenization="whitespace")
    assert again.both == pytest.approx(first.held_out_perplexity, rel=1e-6)
    further = {**fields, "epochs": 1, "config_overrides": None, "initialize_from": str(tmp_path / "run" / "model")}
    second = pretrain(run_settings(corpus, tmp_path / "further", **{**further, "learning_rate": 1e-30, "dropout": 0.3}))
    assert second.held_out_perplexity == pytest.approx(first.held_out_perplexity, rel=1e-3)
    assert ElmoConfig.from_pretrained(tmp_path / "further" / "model").transformer_dropout == 0.3
    with pytest.raises(ValueError, match="encoder_type='transformer'.*--sentence_independent"):
        pretrain(run_settings(corpus, tmp_path / "other", **further, sentence_independent=False))


def test_the_command_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from elmo_hf.cli import main

    folder = tmp_path / "model"
    tokenizer = ElmoTokenizer(corpus / "vocab.txt", pre_tokenization="whitespace")
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = str(corpus / "held_out.txt")
    assert main(["perplexity", str(folder), text, "--sentence_independent"]) == 0
    assert "12 sentence ends" in capsys.readouterr().out
    assert main(["perplexity", str(folder), text]) != 0
    assert "--sentence_independent" in capsys.readouterr().err


def test_another_vocabulary_keeps_the_map_from_the_table(
    corpus: Path, tokenizer: ElmoTokenizer, tmp_path: Path
) -> None:
    model = make_model(tokenizer, WORDS)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    words = ["<S>", "</S>", "<UNK>", "kara", "unheard"]
    start = warm_start(tmp_path, ElmoTokenizer(vocab=words))
    old, new = model.elmo.embeddings, start.model.elmo.embeddings
    assert torch.equal(new.projection.weight, old.projection.weight)
    assert new.word_embeddings.weight.shape == (7, 5)
    assert torch.equal(new.word_embeddings.weight[4], old.word_embeddings.weight[tokenizer.get_vocab()["kara"]])
    ids = torch.tensor([[1, 4, 5, 2]])
    assert start.model(input_ids=ids, labels=ids).loss.isfinite()
