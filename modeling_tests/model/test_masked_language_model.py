"""Gap filling, compared with its formula in NumPy and with Bayes' rule where it holds exactly."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, pipeline

from elmo_hf import ElmoForMaskedLM, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.model import masked_language_model
from elmo_hf.model.masked_language_model import IMPOSSIBLE, log_uniform_prior
from elmo_hf.pretraining import StreamingObjective
from elmo_hf.pretraining.sampled_softmax import log_expected_count
from modeling_tests.brute_force import BruteForceElmo
from modeling_tests.tiny import (
    WORD_INPUT,
    assert_finite_gradients,
    batch_of,
    character_row,
    tiny_config,
    with_large_weights,
)

SENTENCES = ["a cat sat", "why", "the dogs ran off at once", ""]
TRANSFORMER = {"encoder_type": "transformer", "num_attention_heads": 2, "feed_forward_size": 6}
WORDS = [token for token in range(12) if token not in (0, 4)]  # ids of words: without padding and mask

VARIANTS = {
    "characters": {},
    "words": WORD_INPUT,
    "tied": {**WORD_INPUT, "tie_word_embeddings": True},
    "adaptive": {"softmax_cutoffs": [4]},
    "no padding or mask": {"pad_token_id": None, "mask_token_id": None},
}


def tiny_model(**overrides):
    return with_large_weights(ElmoForMaskedLM(tiny_config(**overrides))).eval()


def over_all_words(model, batch):
    """Log-probabilities of all words, as with labels; of the answers alone without."""
    return model(**batch, labels=torch.full_like(batch["input_ids"], -100)).logits


def log_softmax(scores):
    return scores - np.log(np.exp(scores - scores.max()).sum()) - scores.max()


def direction_in_numpy(model, context):
    """log p(word) of all words, (words,), from one direction's output (P,): the softmax spelled out."""
    weights = {name: value.detach().double().numpy() for name, value in model.softmax.named_parameters()}
    if "weight" in weights:
        words = [token for token in range(12) if token not in model.softmax.excluded_ids]
        return log_softmax(weights["weight"][words] @ context + weights["bias"][words])
    # Grave et al. 2017: the frequent words and the cluster of the others; in the cluster, its words.
    head = log_softmax(weights["clusters.head.weight"] @ context + weights["clusters.head.bias"])
    narrow = weights["clusters.tail.0.0.weight"] @ context
    return np.concatenate([head[:-1], head[-1] + log_softmax(weights["clusters.tail.0.1.weight"] @ narrow)])


def masked_word_in_numpy(model, before, after):
    """log p(word | both sides), (words,), word by word; a side is None or its direction's output (P,)."""
    count = 12 - len(model.softmax.excluded_ids)
    prior = np.array([np.log((k + 2) / (k + 1)) / np.log(count + 1) for k in range(count)])
    assert prior.sum() == pytest.approx(1)
    weight = model.config.mask_prior_weight
    sides = [direction_in_numpy(model, side) for side in (before, after) if side is not None]
    if len(sides) == 1:
        return sides[0]
    if not sides:
        return np.log(prior**weight / (prior**weight).sum())
    products = np.exp(sides[0]) * np.exp(sides[1]) / prior**weight
    return np.log(products / products.sum())


@pytest.mark.samples(10)
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_every_masked_position_equals_brute_force(variant, side, weight):
    model = tiny_model(**VARIANTS[variant], mask_prior_weight=weight).double()
    plain = BruteForceElmo(model.elmo)
    batch = batch_of(SENTENCES, side)
    reads_words = model.config.word_embedding_size > 0
    with torch.no_grad():
        logits, answers = over_all_words(model, batch), model(**batch).logits
    assert logits.shape == (4, 8, 12) and logits.dtype == torch.float64
    excluded = model.softmax.excluded_ids
    words = [token for token in range(12) if token not in excluded]
    for row in range(len(SENTENCES)):
        real = batch["attention_mask"][row].nonzero().flatten().tolist()
        read = batch["input_ids" if reads_words else "character_ids"][row, real].numpy()
        top = plain.sentence(read)[0][-1]  # [words, 2P]
        for place, position in enumerate(real):
            before = top[place - 1, :4] if place > 0 else None
            after = top[place + 1, 4:] if place + 1 < len(real) else None
            expected = masked_word_in_numpy(model, before, after)
            np.testing.assert_allclose(logits[row, position, words], expected, rtol=0, atol=1e-10)
            assert (logits[row, position, excluded] == IMPOSSIBLE).all()
            # The boundaries and the unknown word are never predicted.
            among = dict(zip(words, expected, strict=True))
            kept = [token for token in words if token not in (1, 2, 3)]
            expected = log_softmax(np.array([among[token] for token in kept]))
            np.testing.assert_allclose(answers[row, position, kept], expected, rtol=0, atol=1e-10)
            assert (answers[row, position, [1, 2, 3]] == IMPOSSIBLE).all()
    # Padded positions predict nothing.
    assert (logits[~batch["attention_mask"].bool()] == 0).all()


