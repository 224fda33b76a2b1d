"""Joined words, characters and POS tags: brute force, masks, gradients, refusals, every head."""

import itertools

import numpy as np
import pytest
import torch

from elmo_hf import (
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
)
from elmo_hf.model.word_layer import (
    ElmoJoinedEmbeddings,
    character_embeddings_of,
    distinct_words,
    word_layer,
    word_table_of,
)
from modeling_tests.brute_force import BruteForceElmo
from modeling_tests.tiny import BOTH_INPUTS, WORD_INPUT, batch_of, tiny_config, with_large_weights

TAGS = {"num_pos_tags": 4, "pos_tag_embedding_size": 3}
KINDS = {
    "words and characters": BOTH_INPUTS,
    "all three": {**BOTH_INPUTS, **TAGS},
    "words and tags": {**WORD_INPUT, **TAGS},
    "characters and tags": TAGS,
}
every_kind = pytest.mark.parametrize("kind", KINDS)
SENTENCES = ["a cat sat", "why", "the dogs ran off at once"]


def tagged_batch(sentences=SENTENCES, side="right"):
    """A batch with POS tags 1, 2, 3, 4 and none in turn."""
    batch = batch_of(sentences, side)
    words = (batch["input_ids"] > 2).long()
    return {**batch, "pos_tag_ids": (words.cumsum(1) % 5) * words}


def layer_of(kind, **changed):
    return with_large_weights(word_layer(tiny_config(**{**KINDS[kind], **changed}))).double()


@every_kind
@pytest.mark.parametrize("side", ["right", "left"])
def test_models_agree_with_brute_force(kind, side):
    model = with_large_weights(ElmoModel(tiny_config(**KINDS[kind]))).double().eval()
    plain, batch = BruteForceElmo(model), tagged_batch(side=side)
    with torch.no_grad():
        layers = model(**batch, output_hidden_states=True).hidden_states
    for index in range(len(SENTENCES)):
        real = batch["attention_mask"][index].bool()
        given = [batch[name][index][real].numpy() for name in model.embeddings.input_names]
        expected, _ = plain.sentence(list(zip(*given, strict=True)))
        for found, layer in zip(layers, expected, strict=True):
            np.testing.assert_allclose(found[index][real], layer, rtol=0, atol=1e-10)
            assert (found[index][~real] == 0).all()


def test_parts_follow_the_order_of_the_original():
    layer = layer_of("all three")
    assert layer.input_names == ("input_ids", "character_ids", "pos_tag_ids")
    assert layer.projection.in_features == 5 + 12 + 3
    batch = tagged_batch()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        layer.projection.weight[:, :5].zero_()
        layer.projection.weight[:, 17:].zero_()
    vectors = layer(*(batch[name] for name in layer.input_names), mask=mask)
    changed = {**batch, "input_ids": batch["input_ids"].clamp(max=7), "pos_tag_ids": batch["pos_tag_ids"] * 0}
    assert torch.equal(layer(*(changed[name] for name in layer.input_names), mask=mask), vectors)


@every_kind
def test_every_input_counts_and_masked_ones_do_not(kind):
    layer, batch = layer_of(kind), tagged_batch()
    mask = batch["attention_mask"].bool()
    inputs = [batch[name] for name in layer.input_names]
    vectors = layer(*inputs, mask=mask)
    assert vectors.shape == (3, 8, 4)
    assert (vectors[~mask] == 0).all()
    for place, name in enumerate(layer.input_names):
        other = list(inputs)
        other[place] = inputs[place].clone()
        other[place][0, 1] = 3
        moved = layer(*other, mask=mask)
        assert not torch.equal(moved[0, 1], vectors[0, 1]), name
        moved[0, 1] = vectors[0, 1]
        assert torch.equal(moved, vectors), name
        other[place] = inputs[place].clone()
        other[place][~mask] = 10**6
        assert torch.equal(layer(*other, mask=mask), vectors), name


@pytest.mark.slow
@every_kind
def test_gradients(kind):
    layer = layer_of(kind, character_filters=[[1, 2]] if "character" in kind or kind == "all three" else [])
    batch = tagged_batch(["a b", "c"])
    inputs, mask = [batch[name] for name in layer.input_names], batch["attention_mask"].bool()
    parameters = dict(layer.named_parameters())
    # Rows of padding are constants.
    constant = {name for name in parameters if name.endswith("embeddings.weight")}

    def output(*values):
        return torch.func.functional_call(
            layer, dict(zip(parameters, values, strict=True)), tuple(inputs), {"mask": mask}
        )

    output(*parameters.values()).square().sum().backward()
    for name in constant:
        assert (parameters[name].grad[0] == 0).all()
        assert parameters[name].grad.abs().sum() > 0
    free = {name: value.detach().clone().requires_grad_(name not in constant) for name, value in parameters.items()}
    assert torch.autograd.gradcheck(output, tuple(free.values()))


