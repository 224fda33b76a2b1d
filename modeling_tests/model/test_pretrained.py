"""The API that users of Transformers expect of every model."""

import pickle

import pytest
import torch
from transformers import DataCollatorWithFlattening

from elmo_hf import (
    ElmoConfig,
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

KINDS = {"characters": {}, "words": WORD_INPUT, "both": BOTH_INPUTS, "Transformer": TRANSFORMER}
every_kind = pytest.mark.parametrize("overrides", KINDS.values(), ids=KINDS)


class TestInputEmbeddings:
    @every_kind
    @pytest.mark.parametrize("words", [50, 262, 300])
    def test_resize_if_larger(self, overrides, words):
        """The rule of the stock scripts, below and above the 262 rows of a table of characters."""
        model = ElmoForMaskedLM(tiny_config(**overrides))
        assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == 12
        if words > model.get_input_embeddings().weight.shape[0]:
            table = model.resize_token_embeddings(words)
        assert table is model.get_input_embeddings() and table.num_embeddings == words
        assert model.get_output_embeddings().weight.shape[0] == model.config.vocab_size == words

    @pytest.mark.parametrize("mean_resizing", [True, False])
    def test_custom_layers_are_resized(self, mean_resizing):
        """Their initialization is unknown: a table of words, and the last cluster of an adaptive softmax."""
        model = ElmoForPreTraining(tiny_config(**WORD_INPUT, softmax_cutoffs=[4]))
        table = torch.nn.Embedding(12, 4)
        model.set_input_embeddings(table)
        width = model.softmax.clusters.tail[-1][1].in_features
        model.softmax.clusters.tail[-1][1] = torch.nn.Linear(width, 6, bias=False)
        old = table.weight.clone()
        assert model.resize_token_embeddings(20, mean_resizing=mean_resizing) is table
        assert torch.equal(table.weight[:12], old) and table.weight.shape == (20, 4)
        assert 0.1 < table.weight[12:].abs().max() < 10
        assert model.softmax.clusters.tail[-1][1].weight.shape == (14, width)
        assert model(**batch_of(["a"]), labels=torch.tensor([[1, 15, 2]])).loss.isfinite()

    def test_a_character_model_has_the_shape_only(self):
        model = ElmoModel(tiny_config())
        words = model.get_input_embeddings()
        assert words.weight.shape == (12, 4) and words.weight.is_meta
        assert not any("spelled" in name for name, _ in model.named_modules()) and "spelled" not in model.state_dict()
        with pytest.raises(ValueError, match="Pass character_ids"):
            words(torch.tensor([[1]]))
        with pytest.raises(ValueError, match="model.bilm.embeddings.character_embeddings"):
            model.set_input_embeddings(torch.nn.Embedding(3, 4))
        model.set_input_embeddings(words)
        assert model.embeddings.character_embeddings.num_embeddings == 262

    @every_kind
    def test_hooks_see_the_words_vectors(self, overrides):
        """For NEFTune, and for gradients of a frozen model's inputs."""
        model = ElmoForTokenClassification(tiny_config(**overrides)).train()
        seen = []
        handle = model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: seen.append((module.training, output.shape))
        )
        model(**batch_of(["a b"]))
        handle.remove()
        assert [training for training, _ in seen] == [True]
        model.requires_grad_(False)
        model.enable_input_require_grads()
        assert model(**batch_of(["a b"])).logits.requires_grad
        model.disable_input_require_grads()
        assert not model(**batch_of(["a b"])).logits.requires_grad


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize(
    "cls",
    [
        ElmoModel,
        ElmoForPreTraining,
        ElmoForCausalLM,
        ElmoForMaskedLM,
        ElmoForTokenClassification,
        ElmoForSequenceClassification,
        ElmoForMultipleChoice,
    ],
)
def test_dummy_inputs_and_inputs_embeds(cls, overrides):
    model = with_large_weights(cls(tiny_config(**overrides))).eval()
    dummy = model.dummy_inputs
    given = {"labels": dummy["input_ids"]} if cls is ElmoForPreTraining else {}  # the words to predict
    with torch.no_grad():
        expected = model(**dummy, **given)[0]
        assert expected.isfinite().all()
        flat = {name: value.flatten(0, 1) if cls is ElmoForMultipleChoice else value for name, value in dummy.items()}
        inputs = {name: flat.get(name) for name in model.bilm.embeddings.input_names}
        vectors = model.bilm.embeddings(*inputs.values(), mask=flat["attention_mask"].bool())
        if cls is ElmoForMultipleChoice:
            vectors = vectors.unsqueeze(0)
        found = model(inputs_embeds=vectors, attention_mask=dummy["attention_mask"], **given)[0]
    assert found.shape == expected.shape and found.isfinite().all()
    # Texts are pooled without the boundaries, which word ids name.
    if cls not in (ElmoForSequenceClassification, ElmoForMultipleChoice):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_labels_without_input_ids():
    """With vectors and labels alone, labels are the only words predicted; without both, nothing could be."""
    model = with_large_weights(ElmoForPreTraining(tiny_config(pad_token_id=None, **WORD_INPUT))).eval()
    batch = batch_of(["a b c", "d"])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    labels = ids.masked_fill(ids.eq(6) | mask.eq(0), -100)
    vectors = model.elmo.embeddings(ids, mask=mask.bool())
    expected = model(ids, mask, labels=labels)
    found = model(inputs_embeds=vectors, attention_mask=mask, labels=labels)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.forward_log_probs, expected.forward_log_probs * labels.ge(0))
    with pytest.raises(ValueError, match="input_ids or labels"):
        model(inputs_embeds=vectors)


