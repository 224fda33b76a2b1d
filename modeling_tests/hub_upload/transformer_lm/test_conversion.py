"""Transformer ELMo from AllenNLP's archives: the original's numbers, every variant, refusals."""

import json

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, verify
from hub_upload.common.rules import expand
from hub_upload.transformer_lm.rules import embedder_name, origins, rules

from ..language_models import EMBEDDER, LINES, language_model_config, language_model_state, pack, write_language_model


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_layers_of_the_reference_archive(reference, tmp_path, implementation):
    """Outputs of AllenNLP 2.10, whose epsilon is 1e-13: all layers, at words and boundaries."""
    folder = reference / "transformer_elmo"
    convert(folder / "model.tar.gz", tmp_path / "out", layer_norm_epsilon=1e-13)
    expected = np.load(folder / "expected_layers.npz")
    sentences = json.loads((folder / "sentences.json").read_text())
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    encoding = tokenizer(
        [words[1:-1] for words in sentences], is_split_into_words=True, padding=True, return_tensors="pt"
    )
    np.testing.assert_array_equal(encoding["character_ids"], expected["character_ids"])
    np.testing.assert_array_equal(encoding["attention_mask"].bool(), expected["mask"])

    def differences(epsilon):
        model = ElmoModel.from_pretrained(
            tmp_path / "out", attn_implementation=implementation, layer_norm_epsilon=epsilon
        ).eval()
        layers = [layer.numpy() for layer in model(**encoding, output_hidden_states=True).hidden_states]
        token = expected["token_embedding"]
        wanted = [np.concatenate([token, token], axis=-1), *(expected[f"layer_{i}"] for i in (1, 2, 3))]
        return [np.abs(one - other)[expected["mask"]].max() for one, other in zip(layers, wanted, strict=True)]

    assert max(differences(1e-13)) <= 2e-6
    # With the epsilon of AllenNLP up to 0.9, the numbers differ.
    assert max(differences(1e-6)) > 5e-6


@torch.no_grad()
def test_losses_of_the_reference_archive(reference, tmp_path):
    """Losses of AllenNLP 2.10 for two sentences: a softmax over the words and one class that is not a word."""
    convert(reference / "transformer_elmo", tmp_path / "out", layer_norm_epsilon=1e-13)
    model = ElmoForPreTraining.from_pretrained(tmp_path / "out").eval()
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    for sentence, forward, backward in (
        ("This is the first sentence .", 2.847909688949585, 2.3566393852233887),
        ("yet another zebra", 2.637465000152588, 2.5664730072021484),
    ):
        encoding = tokenizer([sentence.split()], is_split_into_words=True, return_tensors="pt")
        output = model(**encoding, labels=encoding["input_ids"])
        assert float(output.forward_loss) == pytest.approx(forward, abs=1e-6)
        assert float(output.backward_loss) == pytest.approx(backward, abs=1e-6)


@pytest.mark.samples(1)
@pytest.mark.parametrize("epsilon", [None, 1e-13, 1e-6])
def test_the_reference_archive_verifies(reference, tmp_path, epsilon):
    source = reference / "transformer_elmo"
    report = convert(source, tmp_path / "out", layer_norm_epsilon=epsilon)
    config = ElmoConfig.from_pretrained(tmp_path / "out")
    assert config.layer_norm_epsilon == (epsilon or 1e-6)
    assert any("took 1e-06" in note and "'iterator'" in note for note in report.notes) == (epsilon is None)
    assert (report.architecture, report.tensors, report.vocab_size) == ("ElmoForPreTraining", 120, 14)
    verified = verify(tmp_path / "out", source)
    assert verified.largest <= 2e-6  # float32 against float64
    assert not verified.has_state
    # The character row of padding is kept, although it is not zero.
    table = ElmoModel.from_pretrained(tmp_path / "out").embeddings.character_embeddings.weight
    assert table[0].any()


# Few sentences, because the plain implementation is slow.
SENTENCES = [["A", "naïve", "cat"], ["antidisestablishmentarianism-like-unbounded-neologisms-of-more-than-fifty-bytes"]]