@every_kind
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches(kind, shape):
    layer = layer_of(kind)
    given = {
        "input_ids": torch.zeros(shape).long(),
        "character_ids": torch.zeros(*shape, 9).long(),
        "pos_tag_ids": torch.zeros(shape).long(),
    }
    inputs = [given[name] for name in layer.input_names]
    assert layer(*inputs, mask=layer.real_words(inputs[0])).shape == (*shape, 4)


@every_kind
def test_padding_is_inferred_from_the_first_input(kind):
    model, batch = with_large_weights(ElmoModel(tiny_config(**KINDS[kind]))).eval(), tagged_batch()
    expected = model(**batch).last_hidden_state
    del batch["attention_mask"]
    assert torch.equal(model(**batch).last_hidden_state, expected)


def test_parts_are_found_by_their_type():
    for kind, fields in {"characters": {}, "words": WORD_INPUT, **KINDS}.items():
        layer = word_layer(tiny_config(**fields))
        assert isinstance(layer, ElmoJoinedEmbeddings) == (kind in KINDS)
        assert (word_table_of(layer) is not None) == ("input_ids" in layer.input_names)
        assert (character_embeddings_of(layer) is not None) == ("character_ids" in layer.input_names)
    assert word_table_of(None) is None


class TestRefusals:
    def test_a_missing_input_is_named(self):
        model, batch = ElmoModel(tiny_config(**KINDS["all three"])), tagged_batch()
        for name in ("input_ids", "character_ids", "pos_tag_ids"):
            given = {key: value for key, value in batch.items() if key != name}
            expected = f"input_ids and character_ids and pos_tag_ids or inputs_embeds, got none of {name}"
            with pytest.raises(ValueError, match=expected):
                model(**given)
        with pytest.raises(ValueError, match="got none of pos_tag_ids.*pos_tags"):
            model(**{**batch, "pos_tag_ids": None})

    def test_inputs_embeds_with_other_inputs(self):
        model, batch = with_large_weights(ElmoModel(tiny_config(**KINDS["all three"]))).eval(), tagged_batch()
        mask = batch["attention_mask"]
        vectors = model.embeddings(*(batch[name] for name in model.embeddings.input_names), mask=mask.bool())
        found = model(batch["input_ids"], mask, inputs_embeds=vectors).last_hidden_state
        assert torch.equal(found, model(**batch).last_hidden_state)
        with pytest.raises(ValueError, match="got both inputs_embeds and character_ids, pos_tag_ids"):
            model(**batch, inputs_embeds=vectors)

    @pytest.mark.parametrize("value", [-1, 5])
    def test_tags_outside_the_table(self, value):
        model, batch = ElmoModel(tiny_config(**TAGS)), tagged_batch()
        batch["pos_tag_ids"][1, 1] = value
        with pytest.raises(ValueError, match=f"pos_tag_ids holds {value}.* 0 to 4; .*num_pos_tags=4"):
            model(**batch)

    def test_another_shape(self):
        model, batch = ElmoModel(tiny_config(**KINDS["all three"])), tagged_batch()
        with pytest.raises(ValueError, match=r"pos_tag_ids.*\(3, 7\).*\(3, 8\)"):
            model(**{**batch, "pos_tag_ids": batch["pos_tag_ids"][:, 1:]})
        with pytest.raises(ValueError, match=r"character_ids.*\(3, 7, 9\).*\(3, 8\)"):
            model(**{**batch, "character_ids": batch["character_ids"][:, 1:]})


def test_the_table_of_a_joined_model_is_resized_and_tied():
    fields = {**KINDS["all three"], "word_embedding_size": 4, "tie_word_embeddings": True}
    model = with_large_weights(ElmoForPreTraining(tiny_config(**fields)))
    table = model.elmo.embeddings.words.word_embeddings
    assert model.get_input_embeddings() is table
    assert model.softmax.weight is table.weight
    characters = character_embeddings_of(model.elmo.embeddings).character_embeddings.weight.clone()
    model.resize_token_embeddings(15)
    assert model.softmax.weight is model.get_input_embeddings().weight
    assert tuple(model.softmax.weight.shape) == (15, 4)
    assert torch.equal(character_embeddings_of(model.elmo.embeddings).character_embeddings.weight, characters)
    model(**tagged_batch(), labels=tagged_batch()["input_ids"]).loss.backward()


HEADS = {
    ElmoForPreTraining: {"labels": lambda batch: batch["input_ids"]},
    ElmoForMaskedLM: {"labels": lambda batch: batch["input_ids"].where(batch["input_ids"] > 4, -100)},
    ElmoForTokenClassification: {"labels": lambda batch: batch["input_ids"].clamp(max=1)},
    ElmoForSequenceClassification: {"labels": lambda batch: torch.tensor([0, 1, 0])},
}