@pytest.mark.parametrize(
    ("cls", "overrides", "missing"),
    [
        (ElmoForQuestionAnswering, {}, "input_ids"),
        (ElmoForSequenceClassification, {"sentence_pairs": True}, "input_ids"),
        (ElmoForMultipleChoice, {"sentence_pairs": True}, "input_ids"),
        (ElmoForTokenClassification, {"word_vector_size": 3}, "input_ids"),
        (ElmoForTokenClassification, {"words_only": True, "task_lstm_size": 2}, "input_ids"),
        (ElmoForTokenClassification, {"use_crf": True}, "input_ids"),
        (ElmoForTokenClassification, {"task_character_size": 2, "num_task_characters": 4}, "code_point_ids"),
        (ElmoModel, {"scalar_mix_layer_norm": "words"}, "input_ids"),
    ],
)
def test_models_that_need_more_than_inputs_embeds(cls, overrides, missing):
    model = cls(tiny_config(**overrides)).eval()
    vectors = torch.zeros(2, 5, 4)
    with pytest.raises(ValueError, match=missing):
        model(inputs_embeds=vectors[None] if cls is ElmoForMultipleChoice else vectors)


@pytest.mark.parametrize(
    ("cls", "overrides"),
    [
        (ElmoForQuestionAnswering, {}),
        (ElmoForSequenceClassification, {"sentence_pairs": True}),
        (ElmoForMultipleChoice, {"sentence_pairs": True}),
    ],
)
def test_dummy_inputs_of_pairs(cls, overrides):
    model = with_large_weights(cls(tiny_config(**overrides))).eval()
    dummy = model.dummy_inputs
    assert model(**dummy)[0].isfinite().all()
    # Boundary and unknown word, twice.
    assert dummy["input_ids"].flatten(0, -2).tolist() == [[1, 3, 1, 3]] * 2
    assert dummy["attention_mask"].bool().all()


