"""Conversion of original files: the folders give the original's numbers, and bad files give clear errors."""

import errno
import gzip
import json
import os

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, verify
from hub_upload.common.source import StoredTensor
from hub_upload.detect import open_source
from hub_upload.verify import plain_elmo

from .checkpoints import (
    FILTERS,
    VOCABULARY,
    bilm_arrays,
    leftovers,
    options,
    read_hdf5,
    word_options,
    write_bilm,
    write_hdf5,
    zip_folder,
)


def load(folder):
    return ElmoModel.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)


# ---- the original program's outputs


@torch.no_grad()
def test_ten_batches_with_carried_state_as_bilm_tf_computed_them(reference, tmp_path):
    convert(reference / "bilm_tf", tmp_path / "out")
    model, tokenizer = load(tmp_path / "out")
    lists = json.loads((reference / "bilm_tf" / "lm_embeddings_sentences.json").read_text())
    expected = [read_hdf5(reference / "bilm_tf" / f"lm_embeddings_{k}.hdf5") for k in range(3)]
    state, largest = None, 0.0
    for i in range(10):
        batch = [lists[k][i].split() for k in range(3)]
        encoding = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
        output = model(**encoding, initial_state=state, return_state=True, output_hidden_states=True)
        state = output.state
        for k, words in enumerate(batch):
            forward, backward = expected[k][str(i)]
            top = output.hidden_states[-1][k, 1 : len(words) + 1].numpy()
            largest = max(largest, np.abs(top - np.concatenate([forward, backward], axis=1)).max())
    assert largest <= 2e-6


@pytest.mark.slow
@torch.no_grad()
def test_word_vectors_of_the_reference_weights(reference, tmp_path):
    """Every word of the fixture's vocabulary, before any context, boundaries taken off.

    Against the plain implementation: the 458 vectors of the fixture's own `elmo_token_embeddings.hdf5` belong neither
    to these 448 words nor to these weights.
    """
    convert(reference / "bilm_tf", tmp_path / "out")
    words = (reference / "bilm_tf" / "vocab_test.txt").read_text(encoding="utf-8").split()
    model, tokenizer = load(tmp_path / "out")
    encoding = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    layer = model(**encoding, output_hidden_states=True).hidden_states[0][0, 1:-1].numpy()
    with open_source(reference / "bilm_tf") as source:
        expected = plain_elmo(source).vectors(words)[1:-1]
    assert expected.shape == (448, 16)
    assert np.abs(layer - np.concatenate([expected, expected], axis=1)).max() <= 2e-6  # float32 against float64


def test_two_layer_dump(reference, tmp_path):
    folder = reference / "bilm_tf_checkpoint"
    report = convert(folder / "dumped_weights.hdf5", tmp_path / "out", vocabulary=folder / "vocab.txt")
    assert (report.architecture, report.tensors) == ("ElmoModel", 25)
    assert ElmoConfig.from_pretrained(tmp_path / "out").max_characters_per_word == 10
    assert verify(tmp_path / "out", folder / "dumped_weights.hdf5", tolerance=2e-6).passed


def test_one_layer_dump(reference, tmp_path):
    """A model with word input and the odd names of a single layer."""
    folder = reference / "bilm_tf_checkpoint"
    options_file = folder / "one_layer_options.json"
    report = convert(folder / "dumped_one_layer.hdf5", tmp_path / "out", options=options_file)
    assert (report.architecture, report.tensors, report.vocab_size) == ("ElmoModel", 7, 34)
    config = ElmoConfig.from_pretrained(tmp_path / "out")
    assert (config.word_embedding_size, config.character_filters, config.num_hidden_layers) == (8, [], 1)
    words = (folder / "vocab.txt").read_text().split()
    for sentences in (None, [words, words[::-1], ["never", "seen", words[9]]]):
        verified = verify(tmp_path / "out", folder / "dumped_one_layer.hdf5", options=options_file, sentences=sentences)
        assert verified.largest <= 2e-6  # float32 against float64

    dump, tensors = read_hdf5(folder / "dumped_one_layer.hdf5"), load_file(tmp_path / "out" / "model.safetensors")
    table = tensors["embeddings.word_embeddings.weight"].numpy()
    assert table[1:33].tobytes() == dump["embedding"].tobytes()
    assert not table[[0, 33]].any()
    i, g, f, o = np.split(dump["RNN_1/RNN/LSTMCell/W_0"].T, 4)
    lstm = "encoder.layers.0.backward_lstm."
    kernel = torch.cat([tensors[lstm + "input_proj.weight"], tensors[lstm + "hidden_proj.weight"]], dim=1)
    np.testing.assert_array_equal(kernel.numpy(), np.concatenate([i, f, g, o]))
    np.testing.assert_array_equal(tensors[lstm + "output_proj.weight"].numpy(), dump["RNN_1/RNN/LSTMCell/W_P_0"].T)