VARIANTS = {
    "the published model's": {},
    "projection before the highways": {"projection_location": "after_cnn", "do_layer_norm": False},
    "projection before the highways, layer norm": {"projection_location": "after_cnn"},
    "no layer norm": {"do_layer_norm": False},
    "tanh": {"activation": "tanh"},
    "no highways": {"num_highway": 0},
    "one layer": {"num_layers": 1},
    "no projection": {"projection_location": None, "filters": [[1, 8], [2, 8]]},
    "defaults left out": {"activation": ..., "projection_location": "after_highway", "input_dropout": ...},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_agrees_with_the_plain_implementation(name, tmp_path):
    write_language_model(tmp_path / "source", **VARIANTS[name])
    convert(tmp_path / "source", tmp_path / "out")
    report = verify(tmp_path / "out", tmp_path / "source", sentences=SENTENCES)
    assert report.largest <= 5e-6  # float32 against float64, values up to 10


def test_default_projection_location_is_after_the_highways(tmp_path):
    config = language_model_config()
    state = language_model_state(config)
    del config["model"]["text_field_embedder"]["token_embedders"]["token_characters"]["encoder"]["projection_location"]
    write_language_model(tmp_path / "source", config, state)
    convert(tmp_path / "source", tmp_path / "out")
    assert ElmoConfig.from_pretrained(tmp_path / "out").character_projection_location == "after_highway"
    assert verify(tmp_path / "out", tmp_path / "source", sentences=SENTENCES).largest <= 5e-6  # as above


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sparse", "dense", "unsampled"])
@pytest.mark.parametrize("packed", [False, True])
def test_softmax_and_vocabulary(tmp_path, layout, packed):
    state = write_language_model(tmp_path / "source", layout=layout)
    source = pack(tmp_path / "source", tmp_path / "m.tar.gz") if packed else tmp_path / "source"
    report = convert(source, tmp_path / "out")
    assert (report.architecture, report.vocab_size) == ("ElmoForPreTraining", 11)
    model = ElmoForPreTraining.from_pretrained(tmp_path / "out").eval()
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids(["<pad>", *LINES, "@@PADDING@@", "<mask>"]) == list(range(11))
    assert tokenizer.unk_token == "@@UNKNOWN@@"
    assert model.config.unk_token_id == 1
    prefix = "_softmax_loss.softmax_"
    weight, bias = (state[f"{prefix}{part}{'.weight' if layout == 'sparse' else ''}"] for part in "wb")
    weight, bias = (weight.T if layout == "unsampled" else weight), bias.flatten()
    assert torch.equal(model.softmax.weight[1:10], weight)
    assert torch.equal(model.softmax.bias[1:10], bias)
    assert not model.softmax.weight[[0, 10]].any()
    # The class that is not a word is part of the normalization, but never a target.
    encoding = tokenizer([["the", "zebra"]], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**encoding, output_hidden_states=True)
        top = output.hidden_states[-1][0, :, :16]
        expected = (top @ weight.T + bias).log_softmax(-1)
    lines = [LINES.index(word) for word in ("the", "@@UNKNOWN@@", "</S>")]
    torch.testing.assert_close(output.forward_log_probs[0, 1:], expected[range(3), lines], rtol=0, atol=1e-5)


def test_layout_of_a_square_softmax_follows_the_options(tmp_path):
    """With as many classes as columns, only the options determine the layout."""
    lines = [*LINES, *map(str, range(7))]
    for layout, matches in (("dense", lambda w: w), ("unsampled", lambda w: w.T)):
        state = write_language_model(tmp_path / layout, lines=lines, layout=layout)
        convert(tmp_path / layout, tmp_path / f"{layout}_out")
        model = ElmoForPreTraining.from_pretrained(tmp_path / f"{layout}_out")
        assert torch.equal(model.softmax.weight[1:17], matches(state["_softmax_loss.softmax_w"]))


@pytest.mark.slow
def test_dropout_rates_and_embedder_names_of_the_archive(tmp_path):
    config = language_model_config(dropout=0.4)
    config["model"]["dropout"] = 0.25
    write_language_model(tmp_path / "source", config)
    convert(tmp_path / "source", tmp_path / "out")
    found = ElmoConfig.from_pretrained(tmp_path / "out")
    rates = [getattr(found, f"{name}_dropout") for name in ("transformer", "attention", "transformer_input", "softmax")]
    assert rates == [0.4, 0.4, 0.3, 0.25]
    assert (found.num_attention_heads, found.max_position_embeddings, found.feed_forward_size) == (8, 5000, 10)
    assert ElmoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 5000
    # The part may have another name.
    state = {key.replace("token_characters", "letters"): value for key, value in language_model_state(config).items()}
    embedders = config["model"]["text_field_embedder"]["token_embedders"]
    embedders["letters"] = embedders.pop("token_characters")
    write_language_model(tmp_path / "letters", config, state)
    convert(tmp_path / "letters", tmp_path / "letters_out")
    assert verify(tmp_path / "letters_out", tmp_path / "letters", sentences=SENTENCES[:1]).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("age", "meta", "epsilon", "sign"),
    [
        ("iterator", False, 1e-6, "'iterator'"),
        ("data_loader", False, 1e-13, "'data_loader'"),
        ("iterator", True, 1e-13, "meta.json"),
        ("other", False, 1e-6, "which wrote the published archive"),
    ],
)
def test_layer_norm_epsilon_by_allennlp_version(tmp_path, age, meta, epsilon, sign):
    write_language_model(tmp_path / "source", language_model_config(age))
    if meta:
        (tmp_path / "source" / "meta.json").write_text('{"version": "2.10.1"}')
    archive = pack(tmp_path / "source", tmp_path / "model.tar.gz")
    report = convert(archive, tmp_path / "out")
    assert ElmoConfig.from_pretrained(tmp_path / "out").layer_norm_epsilon == epsilon
    assert any(f"took {epsilon:g}" in note and sign in note for note in report.notes)


