"""A task's own layers, compared with their parts, in models with and without biLM."""

import copy

import pytest
import torch
from torch import nn

from elmo_hf import ElmoForPreTraining, ElmoForSequenceClassification, ElmoForTokenClassification, ElmoModel
from elmo_hf.model.packing import PackedBatch
from elmo_hf.model.task_layers import ElmoTaskLayers
from modeling_tests.tiny import assert_finite_gradients, batch_of, tiny_config, with_large_weights

SENTENCES = ["a cat sat", "why", "the dogs ran off at once", "no no", ""]

WITHOUT_BILM = {"elmo_at": [], "word_vector_size": 5}
VARIANTS = {
    "ELMo": {},
    "ELMo and word vectors": {"word_vector_size": 5},
    "ELMo at the input of an LSTM": {"task_lstm_size": 3},
    "ELMo at the output of an LSTM over word vectors": {
        "elmo_at": ["output"],
        "word_vector_size": 5,
        "task_lstm_size": 3,
    },
    "ELMo at both": {"elmo_at": ["output", "input"], "word_vector_size": 5, "task_lstm_size": 3, "task_lstm_layers": 3},
    "word vectors": WITHOUT_BILM,
    "LSTM over word vectors": {**WITHOUT_BILM, "task_lstm_size": 3, "task_lstm_layers": 2},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def tiny_model(cls=ElmoForTokenClassification, **overrides):
    return with_large_weights(cls(tiny_config(**overrides))).eval()


def torch_lstm(layers: nn.ModuleList) -> nn.LSTM:
    """The same layers as PyTorch's own LSTM, the forget gate's constant in its bias."""
    size, width = layers[0].forward_lstm.size, layers[0].forward_lstm.input_proj.in_features
    lstm = nn.LSTM(width, size, len(layers), bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for index, layer in enumerate(layers):
            for suffix, direction in (("", layer.forward_lstm), ("_reverse", layer.backward_lstm)):
                getattr(lstm, f"weight_ih_l{index}{suffix}").copy_(direction.input_proj.weight)
                getattr(lstm, f"weight_hh_l{index}{suffix}").copy_(direction.hidden_proj.weight)
                getattr(lstm, f"bias_ih_l{index}{suffix}").copy_(direction.input_proj.bias)
                getattr(lstm, f"bias_hh_l{index}{suffix}").zero_()[size : 2 * size] = 1.0
    return lstm


@every_variant
@pytest.mark.parametrize("side", ["right", "left"])
def test_features_equal_one_sentence_at_a_time(variant, side):
    model = tiny_model(**VARIANTS[variant]).double()
    config, layers = model.config, model.task_layers
    batch = batch_of(SENTENCES, side, 11)
    mask = batch["attention_mask"].bool()
    features, found_mask, outputs = model.encode_words(**batch)
    assert torch.equal(found_mask, mask)
    assert features.shape == (5, 11, layers.output_size)
    assert (features[~mask] == 0).all()
    places = [place for place in ("input", "output") if place in config.elmo_at]
    mixes = dict(zip(places, outputs.representations.unbind(1), strict=True)) if places else {}
    lstm = torch_lstm(layers.layers) if config.task_lstm_size else None
    for row, real in enumerate(mask):
        parts = [mixes["input"][row][real]] if "input" in mixes else []
        if config.word_vector_size:
            parts.append(layers.word_vectors.word_embeddings.weight[batch["input_ids"][row][real]])
        expected = torch.cat(parts, -1)
        if lstm is not None:
            expected = lstm(expected[None])[0][0]
        if "output" in mixes:
            expected = torch.cat([expected, mixes["output"][row][real]], -1)
        torch.testing.assert_close(features[row][real], expected, rtol=0, atol=1e-12)


def test_default_features_are_the_first_mix():
    model, batch = tiny_model(num_representations=2), batch_of(SENTENCES)
    features, _, outputs = model.encode_words(**batch)
    assert torch.equal(features, outputs.last_hidden_state)
    assert not list(model.task_layers.parameters())


@every_variant
def test_batch_equals_its_sentences(variant):
    model, batch = tiny_model(**VARIANTS[variant]), batch_of(SENTENCES)
    together = model.encode_words(**batch)[0]
    for row, sentence in enumerate(SENTENCES):
        alone = model.encode_words(**batch_of([sentence]))[0][0]
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(together[row][real], alone, rtol=0, atol=1e-5)


@every_variant
def test_rows_and_batches_without_words(variant):
    model, batch = tiny_model(**VARIANTS[variant]), batch_of(SENTENCES)
    expected = model.encode_words(**batch)[0]
    batch["attention_mask"][[0, 3]] = 0
    features = model.encode_words(**batch)[0]
    assert (features[[0, 3]] == 0).all()
    torch.testing.assert_close(features[[1, 2, 4]], expected[[1, 2, 4]], rtol=0, atol=1e-6)
    batch["attention_mask"][:] = 0
    features = model.train().encode_words(**batch)[0]
    assert (features == 0).all()
    (features.sum() + model.classifier.weight.sum()).backward()
    assert_finite_gradients(model, is_read=False)
    for shape in ((0, 4), (3, 0)):
        empty = {"input_ids": torch.zeros(shape).long(), "character_ids": torch.zeros(*shape, 9).long()}
        assert model.encode_words(**empty)[0].shape == (*shape, model.task_layers.output_size)


class TestTraining:
    def test_gradients_agree_with_torch_and_add_up(self):
        """Gradients of every weight; two accumulated batches equal one joint batch."""
        overrides = {**VARIANTS["ELMo at both"], "cell_clip": None, "projection_clip": None}
        model = tiny_model(**overrides).double().train()
        batch = batch_of(SENTENCES)
        weights = torch.randn(5, 8, model.task_layers.output_size, dtype=torch.float64)
        (model.encode_words(**batch)[0] * weights).sum().backward()
        trained = {name: weight for name, weight in model.named_parameters() if name.startswith("task_layers")}
        whole = {name: weight.grad.clone() for name, weight in trained.items()}
        assert all(gradient.abs().sum() > 0 for gradient in whole.values())
        assert (whole["task_layers.word_vectors.word_embeddings.weight"][0] == 0).all()
        lstm = torch_lstm(model.task_layers.layers)
        total = 0
        for row, real in enumerate(batch["attention_mask"].bool()):
            _, _, outputs = model.encode_words(**{name: value[row : row + 1] for name, value in batch.items()})
            words = model.task_layers.word_vectors.word_embeddings.weight[batch["input_ids"][row][real]]
            hidden = lstm(torch.cat([outputs.representations[0, 0][real], words], -1)[None])[0][0]
            total = total + (hidden * weights[row][real][:, : hidden.shape[1]]).sum()
        total.backward()
        for index in range(3):
            for suffix, direction in (("", "forward"), ("_reverse", "backward")):
                name = f"task_layers.layers.{index}.{direction}_lstm."
                for ours, theirs in (
                    ("input_proj.weight", "weight_ih"),
                    ("hidden_proj.weight", "weight_hh"),
                    ("input_proj.bias", "bias_ih"),
                ):
                    expected = getattr(lstm, f"{theirs}_l{index}{suffix}").grad
                    torch.testing.assert_close(whole[name + ours], expected, rtol=0, atol=1e-10)
        model.zero_grad()
        for part in (slice(0, 2), slice(2, 5)):
            features = model.encode_words(**{name: value[part] for name, value in batch.items()})[0]
            (features * weights[part]).sum().backward()
        for name, weight in trained.items():
            torch.testing.assert_close(weight.grad, whole[name], rtol=0, atol=1e-10)

    @pytest.mark.slow
    def test_dropout_acts_before_every_layer_in_training_only(self):
        overrides = {**WITHOUT_BILM, "task_lstm_size": 3, "task_lstm_layers": 2}
        plain, batch = tiny_model(**overrides), batch_of(SENTENCES)
        model = ElmoForTokenClassification(tiny_config(**overrides, task_dropout=0.5)).eval()
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model.encode_words(**batch)[0], plain.encode_words(**batch)[0])
        model.train()
        assert not torch.equal(model.encode_words(**batch)[0], model.encode_words(**batch)[0])
        seen = []
        for layer in model.task_layers.layers:
            layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for _ in range(200):
            model.encode_words(**batch)
        for inputs in (torch.stack(seen[0::2]), torch.stack(seen[1::2])):
            assert (inputs == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)

    def test_half_precision(self):
        model, batch = tiny_model(**VARIANTS["ELMo at both"]), batch_of(SENTENCES)
        with_large_weights(model, 0.3)
        expected = model.encode_words(**batch)[0]
        scale = expected.abs().max()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model.train().encode_words(**batch)[0]
        mixed.sum().backward()
        assert all(weight.grad.isfinite().all() for weight in model.task_layers.parameters())
        half = copy.deepcopy(model).to(torch.bfloat16)
        found = half.encode_words(**batch)[0]
        assert found.dtype == torch.bfloat16
        for values in (mixed, found):
            assert (values - expected).abs().max() < 0.05 * scale

    def test_initial_values(self):
        overrides = {"vocab_size": 3000, "word_vector_size": 48, "task_lstm_size": 16, "elmo_at": []}
        model = ElmoForTokenClassification(tiny_config(**overrides))
        table = model.task_layers.word_vectors.word_embeddings.weight
        assert (table[0] == 0).all()
        assert 0.24 < table.abs().max() <= 0.25  # (3 / 48) ** 0.5
        assert table[1:].norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
        lstm = model.task_layers.layers[0].backward_lstm
        bound = (6 / (48 + 16 + 64)) ** 0.5
        for weight in (lstm.input_proj.weight, lstm.hidden_proj.weight):
            assert 0.95 * bound < weight.abs().max() <= bound
        assert (lstm.input_proj.bias == 0).all()


class TestWordVectors:
    def test_words_outside_the_table_are_refused(self):
        model, batch = tiny_model(word_vector_size=5), batch_of(SENTENCES)
        batch["input_ids"][0, 1] = 12
        with pytest.raises(ValueError, match="input_ids holds 12.* 0 to 11.*resize"):
            model(**batch)
        batch["input_ids"][0, 1], batch["input_ids"][batch["attention_mask"] == 0] = 5, 10**6
        assert torch.isfinite(model(**batch).logits).all()  # padding is not looked up
        with pytest.raises(ValueError, match=r"\(word_vector_size\).*input_ids"):
            model(character_ids=batch["character_ids"])

    @pytest.mark.parametrize("cls", [ElmoForTokenClassification, ElmoForPreTraining])
    def test_frozen_parameters_stay_frozen_when_loaded(self, cls, tmp_path):
        overrides = {"word_vector_size": 5, "train_word_vectors": False, "num_representations": 2}
        model = cls(tiny_config(**overrides))
        fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        assert "elmo.scalar_mixes.1.weights" in fixed
        assert ("task_layers.word_vectors.word_embeddings.weight" in fixed) == (cls is ElmoForTokenClassification)
        model.save_pretrained(tmp_path)
        again, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert {name for name, weight in again.named_parameters() if not weight.requires_grad} == fixed
        again.freeze_bilm()
        again.freeze_bilm(False)
        assert {name for name, weight in again.named_parameters() if not weight.requires_grad} == fixed

    @pytest.mark.parametrize(
        "overrides", [{"word_vector_size": 5}, WITHOUT_BILM, {**WITHOUT_BILM, "task_lstm_size": 3}]
    )
    def test_resizing_the_vocabulary(self, overrides):
        model = tiny_model(**overrides)
        table = model.task_layers.word_vectors.word_embeddings.weight.clone()
        inputs = model.resize_token_embeddings(20)
        assert inputs is model.get_input_embeddings()
        assert (inputs is model.task_layers.word_vectors.word_embeddings) == (model.elmo is None)
        resized = model.task_layers.word_vectors.word_embeddings.weight
        assert resized.shape == (20, 5) and model.config.vocab_size == 20
        assert torch.equal(resized[:12], table)
        words = [row for row in range(12) if row not in (0, 4)]  # without padding and mask
        torch.testing.assert_close(resized[12:], table[words].mean(0).expand(8, 5))
        batch = batch_of(SENTENCES)
        batch["input_ids"][0, 1] = 19
        assert torch.isfinite(model(**batch).logits).all()


class TestWithoutBilm:
    """The baseline of the paper's tables: the same task model over word vectors alone."""

    def test_has_no_bilm_and_reads_word_ids_only(self):
        model, batch = tiny_model(**WITHOUT_BILM, task_lstm_size=3), batch_of(SENTENCES, "left")
        assert model.elmo is None and model.base_model is model
        expected = model(**batch).logits
        assert torch.equal(model(input_ids=batch["input_ids"]).logits, expected)
        assert model(**batch, output_hidden_states=True).hidden_states is None

    def test_methods_of_every_model(self):
        model, batch = tiny_model(**WITHOUT_BILM, scalar_mix_l2=0.1), batch_of(SENTENCES)
        assert model.get_input_embeddings() is model.task_layers.word_vectors.word_embeddings
        table = nn.Embedding(12, 5, padding_idx=0)
        model.set_input_embeddings(table)
        assert model.task_layers.word_vectors.word_embeddings is table
        model.freeze_bilm()
        assert all(weight.requires_grad for weight in model.parameters())
        assert model.scalar_mix_penalty() == 0
        labels = batch["input_ids"].clamp(max=1)
        model(**batch, labels=labels, num_items_in_batch=10).loss.backward()
        assert all(weight.grad is not None for weight in model.parameters())

    def test_round_trip(self, tmp_path):
        model, batch = tiny_model(**WITHOUT_BILM, task_lstm_size=3), batch_of(SENTENCES)
        model.save_pretrained(tmp_path)
        again, info = ElmoForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert again.elmo is None
        assert model.state_dict().keys() == again.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)

    def test_bad_inputs_are_refused(self):
        model, batch = tiny_model(**WITHOUT_BILM), batch_of(SENTENCES)
        with pytest.raises(ValueError, match=r"input_ids missing: .*\(batch, words\).*biLM"):
            model(character_ids=batch["character_ids"])
        with pytest.raises(ValueError, match=r"input_ids.*\(5,\).*\(batch, words\)"):
            model(input_ids=batch["input_ids"][:, 0])
        with pytest.raises(ValueError, match=r"attention_mask.*\(5, 7\).*\(5, 8\)"):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"][:, 1:])