def test_probabilities_sum_to_one_without_padding_and_mask():
    batch = batch_of(SENTENCES)
    for weight in (0.0, 1.0):
        probabilities = tiny_model(mask_prior_weight=weight)(**batch).logits[batch["attention_mask"].bool()].exp()
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(18), rtol=0, atol=1e-6)
        assert (probabilities[:, [0, 1, 2, 3, 4]] == 0).all()
        # The pipeline's scores follow from the logits.
        torch.testing.assert_close(probabilities, probabilities.log().softmax(-1), rtol=0, atol=1e-6)


def test_bayes_rule_where_the_sides_are_independent_given_the_word():
    """Three words drawn as w ~ prior, left ~ p(.|w), right ~ p(.|w): weight 1 gives the true posterior."""
    generator = np.random.default_rng(0)
    model = tiny_model(mask_prior_weight=1.0).double()
    prior = np.exp(log_uniform_prior(12, [0, 4], torch.zeros((), dtype=torch.float64)).numpy())[WORDS]
    left, right = (generator.dirichlet(np.ones(6), size=10) for _ in range(2))  # [word, its neighbour]
    joint = np.einsum("w,wl,wr->wlr", prior, left, right)
    model.softmax.bias.data.zero_()
    contexts = torch.eye(4, dtype=torch.float64)[:2, None]  # the forward output says e0, the backward one e1
    for seen_left in range(6):
        for seen_right in range(6):
            given_left, given_right = joint.sum(2)[:, seen_left], joint.sum(1)[:, seen_right]
            model.softmax.weight.data[WORDS, 0] = torch.from_numpy(np.log(given_left / given_left.sum()))
            model.softmax.weight.data[WORDS, 1] = torch.from_numpy(np.log(given_right / given_right.sum()))
            found = (
                model._log_probabilities(contexts, torch.ones(2, 1, dtype=torch.bool), [0, 4]).detach()[0, WORDS].exp()
            )
            given_both = joint[:, seen_left, seen_right]
            np.testing.assert_allclose(found, given_both / given_both.sum(), rtol=1e-10)


def test_prior_equals_the_distribution_of_the_sampler():
    prior = log_uniform_prior(12, [0, 4], torch.zeros(()))
    # For a single draw, the expected count is the probability.
    torch.testing.assert_close(prior[WORDS], log_expected_count(torch.arange(10), 1, 1, 10).float(), rtol=0, atol=1e-6)
    assert prior[[0, 4]].tolist() == [0, 0]


@pytest.mark.parametrize("reads", [{}, WORD_INPUT, TRANSFORMER], ids=["characters", "words", "transformer"])
def test_no_position_reads_its_own_word(reads):
    model, batch = tiny_model(**reads), batch_of(["the <mask> ran off at once"])
    expected = model(**batch).logits
    for position in range(8):
        other = copy.deepcopy(batch)
        other["character_ids"][0, position] = torch.tensor(character_row("zebra"))
        other["input_ids"][0, position] = 11
        found = model(**other).logits
        torch.testing.assert_close(found[:, position], expected[:, position], rtol=0, atol=1e-6)
        neighbours = [near for near in (position - 1, position + 1) if 0 <= near < 8]
        assert ((found - expected)[0, neighbours].abs().amax(-1) > 1e-3).all()


