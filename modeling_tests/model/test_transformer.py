"""Transformer ELMo, compared with brute force and the original's outputs; the contract of all encoders."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForTokenClassification

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoState,
)
from elmo_hf.model.modeling_elmo import MODELS
from elmo_hf.model.transformer import ElmoPositions, ElmoSelfAttention, eager_attention_forward
from modeling_tests.brute_force_transformer import BruteForceTransformer
from modeling_tests.tiny import TRANSFORMER, batch_of, tiny_config, with_large_weights

SENTENCES = ["a cat sat", "why", "the dogs ran off at once", "no no"]
VARIANTS = {
    "default": {},
    "one layer": {"num_hidden_layers": 1},
    "three layers": {"num_hidden_layers": 3},
    "one head": {"num_attention_heads": 1},
    "one value a head": {"num_attention_heads": 8},
    "an odd width": {"projection_size": 7, "num_attention_heads": 1},
    "large epsilon": {"layer_norm_epsilon": 0.25},
    "bidirectional": {"causal": False},
    "projection before highways": {"character_projection_location": "after_cnn"},
    "character layer norm": {"character_layer_norm": True, "layer_norm_epsilon": 0.1},
    "projection before highways, and layer norm": {
        "character_projection_location": "after_cnn",
        "character_layer_norm": True,
    },
    "no character projection": {"projection_size": 12, "num_attention_heads": 4},
    "words": {"character_filters": [], "word_embedding_size": 8},
    "words of another width": {"character_filters": [], "word_embedding_size": 3},
    "two mixes": {"num_representations": 2},
    "top layer": {"scalar_mix": "top"},
}


def transformer(cls=ElmoModel, scale=0.7, **overrides):
    return with_large_weights(cls(tiny_config(**{**TRANSFORMER, **overrides})), scale).eval()


def real_words(values, batch, index):
    return values[index][batch["attention_mask"][index].bool()]


def word_inputs(model, batch):
    return batch["input_ids" if model.config.word_embedding_size else "character_ids"]


def reload(cls, folder, **options):
    """A saved model in memory allocated by PyTorch: matmuls of memory-mapped values may round differently."""
    model = cls.from_pretrained(folder, **options).eval()
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return model


def largest_difference(values, others):
    return max(float((one - other).detach().abs().max()) for one, other in zip(values, others, strict=True))


# ---- values


@pytest.mark.samples(12)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_agrees_with_brute_force_in_float64(variant, side, implementation):
    model = transformer(**VARIANTS[variant]).double()
    # The sinusoids of a model are rounded to float32; here they are exact.
    plain = BruteForceTransformer(model)
    encodings = model.encoder.positions.encodings
    encodings.copy_(torch.from_numpy(np.array([plain.position(place) for place in range(len(encodings))])))
    model.set_attn_implementation(implementation)
    batch = batch_of(SENTENCES, side, words=10)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
    for index in range(len(SENTENCES)):
        layers, _ = plain.sentence(real_words(word_inputs(model, batch), batch, index).numpy())
        for found, expected in zip(output.hidden_states, layers, strict=True):
            np.testing.assert_allclose(real_words(found, batch, index), expected, rtol=0, atol=1e-10)
        for mix, found in enumerate(output.representations.unbind(1)):
            np.testing.assert_allclose(real_words(found, batch, index), plain.mix(layers, mix), rtol=0, atol=1e-10)
    padding = ~batch["attention_mask"].bool()
    for values in (*output.hidden_states, *output.representations.unbind(1)):
        assert (values[padding] == 0).all()


def test_positions_equal_the_original():
    """Computed and rounded to float32 step by step; saved with the weights and not recomputed."""
    positions = ElmoPositions(tiny_config(**{**TRANSFORMER, "max_position_embeddings": 5000, "projection_size": 16}))
    exact = np.arange(5000)[:, None] / 10000 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(positions.encodings[:, 0::2], np.sin(exact), rtol=0, atol=1e-3)
    np.testing.assert_allclose(positions.encodings[:50, 1::2], np.cos(exact[:50]), rtol=0, atol=1e-5)
    assert "encodings" in positions.state_dict()


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_side_and_length_do_not_matter(implementation):
    model = transformer().double()
    model.set_attn_implementation(implementation)
    alone = [model(**batch_of([sentence]), output_hidden_states=True).hidden_states for sentence in SENTENCES]
    for side, words in (("right", None), ("left", None), ("right", 15), ("left", 15)):
        batch = batch_of(SENTENCES, side, words)
        layers = model(**batch, output_hidden_states=True).hidden_states
        for index, expected in enumerate(alone):
            found = [real_words(layer, batch, index) for layer in layers]
            assert largest_difference(found, [layer[0] for layer in expected]) <= 1e-13


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_holes_in_a_mask_are_padding_too(causal):
    model = transformer(causal=causal).double()
    dense = batch_of(["the cat sat"])
    places = torch.tensor([1, 2, 4, 5, 8])
    batch = {name: value.new_zeros(1, 10, *value.shape[2:]) for name, value in dense.items()}
    for name, value in dense.items():
        batch[name][:, places] = value
    expected = model(**dense, output_hidden_states=True).hidden_states
    found = model(**batch, output_hidden_states=True).hidden_states
    assert largest_difference([layer[:, places] for layer in found], expected) <= 1e-13


@torch.no_grad()
def test_directions_see_one_side_only():
    """A changed word changes the forward outputs from it on, and the backward outputs up to it."""
    model, batch = transformer(), batch_of(["a cat sat on it"])
    changed = {name: value.clone() for name, value in batch.items()}
    changed["character_ids"][0, 3] = batch["character_ids"][0, 1]
    layers = [model(**each, output_hidden_states=True).hidden_states for each in (batch, changed)]
    for before, after in zip(*(values[1:] for values in layers), strict=True):
        differs = (before != after).unflatten(-1, (2, -1)).any(-1)[0]  # [words, directions]
        assert differs[:, 0].tolist() == [False] * 3 + [True] * 4
        assert differs[:, 1].tolist() == [True] * 4 + [False] * 3
    plain = transformer(causal=False)
    top = [plain(**each, output_hidden_states=True).hidden_states[-1] for each in (batch, changed)]
    assert (top[0] != top[1]).unflatten(-1, (2, -1)).any(-1).all()


@torch.no_grad()
def test_the_word_layer_has_no_positions():
    model, batch = transformer(), batch_of(["no no no"])
    words, first, *_ = model(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(words[0, 1], words[0, 3])
    assert torch.equal(words[..., :8], words[..., 8:])
    assert not torch.allclose(first[0, 1], first[0, 3], atol=0.1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_rows_of_nothing_but_padding(causal, implementation):
    model = transformer(causal=causal)
    model.set_attn_implementation(implementation)
    batch = batch_of(SENTENCES)
    for value in batch.values():
        value[1] = 0
    layers = model(**batch, output_hidden_states=True).hidden_states
    assert all(layer.isfinite().all() and not layer[1].any() for layer in layers)
    sum(layer.sum() for layer in layers).backward()
    assert all(weight.grad.isfinite().all() for weight in model.encoder.parameters())
    nothing = {name: torch.zeros_like(value) for name, value in batch.items()}
    assert not model(**nothing).last_hidden_state.any()
    empty = {name: value[:, :0] for name, value in batch.items()}
    assert model(**empty).last_hidden_state.shape == (4, 0, 16)


# ---- implementations of attention


def attention_inputs(causal, requires_grad=False):
    config = tiny_config(**TRANSFORMER, causal=causal)
    module = ElmoSelfAttention(config)
    query, key, value = (torch.randn(3, 2, 5, 4).double().requires_grad_(requires_grad) for _ in range(3))
    real = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    mask = None if causal else real[:, None, None, :].expand(-1, 1, 5, -1)
    return module, query, key, value, mask


@pytest.mark.parametrize("causal", [True, False])
def test_reference_attention_equals_its_definition(causal):
    module, query, key, value, mask = attention_inputs(causal)
    outputs, shares = eager_attention_forward(module, query, key, value, mask, scaling=0.3)
    for row, head, i in np.ndindex(3, 2, 5):
        seen = [j for j in range(5) if (j <= i if causal else bool(mask[row, 0, i, j]))]
        scores = [float(torch.exp(query[row, head, i] @ key[row, head, j] * 0.3)) for j in seen]
        expected = sum(score / sum(scores) * value[row, head, j] for score, j in zip(scores, seen, strict=True))
        torch.testing.assert_close(outputs[row, i, head], expected, rtol=0, atol=1e-12)
        assert shares[row, head, i].sum() == pytest.approx(1)
        assert not shares[row, head, i, [j for j in range(5) if j not in seen]].any()


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_of_the_implementations_agree(causal):
    """Of the whole encoder, all weights and the words, in float64."""
    gradients = {}
    model = transformer(causal=causal).double().train()
    words, batch = torch.randn(4, 8, 8).double(), batch_of(SENTENCES)
    weights = torch.randn(4, 8, 16).double()
    for implementation in ("sdpa", "eager"):
        copied = copy.deepcopy(model)
        copied.set_attn_implementation(implementation)
        inputs = words.clone().requires_grad_()
        output = copied(batch["input_ids"], batch["attention_mask"], inputs_embeds=inputs).last_hidden_state
        (output * weights).sum().backward()
        gradients[implementation] = [inputs.grad, *(weight.grad for weight in copied.encoder.parameters())]
    assert largest_difference(gradients["sdpa"], gradients["eager"]) <= 1e-11
    assert all(gradient.any() for gradient in gradients["eager"])


@pytest.mark.slow
def test_gradients_against_finite_differences():
    model = transformer(projection_size=4, feed_forward_size=3, layer_norm_epsilon=0.1).double()
    batch = batch_of(["a cat", "no"])
    names = [name for name, _ in model.encoder.named_parameters()]
    values = tuple(weight.detach().clone().requires_grad_() for weight in model.encoder.parameters())
    words = torch.randn(2, 4, 4).double().requires_grad_()

    def run(words, *weights):
        given = (words * batch["attention_mask"][..., None], batch["attention_mask"].bool())
        layers, _ = torch.func.functional_call(model.encoder, dict(zip(names, weights, strict=True)), given)
        return tuple(layers)

    assert torch.autograd.gradcheck(run, (words, *values), eps=1e-6, atol=1e-5, fast_mode=True)


@torch.no_grad()
def test_the_implementation_is_chosen_as_in_transformers(tmp_path, monkeypatch):
    model, batch = transformer(), batch_of(SENTENCES)
    assert model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    eager = ElmoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    calls = []
    original = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(kwargs) or original(*args, **kwargs),
    )
    expected = model(**batch).last_hidden_state
    # No mask, so that the fastest kernels can run: two layers of two directions.
    assert [(call["is_causal"], call["attn_mask"]) for call in calls] == [(True, None)] * 4
    calls.clear()
    found = eager(**batch).last_hidden_state
    assert not calls
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="attn_implementation"):
        ElmoModel.from_pretrained(tmp_path, attn_implementation="no such thing")


def test_dropout_acts_where_it_should():
    """Each dropout rate changes training outputs only."""
    batch = batch_of(SENTENCES)
    rates = ("transformer_input_dropout", "attention_dropout", "transformer_dropout")
    for implementation in ("sdpa", "eager"):
        for name in rates:
            torch.manual_seed(0)
            model = transformer(**{name: 0.5})
            model.set_attn_implementation(implementation)
            quiet = model(**batch).last_hidden_state
            assert torch.equal(quiet, model(**batch).last_hidden_state)
            model.train()
            loud = model(**batch).last_hidden_state
            assert not torch.allclose(loud, quiet, atol=1e-3), name
            assert not torch.equal(loud, model(**batch).last_hidden_state)
            # `set_dropout(0.0)` turns off the dropout of a built model, too.
            model.config.set_dropout(0.0)
            torch.testing.assert_close(model(**batch).last_hidden_state, quiet, rtol=0, atol=2e-6)


def test_dropout_of_the_top_layer_acts_before_the_softmax_only():
    model, batch = transformer(ElmoForPreTraining, softmax_dropout=0.5).train(), batch_of(SENTENCES)
    runs = [model(**batch, labels=batch["input_ids"], output_hidden_states=True) for _ in range(2)]
    assert torch.equal(runs[0].hidden_states[-1], runs[1].hidden_states[-1])
    assert runs[0].loss != runs[1].loss


# ---- the contract of an encoder


def test_there_is_no_state():
    model, batch = transformer(), batch_of(SENTENCES)
    assert model(**batch, return_state=True).state is None
    state = ElmoState(torch.zeros(2, 2, 4, 8), torch.zeros(2, 2, 4, 6))
    with pytest.raises(ValueError, match="initial_state.*Transformer"):
        model(**batch, initial_state=state)


def test_sentences_beyond_the_positions():
    model = transformer(max_position_embeddings=8)
    with torch.no_grad():
        assert model(**batch_of(["a b c d e f"], words=11)).last_hidden_state.shape == (1, 11, 16)
    with pytest.raises(ValueError, match="9 words.*max_position_embeddings=8.*it.*max_length=8"):
        model(**batch_of(["a b c d e f g", "h"]))


@torch.no_grad()
def test_save_and_reload_bit_for_bit(tmp_path):
    model, batch = transformer(), batch_of(SENTENCES)
    # Values that no computation gives again.
    model.encoder.positions.encodings += 1e-3 * torch.randn(16, 8)
    model.save_pretrained(tmp_path)
    for cls in (ElmoModel, AutoModel):
        again = reload(cls, tmp_path)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)
    assert ElmoConfig.from_pretrained(tmp_path).to_dict() == model.config.to_dict()
    half = ElmoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()(**batch).last_hidden_state
    torch.testing.assert_close(half.float(), model(**batch).last_hidden_state, rtol=0, atol=0.3)


def test_initial_values(tmp_path):
    """Glorot for matrices, zeros for biases, ones for norms; also for what a checkpoint lacks."""
    config = tiny_config(**{**TRANSFORMER, "projection_size": 32, "feed_forward_size": 48, "num_attention_heads": 4})
    model = ElmoModel(config)
    model.save_pretrained(tmp_path, state_dict={"embeddings.projection.bias": torch.ones(32)})
    for each in (model, ElmoModel.from_pretrained(tmp_path)):
        for name, value in each.encoder.state_dict().items():
            if "norm" in name:
                assert (value == (1.0 if name.endswith("weight") else 0.0)).all(), name
            elif name.endswith("bias"):
                assert not value.any(), name
            elif name.endswith("weight"):
                bound = (6 / sum(value.shape)) ** 0.5
                assert 0.9 * bound < value.abs().max() <= bound, name
        assert torch.equal(each.encoder.positions.encodings, ElmoPositions(config).encodings)
    assert (ElmoModel.from_pretrained(tmp_path).embeddings.projection.bias == 1).all()


def test_gradient_checkpointing():
    model, batch = transformer(ElmoForPreTraining).double(), batch_of(SENTENCES)
    gradients = []
    for checkpointing in (False, True):
        copied = copy.deepcopy(model).train()
        if checkpointing:
            copied.gradient_checkpointing_enable()
        copied(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append([weight.grad for weight in copied.parameters() if weight.requires_grad])
    assert largest_difference(*gradients) <= 1e-14


# ---- models over it


@torch.no_grad()
def test_language_model_scores_against_brute_force():
    model = transformer(ElmoForPreTraining).double()
    plain = BruteForceTransformer(model.elmo)
    # Nothing but the sinusoids' rounding lies between the two.
    batch = batch_of(SENTENCES, "left")
    output = model(**batch, labels=batch["input_ids"])
    weight, bias = (model.softmax.get_parameter(name).numpy() for name in ("weight", "bias"))
    classes = [word for word in range(12) if word not in (0, 4)]
    losses = ([], [])
    for index in range(len(SENTENCES)):
        ids = real_words(batch["input_ids"], batch, index)
        layers, _ = plain.sentence(real_words(batch["character_ids"], batch, index).numpy())
        for direction, values in enumerate((output.forward_log_probs, output.backward_log_probs)):
            found = real_words(values, batch, index)
            for place, word in enumerate(ids.tolist()):
                context = place + (1 if direction else -1)
                if not 0 <= context < len(ids):
                    assert found[place] == 0
                    continue
                logits = weight @ layers[-1][context][direction * 8 : direction * 8 + 8] + bias
                expected = logits[word] - np.log(np.exp(logits[classes]).sum())
                assert float(found[place]) == pytest.approx(expected, abs=1e-5)
                losses[direction].append(-expected)
    assert float(output.loss) == pytest.approx((np.mean(losses[0]) + np.mean(losses[1])) / 2, abs=1e-5)


def test_a_plain_bidirectional_encoder_is_no_language_model():
    with pytest.raises(ValueError, match="causal=False.*has.*causal=True"):
        ElmoForPreTraining(tiny_config(**TRANSFORMER, causal=False))
    assert ElmoForTokenClassification(tiny_config(**TRANSFORMER, causal=False)) is not None


@torch.no_grad()
def test_heads_share_one_checkpoint(tmp_path):
    language_model, batch = transformer(ElmoForPreTraining), batch_of(SENTENCES)
    language_model.save_pretrained(tmp_path)
    base = reload(AutoModel, tmp_path)
    tagger = reload(AutoModelForTokenClassification, tmp_path, num_labels=3)
    again = reload(AutoModelForPreTraining, tmp_path)
    expected = language_model.elmo(**batch).last_hidden_state
    assert torch.equal(base(**batch).last_hidden_state, expected)
    assert torch.equal(tagger.elmo(**batch).last_hidden_state, expected)
    assert torch.equal(again(**batch).forward_log_probs, language_model(**batch).forward_log_probs)


@pytest.mark.samples(4)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("cls", MODELS)
def test_every_kind_of_model(cls, causal, tmp_path):
    """The model ignores padding, has gradients in every layer, and is saved and loaded bit for bit."""
    if not causal and issubclass(cls, ElmoForPreTraining):
        with pytest.raises(ValueError, match="causal=False"):
            cls(tiny_config(**TRANSFORMER, causal=False))
        return
    model = transformer(cls, causal=causal).double()

    def run(each, words=None):
        batch = batch_of(["a cat </S> <S> sat", "no </S> <S> sat on it"], "left" if words else "right", words)
        if cls is ElmoForQuestionAnswering:
            # The boundaries within the pair, which are known by their characters so far.
            for token, character in ((1, 256), (2, 257)):
                batch["input_ids"][batch["character_ids"][..., 1] == character + 1] = token
        if cls is ElmoForMultipleChoice:
            batch = {name: value.unsqueeze(0) for name, value in batch.items()}
        outputs = each(**batch, return_dict=True).to_tuple()
        values = [value for value in outputs if isinstance(value, torch.Tensor)]
        mask = batch["attention_mask"].bool()
        return [value[mask] if value.shape[:2] == mask.shape else value for value in values]

    values = run(model)
    for one, other in zip(values, run(model, 11), strict=True):
        # All mixes are words behind an axis of their own: the first of them is here already.
        if one.shape == other.shape:
            finite = one.isfinite()
            torch.testing.assert_close(other[finite], one[finite], rtol=0, atol=1e-12)
    sum(value[value.isfinite()].square().sum() for value in values).backward()
    trained = [weight for name, weight in model.named_parameters() if ".layers." in name and weight.requires_grad]
    assert trained and all(weight.grad.any() for weight in trained)
    model.save_pretrained(tmp_path)
    again = reload(cls, tmp_path, dtype=torch.float64)
    assert all(torch.equal(one, other) for one, other in zip(run(again), values, strict=True))


@pytest.mark.slow
def test_a_tagger_learns():
    """Odd and even places, distinguishable by position only."""
    torch.manual_seed(1)
    model = ElmoForTokenClassification(tiny_config(**TRANSFORMER, num_labels=2)).train()
    batch = batch_of(["no no no no no", "no no no"])
    labels = (torch.arange(7) % 2).repeat(2, 1).where(batch["attention_mask"].bool(), -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(model.eval()(**batch).logits.argmax(-1)[0], labels[0])


def test_words_and_softmax_can_be_resized():
    model = transformer(ElmoForPreTraining, character_filters=[], word_embedding_size=3)
    before = model.elmo.embeddings.projection.weight.clone()
    model.resize_token_embeddings(15)
    assert model.elmo.embeddings.word_embeddings.weight.shape == (15, 3)
    assert model.softmax.weight.shape == (15, 8)
    assert torch.equal(model.elmo.embeddings.projection.weight, before)
    batch = batch_of(SENTENCES)
    assert model(input_ids=batch["input_ids"].where(batch["input_ids"] != 5, 14), labels=batch["input_ids"]).loss > 0