def test_a_task_model_starts_from_a_language_model(tmp_path):
    source = with_large_weights(ElmoForPreTraining(tiny_config()))
    source.save_pretrained(tmp_path)
    loaded, info = ElmoForTokenClassification.from_pretrained(
        tmp_path, **VARIANTS["ELMo at both"], use_crf=True, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"classifier", "crf", "elmo", "task_layers"}
    assert {name for name in info["missing_keys"] if name.startswith("elmo")} == {
        "elmo.scalar_mixes.1.weights",
        "elmo.scalar_mixes.1.gamma",
    }
    for name, value in source.elmo.state_dict().items():
        assert torch.equal(value, loaded.elmo.state_dict()[name]), name
    # Weights missing in the checkpoint are initialized as configured.
    assert all((weight == 0).all() for weight in loaded.crf.parameters())
    assert (loaded.task_layers.word_vectors.word_embeddings.weight[0] == 0).all()
    bound = (6 / (13 + 5 * 3)) ** 0.5
    assert 0.5 * bound < loaded.task_layers.layers[0].forward_lstm.input_proj.weight.abs().max() <= bound
    assert isinstance(ElmoModel.from_pretrained(tmp_path), ElmoModel)


def test_order_of_elmo_at_does_not_matter():
    for places in (["input", "output"], ["output", "input"]):
        layers = ElmoTaskLayers(tiny_config(elmo_at=places, task_lstm_size=3))
        assert (layers.input_mix, layers.output_mix) == (0, 1)
    layers = ElmoTaskLayers(tiny_config(elmo_at=["output"], task_lstm_size=3, word_vector_size=2))
    assert (layers.input_mix, layers.output_mix, layers.output_size) == (None, 0, 6 + 8)