# ---- word input


WORD_VARIANTS = {
    "without softmax": {},
    "softmax": {"softmax": True},
    "shared softmax": {"softmax": True, "share": True},
    "one layer": {"n_layers": 1},
    "no cell projection, no skip connections": {"dim": 6, "use_skip_connections": False},
}


def write_words(folder, words=VOCABULARY, softmax=False, share=False, separate_softmax=False, **changes):
    """A model that reads words by their id; returns its arrays."""
    values = word_options(**changes)
    if share:
        values["share_embedding_softmax"] = True
    arrays = bilm_arrays(values, words=len(words), softmax=softmax)
    return write_bilm(folder, values, arrays, vocabulary=words, separate_softmax=separate_softmax)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORD_VARIANTS)
def test_every_word_variant_agrees_with_the_plain_implementation(name, tmp_path):
    write_words(tmp_path / "source", **WORD_VARIANTS[name])
    convert(tmp_path / "source", tmp_path / "out")
    assert verify(tmp_path / "out", tmp_path / "source").largest <= 5e-6  # as below


@pytest.mark.parametrize("separate", [False, True])
def test_tied_softmax_stays_tied(tmp_path, separate):
    arrays = write_words(tmp_path / "source", softmax=True, share=True, separate_softmax=separate)
    report = convert(tmp_path / "source", tmp_path / "out")
    assert report.architecture == "ElmoForPreTraining"
    model = ElmoForPreTraining.from_pretrained(tmp_path / "out")
    assert model.softmax.weight is model.elmo.embeddings.word_embeddings.weight
    assert model.softmax.weight.detach().numpy()[1:7].tobytes() == arrays["embedding"].tobytes()
    assert model.softmax.bias.detach().numpy()[1:7].tobytes() == arrays["softmax/b"].tobytes()
    # A tensor with two names counts once.
    assert report.parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.slow
def test_a_word_model_cannot_do_without_its_vocabulary(tmp_path):
    write_words(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"weights\.hdf5: .*: drop --without-vocabulary"):
        convert(tmp_path / "source", tmp_path / "out", without_vocabulary=True)
    (tmp_path / "source" / "vocab.txt").rename(tmp_path / "v")
    with pytest.raises(CheckpointError, match="weights.hdf5: .*--vocabulary$"):
        convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "source", tmp_path / "out", vocabulary=tmp_path / "v")
    with pytest.raises(CheckpointError, match="weights.hdf5: .*--vocabulary$"):
        verify(tmp_path / "out", tmp_path / "source")
    assert verify(tmp_path / "out", tmp_path / "source", vocabulary=tmp_path / "v").passed
    # A vocabulary of another size than the table is refused.
    (tmp_path / "w").write_text("".join(word + "\n" for word in VOCABULARY[::-1]))
    assert not verify(tmp_path / "out", tmp_path / "source", vocabulary=tmp_path / "w").passed
    (tmp_path / "w").write_text("".join(word + "\n" for word in [*VOCABULARY, "more"]))
    with pytest.raises(CheckpointError, match="7 words.*6 rows; [^(]*$"):
        convert(tmp_path / "source", tmp_path / "b", vocabulary=tmp_path / "w")
    (tmp_path / "w").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match="bos_token(?!.*--without)"):
        convert(tmp_path / "source", tmp_path / "b", vocabulary=tmp_path / "w")


def test_options_of_the_other_kind_of_input_are_refused(reference, tmp_path):
    folder = reference / "bilm_tf_checkpoint"
    with pytest.raises(CheckpointError, match=r"/options\.json: .*CNN.*dumped_one_layer\.hdf5 .*word"):
        convert(folder / "dumped_one_layer.hdf5", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"one_layer_options\.json: .*dumped_weights\.hdf5 holds .*CNN"):
        convert(folder / "dumped_weights.hdf5", tmp_path / "out", options=folder / "one_layer_options.json")