@pytest.mark.slow
def test_without_softmax_and_without_vocabulary(tmp_path):
    write_language_model(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "a", without_softmax=True)
    assert (report.architecture, report.vocab_size) == ("ElmoModel", 11)
    report = convert(tmp_path / "source", tmp_path / "b", without_vocabulary=True)
    assert (report.architecture, report.vocab_size) == ("ElmoModel", 5)
    assert verify(tmp_path / "b", tmp_path / "source", sentences=SENTENCES[:1]).passed
    (tmp_path / "source" / "vocabulary" / "tokens.txt").rename(tmp_path / "words")
    with pytest.raises(CheckpointError, match="--vocabulary.*--without-softmax"):
        convert(tmp_path / "source", tmp_path / "c")
    report = convert(tmp_path / "source", tmp_path / "c", vocabulary=tmp_path / "words")
    assert report.architecture == "ElmoForPreTraining"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_dim": 20}, "model.contextualizer.input_dim is 20.* 8"),
        ({"hidden_dim": 11}, "feed_forward.w_1.*axis 0 is 10.*model.contextualizer.hidden_dim is 11"),
        ({"num_layers": 3}, "missing: _contextualizer._backward_transformer.layers.2"),
        ({"num_layers": ...}, "model.contextualizer.num_layers.*missing"),
        ({"do_layer_norm": False}, r"describe.*_layer_norm\.beta"),
        ({"projection_location": "after_cnn"}, r"_highways._layers.0.weight'.*input_dim"),
        ({"projection_location": "nowhere"}, "projection_location.*'nowhere'.*'after_highway'"),
        ({"projection_location": None}, "projection_location is null.* 12 values.*input_dim is 16"),
        ({"projection_dim": 8}, "projection_dim is 8.*model.contextualizer.input_dim is 16"),
        ({"dropout": 1.5}, "model.contextualizer.dropout.*1.5"),
        ({"filters": [[1, 4]]}, "describe.*char_conv_1"),
    ],
)
def test_configurations_that_contradict_the_weights(tmp_path, changes, message):
    write_language_model(
        tmp_path / "source", language_model_config(**changes), language_model_state(language_model_config())
    )
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "source", tmp_path / "out")


