"""Conversion of ELMoForManyLangs models in both directions: the original's numbers, identical bits, refusals."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, export, verify
from hub_upload.detect import open_source
from hub_upload.many_languages.reader import BUILT_IN
from hub_upload.many_languages.rules import PADDING_WORD, make_plan
from hub_upload.verify import plain_elmo

from . import (
    LETTERS,
    MARKS,
    ROWS,
    WORDS,
    architecture,
    classifier,
    dictionary,
    state_dicts,
    write_model,
)

KINDS = {"both": architecture(), "characters": architecture(word_dim=0), "words": architecture(char_dim=0)}
every_kind = pytest.mark.parametrize("kind", KINDS)
SENTENCES = [
    "the cat sat !".split(),
    ["中文", "字"],
    ["Größe", "ü", "Donaudampfschiff"],
    ["كتاب", "<pad>", "<mask>", "<bos>"],
    ["the"],
]


def loaded(folder):
    return ElmoModel.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["char_only", "word_and_char"])
class TestOriginalOutputs:
    """Random models of the original program, with its outputs for one batch from zero states."""

    def test_all_layers(self, name, reference, tmp_path):
        folder = reference / "elmoformanylangs" / name
        convert(folder, tmp_path / "m")
        model, tokenizer = loaded(tmp_path / "m")
        sentences = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
        batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            layers = torch.stack(model(**batch, output_hidden_states=True).hidden_states).numpy()
        with np.load(folder / "expected_layers.npz") as expected:
            for index, words in enumerate(sentences):
                found = layers[:, index, 1 : len(words) + 1]
                # Values reach 9.4, where adjacent float32 numbers differ by 1e-6.
                np.testing.assert_allclose(found, expected[f"sentence_{index}"], rtol=1e-7, atol=2e-6)

    def test_average_and_single_layers(self, name, reference, tmp_path):
        folder = reference / "elmoformanylangs" / name
        convert(folder, tmp_path / "m")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
        sentences = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
        batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        none = -9e10
        for parameters, choose in (
            ([0.0, 0.0, 0.0], lambda layers: layers.mean(0)),
            *(
                ([none if k != layer else 1.0 for k in range(3)], lambda layers, at=layer: layers[at])
                for layer in range(3)
            ),
        ):
            model = AutoModel.from_pretrained(
                tmp_path / "m", scalar_mix="fixed", scalar_mix_parameters=parameters
            ).eval()
            with torch.no_grad():
                mixed = model(**batch).last_hidden_state.numpy()
            with np.load(folder / "expected_layers.npz") as expected:
                for index, words in enumerate(sentences):
                    wanted = choose(expected[f"sentence_{index}"])
                    np.testing.assert_allclose(mixed[index, 1 : len(words) + 1], wanted, rtol=1e-7, atol=2e-6)

    @pytest.mark.samples(1)
    def test_verify_and_export(self, name, reference, tmp_path):
        folder = reference / "elmoformanylangs" / name
        report = convert(folder, tmp_path / "m")
        assert report.architecture == "ElmoModel"
        assert report.notes == ()
        checked = verify(tmp_path / "m", folder)
        # float32 against float64, for layers with values up to about 10.
        assert checked.passed and checked.largest < 5e-6
        back = export(tmp_path / "m", tmp_path / "back")
        assert back.reversible
        assert_same(folder, tmp_path / "back")
        convert(tmp_path / "back", tmp_path / "again")
        ours, theirs = (ElmoModel.from_pretrained(tmp_path / each).state_dict() for each in ("m", "again"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def assert_same(folder, back):
    """Weights bit by bit, dictionaries byte by byte, sizes key by key."""
    for name in ("token_embedder.pkl", "encoder.pkl"):
        ours, theirs = (torch.load(each / name, weights_only=True) for each in (back, folder))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key].numpy().tobytes() == value.numpy().tobytes(), key
    for name in ("char.dic", "word.dic"):
        assert (back / name).is_file() == (folder / name).is_file()
        if (folder / name).is_file():
            assert (back / name).read_bytes() == (folder / name).read_bytes()
    values = json.loads((back / "architecture.json").read_text())
    original = json.loads((folder / json.loads((folder / "config.json").read_text())["config_path"]).read_text())
    assert json.loads((back / "config.json").read_text()) == {"config_path": "architecture.json"}
    assert values["encoder"] == original["encoder"]
    expected = dict(original["token_embedder"])
    if not expected["char_dim"]:
        expected |= {"filters": [], "n_highway": 0, "activation": "relu"}
    assert values["token_embedder"] == expected


@pytest.mark.slow
@every_kind
def test_round_trip(kind, tmp_path):
    write_model(tmp_path / "m", KINDS[kind])
    report = convert(tmp_path / "m", tmp_path / "hf")
    assert report.vocab_size == (len(WORDS) + 2 if kind != "characters" else 5)
    checked = verify(tmp_path / "hf", tmp_path / "m", tolerance=2e-6)
    assert checked.passed, checked
    assert checked.sentences == (8 if kind != "characters" else 7)
    assert verify(tmp_path / "hf", tmp_path / "m", sentences=SENTENCES, tolerance=2e-6).passed
    export(tmp_path / "hf", tmp_path / "back")
    assert_same(tmp_path / "m", tmp_path / "back")


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_verify_detects_a_changed_value_in_every_tensor(every, tmp_path):
    states = write_model(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf")
    for name, state in states.items():
        for key in list(state)[::every]:
            changed = {**states, name: {**state, key: state[key] + 0.05}}
            write_model(tmp_path / "other", states=changed)
            assert not verify(tmp_path / "hf", tmp_path / "other", sentences=[["the", "中文"]]).passed, key


def test_converted_vocabulary_and_embedding_rows(tmp_path):
    states = write_model(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf")
    model, tokenizer = loaded(tmp_path / "hf")
    config = model.config
    assert (config.word_embedding_size, config.character_embedding_size, config.num_characters) == (5, 3, ROWS + 1)
    assert (config.bos_token_id, config.eos_token_id, config.unk_token_id, config.pad_token_id) == (2, 3, 1, 0)
    assert config.mask_token_id == len(WORDS) + 1
    assert config.forget_bias == 0 and config.use_skip_connections and not config.character_projection
    table = model.embeddings.words.word_embeddings.weight
    stored = states["token_embedder.pkl"]["word_emb_layer.embedding.weight"]
    assert torch.equal(table[1:-1], stored)
    assert (table[0] == 0).all() and (table[-1] == 0).all()
    # `<pad>` is a word with a row of its own, in both tables.
    assert tokenizer.convert_tokens_to_ids("<pad>") == 4
    assert tokenizer.pad_token == PADDING_WORD
    characters = model.embeddings.characters.character_embeddings.weight
    assert torch.equal(characters[1:], states["token_embedder.pkl"]["char_emb_layer.embedding.weight"])
    assert characters[4].abs().sum() > 0 and (characters[0] == 0).all()
    assert tokenizer.character_vocabulary == {symbol: n for n, symbol in enumerate((*MARKS, *LETTERS), 1)}
    # Six characters with both marks: `Größe` is looked up as `Größ`, `<mask>` as `<mas`.
    ids = tokenizer(["Größe", "<mask>", "中文"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    assert ids == [7, 8, 6]


def test_a_dictionary_with_fewer_symbols_than_rows(tmp_path):
    """Several whitespace characters are read as one: the last row is used, the others by no text."""
    characters = dictionary((*MARKS, "a", "\u00a0", "b", "\u2003"))
    words = dictionary(("<oov>", "<bos>", "<eos>", "<pad>", "\u00a0", "the", "\u3000"))
    states = write_model(tmp_path / "m", states=state_dicts(architecture(), 10, 7), characters=characters, words=words)
    report = convert(tmp_path / "m", tmp_path / "hf")
    assert [note.split()[0] for note in report.notes] == ["char.dic", "word.dic"]
    assert all("no symbol for 1 rows" in note for note in report.notes)
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.character_vocabulary["\u3000"] == 10
    encoding = tokenizer(["\u3000", "\u00a0", "the", "a"], is_split_into_words=True, add_special_tokens=False)
    assert encoding["input_ids"] == [7, 1, 6, 1]
    assert [row[1] for row in encoding["character_ids"].tolist()] == [10, 3, 3, 7]
    assert verify(tmp_path / "hf", tmp_path / "m", sentences=[["\u3000", "\u00a0", "the"]], tolerance=2e-6).passed
    export(tmp_path / "hf", tmp_path / "back")
    for name, state in states.items():
        back = torch.load(tmp_path / "back" / name, weights_only=True)
        assert all(torch.equal(back[key], value) for key, value in state.items())
    assert (tmp_path / "back" / "char.dic").read_text().splitlines()[6:] == ["a\t6", "b\t8", "\u3000\t9"]
    assert (tmp_path / "back" / "word.dic").read_text().splitlines()[4:] == ["the\t5", "\u3000\t6"]


def test_the_sizes_of_published_models(tmp_path):
    """Weights of the built-in architecture, as the original's modules make them, name by name and shape by shape."""
    write_model(tmp_path / "m", config=BUILT_IN)
    (tmp_path / "m" / BUILT_IN).unlink()
    shapes = {
        "token_embedder.word_emb_layer.embedding.weight": (10, 100),
        "token_embedder.char_emb_layer.embedding.weight": (ROWS, 50),
        "token_embedder.projection.weight": (512, 100 + 2048),
        "token_embedder.projection.bias": (512,),
    }
    for i, (width, count) in enumerate(((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))):
        shapes[f"token_embedder.convolutions.{i}.weight"] = (count, 50, width)
        shapes[f"token_embedder.convolutions.{i}.bias"] = (count,)
    for k in range(2):
        shapes[f"token_embedder.highways._layers.{k}.weight"] = (4096, 2048)
        shapes[f"token_embedder.highways._layers.{k}.bias"] = (4096,)
    for place in (f"encoder.{side}_layer_{layer}" for side in ("forward", "backward") for layer in range(2)):
        shapes[f"{place}.input_linearity.weight"] = (4 * 4096, 512)
        shapes[f"{place}.state_linearity.weight"] = (4 * 4096, 512)
        shapes[f"{place}.state_linearity.bias"] = (4 * 4096,)
        shapes[f"{place}.state_projection.weight"] = (512, 4096)
    with open_source(tmp_path / "m") as source:
        any_tensor = next(iter(source.tensors.values()))
        tensors = {name: replace(any_tensor, name=name, shape=shape) for name, shape in shapes.items()}
        plan = make_plan(replace(source, tensors=tensors), [])
    # A row of padding before each table, and the mix of layers.
    added = 100 + 50 + 4
    plan.config.vocab_size = 11
    with torch.device("meta"):
        model = ElmoModel(plan.config)
    assert model.num_parameters() == sum(math.prod(shape) for shape in shapes.values()) + added


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"word_dim": 7},
                r"'token_embedder.word_emb_layer.embedding.weight' has shape \(10, 5\), .*axis 1 is 5, but "
                r"token_embedder.word_dim is 7",
            ),
            ({"char_dim": 4}, "axis 1 is 3, but token_embedder.char_dim is 4"),
            ({"encoder__projection_dim": 7}, "encoder.projection_dim.*7"),
            ({"encoder__dim": 9}, "encoder.dim.*36"),
            ({"token_embedder__filters": [[1, 4], [2, 3], [4, 5]]}, "axis 2 is 3.*token_embedder.filters is 4"),
            ({"encoder__n_layers": 3}, "missing: encoder.backward_layer_2"),
            ({"token_embedder__n_highway": 1}, "highways._layers.1"),
            ({"encoder__dim": ...}, "encoder.dim.*missing"),
            ({"token_embedder__activation": "gelu"}, "token_embedder.activation.*'gelu'"),
            ({"token_embedder__max_characters_per_token": 2}, "max_characters_per_token is 2, expected"),
        ],
    )
    def test_weights_of_another_architecture(self, change, message, tmp_path):
        sizes = {key: change.pop(key) for key in ("word_dim", "char_dim") if key in change}
        write_model(tmp_path / "m", architecture(**sizes, **change), state_dicts(architecture()))
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "m", tmp_path / "hf")
        assert not (tmp_path / "hf").exists()

    def test_model_without_words_and_characters(self, tmp_path):
        write_model(tmp_path / "m", architecture(word_dim=0, char_dim=0), state_dicts(architecture()))
        with pytest.raises(CheckpointError, match="char_dim.*0.*word_dim 0"):
            convert(tmp_path / "m", tmp_path / "hf")

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"characters": dictionary((*MARKS[1:], *LETTERS))}, "char.dic.*<bos>"),
            ({"characters": dictionary((*MARKS, *LETTERS, "x2"))}, "'x2' has the id 39.*characters"),
            ({"words": dictionary((*WORDS, "more"))}, "word.dic: 'more' has the id 10.*words has 10"),
            ({"words": dictionary(("<oov>", "<bos>", "<eos>"))}, "word.dic.*<pad>"),
            ({"words": dictionary((*WORDS[:-1], "cat"))}, "line 10: the symbol 'cat' .*line 9"),
        ],
    )
    def test_dictionaries_of_another_model(self, files, message, tmp_path):
        write_model(tmp_path / "m", **files)
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "m", tmp_path / "hf")

    def test_fields_unsupported_by_the_format(self, tmp_path):
        write_model(tmp_path / "m")
        convert(tmp_path / "m", tmp_path / "hf")
        config = json.loads((tmp_path / "hf" / "config.json").read_text())
        for name, value in (("use_skip_connections", False), ("num_pos_tags", 3), ("cell_clip", 0)):
            (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, name: value}))
            with pytest.raises(CheckpointError, match=f"{name}={value}"):
                export(tmp_path / "hf", tmp_path / "back")

    def test_no_other_format_holds_a_joined_model(self, tmp_path):
        fields = {"word_embedding_size": 4, "character_filters": [[1, 4]], "projection_size": 6, "cell_size": 8}
        ElmoModel(ElmoConfig(**fields)).save_pretrained(tmp_path / "hf")
        ElmoTokenizer().save_pretrained(tmp_path / "hf")
        with pytest.raises(CheckpointError, match=f"{tmp_path / 'hf'}: "):
            export(tmp_path / "hf", tmp_path / "back")
        layer = {"context_word_layer": True, "character_filters": [[1, 4]], "projection_size": 6, "cell_size": 8}
        ElmoModel(ElmoConfig(**layer)).save_pretrained(tmp_path / "other")
        with pytest.raises(CheckpointError, match=r"\(context_word_layer\)"):
            export(tmp_path / "other", tmp_path / "back")

    def test_without_vocabulary(self, tmp_path):
        write_model(tmp_path / "m")
        with pytest.raises(CheckpointError, match="dictionaries: drop --without-vocabulary"):
            convert(tmp_path / "m", tmp_path / "hf", without_vocabulary=True)

    def test_verify_against_another_model(self, tmp_path):
        write_model(tmp_path / "m")
        convert(tmp_path / "m", tmp_path / "hf")
        write_model(tmp_path / "other", architecture(word_dim=0))
        with pytest.raises(CheckpointError, match="word_embedding_size.*5.*0"):
            verify(tmp_path / "hf", tmp_path / "other")


