"""Folders to original files and back, bit for bit; notes and errors for what the originals cannot hold."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, export

from ..checkpoints import VOCABULARY, bilm_arrays, leftovers, options, read_hdf5, write_bilm
from ..test_convert import VARIANTS, WORD_VARIANTS, write_words


def tiny(folder, cls=ElmoModel, vocab=None, dtype=None, **fields):
    """Save a small random model, with its tokenizer if `vocab` is not False."""
    values = {
        "character_embedding_size": 3,
        "character_filters": [[1, 4], [2, 5]],
        "projection_size": 4,
        "cell_size": 8,
    }
    config = ElmoConfig(**{**values, "vocab_size": len(vocab) + 2 if vocab else 5, **fields})
    model = cls(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0
    if cls is ElmoForPreTraining:
        with torch.no_grad():
            for parameter in model.softmax.parameters():
                parameter.normal_()
                parameter[[0, -1]] = 0
    model.to(dtype).save_pretrained(folder)
    if vocab is not False:
        ElmoTokenizer(vocab=vocab, max_characters_per_word=config.max_characters_per_word).save_pretrained(folder)
    return model


@pytest.mark.samples(2)
@pytest.mark.parametrize("name", VARIANTS)
def test_hdf5_to_folder_to_hdf5_is_bit_identical(name, tmp_path):
    arrays = write_bilm(tmp_path / "a", **VARIANTS[name])
    convert(tmp_path / "a", tmp_path / "b")
    report = export(tmp_path / "b", tmp_path / "c")
    assert report.reversible
    assert report.files == ("options.json", "weights.hdf5")
    exported = read_hdf5(tmp_path / "c" / "weights.hdf5")
    assert exported.keys() == arrays.keys()
    for key, array in arrays.items():
        assert exported[key].dtype == np.float32
        assert exported[key].tobytes() == array.tobytes(), key
    convert(tmp_path / "c", tmp_path / "d")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "d" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_references_round_trip(reference, tmp_path):
    convert(reference / "bilm_tf", tmp_path / "folder")
    export(tmp_path / "folder", tmp_path / "back")
    original = read_hdf5(reference / "bilm_tf" / "lm_weights.hdf5")
    exported = read_hdf5(tmp_path / "back" / "weights.hdf5")
    assert {name: array.tobytes() for name, array in original.items()} == {
        name: array.tobytes() for name, array in exported.items()
    }
    old, new = (json.loads((path / "options.json").read_text()) for path in (reference / "bilm_tf", tmp_path / "back"))
    assert {**new, "bidirectional": ...} == {**old, "bidirectional": ...}


def test_one_layer_reference_round_trips_under_multi_layer_names(reference, tmp_path):
    folder = reference / "bilm_tf_checkpoint"
    convert(folder / "dumped_one_layer.hdf5", tmp_path / "folder", options=folder / "one_layer_options.json")
    report = export(tmp_path / "folder", tmp_path / "back")
    assert report.reversible
    assert any("embedding_weight_file" in note for note in report.notes)
    original = read_hdf5(folder / "dumped_one_layer.hdf5")
    exported = read_hdf5(tmp_path / "back" / "weights.hdf5")
    assert {name.replace("/LSTMCell", "/MultiRNNCell/Cell0/LSTMCell"): a.tobytes() for name, a in original.items()} == {
        name: array.tobytes() for name, array in exported.items()
    }
    assert (tmp_path / "back" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    old, new = (json.loads(p.read_text()) for p in (folder / "one_layer_options.json", tmp_path / "back/options.json"))
    assert new == {key: old[key] for key in ("lstm", "bidirectional", "n_tokens_vocab")}
    convert(tmp_path / "back", tmp_path / "again")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "folder" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", WORD_VARIANTS)
def test_word_models_round_trip(name, separate, tmp_path):
    arrays = write_words(tmp_path / "a", separate_softmax=separate, **WORD_VARIANTS[name])
    convert(tmp_path / "a", tmp_path / "b")
    report = export(tmp_path / "b", tmp_path / "c")
    assert report.reversible
    exported = read_hdf5(tmp_path / "c" / "weights.hdf5")
    if "softmax_weights.hdf5" in report.files:
        exported |= read_hdf5(tmp_path / "c" / "softmax_weights.hdf5")
    assert {key: array.tobytes() for key, array in exported.items()} == {
        key: array.tobytes() for key, array in arrays.items()
    }
    old, new = (json.loads((tmp_path / side / "options.json").read_text()) for side in "ac")
    assert {key: new.get(key) for key in ("char_cnn", "share_embedding_softmax")} == {
        key: old.get(key) for key in ("char_cnn", "share_embedding_softmax")
    }
    convert(tmp_path / "c", tmp_path / "d")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "d" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_word_model_is_exported_with_its_vocabulary_or_not_at_all(tmp_path):
    fields = {"character_filters": [], "word_embedding_size": 4}
    model = tiny(tmp_path / "a", vocab=VOCABULARY, **fields)
    report = export(tmp_path / "a", tmp_path / "b")
    # The mask of a new model has a vector like any word, which is kept.
    assert (tmp_path / "b" / "vocab.txt").read_text().split() == [*VOCABULARY, "<mask>"]
    stored = read_hdf5(tmp_path / "b" / "weights.hdf5")["embedding"]
    np.testing.assert_array_equal(stored, model.get_input_embeddings().weight.detach().numpy()[1:])
    assert not any("not zero" in note for note in report.notes)
    ElmoTokenizer(vocab=VOCABULARY[:4]).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="tokenizer.*6.*8"):
        export(tmp_path / "a", tmp_path / "c")
    tiny(tmp_path / "d", vocab=False, **fields)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/d: no tokenizer"):
        export(tmp_path / "d", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_adaptive_softmax_is_left_out(tmp_path):
    model = tiny(tmp_path / "a", ElmoForPreTraining, vocab=VOCABULARY, softmax_cutoffs=[2])
    report = export(tmp_path / "a", tmp_path / "b")
    assert report.files == ("options.json", "weights.hdf5", "vocab.txt")
    notes = "\n".join(report.notes)
    assert "left out, as the originals have no place for it: softmax.clusters." in notes
    assert "the softmax is adaptive (softmax_cutoffs=[2])" in notes
    convert(tmp_path / "b", tmp_path / "c")
    back = load_file(tmp_path / "c" / "model.safetensors")
    for name, tensor in model.elmo.state_dict().items():
        assert torch.equal(back[name], tensor), name


def test_one_layer_models_use_multi_layer_names(tmp_path):
    values = options(n_layers=1)
    write_bilm(tmp_path / "a", values, bilm_arrays(values, cell="RNN_{d}/RNN/LSTMCell"))
    convert(tmp_path / "a", tmp_path / "b")
    export(tmp_path / "b", tmp_path / "c")
    assert "RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0" in read_hdf5(tmp_path / "c" / "weights.hdf5")


@pytest.mark.parametrize("words", [VOCABULARY, ["<UNK>", "<mask>", "<S>", "the", "</S>"]])
def test_softmax_and_vocabulary_round_trip(tmp_path, words):
    arrays = write_bilm(tmp_path / "a", vocabulary=words, separate_softmax=True)
    convert(tmp_path / "a", tmp_path / "b")
    report = export(tmp_path / "b", tmp_path / "c")
    assert report.files == ("options.json", "weights.hdf5", "softmax_weights.hdf5", "vocab.txt")
    softmax = read_hdf5(tmp_path / "c" / "softmax_weights.hdf5")
    assert {name: array.tobytes() for name, array in softmax.items()} == {
        name: arrays[name].tobytes() for name in ("softmax/W", "softmax/b")
    }
    assert (tmp_path / "c" / "vocab.txt").read_text() == (tmp_path / "a" / "vocab.txt").read_text()
    assert json.loads((tmp_path / "c" / "options.json").read_text())["n_tokens_vocab"] == len(words)
    convert(tmp_path / "c", tmp_path / "d")
    assert (tmp_path / "d" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_mask_token_in_the_softmax_is_exported_as_a_word(tmp_path):
    words = [*VOCABULARY, "<mask>"]
    write_bilm(tmp_path / "a", vocabulary=words)
    convert(tmp_path / "a", tmp_path / "b")
    export(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / "vocab.txt").read_text().split() == words


@pytest.mark.slow
@pytest.mark.parametrize("cls", [ElmoModel, ElmoForPreTraining, ElmoForTokenClassification])
def test_folder_to_hdf5_to_folder_keeps_every_tensor(tmp_path, cls):
    model = tiny(tmp_path / "a", cls, vocab=VOCABULARY)
    report = export(tmp_path / "a", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "c")
    back = load_file(tmp_path / "c" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if not name.startswith("classifier."):
            key = name if name in back else name.removeprefix("elmo.")
            assert torch.equal(back[key], tensor), name
    assert any("classifier" in note for note in report.notes) == (cls is ElmoForTokenClassification)


def test_sharded_folders(tmp_path):
    model = tiny(tmp_path / "a")
    export(tmp_path / "a", tmp_path / "b")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    report = export(tmp_path / "sharded", tmp_path / "c")
    assert any("no tokenizer" in note for note in report.notes)
    ours, expected = (read_hdf5(tmp_path / name / "weights.hdf5") for name in "cb")
    assert all(np.array_equal(ours[name], expected[name]) for name in expected)


def test_half_precision_is_written_exactly(tmp_path):
    model = tiny(tmp_path / "a", dtype=torch.bfloat16)
    report = export(tmp_path / "a", tmp_path / "b")
    assert any("lower precision" in note for note in report.notes)
    stored = read_hdf5(tmp_path / "b" / "weights.hdf5")["CNN_proj/b_proj"]
    np.testing.assert_array_equal(stored, model.embeddings.projection.bias.detach().float().numpy())


def test_fields_lost_in_the_export_are_noted(tmp_path):
    model = tiny(
        tmp_path / "a",
        scalar_mix_layer_norm="tokens",
        max_characters_per_word=20,
        use_skip_connections=False,
        num_hidden_layers=9,
        cell_clip=0,
    )
    with torch.no_grad():
        model.scalar_mixes[0].weights[1] = 0.1
        model.embeddings.character_embeddings.weight[0] = 1
    model.save_pretrained(tmp_path / "a")
    notes = "\n".join(export(tmp_path / "a", tmp_path / "b").notes)
    for expected in (
        "words of 50 characters only",
        "refuses models without skip connections",
        "at most 8 layers",
        "cell_clip is 0",
        "do_layer_norm=True",
        "raw weights [0.0, 0.1",
        "character row of padded words is not zero",
    ):
        assert expected in notes


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (
            {"scalar_mix": "fixed", "scalar_mix_parameters": [0, 1, 0.5]},
            "raw weights [0, 1, 0.5] (AllenNLP: scalar_mix",
        ),
        ({"scalar_mix": "top"}, "only the top layer is used"),
        ({"cell_size": 4}, "AllenNLP expects all projections"),
        ({"cell_size": 4, "cell_projection": True}, "for AllenNLP only"),
        ({"projection_size": 9, "character_projection": True}, "for AllenNLP only"),
    ],
)
def test_models_not_fully_representable_are_noted(tmp_path, fields, note):
    tiny(tmp_path / "a", **fields)
    assert any(note in line for line in export(tmp_path / "a", tmp_path / "b").notes)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_other_forget_biases_move_into_the_stored_bias(tmp_path, bias):
    model = tiny(tmp_path / "a", forget_bias=bias)
    report = export(tmp_path / "a", tmp_path / "b")
    stored = read_hdf5(tmp_path / "b" / "weights.hdf5")["RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/B"]
    ours = model.encoder.layers[0].forward_lstm.input_proj.bias.detach().numpy()
    np.testing.assert_array_equal(stored[16:24], ours[8:16] + np.float32(bias - 1))
    np.testing.assert_array_equal(stored[8:16], ours[16:24])
    assert report.reversible  # a new model's biases are zero
    assert any("without losing a bit" in line for line in report.notes)


# ---- bad input


def test_models_that_the_formats_cannot_hold(tmp_path):
    tiny(tmp_path / "a", num_characters=300)
    with pytest.raises(CheckpointError, match="num_characters.*300.*262"):
        export(tmp_path / "a", tmp_path / "b")


def test_invalid_folders(tmp_path):
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        export(tmp_path / "absent", tmp_path / "b")
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        export(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="model_type.*'bert'.*'elmo'"):
        export(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "elmo", "cell_size": "big"}')
    with pytest.raises(CheckpointError, match=r"config\.json: .*cell_size"):
        export(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "elmo"')
    with pytest.raises(CheckpointError, match=r"config\.json: .*JSON"):
        export(tmp_path / "a", tmp_path / "b")


def test_damaged_safetensors(tmp_path):
    tiny(tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-100], content[:20], b"", b"\xff" * 50):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
            export(tmp_path / "a", tmp_path / "b")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        export(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_tensors_that_contradict_the_configuration(tmp_path):
    tiny(tmp_path / "a")
    path = tmp_path / "a" / "model.safetensors"
    tensors = load_file(path)
    bias = "embeddings.projection.bias"
    for change, message in (
        ({bias: torch.ones(3)}, rf"{bias} has shape \(3,\), expected \(4,\)"),
        ({"encoder.layers.7.x": torch.ones(3)}, r"not part of the model: encoder\.layers\.7\.x"),
        ({bias: torch.full((4,), torch.inf)}, f"{bias}.*finite"),
        ({bias: torch.ones(4, dtype=torch.float64)}, f"{bias}.*float64"),
    ):
        save_file({**tensors, **change}, path)
        with pytest.raises(CheckpointError, match=message):
            export(tmp_path / "a", tmp_path / "b")
    save_file({name: tensor for name, tensor in tensors.items() if name != bias}, path)
    with pytest.raises(CheckpointError, match=f"missing: {bias}"):
        export(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not leftovers(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path):
    tiny(tmp_path / "a", ElmoForPreTraining, vocab=VOCABULARY)
    ElmoTokenizer(vocab=VOCABULARY[:4]).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="tokenizer.*6.*8"):
        export(tmp_path / "a", tmp_path / "b")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    tiny(tmp_path / "a")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("h5py.Group.create_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        export(tmp_path / "a", tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a"]