def test_dummy_inputs_are_two_sentences():
    model = ElmoModel(tiny_config())
    dummy = model.dummy_inputs
    assert dummy["input_ids"].tolist() == [[3] * 3] * 2
    assert dummy["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert dummy["character_ids"].shape == (2, 3, model.config.max_characters_per_word)
    assert ElmoModel(tiny_config(unk_token_id=None)).dummy_inputs["input_ids"].tolist() == [[0] * 3] * 2


def test_resize_to_one_word():
    model = ElmoForPreTraining(tiny_config())
    model.resize_token_embeddings(1)
    assert model.config.vocab_size == 1 and len(model.softmax.weight) == 1


def test_pad_to_multiple_of():
    model = ElmoForMaskedLM(tiny_config())
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == 16
    with pytest.raises(ValueError, match="`1.3`"):
        model.resize_token_embeddings(pad_to_multiple_of=1.3)


class TestAttention:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("causal", [True, False])
    def test_of_each_layer_and_direction(self, causal, attention):
        config = tiny_config(**TRANSFORMER, causal=causal)
        model = with_large_weights(ElmoModel(config)).eval()
        model.set_attn_implementation(attention)
        batch = batch_of(["a cat sat", "no"], "left")
        with torch.no_grad():
            outputs = model(**batch, output_attentions=True)
            plain = model(**batch)
        torch.testing.assert_close(outputs.last_hidden_state, plain.last_hidden_state, rtol=1e-5, atol=1e-5)
        assert plain.attentions is None and len(outputs.attentions) == config.num_hidden_layers
        real = batch["attention_mask"].bool()
        for shares in outputs.attentions:
            assert shares.shape == (2, 4, 5, 5)
            torch.testing.assert_close(shares.sum(-1), real[:, None, :].expand(2, 4, 5).float())
            assert not shares.masked_select(~real[:, None, None, :]).any()
            if causal:
                assert not shares[:, :2].triu(1).any() and not shares[:, 2:].tril(-1).any()
                assert shares[:, :2].tril(-1).any() and shares[:, 2:].triu(1).any()

    def test_of_heads(self):
        batch = batch_of(["a cat sat", "no"])
        for cls in (ElmoForTokenClassification, ElmoForMaskedLM, ElmoForPreTraining, ElmoForSequenceClassification):
            model = with_large_weights(cls(tiny_config(**TRANSFORMER))).eval()
            found = model(**batch, output_attentions=True).attentions
            torch.testing.assert_close(found, model.elmo(**batch, output_attentions=True).attentions)
            model.set_attn_implementation("eager")  # which Transformers asks of the configuration
            model.config.output_attentions = True
            assert len(model(**batch).attentions) == 2
        assert ElmoModel(tiny_config())(**batch, output_attentions=True).attentions is None

    @pytest.mark.parametrize("direction", [0, 1], ids=["forward", "backward"])
    def test_of_one_direction(self, direction):
        """Half of the biLM's heads; in a sentence read in two parts, the attention of the second part's words."""
        config = tiny_config(**TRANSFORMER, direction=("forward", "backward")[direction])
        model = with_large_weights(ElmoForCausalLM(config)).eval()
        batch = batch_of(["a cat sat", "no"], "right" if direction else "left")
        given = {name: value.flip(1) for name, value in batch.items()} if direction else batch
        found = model(**given, output_attentions=True).attentions
        for one, both in zip(found, model.elmo(**batch, output_attentions=True).attentions, strict=True):
            half = both.chunk(2, dim=1)[direction]
            torch.testing.assert_close(one, half.flip(2, 3) if direction else half)
        if direction == 0:
            mask = batch["attention_mask"]
            parts = [{name: value[:, part] for name, value in batch.items()} for part in (slice(3), slice(3, None))]
            past = model(**parts[0], use_cache=True).past_key_values
            parts[1]["attention_mask"] = mask
            rest = model(**parts[1], past_key_values=past, output_attentions=True).attentions
            torch.testing.assert_close(rest, tuple(each[:, :, 3:] for each in found))
        assert model(**given).attentions is None


@every_kind
@pytest.mark.parametrize("cls", [ElmoModel, ElmoForCausalLM, ElmoForTokenClassification, ElmoForQuestionAnswering])
def test_sentences_joined_to_a_row_are_refused(cls, overrides):
    """Sentences joined by DataCollatorWithFlattening lack their characters."""
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    rows = [{**tokenizer(text), "labels": [0] * 4} for text in ("a b", "c d")]
    batch = dict(DataCollatorWithFlattening()(rows))
    batch.pop("labels")
    assert "character_ids" not in batch and batch["input_ids"].shape == (1, 8)
    with pytest.raises(ValueError, match="DataCollatorWithFlattening"):
        cls(tiny_config(**overrides))(**batch)


def test_mask_token_that_is_a_word_is_refused(tmp_path, capsys):
    import elmo_hf
    import elmo_hf.pretraining
    from elmo_hf.cli import main

    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=9)
    assert tokenizer.mask_token_id == 6
    ids = {"vocab_size": len(tokenizer)}
    model = ElmoForMaskedLM(tiny_config(**{**ids, "mask_token_id": 4}))
    with pytest.raises(ValueError, match="mask_token_id=4 .*'the'.*config.mask_token_id=6"):
        elmo_hf.score(["the cat"], model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    from elmo_hf.pretraining.start import load

    with pytest.raises(ValueError, match="mask_token_id=4"):
        load(tmp_path)
    with pytest.raises(ValueError, match="mask_token_id=4"):
        list(elmo_hf.pretraining.score_sentences(model, tokenizer, ["the cat"]))
    assert main(["fill", "the <mask>", "--model", str(tmp_path)]) == 1
    assert "mask_token_id=4" in capsys.readouterr().err
    for mask in (None, 6):
        elmo_hf.score(["the cat"], ElmoForMaskedLM(tiny_config(**ids, mask_token_id=mask)), tokenizer)


def test_a_default_configuration_predicts_every_word():
    """As in the stock script that trains from scratch: `mask_token_id` is not set."""
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=9)
    shape = tiny_config().to_dict()
    config = ElmoConfig(**{name: shape[name] for name in ("character_filters", "projection_size", "cell_size")})
    config.max_characters_per_word = 9
    model = ElmoForMaskedLM(config)
    model.resize_token_embeddings(len(tokenizer))
    batch = tokenizer(["the cat"], return_tensors="pt")
    assert model(**batch, labels=batch["input_ids"]).loss.isfinite()