def test_several_masked_words_are_predicted_independently():
    """Each gap is filled independently: another gap in its context is read as the word `<mask>`, by its characters."""
    model, tokens = tiny_model(), ["the <mask> <mask> off", "the dogs <mask> off"]
    batch = batch_of(tokens)
    logits = model(**batch).logits
    assert (logits[0, 3] - logits[1, 3]).abs().max() > 1e-3
    batch["character_ids"][0, 2] = torch.tensor(character_row("dogs"))
    torch.testing.assert_close(model(**batch).logits[0, 3], logits[1, 3], rtol=0, atol=1e-6)


def test_word_model_reads_masked_words_as_unknown():
    model, batch = tiny_model(**WORD_INPUT), batch_of(["a b c d e"])
    batch["input_ids"][0, [2, 4]] = 4
    given = batch["input_ids"].clone()
    logits = model(**batch).logits
    assert torch.equal(batch["input_ids"], given)
    batch["input_ids"][0, [2, 4]] = 3
    assert torch.equal(model(**batch).logits, logits)
    with torch.no_grad():
        model.get_input_embeddings().weight[4].add_(5.0)
    assert torch.equal(model(**batch).logits, logits)


class TestInputs:
    def test_inputs_embeds_and_character_ids_alone(self):
        model, batch = tiny_model(), batch_of(SENTENCES, "left")
        expected = model(**batch).logits
        assert torch.equal(model(character_ids=batch["character_ids"]).logits, expected)
        vectors = model.elmo.embeddings(batch["character_ids"], mask=batch["attention_mask"].bool())
        found = model(inputs_embeds=vectors, attention_mask=batch["attention_mask"]).logits
        assert torch.equal(found, expected)

    def test_hidden_states_and_tuples(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        output = model(**batch, output_hidden_states=True)
        expected = model.elmo(**batch, output_hidden_states=True).hidden_states
        assert len(output.hidden_states) == 3
        for found, layer in zip(output.hidden_states, expected, strict=True):
            assert torch.equal(found, layer)
        assert model(**batch).hidden_states is None
        assert torch.equal(model(**batch, return_dict=False)[0], output.logits)

    @pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 3)])
    def test_empty_batches_and_nothing_but_padding(self, shape):
        for reads in ({}, WORD_INPUT):
            ids = torch.zeros(shape, dtype=torch.int64)
            output = tiny_model(**reads)(ids, character_ids=torch.zeros(*shape, 9).long(), labels=ids - 100)
            assert output.logits.shape == (*shape, 12) and (output.logits == 0).all()
            assert output.loss == 0

    def test_a_word_without_any_context_has_the_prior(self):
        batch = batch_of(["cat"])
        alone = {name: value[:, 1:2] for name, value in batch.items()}
        logits = over_all_words(tiny_model(mask_prior_weight=1.0), alone)
        expected = log_uniform_prior(12, [0, 4], logits)[WORDS]
        torch.testing.assert_close(logits[0, 0, WORDS], expected, rtol=0, atol=1e-6)
        logits = over_all_words(tiny_model(mask_prior_weight=0.0), alone)
        torch.testing.assert_close(logits[0, 0, WORDS].exp(), torch.full((10,), 0.1), rtol=0, atol=1e-6)


