"""Export of Transformer ELMo to AllenNLP's archive, bit for bit; refusals of what it cannot store."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, export, verify

from ..language_models import LINES, language_model_config, pack, read_archive, write_language_model

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "."]


def own_model(folder, cls=ElmoForPreTraining, vocabulary=WORDS, **overrides):
    """A model made by this package, without an original."""
    tokenizer = ElmoTokenizer(vocab=vocabulary)
    fields = {
        "encoder_type": "transformer",
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "character_embedding_size": 3,
        "character_filters": [[1, 4], [2, 5]],
        "projection_size": 16,
        "feed_forward_size": 6,
        "max_position_embeddings": 40,
    }
    model = cls(ElmoConfig(**{**fields, **overrides})).eval()
    if isinstance(model, ElmoForPreTraining):
        with torch.no_grad():
            model.softmax.bias.normal_()
            for part in (model.softmax.weight, model.softmax.bias):
                part[model.softmax.excluded_ids] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_the_reference_archive_comes_back_bit_for_bit(reference, tmp_path):
    source = reference / "transformer_elmo" / "model.tar.gz"
    convert(source, tmp_path / "out")
    report = export(tmp_path / "out", tmp_path / "back")
    assert report.files == ("model.tar.gz",)
    assert report.reversible
    (state, lines, _), (again, lines_again, _) = map(read_archive, (source, tmp_path / "back" / "model.tar.gz"))
    assert lines_again == lines
    assert again.keys() == state.keys()
    assert report.tensors == len(state)
    for name, tensor in state.items():
        # The last value of a metric, which belongs to the training run.
        if name != "_last_average_loss":
            assert again[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sparse", "dense", "unsampled"])
@pytest.mark.parametrize("age", ["iterator", "data_loader"])
def test_round_trip_gives_identical_files(tmp_path, layout, age):
    config = language_model_config(age, num_samples=... if layout == "unsampled" else 4)
    state = write_language_model(tmp_path / "source", config, layout=layout)
    convert(tmp_path / "source", tmp_path / "a")
    export(tmp_path / "a", tmp_path / "back", softmax_layout=layout)
    again, lines, settings = read_archive(tmp_path / "back" / "model.tar.gz")
    assert lines == LINES
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    settings = json.loads(settings)
    assert age in settings
    assert (settings["model"].get("num_samples") is None) == (layout == "unsampled")
    convert(tmp_path / "back", tmp_path / "b")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert verify(tmp_path / "b", tmp_path / "source", sentences=[["A", "cat"]]).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"character_projection_location": "after_cnn", "character_layer_norm": True, "layer_norm_epsilon": 1e-13},
        {"character_filters": [[1, 8], [3, 8]]},
        {"max_position_embeddings": 5003},
    ],
)
@torch.no_grad()
def test_models_without_a_source_archive(tmp_path, overrides):
    model = own_model(tmp_path / "own", **overrides)
    report = export(tmp_path / "own", tmp_path / "back")
    notes = " ".join(report.notes)
    assert "'<UNK>' is called '@@UNKNOWN@@' there" in notes
    assert "one more class" in notes
    done = "left out" if model.config.max_position_embeddings > 5000 else "computed"
    assert f"AllenNLP's 5000: {done} the others" in notes
    convert(tmp_path / "back", tmp_path / "again")
    again, tokenizer = (cls.from_pretrained(tmp_path / "again") for cls in (ElmoForPreTraining, ElmoTokenizer))
    assert again.config.layer_norm_epsilon == model.config.layer_norm_epsilon
    sentences = [["the", "zebra", "."], ["cat"]]
    batches = [
        each(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        for each in (ElmoTokenizer.from_pretrained(tmp_path / "own"), tokenizer)
    ]
    ours, theirs = (each.eval()(**batch) for each, batch in zip((model, again), batches, strict=True))
    # The class that is not a word has probability zero.
    torch.testing.assert_close(theirs.forward_log_probs, ours.forward_log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.backward_log_probs, ours.backward_log_probs, rtol=0, atol=1e-6)
    positions = again.elmo.encoder.positions.encodings
    assert positions.shape == (5000, 16)
    exact = np.arange(5000)[:, None] / 10000 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(positions[:, 0::2], np.sin(exact), rtol=0, atol=1e-3)


def test_a_model_without_softmax_gets_one_of_zeros(tmp_path):
    own_model(tmp_path / "own", ElmoForTokenClassification, num_labels=2)
    report = export(tmp_path / "own", tmp_path / "back")
    assert any("no softmax" in note for note in report.notes)
    assert any("left out, as the originals have no place for it: classifier" in note for note in report.notes)
    state = read_archive(tmp_path / "back" / "model.tar.gz")[0]
    assert not state["_softmax_loss.softmax_w.weight"].any()
    convert(tmp_path / "back", tmp_path / "again", without_softmax=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("own", "again"))
    for name, value in theirs.items():
        if "scalar_mixes" not in name and "positions" not in name:
            assert torch.equal(ours[f"elmo.{name}"], value), name


def test_a_folder_is_replaced_only_when_it_is_ours(tmp_path):
    own_model(tmp_path / "own")
    export(tmp_path / "own", tmp_path / "back")
    with pytest.raises(CheckpointError, match="--overwrite"):
        export(tmp_path / "own", tmp_path / "back")
    export(tmp_path / "own", tmp_path / "back", force=True)
    (tmp_path / "other").mkdir()
    pack(tmp_path / "own", tmp_path / "other" / "model.tar.gz")
    with pytest.raises(CheckpointError, match="not empty.*'elmo'"):
        export(tmp_path / "own", tmp_path / "other", force=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads=4: .*AllenNLP.* 8 "),
        ({"max_characters_per_word": 20}, "max_characters_per_word=20: .*hold 50"),
        (
            {"character_filters": [], "word_embedding_size": 4},
            "words read by their id: .*AllenNLP",
        ),
    ],
)
def test_unsupported_models_are_refused(tmp_path, overrides, message):
    own_model(tmp_path / "own", **overrides)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "own", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_non_causal_encoder_is_refused(tmp_path):
    own_model(tmp_path / "own", ElmoModel, causal=False)
    with pytest.raises(CheckpointError, match="causal=False.*hold"):
        export(tmp_path / "own", tmp_path / "back")


def test_tokenizers_that_do_not_fit(tmp_path):
    own_model(tmp_path / "own", vocabulary=[*WORDS, "@@UNKNOWN@@"])
    with pytest.raises(CheckpointError, match="'@@UNKNOWN@@'.*AllenNLP"):
        export(tmp_path / "own", tmp_path / "back")
    ElmoTokenizer(vocab=WORDS).save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="8 words.* 9 rows"):
        export(tmp_path / "own", tmp_path / "back")
    ElmoTokenizer(vocab=["a", "b", *WORDS[2:]], bos_token="a", eos_token="b").save_pretrained(tmp_path / "own")
    with pytest.raises(CheckpointError, match="bos_token.*'a'.*AllenNLP.*'<S>'"):
        export(tmp_path / "own", tmp_path / "back")
    for path in (tmp_path / "own").glob("tokenizer*.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'own'}: no tokenizer.*AllenNLP"):
        export(tmp_path / "own", tmp_path / "back")


def test_parts_that_bilm_tf_lacks(tmp_path):
    """An LSTM with parts that only AllenNLP's language models have, or with a projected word table."""
    lstm = {"encoder_type": "lstm", "cell_size": 8}
    for number, (overrides, message) in enumerate(
        (
            ({"character_layer_norm": True}, r"\(character_layer_norm\)"),
            ({"character_projection_location": "after_cnn"}, r"\(character_projection_location\)"),
            ({"character_filters": [], "word_embedding_size": 4}, "word_embedding_size=4 to projection_size=16"),
        )
    ):
        own_model(tmp_path / str(number), **lstm, **overrides)
        with pytest.raises(CheckpointError, match=message):
            export(tmp_path / str(number), tmp_path / "back")
    own_model(tmp_path / "plain", **lstm)
    with pytest.raises(CheckpointError, match="--softmax-layout dense"):
        export(tmp_path / "plain", tmp_path / "back", softmax_layout="dense")


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys):
    from hub_upload.cli import main

    write_language_model(tmp_path / "source")
    source, folder, back = (str(tmp_path / name) for name in ("source", "folder", "back"))
    assert main(["convert", source, folder, "--layer-norm-epsilon", "1e-13"]) == 0
    assert ElmoConfig.from_pretrained(folder).layer_norm_epsilon == 1e-13
    assert main(["export", folder, back, "--softmax-layout", "unsampled"]) == 0
    assert "model.tar.gz" in capsys.readouterr().out
    assert main(["verify", folder, "--against", back]) == 0
    output = capsys.readouterr().out
    assert output.count("at once") == 3
    assert "carried state" not in output
