"""A translator's encoder with layers of the task, compared with a tagger of the same weights."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModel

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel
from elmo_hf.alignment import set_alignment
from elmo_hf.model.configuration_elmo import ElmoTaskEncoderConfig
from elmo_hf.model.task_encoder import ElmoTaskEncoder
from modeling_tests.model.test_task_layers import SENTENCES, VARIANTS
from modeling_tests.tiny import assert_finite_gradients, batch_of, tiny_config, with_large_weights

LARGER = {
    "biattention": {"task_lstm_size": 3, "integrator_size": 2},
    "a layer below the LSTM": {"task_lstm_size": 3, "pre_encoder_layers": [[7, "relu"]], "word_vector_size": 5},
    "one direction": {"bidirectional": False, "word_vector_size": 5},
    "characters": {"task_character_size": 2, "task_character_filters": [[2, 3], [1, 4]], "num_task_characters": 3},
}
every_variant = pytest.mark.parametrize("variant", [*VARIANTS.values(), *LARGER.values()], ids=[*VARIANTS, *LARGER])


def encoder(**overrides) -> ElmoTaskEncoder:
    config = ElmoTaskEncoderConfig.from_dict(tiny_config(**overrides).to_dict())
    return with_large_weights(ElmoTaskEncoder(config)).eval()


def inputs_of(model: ElmoTaskEncoder) -> dict[str, torch.Tensor]:
    batch = batch_of(SENTENCES, "right", 11)
    if model.config.task_character_size:
        # Each word has two code points and its end.
        rows = batch["attention_mask"].repeat_interleave(3, dim=1)
        batch["code_point_ids"] = rows * torch.tensor([2, 3, 1]).repeat(11)
    return batch


@every_variant
def test_is_a_tagger_without_classifier(variant):
    model = encoder(**variant)
    tagger = ElmoForTokenClassification(model.config)
    assert not tagger.load_state_dict(model.state_dict(), strict=False).unexpected_keys
    batch = inputs_of(model)
    found = model(**batch, output_hidden_states=True)
    expected, mask, outputs = tagger.eval().encode_words(**batch, output_hidden_states=True)
    assert torch.equal(found.last_hidden_state, expected)
    assert not found.last_hidden_state[~mask].any()
    if outputs is None:
        assert found.hidden_states is None
    else:
        assert all(map(torch.equal, found.hidden_states, outputs.hidden_states))
    assert torch.equal(model(**batch, return_dict=False)[0], expected)
    assert torch.equal(model.word_mask(batch["input_ids"], None, batch["character_ids"]), mask)


@every_variant
def test_hidden_size_is_the_width_of_the_layers(variant):
    model = encoder(**variant)
    layers = model.task_layers
    parts = [model.config.elmo_size] if layers.input_mix is not None else []
    parts += [part.output_size for part in (layers.characters,) if part is not None]
    parts += [table.word_embeddings.weight.shape[1] for table in (layers.word_vectors,) if table is not None]
    width = sum(parts)
    for stack in (layers.layers, layers.integrator):
        width = 2 * stack[-1].forward_lstm.hidden_proj.in_features if len(stack) else width
    width += model.config.elmo_size if layers.output_mix is not None else 0
    assert model.config.hidden_size == layers.output_size == width == model.config.to_dict()["hidden_size"]


@every_variant
def test_gradients_reach_every_weight(variant):
    model = encoder(**variant)
    model(**inputs_of(model)).last_hidden_state.square().sum().backward()
    assert_finite_gradients(model)


def test_saved_and_loaded(tmp_path):
    model = encoder(word_vector_size=5, task_lstm_size=3)
    model.save_pretrained(tmp_path)
    again = ElmoTaskEncoder.from_pretrained(tmp_path).eval()
    assert type(again.config) is ElmoTaskEncoderConfig and again.config.hidden_size == 6
    batch = batch_of(SENTENCES, "right", 11)
    assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_the_bilm_is_an_ordinary_one(tmp_path):
    """Its configuration has its own width, and it is saved as an `ElmoModel`."""
    model = encoder(word_vector_size=5, task_lstm_size=3)
    assert type(model.bilm.config) is ElmoConfig and model.bilm.config.hidden_size == 8
    model.bilm.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is ElmoModel
    for name, value in model.bilm.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    model.resize_token_embeddings(20)
    assert model.config.vocab_size == model.bilm.config.vocab_size == 20


def test_configurations_keep_their_type():
    plain = tiny_config(task_lstm_size=3)
    config = ElmoTaskEncoderConfig.from_dict(plain.to_dict(), task_lstm_size=4)
    assert (config.model_type, config.hidden_size, config.elmo_size) == ("elmo_task_encoder", 8, 8)
    back = ElmoConfig.from_dict(config.to_dict())
    assert (back.model_type, back.task_lstm_size) == ("elmo", 4)
    with pytest.raises(StrictDataclassClassValidationError, match="task_character_filters"):
        ElmoTaskEncoderConfig(task_character_size=2, task_character_filters=[[]])


def test_maps_of_another_space_fit():
    """The maps have the width of the biLM, not of the task's layers."""
    model = encoder(word_vector_size=5, task_lstm_size=3, aligned=True)
    maps = torch.randn(3, 8, 8)
    set_alignment(model, maps)
    torch.testing.assert_close(model.bilm.alignment.maps, maps)