def test_other_parts_are_named(tmp_path):
    config, state = language_model_config(), language_model_state(language_model_config())
    config["model"]["text_field_embedder"]["token_embedders"]["token_characters"]["encoder"]["type"] = "cnn"
    write_language_model(tmp_path / "source", config, state)
    with pytest.raises(CheckpointError, match="encoder.type.*'cnn'.*'cnn-highway'"):
        convert(tmp_path / "source", tmp_path / "out")
    config = language_model_config()
    config["dataset_reader"]["token_indexers"]["token_characters"]["type"] = "characters"
    write_language_model(tmp_path / "source", config, state)
    with pytest.raises(CheckpointError, match="type.*'characters'.*'elmo_characters'"):
        convert(tmp_path / "source", tmp_path / "out")
    words = {key: value for key, value in state.items() if not key.startswith(EMBEDDER)}
    words["_text_field_embedder.token_embedder_tokens.weight"] = torch.zeros(9, 16)
    with pytest.raises(CheckpointError, match=r"\(_text_field_embedder.token_embedder_tokens"):
        embedder_name(words, "weights.th")


def test_boundaries_that_were_not_trained_are_noted(tmp_path):
    config = language_model_config()
    del config["dataset_reader"]["start_tokens"]
    write_language_model(tmp_path / "source", config)
    notes = convert(tmp_path / "source", tmp_path / "out").notes
    assert any("start_tokens is None: the model was not trained with ['<S>']" in note for note in notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:-1], "7 lines.*9 classes.*8"),
        ([*LINES[:-1], "the"], "line 8: the word 'the' .*line 4"),
        ([*LINES[:-1], "@@PADDING@@"], "line 8.*'@@PADDING@@'"),
        (["<UNK>", *LINES[1:]], "no line '@@UNKNOWN@@'"),
        (["@@UNKNOWN@@", "S", *LINES[2:]], "bos_token='<S>'.*--without-vocabulary"),
    ],
)
def test_vocabularies_that_do_not_fit(tmp_path, lines, message):
    config = language_model_config()
    write_language_model(tmp_path / "source", config, language_model_state(config), lines)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "source", tmp_path / "out")


@pytest.mark.slow
def test_a_wrong_tensor_fails_from_its_layer_on(tmp_path):
    state = write_language_model(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out")
    for name, first_wrong in (
        (f"{EMBEDDER}_encoder._module._layer_norm.gamma", 0),
        ("_contextualizer._position.positional_encoding", 1),
        # A constant added to all keys does not change the attention.
        ("_contextualizer._forward_transformer.layers.0.self_attn.linears.1.bias", None),
        ("_contextualizer._forward_transformer.layers.0.self_attn.linears.1.weight", 1),
        ("_contextualizer._backward_transformer.layers.1.feed_forward.w_2.weight", 2),
        ("_contextualizer._backward_transformer.norm.beta", 2),
    ):
        torch.save({**state, name: 1.5 * state[name]}, tmp_path / "source" / "weights.th")
        report = verify(tmp_path / "out", tmp_path / "source", sentences=SENTENCES[:1])
        wrong = [layer for layer, value in enumerate(report.differences) if value > 1e-4]
        assert wrong == ([] if first_wrong is None else list(range(first_wrong, 3)))
    write_language_model(tmp_path / "other", num_layers=1)
    with pytest.raises(CheckpointError, match="num_hidden_layers.*2.*1"):
        verify(tmp_path / "out", tmp_path / "other")


def test_layer_norm_epsilon_is_for_transformers_only(tmp_path):
    from ..checkpoints import write_bilm

    write_bilm(tmp_path / "source")
    with pytest.raises(CheckpointError, match="--layer-norm-epsilon 1e-06"):
        convert(tmp_path / "source", tmp_path / "out", layer_norm_epsilon=1e-6)
    write_language_model(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="layer_norm_epsilon=0.0.*0"):
        convert(tmp_path / "lm", tmp_path / "out", layer_norm_epsilon=0.0)


def test_the_table_names_every_parameter_of_the_model_once():
    for overrides in ({}, {"character_layer_norm": False, "character_projection_location": "after_cnn"}):
        config = ElmoConfig.from_preset("transformer", **overrides)
        with torch.device("meta"):
            model = ElmoForPreTraining(config)
        names = sorted(key.removeprefix("elmo.") for key in model.state_dict() if "scalar_mixes" not in key)
        table = rules(config, "token_characters")
        entries = expand(table, config, 5, origins("token_characters"))
        assert sorted(parameter for entry in entries for parameter in entry.parameters) == names
        assert all(rule.reason.endswith(".") for rule in table)