def test_folders_are_replaced_with_force_only(tmp_path):
    write_model(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf")
    convert(tmp_path / "m", tmp_path / "hf", force=True)
    export(tmp_path / "hf", tmp_path / "back")
    with pytest.raises(CheckpointError, match="--overwrite"):
        export(tmp_path / "hf", tmp_path / "back")
    export(tmp_path / "hf", tmp_path / "back", force=True)
    # --overwrite does not replace an original.
    (tmp_path / "m" / "cnn_test.json").unlink()
    with pytest.raises(CheckpointError, match="not empty.*'elmo'"):
        export(tmp_path / "hf", tmp_path / "m", force=True)


def test_of_a_task_model_the_bilm_is_exported(tmp_path):
    write_model(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf")
    tagger = ElmoForTokenClassification.from_pretrained(tmp_path / "hf", num_labels=3)
    with torch.no_grad():
        tagger.elmo.scalar_mixes[0].weights.copy_(torch.tensor([0.1, 0.2, 0.3]))
    batch = ElmoTokenizer.from_pretrained(tmp_path / "hf")(
        SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt"
    )
    tagger(**batch, labels=batch["input_ids"].clamp(max=1)).loss.backward()
    tagger.save_pretrained(tmp_path / "tagger")
    AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "tagger")
    report = export(tmp_path / "tagger", tmp_path / "back")
    assert any("classifier.weight" in note for note in report.notes)
    assert any("mix 0 is not part of these files" in note for note in report.notes)
    assert_same(tmp_path / "m", tmp_path / "back")


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0.25, 1.0])
def test_another_forget_bias_moves_into_the_biases(bias, tmp_path):
    write_model(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf")
    model = ElmoModel.from_pretrained(tmp_path / "hf", forget_bias=bias)
    model.save_pretrained(tmp_path / "hf")
    report = export(tmp_path / "hf", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again")
    again, tokenizer = loaded(tmp_path / "again")
    batch = tokenizer(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    expected = model.eval()(**batch).last_hidden_state
    torch.testing.assert_close(again(**batch).last_hidden_state, expected, rtol=0, atol=2e-6)
    assert report.reversible != any("last bits" in note for note in report.notes)


class TestLanguageModel:
    """`classifier.pkl`, as the training program writes it beside a model."""

    def write(self, folder, kind="both", form="sampled_softmax", **changes):
        values = {**KINDS[kind], **changes}
        write_model(folder, values)
        # The program writes the words in any case.
        (folder / "word.dic").write_text(dictionary(WORDS), encoding="utf-8")
        state = classifier(form)
        torch.save(state, folder / "classifier.pkl", _use_new_zipfile_serialization=False)
        return state

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["sampled_softmax", "softmax"])
    @every_kind
    def test_probabilities_by_definition(self, kind, form, tmp_path):
        """As the program trains it: the forward output of layer 2 at position t predicts word t + 1."""
        state = self.write(tmp_path / "m", kind, form)
        report = convert(tmp_path / "m", tmp_path / "hf")
        assert report.architecture == "ElmoForPreTraining"
        model = ElmoForPreTraining.from_pretrained(tmp_path / "hf").eval()
        tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "hf")
        names = {"sampled_softmax": "column_emb column_bias", "softmax": "hidden2tag hidden2tag"}[form].split()
        weight = state[f"{names[0]}.weight"].double().numpy()
        bias = state[f"{names[1]}.{'weight' if form == 'sampled_softmax' else 'bias'}"].double().numpy().reshape(-1)
        with open_source(tmp_path / "m") as source:
            plain = plain_elmo(source)
        assert bool(plain.vectors.lines) == (kind != "characters")
        lexicon = {word: number for number, word in enumerate(WORDS)}
        for words in SENTENCES:
            batch = tokenizer([words], is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                output = model(**batch)
            plain.state.clear()
            top = plain.embed([words])[0][-1]  # [words + 2, 2P]
            cut = [word if len(word) <= 4 else word[:4] for word in words]
            ids = [lexicon.get(word, 0) for word in ["<bos>", *cut, "<eos>"]]
            for t, (forward, backward) in enumerate(zip(*np.split(top, 2, axis=-1), strict=True)):
                for context, target, found in (
                    (forward, t + 1, output.forward_log_probs),
                    (backward, t - 1, output.backward_log_probs),
                ):
                    if 0 <= target < len(ids):
                        logits = weight @ context + bias
                        expected = logits[ids[target]] - np.log(np.exp(logits).sum())
                        assert found[0, target].item() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["sampled_softmax", "softmax"])
    @every_kind
    def test_round_trip(self, kind, form, tmp_path):
        state = self.write(tmp_path / "m", kind, form)
        convert(tmp_path / "m", tmp_path / "hf")
        assert verify(tmp_path / "hf", tmp_path / "m", tolerance=2e-6).passed
        report = export(tmp_path / "hf", tmp_path / "back")
        assert "classifier.pkl" in report.files and report.reversible
        assert_same(tmp_path / "m", tmp_path / "back")
        back = torch.load(tmp_path / "back" / "classifier.pkl", weights_only=True)
        weight, bias = (value for name, value in state.items() if name != "oov_column")
        assert back["column_emb.weight"].numpy().tobytes() == weight.numpy().tobytes()
        assert back["column_bias.weight"].numpy().tobytes() == bias.numpy().tobytes()
        assert back["column_bias.weight"].shape == (10, 1) and back["oov_column"].shape == (6, 1)
        convert(tmp_path / "back", tmp_path / "again")
        for file in ("model.safetensors", "tokenizer.json"):
            assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "hf" / file).read_bytes()
        export(tmp_path / "hf", tmp_path / "back", force=True)

    def test_without_softmax(self, tmp_path):
        self.write(tmp_path / "m", "characters")
        report = convert(tmp_path / "m", tmp_path / "hf", without_softmax=True)
        assert (report.architecture, report.vocab_size) == ("ElmoModel", 5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"form": "cnn_softmax"}, r"its rows are made of the words' characters \(cnn_softmax\)"),
            (
                {"encoder": {**architecture()["encoder"], "n_layers": 1}},
                "trains its softmax on the second of 1 layers",
            ),
        ],
    )
    def test_unusable_classifier_is_left_out(self, changes, message, tmp_path):
        self.write(tmp_path / "m", **changes)
        report = convert(tmp_path / "m", tmp_path / "hf")
        assert report.architecture == "ElmoModel"
        assert any(re.search(f"classifier.pkl was left out: .*{message}", note) for note in report.notes)

    def test_without_word_dictionary(self, tmp_path):
        self.write(tmp_path / "m", "characters")
        (tmp_path / "m" / "word.dic").unlink()
        report = convert(tmp_path / "m", tmp_path / "hf")
        assert report.architecture == "ElmoModel"
        assert any("its rows are the words of word.dic, which is missing" in note for note in report.notes)

    @pytest.mark.parametrize("kind", ["both", "characters"])
    def test_a_softmax_of_another_vocabulary(self, kind, tmp_path):
        self.write(tmp_path / "m", kind)
        torch.save(classifier(words=7), tmp_path / "m" / "classifier.pkl")
        with pytest.raises(CheckpointError, match="'softmax/W'|id 9.* 7 rows"):
            convert(tmp_path / "m", tmp_path / "hf")
        assert not (tmp_path / "hf").exists()

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path):
        self.write(tmp_path / "m")
        torch.save({"column_emb.weight": Path(tmp_path)}, tmp_path / "m" / "classifier.pkl")
        with pytest.raises(CheckpointError, match="classifier.pkl: .*pickle"):
            convert(tmp_path / "m", tmp_path / "hf")

    def test_softmax_unsupported_by_the_program_is_left_out(self, tmp_path):
        write_model(tmp_path / "m", architecture(word_dim=0, encoder__n_layers=1))
        convert(tmp_path / "m", tmp_path / "hf")
        ElmoForPreTraining.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "hf")
        report = export(tmp_path / "hf", tmp_path / "back")
        assert any("the softmax was left out: the program's reads the second of 2" in note for note in report.notes)
        assert "classifier.pkl" not in report.files