class TestBiattentiveNetworkLayers:
    """Feed-forward layers, encoder, biattention, integrator; over the words alone or with the boundaries."""

    FIELDS = {
        "elmo_at": ["input", "output"],
        "word_vector_size": 5,
        "task_character_size": 2,
        "num_task_characters": 6,
        "task_character_filters": [[1, 2], [2, 3]],
        "pre_encoder_layers": [[7, "tanh"], [6, "relu"]],
        "task_lstm_size": 3,
        "integrator_size": 2,
        "integrator_layers": 2,
    }

    @staticmethod
    def code_points(batch):
        """A word of as many code points as its place in the sentence, boundaries none."""
        rows = []
        for ids in batch["input_ids"]:
            row = [
                [2 + place % 4] * (0 if word in (1, 2) else place) for place, word in enumerate(ids.tolist()) if word
            ]
            rows.append([number for word in row for number in [*word, 1]])
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    @pytest.mark.parametrize("words_only", [True, False])
    @pytest.mark.parametrize("encoder", ["lstm", "highway_lstm"])
    def test_one_sentence_at_a_time(self, words_only, encoder):
        model = tiny_model(**self.FIELDS, words_only=words_only, task_encoder=encoder).double()
        layers, batch = model.task_layers, batch_of(SENTENCES)
        characters = self.code_points(batch)
        features, mask, outputs = model.encode_words(**batch, code_point_ids=characters)
        assert layers.output_size == 2 * 2 + 8 and features.shape[-1] == layers.output_size
        read = model.without_boundaries(mask, batch["input_ids"]) if words_only else mask
        encoded = layers.characters(characters, mask)
        for row, real in enumerate(read):
            if not real.any():
                assert (features[row, :, :4] == 0).all()
                continue
            mixes = outputs.representations[row][:, real]
            vectors = layers.word_vectors.word_embeddings.weight[batch["input_ids"][row][real]]
            x = torch.cat([mixes[0], encoded[row][real], vectors], -1)[None]
            for layer, activation in zip(layers.pre_encoder.layers, (torch.tanh, torch.relu), strict=True):
                x = activation(layer(x))
            alone = PackedBatch.from_mask(torch.ones(x.shape[:2]).bool())
            for layer in layers.layers:
                x = layer(x[0], alone)[0][None]
            y = (x @ x.mT).softmax(-1) @ x
            x = torch.cat([x, x - y, x * y], -1)
            for layer in layers.integrator:
                x = layer(x[0], alone)[0][None]
            expected = torch.cat([x[0], mixes[1]], -1)
            torch.testing.assert_close(features[row][real], expected, rtol=0, atol=1e-12)

    def test_missing_inputs_are_refused(self):
        model, batch = tiny_model(**self.FIELDS, words_only=True), batch_of(SENTENCES)
        with pytest.raises(ValueError, match="needs code_point_ids"):
            model.encode_words(**batch)
        del batch["input_ids"]
        with pytest.raises(ValueError, match=r"input_ids missing.*\(words_only=True\)"):
            model.encode_words(**batch, code_point_ids=self.code_points(batch_of(SENTENCES)))

    def test_input_ids_are_optional_without_recurrent_layers(self):
        model, batch = tiny_model(words_only=True), batch_of(SENTENCES)
        expected = model.encode_words(**batch)[0]
        del batch["input_ids"]
        assert torch.equal(model.encode_words(**batch)[0], expected)

    def test_pairs_are_separated_by_their_boundaries(self):
        fields = {"task_lstm_size": 3, "words_only": True, "sentence_pairs": True}
        model = tiny_model(ElmoForSequenceClassification, **fields)
        batch = batch_of(["a cat </S> <S> sat"])
        batch["input_ids"][0, 3:5] = torch.tensor([2, 1])
        features, mask, _ = model.encode_words(**batch)
        assert (features[mask] != 0).all()

    def test_every_part_gets_gradients(self):
        model = tiny_model(**self.FIELDS, words_only=True, task_encoder="highway_lstm").train()
        batch = batch_of(SENTENCES)
        features = model.encode_words(**batch, code_point_ids=self.code_points(batch))[0]
        features.square().sum().backward()
        for name, weight in model.task_layers.named_parameters():
            assert weight.grad is not None and (weight.grad != 0).any(), name