def test_word_tables_that_do_not_fit(tmp_path):
    values = word_options()
    arrays = bilm_arrays(values, words=6)
    arrays["embedding"] = arrays["embedding"][:, :5]
    write_bilm(tmp_path / "source", values, arrays, vocabulary=VOCABULARY)
    with pytest.raises(CheckpointError, match=r"'embedding'.*\(6.*5\).*\(6.*6\).*lstm\.projection_dim.*6"):
        convert(tmp_path / "source", tmp_path / "out")
    write_words(tmp_path / "source", softmax=True, share=True)
    (tmp_path / "source" / "options.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="missing: softmax/W"):
        convert(tmp_path / "source", tmp_path / "out")


# ---- variants


VARIANTS = {
    "plain": {},
    "training options": {"n_characters": 261},
    "no skip connections": {"use_skip_connections": False},
    "tanh": {"activation": "tanh"},
    "no clips": {"cell_clip": None, "proj_clip": None},
    "clips left out": {"cell_clip": ..., "proj_clip": ...},
    "no highways": {"n_highway": 0},
    "highways left out": {"n_highway": ...},
    "one layer": {"n_layers": 1},
    "three layers": {"n_layers": 3},
    "no character projection": {"filters": [[1, 2], [3, 4]]},
    "no cell projection": {"dim": 6},
    "no projection at all": {"filters": [[1, 2], [3, 4]], "dim": 6},
    "short words": {"max_characters_per_token": 7},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_agrees_with_the_plain_implementation(name, tmp_path):
    write_bilm(tmp_path / "source", **VARIANTS[name])
    convert(tmp_path / "source", tmp_path / "out")
    report = verify(tmp_path / "out", tmp_path / "source")
    assert report.largest <= 5e-6  # float32 against float64, values up to about 10


@pytest.mark.slow
def test_one_layer_names_are_read(tmp_path):
    values = options(n_layers=1)
    write_bilm(tmp_path / "a", values, bilm_arrays(values))
    write_bilm(tmp_path / "b", values, bilm_arrays(values, cell="RNN_{d}/RNN/LSTMCell"))
    for name in "ab":
        convert(tmp_path / name, tmp_path / f"{name}_out")
    contents = [(tmp_path / f"{name}_out" / "model.safetensors").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]
    assert verify(tmp_path / "b_out", tmp_path / "b").largest <= 5e-6  # as above


def test_projections_between_equal_sizes_are_kept_where_the_file_has_them(tmp_path):
    """AllenNLP's layout always projects."""
    values = options(filters=[[1, 6]], dim=6)
    random = np.random.default_rng(1)
    arrays = bilm_arrays(values)
    arrays |= {"CNN_proj/W_proj": random.normal(size=(6, 6)), "CNN_proj/b_proj": random.normal(size=6)}
    arrays |= {name.replace("W_0", "W_P_0"): random.normal(size=(6, 6)) for name in arrays if name.endswith("W_0")}
    write_bilm(tmp_path / "source", values, {name: np.float32(array) for name, array in arrays.items()})
    convert(tmp_path / "source", tmp_path / "out")
    config = ElmoConfig.from_pretrained(tmp_path / "out")
    assert config.character_projection
    assert config.cell_projection
    assert verify(tmp_path / "out", tmp_path / "source").largest <= 5e-6  # as above


@pytest.mark.parametrize("separate", [False, True])
def test_softmax_and_vocabulary(tmp_path, separate):
    arrays = write_bilm(tmp_path / "source", vocabulary=VOCABULARY, separate_softmax=separate)
    report = convert(tmp_path / "source", tmp_path / "out")
    assert (report.architecture, report.vocab_size) == ("ElmoForPreTraining", 8)
    model = ElmoForPreTraining.from_pretrained(tmp_path / "out")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(["<pad>", *VOCABULARY, "<mask>"]) == list(range(8))
    assert len(tokenizer) == model.config.vocab_size
    weight = model.softmax.weight.detach().numpy()
    assert weight[1:7].tobytes() == arrays["softmax/W"].tobytes()
    assert not weight[[0, 7]].any()
    assert model.softmax.bias.detach().numpy()[1:7].tobytes() == arrays["softmax/b"].tobytes()


def test_a_vocabulary_with_its_own_mask_and_another_order(tmp_path):
    words = ["<UNK>", "<mask>", "<S>", "the", "</S>"]
    write_bilm(tmp_path / "source", vocabulary=words)
    report = convert(tmp_path / "source", tmp_path / "out")
    config = ElmoConfig.from_pretrained(tmp_path / "out")
    assert report.vocab_size == config.vocab_size == 6
    assert (config.unk_token_id, config.mask_token_id, config.bos_token_id, config.eos_token_id) == (1, 2, 3, 5)


@pytest.mark.slow
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("name", ["words.txt.gz", "words.txt"])
def test_compressed_vocabulary_given_elsewhere(tmp_path, name, softmax):
    write_bilm(tmp_path / "source", arrays=bilm_arrays(options(), words=6, softmax=softmax))
    path = tmp_path / name
    path.write_bytes(gzip.compress("".join(word + "\n" for word in VOCABULARY).encode()))
    report = convert(tmp_path / "source", tmp_path / "out", vocabulary=path)
    assert report.vocab_size == 8
    assert report.architecture == ("ElmoForPreTraining" if softmax else "ElmoModel")
    path.write_bytes(gzip.compress(b"<S>\n</S>\n<UNK>\n" * (2 - softmax)))
    with pytest.raises(CheckpointError, match=f"{name}(: .*3 words|, line 4: .*'<S>')"):
        convert(tmp_path / "source", tmp_path / "b", vocabulary=path)


def test_compressed_vocabulary_of_a_word_model(tmp_path):
    write_words(tmp_path / "source", softmax=True)
    path = tmp_path / "source" / "vocab.txt"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert convert(tmp_path / "source", tmp_path / "out").vocab_size == 8
    assert verify(tmp_path / "out", tmp_path / "source").largest <= 5e-6  # float32 against float64


def test_a_vocabulary_that_is_left_out_is_not_read(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    (tmp_path / "source" / "vocab.txt").write_bytes(gzip.compress(b"<S>\n")[:-5])
    assert convert(tmp_path / "source", tmp_path / "a", without_vocabulary=True).vocab_size == 5
    with pytest.raises(CheckpointError, match=r"vocab\.txt: damaged gzip.*--without-vocabulary"):
        convert(tmp_path / "source", tmp_path / "b")


def test_without_softmax_and_without_vocabulary(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    report = convert(tmp_path / "source", tmp_path / "a", without_softmax=True)
    assert (report.architecture, report.vocab_size) == ("ElmoModel", 8)
    report = convert(tmp_path / "source", tmp_path / "b", without_vocabulary=True)
    assert (report.architecture, report.vocab_size) == ("ElmoModel", 5)
    (tmp_path / "source" / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match="--vocabulary.*--without-softmax"):
        convert(tmp_path / "source", tmp_path / "c")
    with pytest.raises(CheckpointError, match="--vocabulary v.*--without-vocabulary"):
        convert(tmp_path / "source", tmp_path / "c", vocabulary="v", without_vocabulary=True)


def test_files_given_one_by_one(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY, separate_softmax=True)
    source = tmp_path / "source"
    for name, new in (("options.json", "o"), ("vocab.txt", "v"), ("softmax_weights.hdf5", "s.hdf5")):
        (source / name).rename(tmp_path / new)
    report = convert(
        source / "weights.hdf5",
        tmp_path / "out",
        options=tmp_path / "o",
        vocabulary=tmp_path / "v",
        softmax=tmp_path / "s.hdf5",
    )
    assert report.architecture == "ElmoForPreTraining"


@pytest.mark.slow
def test_zip_and_folder_of_nlpl(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY, arrays=bilm_arrays(options()), weights="model.hdf5")
    zip_folder(tmp_path / "source", tmp_path / "11.zip")
    convert(tmp_path / "11.zip", tmp_path / "a")
    convert(tmp_path / "source", tmp_path / "b")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert verify(tmp_path / "a", tmp_path / "11.zip").largest <= 5e-6  # as above


def test_the_folder_works_with_the_auto_classes_and_carries_its_code(tmp_path):
    write_bilm(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "with")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "with"), ElmoModel)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "with"), ElmoTokenizer)
    assert (tmp_path / "with" / "modeling_elmo.py").is_file()
    convert(tmp_path / "source", tmp_path / "without", remote_code=False)
    assert not list((tmp_path / "without").glob("*.py"))
    assert "auto_map" not in (tmp_path / "without" / "config.json").read_text()
    assert isinstance(AutoModel.from_pretrained(tmp_path / "without"), ElmoModel)


