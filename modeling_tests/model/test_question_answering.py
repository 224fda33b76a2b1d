"""The question-answering model, compared with loops; the API of Transformers."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering, Trainer, TrainingArguments

from elmo_hf import ElmoForPreTraining, ElmoForQuestionAnswering, ElmoModel, ElmoTokenizer
from elmo_hf.model.question_answering import ElmoBidirectionalAttention
from modeling_tests.tiny import WORD_INPUT, assert_finite_gradients, tiny_config, with_large_weights

# Question and context; the words of the tokenizer below, and others.
PAIRS = [("a b", "c d e f g"), ("who is it", "x y"), ("b", "a"), ("what ?", "g f e d c b a and so on")]

VARIANTS = {
    "linear": {},
    "modelling layer": {"task_lstm_size": 3},
    "ELMo at both ends": {"task_lstm_size": 2, "elmo_at": ["input", "output"], "word_vector_size": 2},
    "word input": {**WORD_INPUT, "task_lstm_size": 2},
    "without biLM": {"elmo_at": [], "word_vector_size": 5, "task_lstm_size": 2},
}


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<S>", "</S>", "<UNK>", *"abcdefg"]
    return ElmoTokenizer(vocab=words, pre_tokenization="whitespace", max_characters_per_word=9)


def tiny_model(**overrides):
    return with_large_weights(ElmoForQuestionAnswering(tiny_config(**overrides))).eval()


def encoded(tokenizer, pairs, side="right", words=None):
    questions, contexts = zip(*pairs, strict=True)
    padding = {"padding": "max_length", "max_length": words} if words else {"padding": True}
    return tokenizer(list(questions), list(contexts), return_tensors="pt", padding_side=side, **padding)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    x = np.exp(np.array(x) - max(x))
    return x / x.sum()


def lstm(inputs, layer, reverse):
    """Outputs of one direction over a list of vectors, one step at a time."""
    weights = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    hidden = cell = np.zeros(layer.size)
    outputs = []
    for x in reversed(inputs) if reverse else inputs:
        gates = weights["input_proj.weight"] @ x + weights["input_proj.bias"] + weights["hidden_proj.weight"] @ hidden
        i, f, g, o = gates.reshape(4, -1)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return outputs[::-1] if reverse else outputs


def logits_by_definition(model, words, asked, context, candidates):
    """(candidates, 2) logits from word vectors and the columns of each part, by the formulas of Seo et al."""
    w = model.attention.similarity.weight.detach().numpy()[0]
    similarity = {
        (i, j): w @ np.concatenate([words[i], words[j], words[i] * words[j]]) for i in candidates for j in asked
    }
    shares = softmax([max(similarity[i, j] for j in asked) for i in context])
    b = sum(share * words[i] for share, i in zip(shares, context, strict=True))
    features = []
    for i in candidates:
        c = words[i]
        a = sum(share * words[j] for share, j in zip(softmax([similarity[i, j] for j in asked]), asked, strict=True))
        features.append(np.concatenate([c, a, c * a, c * b]))
    if model.modelling_layer is not None:
        forward = lstm(features, model.modelling_layer.forward_lstm, reverse=False)
        backward = lstm(features, model.modelling_layer.backward_lstm, reverse=True)
        features = [np.concatenate(parts) for parts in zip(features, forward, backward, strict=True)]
    weight, bias = (value.detach().numpy() for value in (model.qa_outputs.weight, model.qa_outputs.bias))
    return np.array([weight @ x + bias for x in features])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_agrees_with_loops_in_float64(variant, side, tokenizer):
    model = tiny_model(**VARIANTS[variant]).double()
    batch = encoded(tokenizer, PAIRS, side, 20)
    with torch.no_grad():
        output = model(**batch)
        vectors, _, _ = model.encode_words(**batch)
    for row, (question, context) in enumerate(PAIRS):
        first = int(batch["attention_mask"][row].nonzero()[0])
        asked = [first + 1 + index for index in range(len(question.split()))]
        told = [asked[-1] + 3 + index for index in range(len(context.split()))]
        candidates = [first, *told]
        expected = logits_by_definition(model, vectors[row].numpy(), asked, told, candidates)
        for column, logits in enumerate((output.start_logits, output.end_logits)):
            np.testing.assert_allclose(logits[row, candidates], expected[:, column], rtol=0, atol=1e-10)
            others = torch.ones(20, dtype=torch.bool)
            others[candidates] = False
            assert (logits[row, others] == torch.finfo(torch.float64).min).all()


def test_gradients_of_the_attention():
    attention = ElmoBidirectionalAttention(3).double()
    question = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]]).bool()
    context = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0]]).bool()
    words = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 9, dtype=torch.float64, requires_grad=True)

    def run(words, weight):
        return torch.func.functional_call(attention, {"similarity.weight": weight}, (words, question, context))

    assert torch.autograd.gradcheck(run, (words, weight))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_equals_its_rows(variant, tokenizer):
    model = tiny_model(**VARIANTS[variant]).double()
    together = model(**encoded(tokenizer, PAIRS))
    for row, pair in enumerate(PAIRS):
        alone = model(**encoded(tokenizer, [pair]))
        words = alone.start_logits.shape[1]
        for found, expected in zip(together[:2], alone[:2], strict=True):
            torch.testing.assert_close(found[row, :words], expected[0], rtol=0, atol=1e-10)


def test_boundary_tokens_in_the_context_are_words(tokenizer):
    model = tiny_model(task_lstm_size=2)
    output = model(**encoded(tokenizer, [("a", "c </S> d <S> e </S>"), ("a", "b")]))
    allowed = output.start_logits > torch.finfo(torch.float32).min
    # <S> a </S> <S> c </S> d <S> e </S> </S>
    assert allowed[0].nonzero().flatten().tolist() == [0, 4, 5, 6, 7, 8, 9]
    assert allowed[1].nonzero().flatten().tolist() == [0, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tokenizer):
    batch = encoded(tokenizer, PAIRS)
    model = tiny_model(task_lstm_size=2)
    expected = model(**batch)
    positions = torch.full((4,), 8), torch.full((4,), 100)
    positions[0][1:] = 0
    found = model.to(dtype)(**batch, start_positions=positions[0], end_positions=positions[1])
    assert found.start_logits.dtype == dtype and found.loss.isfinite()
    allowed = found.start_logits != torch.finfo(dtype).min
    assert torch.equal(allowed, expected.start_logits != torch.finfo(torch.float32).min)
    torch.testing.assert_close(found.start_logits[allowed].float(), expected.start_logits[allowed], rtol=0.2, atol=0.1)


class TestLoss:
    def test_by_definition(self, tokenizer):
        model, batch = tiny_model(task_lstm_size=2), encoded(tokenizer, PAIRS)
        starts, ends = torch.tensor([7, 0, -100, 99]), torch.tensor([8, 0, 4, -100])
        output = model(**batch, start_positions=starts, end_positions=ends)
        start, end = output.start_logits.log_softmax(-1), output.end_logits.log_softmax(-1)
        expected = (-(start[0, 7] + start[1, 0]) / 2 - (end[0, 8] + end[1, 0] + end[2, 4]) / 3) / 2
        torch.testing.assert_close(output.loss, expected)
        columns = {"start_positions": starts[:, None], "end_positions": ends[:, None].int()}
        torch.testing.assert_close(model(**batch, **columns).loss, expected)
        # Summed and divided by the number given, as for accumulated gradients.
        expected = (-(start[0, 7] + start[1, 0]) - (end[0, 8] + end[1, 0] + end[2, 4])) / 2 / 10
        positions = {"start_positions": starts, "end_positions": ends}
        for count in (10, torch.tensor(10)):
            torch.testing.assert_close(model(**batch, **positions, num_items_in_batch=count).loss, expected)

    def test_penalty_on_the_mixing_weights(self, tokenizer):
        model, batch = tiny_model(), encoded(tokenizer, PAIRS)
        positions = {"start_positions": torch.tensor([7, 0, -100, 0]), "end_positions": torch.tensor([8, 0, 4, 0])}
        plain = model(**batch, **positions).loss
        model.config.scalar_mix_l2 = 0.1
        penalty = 0.1 * model.elmo.scalar_mixes[0].weights.square().sum()
        torch.testing.assert_close(model(**batch, **positions).loss, plain + penalty)

    def test_no_positions_give_zero_loss(self, tokenizer):
        model, batch = tiny_model(task_lstm_size=2), encoded(tokenizer, PAIRS)
        loss = model(**batch, start_positions=torch.full((4,), 500), end_positions=torch.full((4,), -100)).loss
        assert loss == 0
        loss.backward()
        assert_finite_gradients(model)
        assert not any(p.grad.any() for p in model.parameters())

    def test_left_padding_counts_columns(self, tokenizer):
        model = tiny_model(task_lstm_size=2)
        right, left = encoded(tokenizer, PAIRS[:2], "right", 15), encoded(tokenizer, PAIRS[:2], "left", 15)
        moved = torch.tensor([4, 6])  # columns of padding
        starts, ends = torch.tensor([7, 0]), torch.tensor([9, 0])
        expected = model(**right, start_positions=starts, end_positions=ends).loss
        found = model(**left, start_positions=starts + moved, end_positions=ends + moved).loss
        torch.testing.assert_close(found, expected)
        with pytest.raises(ValueError, match="start_positions.*0.*0.*4"):
            model(**left, start_positions=torch.zeros(2).long(), end_positions=torch.zeros(2).long())

    @pytest.mark.parametrize("position", [1, 3, 4, 5])
    def test_positions_outside_of_the_answers(self, position, tokenizer):
        # <S> a b </S> <S> c d e f g </S>: the question, its end, the begin of the context; of row 2 padding.
        model, batch = tiny_model(), encoded(tokenizer, [PAIRS[0], PAIRS[2]])
        positions = torch.tensor([position, 0]) if position < 5 else torch.tensor([0, position])
        with pytest.raises(ValueError, match=f"end_positions.*{int(position == 5)}.*{position}"):
            model(**batch, start_positions=torch.zeros(2).long(), end_positions=positions)

    @pytest.mark.parametrize("positions", [torch.zeros(4, 2).long(), torch.zeros(3).long(), torch.zeros(4)])
    def test_wrong_shapes_and_types(self, positions, tokenizer):
        model, batch = tiny_model(), encoded(tokenizer, PAIRS)
        with pytest.raises(ValueError, match=r"start_positions.*\(4,\)"):
            model(**batch, start_positions=positions, end_positions=torch.zeros(4).long())
        with pytest.raises(ValueError, match="end_positions missing"):
            model(**batch, start_positions=torch.zeros(4).long())


class TestEmptyRows:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_empty_questions_and_contexts(self, variant, tokenizer):
        """Alone and in a batch: finite values and gradients."""
        model = tiny_model(**VARIANTS[variant])
        pairs = [("", "c d"), ("a b", ""), ("", ""), ("a", "b")]
        for part in ([0, 1, 2, 3], [0], [1], [2]):
            batch = encoded(tokenizer, [pairs[index] for index in part])
            zeros = torch.zeros(len(part)).long()
            model.zero_grad()
            output = model(**batch, start_positions=zeros, end_positions=zeros)
            assert output.start_logits.isfinite().all() and output.loss.isfinite()
            output.loss.backward()
            assert_finite_gradients(model)
        allowed = model(**encoded(tokenizer, pairs)).end_logits > torch.finfo(torch.float32).min
        assert allowed.sum(1).tolist() == [3, 1, 1, 2]

    def test_an_empty_question_attends_to_nothing(self, tokenizer):
        model = tiny_model()
        batch = encoded(tokenizer, [("", "c d"), ("a b", "")])
        words, mask, _ = model.encode_words(**batch)
        features = model.attention(words, *model._question_and_context(batch["input_ids"], mask))
        c, a, _, c_b = features.chunk(4, dim=-1)
        assert torch.equal(c, words)
        assert (a[0] == 0).all() and (a[1] != 0).any()
        assert (c_b == 0).all()

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_rows_of_padding(self, variant, tokenizer):
        model, batch = tiny_model(**VARIANTS[variant]).double(), encoded(tokenizer, PAIRS)
        expected = model(**batch).start_logits
        batch["attention_mask"][1] = 0
        ignored = torch.full((4,), -100)
        output = model(**batch, start_positions=ignored, end_positions=torch.tensor([0, 99, 0, 0]))
        assert (output.start_logits[1] == torch.finfo(torch.float64).min).all()
        torch.testing.assert_close(output.start_logits[[0, 2, 3]], expected[[0, 2, 3]], rtol=0, atol=1e-10)
        output.loss.backward()
        assert_finite_gradients(model)

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 3)])
    def test_nothing_but_padding(self, variant, shape):
        model = tiny_model(**VARIANTS[variant])
        batch = {"input_ids": torch.zeros(shape, dtype=torch.int64), "character_ids": torch.zeros(*shape, 9).long()}
        output = model(**batch)
        assert output.start_logits.shape == output.end_logits.shape == shape
        assert (output.start_logits == torch.finfo(torch.float32).min).all()


class TestInputs:
    def test_what_is_missing_is_named(self, tokenizer):
        model, batch = tiny_model(), encoded(tokenizer, PAIRS)
        with pytest.raises(ValueError, match="input_ids missing"):
            model(character_ids=batch["character_ids"])
        single = tokenizer(["a b", "c"], padding=True, return_tensors="pt")
        with pytest.raises(ValueError, match=r"0.*context.*tokenizer\(question.*context\)"):
            model(**single)

    def test_inputs_embeds_in_place_of_characters(self, tokenizer):
        model, batch = tiny_model(task_lstm_size=2), encoded(tokenizer, PAIRS, "left")
        expected = model(**batch).end_logits
        vectors = model.elmo.embeddings(batch["character_ids"], mask=batch["attention_mask"].bool())
        found = model(batch["input_ids"], batch["attention_mask"], inputs_embeds=vectors).end_logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_outputs(self, tokenizer):
        model, batch = tiny_model(), encoded(tokenizer, PAIRS)
        output = model(**batch, output_hidden_states=True)
        assert output.loss is None and output.attentions is None
        assert [layer.shape[:2] for layer in output.hidden_states] == [batch["input_ids"].shape] * 3
        assert torch.equal(model(**batch, return_dict=False)[1], output.end_logits)
        assert tiny_model(**VARIANTS["without biLM"])(**batch, output_hidden_states=True).hidden_states is None

    def test_dropout_acts_in_training_only(self, tokenizer):
        model, batch = tiny_model(task_dropout=0.5), encoded(tokenizer, PAIRS)
        assert torch.equal(model(**batch).start_logits, model(**batch).start_logits)
        model.train()
        assert not torch.equal(model(**batch).start_logits, model(**batch).start_logits)


class TestSaving:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_round_trip_is_bit_identical(self, variant, tokenizer, tmp_path):
        model = tiny_model(**VARIANTS[variant])
        model.save_pretrained(tmp_path)
        again, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is ElmoForQuestionAnswering
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert model.state_dict().keys() == again.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        batch = encoded(tokenizer, PAIRS)
        torch.testing.assert_close(again.eval()(**batch).end_logits, model(**batch).end_logits, rtol=0, atol=1e-6)

    def test_starts_from_a_language_model(self, tmp_path):
        source = with_large_weights(ElmoForPreTraining(tiny_config()))
        source.save_pretrained(tmp_path)
        model, info = ElmoForQuestionAnswering.from_pretrained(tmp_path, task_lstm_size=2, output_loading_info=True)
        prefixes = {name.split(".")[0] for name in info["missing_keys"]}
        assert prefixes == {"attention", "modelling_layer", "qa_outputs", "task_layers"}
        for name, value in source.elmo.state_dict().items():
            assert torch.equal(value, model.elmo.state_dict()[name]), name
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        again = ElmoModel.from_pretrained(tmp_path)
        assert again.state_dict().keys() == model.elmo.state_dict().keys()

    def test_initial_values(self):
        model = ElmoForQuestionAnswering(tiny_config(projection_size=64, cell_size=64, task_lstm_size=40))
        similarity, outputs = model.attention.similarity.weight, model.qa_outputs
        assert similarity.shape == (1, 3 * 80) and outputs.weight.shape == (2, 4 * 80 + 80)
        assert similarity.std().item() == pytest.approx(240**-0.5, rel=0.15)
        assert outputs.weight.std().item() == pytest.approx(400**-0.5, rel=0.15)
        assert (outputs.bias == 0).all()

    def test_frozen_bilm(self, tokenizer):
        model = tiny_model(task_lstm_size=2, num_representations=3)
        model.freeze_bilm()
        zeros = torch.zeros(4).long()
        model(**encoded(tokenizer, PAIRS), start_positions=zeros, end_positions=zeros + 99).loss.backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert not any(name.startswith(("elmo.embeddings", "elmo.encoder")) for name in trained)
        assert {name for name in trained if "mixes" in name} == {
            f"elmo.scalar_mixes.0.{n}" for n in ("weights", "gamma")
        }
        assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
def test_learns_with_the_trainer(tokenizer, tmp_path):
    """The answer is the word that the question names, or none if the context lacks it: solvable by attention only."""
    rows = []
    generator = np.random.default_rng(0)
    for _ in range(290):
        context = generator.permutation(list("abcdefg"))[:5].tolist()
        word = generator.choice(list("abcdefg"))
        column = 4 + context.index(word) if word in context else 0  # <S> word </S> <S> context
        rows.append({**tokenizer(word, " ".join(context)), "start_positions": column, "end_positions": column})
    model = ElmoForQuestionAnswering(tiny_config(elmo_at=[], word_vector_size=8))
    args = TrainingArguments(
        tmp_path, num_train_epochs=10, learning_rate=2e-2, per_device_train_batch_size=24, report_to="none",
        disable_tqdm=True, use_cpu=True, save_strategy="no", dataloader_pin_memory=False, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows[:240], eval_dataset=rows[240:], processing_class=tokenizer)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    result = trainer.predict(rows[240:])
    (start, end), (start_positions, end_positions) = result.predictions, result.label_ids
    assert result.metrics["test_loss"] < 0.1 * before
    assert ((start.argmax(1) == start_positions) & (end.argmax(1) == end_positions)).mean() > 0.95


def test_qa_outputs_is_a_linear_layer():
    """The attributes that adapters and quantizers look for."""
    model = tiny_model(task_lstm_size=2)
    assert isinstance(model.qa_outputs, nn.Linear)
