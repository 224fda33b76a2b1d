"""Initial weights have the original's distributions."""

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification


def assert_uniform(tensor, bound):
    assert tensor.abs().max() <= bound
    assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def assert_normal(tensor, deviation):
    assert tensor.std().item() == pytest.approx(deviation, rel=0.05)
    assert tensor.abs().max() > 2.5 * deviation


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_initial_values_of_the_original(activation):
    config = ElmoConfig(
        vocab_size=900, character_filters=[[2, 200], [3, 200]], projection_size=64, cell_size=128,
        character_activation=activation,
    )  # fmt: skip
    model = ElmoForPreTraining(config)
    weights = dict(model.named_parameters())
    assert_uniform(weights["elmo.embeddings.character_embeddings.weight"], 1.0)
    for index, width in enumerate((2, 3)):
        kernel = weights[f"elmo.embeddings.convolutions.{index}.weight"]
        if activation == "relu":
            assert_uniform(kernel, 0.05)
        else:
            assert_normal(kernel, (width * 16) ** -0.5)
        assert (weights[f"elmo.embeddings.convolutions.{index}.bias"] == 0).all()
    assert_normal(weights["elmo.embeddings.highways.1.nonlinear.weight"], 400**-0.5)
    assert_normal(weights["elmo.embeddings.highways.1.gate.weight"], 400**-0.5)
    assert (weights["elmo.embeddings.highways.1.gate.bias"] == -2).all()
    assert_normal(weights["elmo.embeddings.projection.weight"], 400**-0.5)
    # Glorot-uniform over one kernel of 64 + 64 inputs and 512 outputs, in two parts here.
    for part in ("input_proj", "hidden_proj"):
        assert_uniform(weights[f"elmo.encoder.layers.1.backward_lstm.{part}.weight"], (6 / (128 + 512)) ** 0.5)
    assert_uniform(weights["elmo.encoder.layers.0.forward_lstm.output_proj.weight"], (6 / (128 + 64)) ** 0.5)
    assert (weights["elmo.encoder.layers.0.forward_lstm.input_proj.bias"] == 0).all()
    assert_normal(weights["softmax.weight"], 64**-0.5)
    assert (weights["softmax.bias"] == 0).all()
    assert model.elmo.scalar_mixes[0].weights.tolist() == [0, 0, 0]
    assert model.elmo.scalar_mixes[0].gamma.tolist() == [1]


def test_initial_values_of_word_vectors():
    config = ElmoConfig(
        vocab_size=902, character_filters=[], word_embedding_size=64, projection_size=64, cell_size=64
    )  # fmt: skip
    model = ElmoForPreTraining(config)
    table = model.get_input_embeddings().weight
    assert_uniform(table[1:], 1.0)
    assert (table[0] == 0).all()
    assert_normal(model.softmax.weight, 64**-0.5)


def test_initial_values_of_word_vectors_that_are_the_softmax_too():
    config = ElmoConfig(
        vocab_size=902, character_filters=[], word_embedding_size=64, projection_size=64, cell_size=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = ElmoForPreTraining(config)
    assert model.get_input_embeddings().weight is model.softmax.weight
    assert_normal(model.softmax.weight[1:], 64**-0.5)
    # The padding word's row, which no probability is computed from.
    assert (model.softmax.weight[0] == 0).all()


def test_a_loaded_padding_row_survives_initialization(tmp_path):
    config = ElmoConfig(character_filters=[], word_embedding_size=8, projection_size=8, cell_size=8)
    model = ElmoForPreTraining(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 1
    model.save_pretrained(tmp_path)
    again = ElmoForTokenClassification.from_pretrained(tmp_path)
    assert (again.get_input_embeddings().weight[0] == 1).all()


def test_a_head_added_by_loading_is_initialized(tmp_path):
    config = ElmoConfig(character_filters=[[1, 8]], projection_size=32, cell_size=16)
    ElmoForPreTraining(config).save_pretrained(tmp_path)
    tagger = ElmoForTokenClassification.from_pretrained(tmp_path, num_labels=50)
    assert_normal(tagger.classifier.weight, 64**-0.5)
    assert (tagger.classifier.bias == 0).all()
    assert torch.isfinite(tagger.classifier.weight).all()
