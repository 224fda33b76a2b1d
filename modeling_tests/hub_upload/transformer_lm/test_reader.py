"""AllenNLP language models are recognized; kinds other than Transformer ELMo are refused by name."""

import json

import numpy as np
import pytest
import torch

from hub_upload import CheckpointError
from hub_upload.detect import open_source
from hub_upload.transformer_lm.reader import (
    LanguageModelVocabulary,
    is_archive_of_language_model,
    is_language_model,
)

from ..language_models import LINES, language_model_config, language_model_state, pack, write_language_model


def refuse(source, message):
    with pytest.raises(CheckpointError, match=message), open_source(source):
        pass


@pytest.mark.parametrize("packed", [False, True])
def test_contents_of_a_source(tmp_path, packed):
    state = write_language_model(tmp_path / "source")
    path = pack(tmp_path / "source", tmp_path / "model.tar.gz") if packed else tmp_path / "source"
    with open_source(path) as source:
        assert source.layout == "allennlp-language-model"
        assert "_last_average_loss" not in source.tensors
        assert source.tensors["softmax/W"].shape == (9, 16)
        np.testing.assert_array_equal(source.tensors["softmax/b"].read(), state["_softmax_loss.softmax_b.weight"][:, 0])
        assert source.vocabulary.words == [*LINES, "@@PADDING@@"]
    with open_source(tmp_path / "source" / "weights.th") as source:
        assert source.options["model"]["type"] == "language_model"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lstm", "contextualizer.type is 'lstm', .*lstm is not supported: .*each direction reads what the other"),
        ("gated-cnn-encoder", "contextualizer.type is 'gated-cnn-encoder', .*a gated convolutional network"),
        ("pass_through", "'pass_through', expected 'bidirectional_language_model_transformer'; other types"),
        (None, "contextualizer.type is None"),
    ],
)
def test_other_contextualizers_are_refused_by_their_type(tmp_path, kind, message):
    config = language_model_config()
    config["model"]["contextualizer"]["type"] = kind
    write_language_model(tmp_path / "source", config)
    refuse(tmp_path / "source", message)


def test_other_models_are_refused_by_their_type(tmp_path):
    config = language_model_config()
    config["model"]["type"] = "masked_language_model"
    write_language_model(tmp_path / "source", config)
    refuse(tmp_path / "source", "model.type is 'masked_language_model', expected 'language_model' or")
    config["model"]["type"] = "bidirectional-language-model"
    write_language_model(tmp_path / "source", config)
    with open_source(tmp_path / "source"):
        pass
    state = language_model_state(config)
    lstm = {name: value for name, value in state.items() if "_transformer" not in name}
    lstm["_contextualizer._module.weight_ih_l0"] = torch.zeros(4, 4)
    write_language_model(tmp_path / "source", config, lstm)
    refuse(tmp_path / "source", "but the weights hold no Transformer")


def test_a_language_model_inside_a_task_model(tmp_path):
    state = language_model_state(language_model_config())
    prefix = "text_field_embedder.token_embedder_elmo._lm."
    inside = {prefix + name: value for name, value in state.items()}
    assert is_language_model(state)
    assert not is_language_model(inside)
    torch.save(inside, tmp_path / "weights.th")
    refuse(tmp_path, r"a task model with a language model inside, at text_field_embedder.token_embedder_elmo._lm\.")


def test_the_configuration_is_needed_and_may_be_simple_jsonnet(tmp_path):
    write_language_model(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    text = path.read_text()
    path.write_text("// trained in 2018\n" + text.rstrip("}") + ",}" + "}" * (len(text) - len(text.rstrip("}")) - 1))
    with open_source(tmp_path / "source") as source:
        assert source.options == json.loads(text)
    path.write_text('local layers = 2;\n{"model": {"num_layers": layers}}')
    refuse(tmp_path / "source", r"config.json: neither JSON nor simple Jsonnet .*Evaluate it \(jsonnet FILE\)")
    path.unlink()
    refuse(tmp_path / "source", "there is no config.json next to it, .*--options")
    (tmp_path / "elsewhere.json").write_text(text)
    with open_source(tmp_path / "source", options=tmp_path / "elsewhere.json") as source:
        assert source.options_file.endswith("elsewhere.json")


def test_a_softmax_is_not_given_twice(tmp_path):
    write_language_model(tmp_path / "source")
    (tmp_path / "s.hdf5").touch()
    with (
        pytest.raises(CheckpointError, match="own softmax.*--softmax"),
        open_source(tmp_path / "source", softmax=tmp_path / "s.hdf5"),
    ):
        pass


def test_vocabulary_lines(tmp_path):
    """As AllenNLP reads them: words are not stripped, and a line break in a word is written as an escape."""
    path = tmp_path / "tokens.txt"
    path.write_bytes("@@UNKNOWN@@\r\n a\u2028b \na@@NEWLINE@@b\n\x85".encode())
    vocabulary = LanguageModelVocabulary(path)
    assert vocabulary.lines == ["@@UNKNOWN@@", " a\u2028b ", "a@@NEWLINE@@b", "\x85"]
    assert vocabulary.words[-1] == "@@PADDING@@"
    path.write_bytes(b"@@UNKNOWN@@\n\xff\n")
    with pytest.raises(CheckpointError, match=r"tokens\.txt.*2.*0xff.*UTF-8"):
        LanguageModelVocabulary(path).lines  # noqa: B018


def test_archives_are_detected_by_their_configuration(tmp_path):
    write_language_model(tmp_path / "source")
    assert is_archive_of_language_model(pack(tmp_path / "source", tmp_path / "a.tar.gz"))
    (tmp_path / "source" / "config.json").write_text('{"model": {"type": "crf_tagger"}}')
    assert not is_archive_of_language_model(pack(tmp_path / "source", tmp_path / "b.tar.gz"))
    (tmp_path / "c.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:50])
    assert not is_archive_of_language_model(tmp_path / "c.tar.gz")
    assert not is_archive_of_language_model(tmp_path / "absent")