class TestLoss:
    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("weight", [0.0, 1.0])
    def test_cross_entropy_of_the_labeled_words(self, sparse, weight):
        model, batch = tiny_model(sparse_prediction=sparse, mask_prior_weight=weight), batch_of(SENTENCES)
        labels = torch.full_like(batch["input_ids"], -100)
        labels[0, 2], labels[2, 1], labels[2, 4], labels[1, 0] = 5, 11, 3, 1
        model.config.sparse_prediction = False
        everywhere = over_all_words(model, batch)
        model.config.sparse_prediction = sparse
        assert everywhere.shape == (4, 8, 12)
        output = model(**batch, labels=labels)
        chosen = [(0, 2, 5), (1, 0, 1), (2, 1, 11), (2, 4, 3)]
        mean = -sum(everywhere[place] for place in chosen) / 4
        torch.testing.assert_close(output.loss, mean)
        torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=8).loss, mean / 2)
        expected = torch.stack([everywhere[row, word] for row, word, _ in chosen]) if sparse else everywhere
        torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-6)
        # The library's own loss over the logits: they are log-probabilities already.
        if not sparse:
            torch.testing.assert_close(model.loss_function(output.logits, labels, vocab_size=12), mean)

    def test_word_0_is_a_label_without_a_padding_id(self):
        model, batch = tiny_model(pad_token_id=None), batch_of(SENTENCES)
        labels = torch.full_like(batch["input_ids"], -100)
        labels[0, 2] = 0
        torch.testing.assert_close(model(**batch, labels=labels).loss, -over_all_words(model, batch)[0, 2, 0])

    @pytest.mark.parametrize("sparse", [False, True])
    @pytest.mark.parametrize("variant", ["characters", "tied", "adaptive"])
    def test_gradients_against_finite_differences(self, sparse, variant):
        # Clips so wide that no value meets them.
        config = tiny_config(
            **VARIANTS[variant], cell_clip=50.0, projection_clip=50.0, mask_prior_weight=0.7, sparse_prediction=sparse
        )
        model = with_large_weights(ElmoForMaskedLM(config), 0.4).double().train()
        batch = batch_of(["a cat sat", "why"], "left")
        labels = torch.full_like(batch["input_ids"], -100)
        labels[0, 2], labels[0, 3], labels[1, 3] = 5, 6, 11
        weight = model.elmo.encoder.layers[0].backward_lstm.output_proj.weight
        parameters = [weight, next(model.softmax.parameters())]
        model(**batch, labels=labels).loss.backward()
        assert_finite_gradients(model)
        step = 1e-6
        for parameter in parameters:
            for index in [(0, 1), (2, 3)]:
                losses = []
                for change in (step, -step):
                    with torch.no_grad():
                        parameter[index] += change
                        losses.append(model(**batch, labels=labels).loss)
                        parameter[index] -= change
                difference = (losses[0] - losses[1]) / (2 * step)
                torch.testing.assert_close(parameter.grad[index], difference, rtol=1e-5, atol=1e-8)

    def test_chunked_logits_equal_whole_logits(self, monkeypatch):
        """Neither with gradients, where pieces are concatenated, nor without, where they are written in place."""
        model, batch = tiny_model(mask_prior_weight=1.0), batch_of(SENTENCES)
        labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
        whole = model(**batch, labels=labels)
        whole.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert any(name.startswith("softmax") for name in gradients) and len(gradients) > 10
        model.zero_grad()
        monkeypatch.setattr(masked_language_model, "LOGITS_AT_A_TIME", 40)
        sizes = []
        original = model._log_probabilities
        monkeypatch.setattr(
            model,
            "_log_probabilities",
            lambda contexts, known, excluded: sizes.append(known.shape[1]) or original(contexts, known, excluded),
        )
        parts = model(**batch, labels=labels)
        assert sizes == [3, 3, 3, 3, 3, 3]
        torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-6)
        parts.loss.backward()
        for name, expected in gradients.items():
            torch.testing.assert_close(model.get_parameter(name).grad, expected, rtol=0, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(model(**batch, labels=labels).logits, whole.logits, rtol=0, atol=1e-6)

    def test_labels_at_padding_do_not_count(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
        expected = model(**batch, labels=labels).loss
        labels[labels < 0] = 7
        torch.testing.assert_close(model(**batch, labels=labels).loss, expected)

    @pytest.mark.parametrize("label", [12, -1, 0, 4])
    def test_labels_that_are_no_words_are_refused(self, label):
        model, batch = tiny_model(), batch_of(SENTENCES)
        labels = torch.full_like(batch["input_ids"], 5)
        labels[1, 1] = label
        with pytest.raises(ValueError, match=f"{label}.*0.*11"):
            model(**batch, labels=labels)

    @pytest.mark.slow
    def test_learns_to_predict_masked_words(self):
        model = ElmoForMaskedLM(tiny_config(cell_clip=None, projection_clip=None)).train()
        batch = batch_of(["the dogs ran off at once"] * 2 + ["a cat sat"])
        labels = batch["input_ids"].where(batch["input_ids"] > 3, -100)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses = []
        for _ in range(30):
            loss = model(**batch, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.2 * losses[0]
        assert torch.equal(model.eval()(**batch).logits.argmax(-1)[labels > 0], labels[labels > 0])


class TestSaving:
    @pytest.mark.samples(2)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_shares_its_checkpoint_with_the_language_model(self, variant, tmp_path):
        source = with_large_weights(ElmoForPreTraining(tiny_config(**VARIANTS[variant]))).eval()
        source.save_pretrained(tmp_path / "there")
        model, info = ElmoForMaskedLM.from_pretrained(tmp_path / "there", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        batch = batch_of(SENTENCES)
        twin = with_large_weights(ElmoForMaskedLM(tiny_config(**VARIANTS[variant]))).eval()
        twin.load_state_dict(source.state_dict())
        torch.testing.assert_close(model(**batch).logits, twin(**batch).logits, rtol=0, atol=1e-6)
        model.save_pretrained(tmp_path / "back")
        back, info = ElmoForPreTraining.from_pretrained(tmp_path / "back", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        for name, value in source.state_dict().items():
            assert torch.equal(value, back.state_dict()[name]), name
        assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "there")) is ElmoForMaskedLM

    def test_the_weight_of_the_prior_is_saved(self, tmp_path):
        tiny_model(mask_prior_weight=0.5).save_pretrained(tmp_path)
        assert ElmoForMaskedLM.from_pretrained(tmp_path).config.mask_prior_weight == 0.5
        assert ElmoForMaskedLM.from_pretrained(tmp_path, mask_prior_weight=1).config.mask_prior_weight == 1
        with pytest.raises(Exception, match="mask_prior_weight=-1.*0"):
            tiny_config(mask_prior_weight=-1)

    def test_resizing_the_vocabulary(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        model.resize_token_embeddings(20)
        logits = model(**batch).logits
        assert logits.shape == (4, 8, 20)
        torch.testing.assert_close(logits.exp().sum(-1)[batch["attention_mask"].bool()], torch.ones(18))

    def test_half_precision(self):
        model, batch = with_large_weights(ElmoForMaskedLM(tiny_config()), 0.3).eval(), batch_of(SENTENCES)
        real = batch["attention_mask"].bool()
        expected = model(**batch).logits[real].exp()
        for dtype in (torch.bfloat16, torch.float16):
            logits = copy.deepcopy(model).to(dtype)(**batch).logits
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits[real].exp(), expected, rtol=0, atol=0.02)
            assert logits.to(dtype).isfinite().all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**batch).logits
        torch.testing.assert_close(logits[real].exp(), expected, rtol=0, atol=0.02)


class TestRefusals:
    @pytest.mark.parametrize("cls", [ElmoForMaskedLM, ElmoForPreTraining])
    def test_model_without_words_is_refused(self, cls):
        """All words would be unknown, with loss 0."""
        batch = batch_of(["a cat"])
        model = cls(tiny_config(vocab_size=5))
        ids = torch.tensor([[1, 3, 3, 2]])
        with pytest.raises(ValueError, match="vocab_size=5"):
            model(**{**batch, "input_ids": ids}, labels=ids)
        with pytest.raises(ValueError, match="vocab_size=5"):
            StreamingObjective(model)

    def test_untrained_softmax_is_refused(self, tmp_path):
        tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "cat"], max_characters_per_word=9)
        ElmoModel(tiny_config(vocab_size=len(tokenizer), mask_token_id=6)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        fill = pipeline("fill-mask", str(tmp_path), device="cpu")
        with pytest.raises(ValueError, match=f"{tmp_path}.*no softmax.*--softmax_only_steps"):
            fill("a <mask>")
        model = fill.model
        batch = tokenizer(["a cat"], return_tensors="pt")
        assert model(**batch, labels=batch["input_ids"]).loss > 0  # to be trained
        model.train()
        model.eval()
        assert {answer["token_str"] for answer in fill("a <mask>", top_k=2)} == {"a", "cat"}
        again = ElmoForMaskedLM.from_pretrained(tmp_path)
        again.load_state_dict(model.state_dict())
        again(**batch)

    def test_special_tokens_are_not_predicted(self, tmp_path):
        """Also if the model assigns them the highest probability, as to the unknown word."""
        tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "cat", "sat"], max_characters_per_word=9)
        model = tiny_model(vocab_size=len(tokenizer), mask_token_id=7)
        model.softmax.bias.data[[1, 2, 3]] = 50.0
        fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
        found = fill("The king of <mask> was dead .", top_k=3)
        assert {answer["token_str"] for answer in found} == {"a", "cat", "sat"}
        assert sum(answer["score"] for answer in found) == pytest.approx(1)