def test_models_that_were_pickled_whole_by_older_versions():
    """Such models lack attributes that later versions added."""
    model = ElmoModel(tiny_config()).eval()
    for name in ("_kept_megabytes", "_number"):
        model.__dict__.pop(name, None)
    restored = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert torch.equal(restored(**batch_of(["a b"]))[0], model(**batch_of(["a b"]))[0])
    assert model._number is None and restored._number is not None


def test_former_methods_and_arguments():
    """Every model has the penalty of its mixes, and the word layer also takes its mask by position."""
    model = ElmoModel(tiny_config(scalar_mix_l2=0.1, num_representations=2))
    for mix in model.scalar_mixes:
        torch.nn.init.constant_(mix.weights, 2.0)
    assert model.scalar_mix_penalty().item() == pytest.approx(0.1 * 2 * 3 * 4)
    batch = batch_of(["a b", "a"])
    for overrides in ({}, WORD_INPUT, BOTH_INPUTS):
        layer = ElmoModel(tiny_config(**overrides)).embeddings
        inputs, mask = [batch[name] for name in layer.input_names], batch["attention_mask"].bool()
        assert torch.equal(layer(*inputs, mask), layer(*inputs, mask=mask))


@pytest.mark.parametrize("items", [None, 3, 12])
def test_penalty_counts_labels_once_per_optimizer_step(items):
    """A batch with 3 of a step's 12 labels adds a quarter of the penalty; ignored labels (-100) do not count."""
    config = {"num_labels": 2, "id2label": {0: "O", 1: "X"}, "label2id": {"O": 0, "X": 1}}
    model, plain = (ElmoForTokenClassification(tiny_config(scalar_mix_l2=value, **config)) for value in (0.1, 0.0))
    torch.nn.init.constant_(model.elmo.scalar_mixes[0].weights, 2.0)
    plain.load_state_dict(model.state_dict())
    batch = batch_of(["a b", "a"])
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, 1:3], labels[1, 1] = torch.tensor([0, 1]), 1
    losses = [each.eval()(**batch, labels=labels, num_items_in_batch=items).loss.item() for each in (model, plain)]
    share = 1 if items is None else 3 / items
    assert losses[0] - losses[1] == pytest.approx(share * 0.1 * 3 * 4, abs=1e-5)