# ---- bad input


def broken(tmp_path, change=None, **changes):
    """A checkpoint with `change` made to its arrays."""
    values = options(**changes)
    arrays = bilm_arrays(values)
    if change:
        change(arrays)
    write_bilm(tmp_path / "source", values, arrays)
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("CNN_high_1/W_carry"), "missing: CNN_high_1/W_carry"),
        (lambda a: a.pop("CNN_proj/W_proj"), "missing: CNN_proj/W_proj"),
        (lambda a: a.update({"CNN/W_cnn_3": a["CNN/W_cnn_0"]}), "CNN/W_cnn_3"),
        (
            lambda a: a.update({"char_embed": a["char_embed"][:100]}),
            r"'char_embed'.*\(100, 3\).*\(261, 3\): axis 0.*100.*char_cnn\.n_characters",
        ),
        (
            lambda a: a.update({"CNN_proj/b_proj": a["CNN_proj/b_proj"][:2]}),
            r"'CNN_proj/b_proj'.*\(2,\).*\(6,\): axis 0.*2.*lstm\.projection_dim.*6",
        ),
        (lambda a: a["char_embed"].__setitem__((0, 0), np.inf), "char_embed.*finite"),
    ],
)
def test_weights_that_contradict_the_options(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        convert(broken(tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not leftovers(tmp_path)


def test_shapes_are_checked_before_anything_is_allocated(tmp_path):
    """Options of a model of petabytes, with a dataset that claims as much and stores nothing."""
    source = broken(tmp_path)
    (source / "options.json").write_text(json.dumps(options(dim=10**9, projection_dim=10**9)))
    with pytest.raises(CheckpointError, match="lstm.projection_dim is 1000000000"):
        convert(source, tmp_path / "out")
    with h5py.File(source / "weights.hdf5", "a") as file:
        del file["CNN_proj/W_proj"]
        file.create_dataset("CNN_proj/W_proj", (10**9, 10**6), "float32", chunks=(1000, 1000))
    (source / "options.json").write_text(json.dumps(options()))
    with pytest.raises(CheckpointError, match=r"'CNN_proj/W_proj'.*\(1000000000.*1000000\)"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (VOCABULARY[:5], r"vocab\.txt.*5 words.*6 rows"),
        ([*VOCABULARY, "more", "words"], "8 words.*6 rows"),
        (VOCABULARY[2:], "bos_token='<S>', eos_token='</S>'.*--without-vocabulary"),
        ([*VOCABULARY, "the"], r"vocab\.txt, line 7: .*'the'"),
    ],
)
def test_vocabularies_that_do_not_fit(tmp_path, words, message):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    (tmp_path / "source" / "vocab.txt").write_text("".join(word + "\n" for word in words))
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "source", tmp_path / "out")


def test_softmax_that_does_not_fit(tmp_path):
    arrays = bilm_arrays(options(), words=6)
    arrays["softmax/b"] = arrays["softmax/b"][:5]
    write_bilm(tmp_path / "source", arrays=arrays, vocabulary=VOCABULARY)
    with pytest.raises(CheckpointError, match=r"'softmax/W' .*\(6, 6\).*\(5, 6\)"):
        convert(tmp_path / "source", tmp_path / "out")
    del arrays["softmax/b"]
    write_bilm(tmp_path / "source", arrays=arrays, vocabulary=VOCABULARY)
    with pytest.raises(CheckpointError, match="missing: softmax/b"):
        convert(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize("where", ["weights", "tokenizer"])
def test_a_full_disk_leaves_nothing_that_looks_complete(tmp_path, monkeypatch, where):
    write_bilm(tmp_path / "source")

    def full(self, folder, **kwargs):
        (
            tmp_path / next(name for name in os.listdir(tmp_path) if name.endswith(".writing")) / "model.safetensors"
        ).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ElmoModel if where == "weights" else ElmoTokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert(tmp_path / "source", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["source"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_h5py_reports_a_full_disk_as_an_oserror():
    """`export` relies on this for its clean-up."""
    with pytest.raises(OSError), h5py.File("/dev/full", "w") as file:
        file["x"] = np.zeros(10_000, np.float32)


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    write_bilm(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out")
    with pytest.raises(CheckpointError, match="--overwrite"):
        convert(tmp_path / "source", tmp_path / "out")
    convert(tmp_path / "source", tmp_path / "out", force=True)
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'source'}: .*source {tmp_path / 'source'}"):
        convert(tmp_path / "source", tmp_path / "source", force=True)


def test_softmax_only_file_is_refused(tmp_path):
    write_hdf5(tmp_path / "s.hdf5", {"softmax/W": np.zeros((2, 2), np.float32), "softmax/b": np.zeros(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"s\.hdf5: .*--softmax"):
        convert(tmp_path / "s.hdf5", tmp_path / "out", options=__file__)


@pytest.mark.slow
def test_a_vocabulary_without_an_unknown_word(tmp_path):
    """Published ones exist: read where no weights belong to its lines, else refused with the command's options."""
    words = ["<S>", "</S>", "the", "neural"]
    write_bilm(tmp_path / "source", arrays=bilm_arrays(options(), softmax=False))
    (tmp_path / "source" / "vocab.txt").write_text("".join(word + "\n" for word in words))
    report = convert(tmp_path / "source", tmp_path / "out")
    assert any("no line for the unknown word, so <UNK> was added as the last word" in note for note in report.notes)
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(["<pad>", *words, "<UNK>", "<mask>"]) == list(range(7))
    assert tokenizer("the cat")["input_ids"] == [1, 3, 5, 2]
    assert verify(tmp_path / "out", tmp_path / "source").largest <= 5e-6
    write_bilm(tmp_path / "with rows", vocabulary=words)
    with pytest.raises(CheckpointError, match=r"vocab\.txt.*unk_token='<UNK>'.*--without-vocabulary") as told:
        convert(tmp_path / "with rows", tmp_path / "b")
    assert "unk_token=..." not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vocab-2016-09-10.txt", "words.txt.gz", "my.vocab", "Vokabular.TXT"])
def test_vocabulary_of_another_name_is_reported(tmp_path, name):
    write_bilm(tmp_path / "source", arrays=bilm_arrays(options(), softmax=False))
    for other in (name, "README.txt", "LICENSE", "notes.md"):
        (tmp_path / "source" / other).write_text("<S>\n</S>\n<UNK>\n")
    report = convert(tmp_path / "source", tmp_path / "out")
    assert [note for note in report.notes if name in note and "--vocabulary" in note and "README" not in note]
    assert report.vocab_size == 5
    assert convert(tmp_path / "source", tmp_path / "b", vocabulary=tmp_path / "source" / name).notes == ()
    (tmp_path / "source" / "vocab.txt").write_text("<S>\n</S>\n<UNK>\nthe\n")
    assert convert(tmp_path / "source", tmp_path / "c").notes == ()


def test_tensors_that_claim_more_than_their_file_holds(tmp_path):
    """Terabytes by the options and by the shapes, and a few values in the file: chunks that were never written."""
    huge = 10**9
    values = options(embedding={"dim": huge})
    arrays = bilm_arrays(options())
    write_bilm(tmp_path / "source", values, arrays)
    with h5py.File(tmp_path / "source" / "weights.hdf5", "a") as file:
        shapes = {f"CNN/W_cnn_{i}": (1, width, huge, count) for i, (width, count) in enumerate(FILTERS)}
        for name, shape in {"char_embed": (261, huge), **shapes}.items():
            del file[name]
            file.create_dataset(name, shape, "float32", chunks=tuple(min(size, 1000) for size in shape))
    with pytest.raises(CheckpointError, match=r"weights.hdf5: '\S+' claims [0-9,]+ bytes.* 0 "):
        convert(tmp_path / "source", tmp_path / "out")
    tensor = StoredTensor.of("weights.th", "table", torch.ones(1).expand(10**6, 10**6))
    with pytest.raises(CheckpointError, match="'table'.*4,000,000,000,000.*4"):
        tensor.read()
