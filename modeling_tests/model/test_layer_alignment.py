"""Alignment maps in a model: their effect, saving, and models that refuse them."""

import pytest
import torch
from transformers import AutoModel, AutoModelForTokenClassification

from elmo_hf import ElmoForMaskedLM, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.alignment import set_alignment
from elmo_hf.model.layer_alignment import ElmoAlignment
from elmo_hf.pretraining import warm_start
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

FAMILY = {
    "characters": {},
    "words": WORD_INPUT,
    "both": BOTH_INPUTS,
    "transformer": TRANSFORMER,
    "context-and-word": {"context_word_layer": True},
    "normalized": {"scalar_mix_layer_norm": "words"},
}
SENTENCES = ["Ada met Grace .", "No", "Alan was not there at all"]


def random_maps(config, seed=1):
    """Orthogonal (layers, 2P, 2P)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (config.num_mixed_layers, config.hidden_size, config.hidden_size)
    return torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0]


def close(found, expected):
    # Loaded weights have other addresses, and their matmuls round differently.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("overrides", FAMILY.values(), ids=FAMILY)
@torch.no_grad()
def test_every_layer_is_mapped_before_the_mix(overrides, side):
    model = with_large_weights(ElmoModel(tiny_config(**overrides))).double().eval()
    batch = batch_of(SENTENCES, side)
    before = model(**batch, output_hidden_states=True)
    maps = random_maps(model.config)
    set_alignment(model, maps)
    after = model(**batch, output_hidden_states=True)
    mask = batch["attention_mask"].bool()
    for layer, old, new in zip(maps, before.hidden_states, after.hidden_states, strict=True):
        for row, column in mask.nonzero().tolist():
            torch.testing.assert_close(new[row, column], layer @ old[row, column])
        assert not new[~mask].any()
    mix = model.scalar_mixes[0]
    counted = mask if model.config.scalar_mix_layer_norm is None else model.without_boundaries(mask, batch["input_ids"])
    torch.testing.assert_close(after.last_hidden_state, mix(after.hidden_states, mask, counted))
    assert not torch.allclose(after.last_hidden_state, before.last_hidden_state)


def test_model_without_maps_has_no_alignment_parameters():
    model = ElmoModel(tiny_config())
    assert model.alignment is None
    assert not any("alignment" in name for name in model.state_dict())


@torch.no_grad()
def test_a_new_map_is_the_identity():
    model = ElmoModel(tiny_config(aligned=True)).eval()
    assert torch.equal(model.alignment.maps, torch.eye(8).expand(3, 8, 8))
    plain = ElmoModel(tiny_config()).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "alignment" not in name})
    batch = batch_of(SENTENCES)
    assert torch.equal(model(**batch).last_hidden_state, plain(**batch).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", FAMILY.values(), ids=FAMILY)
@torch.no_grad()
def test_saved_and_loaded_bit_by_bit(overrides, tmp_path):
    model = with_large_weights(ElmoModel(tiny_config(**overrides))).eval()
    set_alignment(model, random_maps(model.config))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "layer_alignment.py").is_file()
    batch = batch_of(SENTENCES)
    for auto in (ElmoModel, AutoModel):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert loaded.config.aligned
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(loaded.alignment.maps, model.alignment.maps)
        close(loaded.eval()(**batch).last_hidden_state, model(**batch).last_hidden_state)
    without, info = ElmoModel.from_pretrained(tmp_path, aligned=False, output_loading_info=True)
    assert without.alignment is None and not info["unexpected_keys"]


@torch.no_grad()
def test_a_checkpoint_without_maps_gets_the_identity(tmp_path):
    ElmoModel(tiny_config()).save_pretrained(tmp_path)
    loaded, info = ElmoModel.from_pretrained(tmp_path, aligned=True, output_loading_info=True)
    assert info["missing_keys"] == {"alignment.maps"}
    assert torch.equal(loaded.alignment.maps, torch.eye(8).expand(3, 8, 8))


def test_a_task_head_reads_mapped_layers_and_does_not_train_them(tmp_path):
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    set_alignment(model, random_maps(model.config))
    model.save_pretrained(tmp_path / "aligned")
    tagger = ElmoForTokenClassification.from_pretrained(tmp_path / "aligned", num_labels=3)
    assert torch.equal(tagger.elmo.alignment.maps, model.alignment.maps)
    batch = batch_of(SENTENCES)
    with torch.no_grad():
        features, _, _ = tagger.eval().encode_words(**batch)
        close(features, model(**batch).last_hidden_state)
    optimizer = torch.optim.SGD(tagger.train().parameters(), lr=0.1)
    kernel = tagger.elmo.encoder.layers[0].forward_lstm.input_proj.weight.clone()
    tagger(**batch, labels=batch["input_ids"].clamp(max=2)).loss.backward()
    optimizer.step()
    assert not torch.equal(tagger.elmo.encoder.layers[0].forward_lstm.input_proj.weight, kernel)
    assert torch.equal(tagger.elmo.alignment.maps, model.alignment.maps)
    tagger.save_pretrained(tmp_path / "tagger")
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger").eval()
    assert torch.equal(again.elmo.alignment.maps, model.alignment.maps)
    close(again(**batch).logits, tagger.eval()(**batch).logits)


def test_maps_follow_the_models_type():
    model = ElmoModel(tiny_config(aligned=True)).half()
    assert model.alignment.maps.dtype == torch.float16
    layers = [torch.ones(1, 2, 8, dtype=torch.float16)] * 3
    assert [layer.dtype for layer in model.alignment(layers)] == [torch.float16] * 3


@pytest.mark.parametrize("cls", [ElmoForPreTraining, ElmoForMaskedLM])
def test_language_models_refuse_maps(cls, tmp_path):
    with pytest.raises(ValueError, match="aligned=True"):
        cls(tiny_config(aligned=True))
    model = cls(tiny_config())
    with pytest.raises(ValueError, match=f"{cls.__name__} .*ElmoModel"):
        set_alignment(model, random_maps(model.config))
    aligned = ElmoModel(tiny_config())
    set_alignment(aligned, random_maps(aligned.config))
    aligned.save_pretrained(tmp_path)
    assert cls.from_pretrained(tmp_path, aligned=False).elmo.alignment is None


def test_pretraining_goes_on_without_the_map(tmp_path):
    aligned = ElmoModel(tiny_config(vocab_size=7))
    set_alignment(aligned, random_maps(aligned.config))
    aligned.save_pretrained(tmp_path)
    ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=9).save_pretrained(tmp_path)
    model = warm_start(tmp_path).model
    assert model.elmo.alignment is None and not model.config.aligned
    name = "encoder.layers.0.forward_lstm.input_proj.weight"
    assert torch.equal(model.elmo.get_parameter(name), aligned.get_parameter(name))


class TestRefusals:
    def test_maps(self):
        model = ElmoModel(tiny_config())
        with pytest.raises(ValueError, match=r"maps.*\(3.*8.*7\).*\(layers.*2P.*2P\) = \(3.*8.*8\)"):
            set_alignment(model, torch.zeros(3, 8, 7))
        with pytest.raises(ValueError, match="maps .*finite"):
            set_alignment(model, torch.full((3, 8, 8), float("nan")))
        assert model.alignment is None and not model.config.aligned

    def test_a_model_without_bilm(self):
        baseline = ElmoForTokenClassification(tiny_config(elmo_at=[], word_vector_size=4))
        with pytest.raises(ValueError, match=r"biLM \(elmo_at=\[\]\)"):
            set_alignment(baseline, torch.zeros(3, 8, 8))

    def test_another_number_of_layers(self):
        module = ElmoAlignment(tiny_config(aligned=True))
        with pytest.raises(ValueError):
            module([torch.zeros(1, 1, 8)] * 2)