@pytest.mark.parametrize("cls", HEADS)
def test_heads_read_every_part(cls, tmp_path):
    config = tiny_config(**KINDS["all three"], num_labels=2, context_word_layer=True)
    model, batch = with_large_weights(cls(config)).eval(), tagged_batch()
    labels = {name: make(batch) for name, make in HEADS[cls].items()}
    loss = model(**batch, **labels).loss
    loss.backward()
    for name in ("words.word_embeddings", "characters.character_embeddings", "pos_tags.pos_tag_embeddings"):
        assert model.elmo.embeddings.get_parameter(f"{name}.weight").grad.abs().sum() > 0, name
    none = {**batch, "pos_tag_ids": torch.zeros_like(batch["pos_tag_ids"])}
    assert not torch.equal(model(**none, **labels).loss, loss)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch, **labels).loss, loss, rtol=0, atol=1e-6)


def test_heads_over_pairs_and_choices_read_every_part():
    config = tiny_config(**KINDS["all three"])
    pairs = batch_of(["a b </S> <S> c d", "e </S> <S> f"])
    for index, row in enumerate(pairs["character_ids"]):
        # The row also has inner boundaries.
        for place, characters in enumerate(row):
            boundary = {257: 1, 258: 2}.get(int(characters[1]))
            if boundary is not None:
                pairs["input_ids"][index, place] = boundary
    pairs["pos_tag_ids"] = (pairs["input_ids"] > 2).long() * 2
    model = with_large_weights(ElmoForQuestionAnswering(config)).eval()
    logits = model(**pairs).start_logits
    other = {**pairs, "pos_tag_ids": pairs["pos_tag_ids"] // 2}
    assert not torch.equal(model(**other).start_logits, logits)
    choices = {name: torch.stack([value, value.flip(0)]) for name, value in tagged_batch(["a", "b"]).items()}
    chooser = with_large_weights(ElmoForMultipleChoice(config)).eval()
    scores = chooser(**choices).logits
    torch.testing.assert_close(scores[0], scores[1].flip(0))
    choices["pos_tag_ids"] = choices["pos_tag_ids"] * 0
    assert not torch.equal(chooser(**choices).logits, scores)


@pytest.mark.parametrize(("words", "characters"), [(0, True), (4, True), (6, True), (4, False), (6, False)])
def test_every_combination_of_fields_works(words, characters):
    for tags, projected, layer in itertools.product((0, 4), (None, True) if characters else (None,), (True, False)):
        fields = {
            "word_embedding_size": words,
            "num_pos_tags": tags,
            "character_projection": projected,
            "context_word_layer": layer,
            **({} if characters else {"character_filters": []}),
        }
        model = ElmoModel(tiny_config(**fields))
        output = model(**tagged_batch(), output_hidden_states=True)
        assert len(output.hidden_states) == 3 + layer == model.config.num_mixed_layers
        assert output.last_hidden_state.shape == (3, 8, 8)


ALL_KINDS = {
    **KINDS,
    "characters": {},
    "words": WORD_INPUT,
    "projected words": {**WORD_INPUT, "word_embedding_size": 7},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_distinct_words_equal_a_plain_call(kind, side):
    layer = with_large_weights(word_layer(tiny_config(**ALL_KINDS[kind])))
    batch = tagged_batch(["the cat the cat", "cat", "a the dog dog"], side)
    inputs, mask = [batch[name] for name in layer.input_names], batch["attention_mask"].bool()
    expected = layer(*inputs, mask=mask)
    found = distinct_words(layer, inputs, mask, None)
    assert found.places.shape == (int(mask.sum()),)
    torch.testing.assert_close(found.vectors[found.places], expected[mask], rtol=2e-6, atol=2e-6)
    assert len(found.vectors) < len(found.places)


def test_word_layers_without_deduplication():
    layer, batch = word_layer(tiny_config()), batch_of(SENTENCES)
    inputs, mask = [batch["character_ids"]], batch["attention_mask"].bool()
    assert distinct_words(layer, inputs, mask, None) is None  # it trains
    with torch.no_grad():
        assert distinct_words(layer, inputs, mask, None) is not None
        assert distinct_words(layer, inputs, torch.zeros_like(mask), None) is None
        handle = layer.register_forward_hook(lambda *_: None)
        assert distinct_words(layer, inputs, mask, None) is None
        handle.remove()
        layer.forward = layer.forward
        assert distinct_words(layer, inputs, mask, None) is None
    del layer.forward
    layer.requires_grad_(False)
    assert distinct_words(layer, inputs, mask, None) is not None


@torch.no_grad()
def test_a_hook_of_the_word_layer_changes_what_the_model_reads():
    model, batch = with_large_weights(ElmoModel(tiny_config())).eval(), batch_of(SENTENCES)
    handle = model.embeddings.register_forward_hook(lambda module, given, result: result * 0)
    silent = model(**batch, output_hidden_states=True).hidden_states
    handle.remove()
    zeros = torch.zeros(*batch["input_ids"].shape, 4)
    expected = model(
        attention_mask=batch["attention_mask"], inputs_embeds=zeros, output_hidden_states=True
    ).hidden_states
    for found, layer in zip(silent, expected, strict=True):
        torch.testing.assert_close(found, layer, rtol=0, atol=1e-7)
