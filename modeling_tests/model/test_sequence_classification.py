"""Classification of texts and pairs, compared with loops, and trained by an unmodified Trainer."""

import copy

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from elmo_hf import ElmoForPreTraining, ElmoForSequenceClassification, ElmoTokenizer
from elmo_hf.model.feed_forward import ElmoMaxout
from elmo_hf.model.sequence_classification import ElmoSentenceEncoder
from modeling_tests.brute_force import BruteForceElmo
from modeling_tests.model.test_pooling import plain_pooling
from modeling_tests.tiny import WORD_INPUT, assert_finite_gradients, tiny_config, with_large_weights

TEXTS = ["a cat sat", "why", "", "the dogs ran off at once"]
PAIRS = [("a cat sat", "no"), ("why", "the dogs ran off"), ("", "no no no"), ("at once", "")]
MAXOUT = {"maxout_sizes": [5, 3], "maxout_pieces": 2}
EVERYTHING = {
    **MAXOUT, "pooling": ["max", "attention", "mean", "min"], "elmo_at": ["input", "output"], "task_lstm_size": 3,
    "word_vector_size": 2,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "all poolings": {"pooling": ["max", "mean", "min", "attention"]},
    "max-out": MAXOUT,
    "two mixes": {"num_representations": 2},
    "word input": WORD_INPUT,
    "everything": EVERYTHING,
    "no biLM": {"elmo_at": [], "word_vector_size": 3, **MAXOUT},
    "feed-forward": {"classifier_layers": [[5, "tanh"], [4, "relu"]]},
}
# Of single texts only: biattention is of a text with itself.
BCN = {
    "words_only": True, "pre_encoder_layers": [[4, "relu"]], "task_lstm_size": 3, "integrator_size": 2,
    "pooling": ["max", "min", "mean", "attention"], "maxout_sizes": [5], "maxout_pieces": 2, "maxout_classifier": True,
    "elmo_at": ["input", "output"],
}  # fmt: skip
SINGLE = {**VARIANTS, "bcn": BCN}
BOUNDARIES = [1, 2]


def make_model(num_labels=3, **overrides):
    return with_large_weights(ElmoForSequenceClassification(tiny_config(num_labels=num_labels, **overrides))).eval()


def encode(texts, pairs=None, side="right", length=None):
    tokenizer = ElmoTokenizer(max_characters_per_word=9, padding_side=side)
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": True}
    return tokenizer(texts, pairs, return_tensors="pt", **padding)


def encode_pairs(pairs, **options):
    return encode([first for first, _ in pairs], [second for _, second in pairs], **options)


def plain_maxout(layer, vectors):
    weight, bias = layer.linear.weight.detach().numpy(), layer.linear.bias.detach().numpy()
    units = []
    for start in range(0, len(weight), layer.pieces):
        units.append(max(weight[row] @ vectors + bias[row] for row in range(start, start + layer.pieces)))
    return np.array(units)


def plain_linear(layer, vectors):
    return layer.weight.detach().numpy() @ vectors + layer.bias.detach().numpy()


def plain_head(model, vectors):
    """Max-out and feed-forward layers and the classifier over one NumPy vector."""
    for layer in model.sentence_encoder.maxout:
        vectors = plain_maxout(layer, vectors)
    for layer, (_, activation) in zip(
        model.sentence_encoder.hidden_layers.layers, model.config.classifier_layers, strict=True
    ):
        vectors = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[activation](plain_linear(layer, vectors))
    if isinstance(model.classifier, ElmoMaxout):
        return plain_maxout(model.classifier, vectors)
    return plain_linear(model.classifier, vectors)


def plain_pooled(model, words, ids):
    """Pool (words, width), NumPy, without sentence boundaries, unless there is nothing else."""
    inside = [word for word, token in zip(words, ids, strict=True) if token not in BOUNDARIES]
    pooling = model.sentence_encoder.pooling
    return np.concatenate([plain_pooling(pooling, way, np.array(inside or list(words))) for way in pooling.ways])


def rows_of(model, batch):
    """Each text's real words (words, width), NumPy, and their ids."""
    words = model.encode_words(**batch)[0].detach()
    for row, mask in enumerate(batch["attention_mask"].bool()):
        yield words[row][mask].numpy(), batch["input_ids"][row][mask].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("variant", SINGLE)
def test_logits_by_definition(variant, side):
    model = make_model(**SINGLE[variant]).double()
    batch = encode(TEXTS, side=side, length=10)
    logits = model(**batch).logits
    assert logits.shape == (4, 3)
    for found, (words, ids) in zip(logits, rows_of(model, batch), strict=True):
        expected = plain_head(model, plain_pooled(model, words, ids))
        np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=1e-10)


def test_from_characters_to_logits():
    """The whole forward pass by brute force, with nothing of the model but its weights."""
    model = make_model(**MAXOUT, pooling=["mean", "max"]).double()
    plain, batch = BruteForceElmo(model.elmo), encode(TEXTS)
    for row, found in enumerate(model(**batch).logits):
        mask = batch["attention_mask"][row].bool()
        layers, _ = plain.sentence(batch["character_ids"][row][mask].numpy())
        words = plain_pooled(model, plain.mix(layers, 0), batch["input_ids"][row][mask].tolist())
        np.testing.assert_allclose(found.detach(), plain_head(model, words), rtol=0, atol=1e-10)


@pytest.mark.samples(5)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_neither_padding_nor_other_texts_matter(variant, pairs):
    model = make_model(**VARIANTS[variant], sentence_pairs=pairs).double()
    options = [{}, {"side": "left"}, {"length": 15}, {"length": 15, "side": "left"}]
    encoder, inputs = (encode_pairs, PAIRS) if pairs else (encode, TEXTS)
    together = [model(**encoder(inputs, **option)).logits for option in options]
    for other in together[1:]:
        torch.testing.assert_close(other, together[0], rtol=0, atol=1e-10)
    for row, text in enumerate(inputs):
        alone = model(**encoder([text])).logits[0]
        torch.testing.assert_close(alone, together[0][row], rtol=0, atol=1e-10)


def test_boundaries_are_not_pooled():
    """Except in an empty text, which has only boundaries; a text of padding alone gives a vector of zeros."""
    model = make_model()
    batch = encode(["a b", ""])
    words, _, _ = model.encode_words(**batch)
    inside, empty = words[0, 1:3].mean(0), words[1, :2].mean(0)
    expected = model.classifier(torch.stack([inside, empty]))
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=1e-6)
    batch["attention_mask"][1] = 0
    logits = model(**batch, labels=torch.tensor([0, 1])).logits
    assert torch.equal(logits[1], model.classifier.bias)
    batch["attention_mask"][:] = 0
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert_finite_gradients(model, is_read=False)


def test_word_ids_are_needed():
    batch = encode(TEXTS)
    with pytest.raises(ValueError, match=r"input_ids missing: .*boundaries.*model\(\*\*encoding\)"):
        make_model()(character_ids=batch["character_ids"])


def test_inputs_embeds_in_place_of_characters():
    model, batch = make_model(), encode(TEXTS)
    vectors = model.elmo.embeddings(batch["character_ids"], mask=batch["attention_mask"].bool())
    found = model(batch["input_ids"], batch["attention_mask"], inputs_embeds=vectors).logits
    torch.testing.assert_close(found, model(**batch).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches(shape):
    model = make_model(**EVERYTHING)
    ids = torch.zeros(shape).long()
    output = model(input_ids=ids, character_ids=torch.zeros(*shape, 9).long(), labels=torch.zeros(shape[0]).long())
    assert output.logits.shape == (shape[0], 3) and output.loss.isfinite()


def test_tuple_output_and_hidden_states():
    model, batch = make_model(), encode(TEXTS)
    output = model(**batch, output_hidden_states=True)
    assert torch.equal(model(**batch, return_dict=False)[0], output.logits)
    assert len(output.hidden_states) == 3 and output.hidden_states[0].shape == (4, 8, 8)
    assert make_model(**VARIANTS["no biLM"])(**batch, output_hidden_states=True).hidden_states is None


class TestMaxout:
    def test_maximum_of_the_linear_maps(self):
        layer = ElmoMaxout(2, 3, 2)
        with torch.no_grad():
            layer.linear.weight.copy_(torch.tensor([[1, 0], [-1, 0], [0, 1], [0, 2], [1, 1], [0, 0]]))
            layer.linear.bias.copy_(torch.tensor([0, 0, 0, -3, 0, 0.5]))
        found = layer(torch.tensor([[2.0, 1.0], [-2.0, 4.0], [-2.0, -4.0]]))
        assert found.tolist() == [[2, 1, 3], [2, 5, 2], [2, -4, 0.5]]

    def test_dropout_acts_on_the_input_of_every_layer(self):
        config = tiny_config(task_dropout=0.5, **MAXOUT)
        encoder = ElmoSentenceEncoder(config, 4)
        assert encoder.output_size == 3
        seen = []
        for layer in encoder.maxout:
            layer.register_forward_hook(lambda module, args, output: seen.append(args[0]) or torch.ones_like(output))
        words, mask = torch.ones(50, 2, 4), torch.ones(50, 2).bool()
        result = encoder.train()(words, mask, torch.full((50, 2), 5), mask)
        for values in (*seen, result):
            assert set(values.unique().tolist()) == {0.0, 2.0}
        seen.clear()
        result = encoder.eval()(words, mask, torch.full((50, 2), 5), mask)
        assert all((values == 1).all() for values in (*seen, result))

    def test_training_does_not_depend_on_the_batch(self):
        """The network of McCann et al. has batch norm; this one must not."""
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in make_model(**MAXOUT).modules())
        model, batch = make_model(**EVERYTHING).double().train(), encode(TEXTS)
        together = model(**batch).logits
        for row, text in enumerate(TEXTS):
            torch.testing.assert_close(model(**encode([text])).logits[0], together[row], rtol=0, atol=1e-10)


class TestPairs:
    @pytest.mark.slow
    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_comparison_by_definition(self, variant, side):
        model = make_model(**VARIANTS[variant], sentence_pairs=True).double()
        batch = encode_pairs(PAIRS, side=side, length=13)
        for found, (words, ids) in zip(model(**batch).logits, rows_of(model, batch), strict=True):
            cut = len(ids) - ids[::-1].index(1) - 1
            a, b = plain_pooled(model, words[:cut], ids[:cut]), plain_pooled(model, words[cut:], ids[cut:])
            expected = plain_head(model, np.concatenate([a, b, abs(a - b), a * b]))
            np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=1e-10)

    def test_without_the_option_a_pair_is_one_text(self):
        model, batch = make_model().double(), encode_pairs(PAIRS)
        for found, (words, ids) in zip(model(**batch).logits, rows_of(model, batch), strict=True):
            expected = plain_head(model, plain_pooled(model, words, ids))
            np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize(
        ("ids", "count"),
        [([1, 5, 2, 0, 0, 0], 1), ([5, 6, 7, 0, 0, 0], 1), ([1, 2, 1, 2, 1, 2], 3), ([0, 0, 0, 0, 0, 0], 0)],
    )
    def test_other_than_two_sentences_are_refused(self, ids, count):
        model = make_model(sentence_pairs=True, **WORD_INPUT)
        ids = torch.tensor([[1, 5, 2, 1, 6, 2], ids])
        message = rf"row 1 of the batch: .* {count}\. .*sentence_pairs=False"
        with pytest.raises(ValueError, match=message):
            model(ids)

    def test_a_batch_without_words_is_refused(self):
        with pytest.raises(ValueError, match=r"row 0 of the batch: .* 0\."):
            make_model(sentence_pairs=True, **WORD_INPUT)(torch.zeros(2, 0).long())


class TestLoss:
    def test_single_label(self):
        model, batch = make_model(), encode(TEXTS)
        labels = torch.tensor([2, 0, -100, 1])
        for given in (labels, labels.int(), labels.short(), labels[:, None]):
            output = model(**batch, labels=given)
            log_probs = output.logits.log_softmax(-1)
            expected = -(log_probs[0, 2] + log_probs[1, 0] + log_probs[3, 1]) / 3
            torch.testing.assert_close(output.loss, expected)
            torch.testing.assert_close(model(**batch, labels=given, num_items_in_batch=6).loss, expected / 2)
        assert model(**batch, labels=torch.full((4,), -100)).loss == 0

    def test_multi_label(self):
        model, batch = make_model(problem_type="multi_label_classification"), encode(TEXTS)
        labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0.25, 0, 1]])
        for given in (labels, labels.double()):
            output = model(**batch, labels=given)
            p = output.logits.sigmoid()
            expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 12
            torch.testing.assert_close(output.loss, expected)
            torch.testing.assert_close(
                model(**batch, labels=given, num_items_in_batch=torch.tensor(24)).loss, expected / 2
            )

    @pytest.mark.parametrize("num_labels", [1, 3])
    def test_regression(self, num_labels):
        model, batch = make_model(num_labels, problem_type="regression"), encode(TEXTS)
        labels = torch.randn(4, num_labels)
        for given in [labels, *([labels[:, 0]] if num_labels == 1 else [])]:
            output = model(**batch, labels=given)
            expected = (output.logits - labels).square().sum() / labels.numel()
            torch.testing.assert_close(output.loss, expected)
            found = model(**batch, labels=given, num_items_in_batch=3 * labels.numel()).loss
            torch.testing.assert_close(found, expected / 3)

    @pytest.mark.parametrize(
        ("num_labels", "labels", "problem_type"),
        [
            (1, torch.zeros(4), "regression"),
            (3, torch.zeros(4).long(), "single_label_classification"),
            (3, torch.zeros(4).int(), "single_label_classification"),
            (3, torch.zeros(4, 3), "multi_label_classification"),
        ],
    )
    def test_agrees_with_transformers(self, num_labels, labels, problem_type):
        """Also the problem type that is inferred from the first labels and read by pipelines."""
        model, batch = make_model(num_labels), encode(TEXTS)
        assert model.config.problem_type is None
        output = model(**batch, labels=labels)
        assert model.config.problem_type == problem_type
        config = copy.deepcopy(model.config)
        config.problem_type = None
        expected = model.loss_function(labels.long() if num_labels == 3 and labels.dim() == 1 else labels,
                                       output.logits, config)  # fmt: skip
        assert config.problem_type == problem_type
        torch.testing.assert_close(output.loss, expected)

    def test_penalty_on_the_mixing_weights(self):
        model, batch = make_model(scalar_mix_l2=0.1), encode(TEXTS)
        for labels in (torch.tensor([0, 1, -100, 2]), torch.rand(4, 3)):
            model.config.problem_type = None
            output = model(**batch, labels=labels)
            model.config.scalar_mix_l2 = 0.0
            plain = model(**batch, labels=labels).loss
            model.config.scalar_mix_l2 = 0.1
            penalty = 0.1 * model.elmo.scalar_mixes[0].weights.square().sum()
            torch.testing.assert_close(output.loss, plain + penalty)
            # Half a step's labels: half the step's loss and penalty.
            items = 2 * labels.ne(-100).sum()
            torch.testing.assert_close(
                model(**batch, labels=labels, num_items_in_batch=items).loss, (plain + penalty) / 2
            )

    def test_half_precision(self):
        model, batch = with_large_weights(ElmoForSequenceClassification(tiny_config(**EVERYTHING)), 0.3), encode(TEXTS)
        expected = model.eval()(**batch, labels=torch.tensor([0, 1, 1, 0]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(**batch, labels=torch.tensor([0, 1, 1, 0]))
        half = copy.deepcopy(model).bfloat16()(**batch, labels=torch.tensor([0, 1, 1, 0]))
        for output in (mixed, half):
            assert output.loss.dtype == torch.float32
            assert (output.logits - expected.logits).abs().max() < 0.05 * expected.logits.abs().max()


class TestBadLabels:
    @pytest.mark.parametrize(
        ("problem_type", "labels", "message"),
        [
            ("single", torch.tensor([0, 3, 0, 0]), "label 3: .*0 to 2.*-100.*num_labels"),
            ("single", torch.tensor([0, 0, -1, 0]), "label -1: expected 0 to 2"),
            ("single", torch.zeros(3).long(), r"shape \(3,\): expected \(4,\)"),
            ("single", torch.zeros(4, 3).long(), r'shape \(4, 3\): expected \(4,\); .*"multi_label_classification"'),
            ("single", torch.zeros(4), "single_label_classification are torch.float32: .*labels.long()"),
            ("single", torch.zeros(4).bool(), "single_label_classification are torch.bool: .*labels.long()"),
            ("multi", torch.zeros(4, 3).long(), "multi_label_classification are torch.int64: .*labels.float()"),
            ("multi", torch.zeros(4, 3).bool(), "multi_label_classification are torch.bool: .*labels.float()"),
            ("multi", torch.zeros(4), r"shape \(4,\): expected \(4, 3\)"),
            ("multi", torch.zeros(4, 2), r"shape \(4, 2\): expected \(4, 3\)"),
            ("multi", torch.full((4, 3), 2.0), 'label 2.0: expected 0.0 or 1.0.*problem_type="regression"'),
            ("multi", torch.full((4, 3), -100.0), "label -100.0: expected 0.0 or 1.0"),
            ("multi", torch.full((4, 3), float("nan")), "label nan: .*0.0 or 1.0"),
            ("regression", torch.zeros(4, 3).long(), "regression are torch.int64: .*labels.float()"),
            ("regression", torch.zeros(4), r"shape \(4,\): expected \(4, 3\)"),
            ("regression", torch.full((4, 3), float("inf")), "label inf"),
            (None, torch.zeros(4, 3).long(), r"single_label_classification.*\(4, 3\).*\(4,\)"),
            (None, torch.zeros(4), r"multi_label_classification.*\(4,\).*\(4, 3\)"),
        ],
    )
    def test_are_refused(self, problem_type, labels, message):
        names = {"single": "single_label_classification", "multi": "multi_label_classification"}
        model = make_model(problem_type=names.get(problem_type, problem_type))
        before = model.config.problem_type
        with pytest.raises(ValueError, match=message):
            model(**encode(TEXTS), labels=labels)
        assert model.config.problem_type == before

    def test_one_float_label_per_text(self):
        model = make_model(1)
        with pytest.raises(ValueError, match="torch.int64.*num_labels=1"):
            model(**encode(TEXTS), labels=torch.zeros(4).long())
        with pytest.raises(ValueError, match=r"shape \(4, 2\): expected \(4,\)"):
            model(**encode(TEXTS), labels=torch.zeros(4, 2))


class TestSaving:
    @pytest.mark.samples(5)
    @pytest.mark.parametrize("pairs", [False, True])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_round_trip_is_bit_identical(self, variant, pairs, tmp_path):
        model = make_model(**VARIANTS[variant], sentence_pairs=pairs, problem_type="single_label_classification")
        model.save_pretrained(tmp_path)
        again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is ElmoForSequenceClassification
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert {**again.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
        assert model.state_dict().keys() == again.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        batch = encode_pairs(PAIRS)
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)

    def test_starts_from_a_language_model(self, tmp_path):
        source = with_large_weights(ElmoForPreTraining(tiny_config()))
        source.save_pretrained(tmp_path)
        options = {"num_labels": 5, "maxout_sizes": [400, 300], "pooling": ["mean", "attention"]}
        model, info = ElmoForSequenceClassification.from_pretrained(tmp_path, **options, output_loading_info=True)
        new = {name for name in model.state_dict() if not name.startswith("elmo.")}
        assert set(info["missing_keys"]) == new and not info["unexpected_keys"]
        for name, value in source.elmo.state_dict().items():
            assert torch.equal(value, model.elmo.state_dict()[name]), name
        # New layers preserve the scale of their input.
        first, second = (layer.linear for layer in model.sentence_encoder.maxout)
        for linear, width in ((first, 16), (second, 400), (model.classifier, 300)):
            assert linear.weight.std().item() == pytest.approx(width**-0.5, rel=0.1)
            assert (linear.bias == 0).all()

    def test_freezing_leaves_the_head_to_train(self):
        model = make_model(**EVERYTHING, num_representations=3)
        model.freeze_bilm()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        head = {name for name, _ in model.named_parameters() if not name.startswith("elmo.")}
        mixes = {f"elmo.scalar_mixes.{mix}.{part}" for mix in (0, 1) for part in ("weights", "gamma")}
        assert trained == head | mixes


class TestTraining:
    @pytest.mark.slow
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("pairs", [False, True])
    def test_every_weight_gets_a_gradient(self, variant, pairs):
        # Clips so wide that no gradient is cut off whole.
        overrides = {**VARIANTS[variant], "cell_clip": None, "projection_clip": None, "maxout_pieces": 1}
        model = make_model(**overrides, sentence_pairs=pairs).train()
        model(**encode_pairs(PAIRS), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name

    @pytest.mark.slow
    def test_gradients_agree_with_finite_differences(self):
        model = make_model(**EVERYTHING, sentence_pairs=True).double()
        batch = encode_pairs(PAIRS)
        names = [name for name, _ in model.named_parameters() if not name.startswith("elmo.e")]
        values = tuple(model.get_parameter(name).detach().clone().requires_grad_() for name in names)

        def run(*parameters):
            given = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(model, given, kwargs=dict(batch)).logits

        assert torch.autograd.gradcheck(run, values, eps=1e-6, atol=1e-6, fast_mode=True)


WORDS = ["good", "fine", "bad", "poor", "cat", "dog"]


def examples_of(problem, tokenizer):
    """Texts with labels that depend on their words: good or bad; which animals; the number of good words."""
    texts = [f"{animal} {first} {second}" for animal in WORDS[4:] for first in WORDS[:4] for second in WORDS[:4]][:24]
    examples = []
    for text in texts:
        good = sum(word in WORDS[:2] for word in text.split())
        label = {
            "single_label_classification": good,
            "multi_label_classification": [float("cat" in text), float("good" in text), float("poor" in text)],
            "regression": good / 2,
        }[problem]
        examples.append({**tokenizer(text), "labels": label})
    return examples


def train(model, examples, tokenizer, folder, **options):
    options = {
        "learning_rate": 0.03, "num_train_epochs": 40, "per_device_train_batch_size": 24, "weight_decay": 0.0,
        "lr_scheduler_type": "constant", "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, **options,
    }  # fmt: skip
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **options),
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


PROBLEMS = {"single_label_classification": 3, "multi_label_classification": 3, "regression": 1}


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_overfits_a_small_task(problem, tmp_path):
    torch.manual_seed(1)
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    config = tiny_config(
        num_labels=PROBLEMS[problem], projection_size=8, cell_size=8, pooling=["mean", "max"], cell_clip=3.0,
        projection_clip=3.0, maxout_sizes=[8], maxout_pieces=2,
    )  # fmt: skip
    examples = examples_of(problem, tokenizer)
    trainer = train(ElmoForSequenceClassification(config), examples, tokenizer, tmp_path)
    assert config.problem_type == problem
    result = trainer.predict(examples)
    logits, labels = torch.tensor(result.predictions), torch.tensor(np.asarray(result.label_ids))
    if problem == "single_label_classification":
        assert (logits.argmax(-1) == labels).float().mean() > 0.95
    elif problem == "multi_label_classification":
        assert ((logits > 0) == labels.bool()).float().mean() > 0.95
    else:
        assert (logits.squeeze(-1) - labels).abs().mean() < 0.1
    # The saved model is loaded with its problem type.
    trainer.save_model(tmp_path / "model")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert again.config.problem_type == problem
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        "single_label_classification",
        "multi_label_classification",
        "regression",
    ],
)
def test_accumulated_small_batches_equal_a_large_one(problem, tmp_path):
    """The Trainer leaves dividing by the number of labels to the model, which must do it for every kind of problem."""
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    config = tiny_config(num_labels=PROBLEMS[problem], scalar_mix_l2=0.05, **MAXOUT)
    start = with_large_weights(ElmoForSequenceClassification(config), 0.4)
    examples = examples_of(problem, tokenizer)[:20]
    weights = []
    # 20 examples are two whole steps and a half one.
    for size, accumulation in ((8, 1), (2, 4), (4, 2)):
        model = copy.deepcopy(start).double()
        options = {"optim": "sgd", "learning_rate": 0.5, "num_train_epochs": 1, "max_grad_norm": 0.0}
        trainer = train(
            model, examples, tokenizer, tmp_path, **options, per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        assert trainer.state.global_step == 3
        weights.append(model.state_dict())
    moved = 0.0
    for name, value in weights[0].items():
        moved += (value - start.double().state_dict()[name]).abs().sum()
        for other in weights[1:]:
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-9, msg=name)
    assert moved > 0.1


class TestBiattentiveNetwork:
    """The paper's sentiment model; its layers below the pooling are those of `test_task_layers`."""

    def test_neither_padding_nor_other_texts_matter(self):
        model = make_model(**BCN).double()
        together = model(**encode(TEXTS)).logits
        for other in (encode(TEXTS, side="left"), encode(TEXTS, length=15, side="left")):
            torch.testing.assert_close(model(**other).logits, together, rtol=0, atol=1e-10)
        for row, text in enumerate(TEXTS):
            torch.testing.assert_close(model(**encode([text])).logits[0], together[row], rtol=0, atol=1e-10)

    def test_boundaries_are_read_by_the_bilm_only(self):
        model, batch = make_model(**BCN), encode(TEXTS)
        seen = []
        model.task_layers.layers[0].register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
        model(**batch)
        assert seen == [sum(len(text.split()) for text in TEXTS)]

    def test_next_batch_continues_from_the_state(self):
        model = make_model(**BCN)
        state = model(**encode(["a cat"]), return_state=True).state
        found = model(**encode(["why"]), initial_state=state)
        assert found.state is None
        assert not torch.allclose(found.logits, model(**encode(["why"])).logits, atol=1e-4)
        words, mask, _ = model.encode_words(**encode(["why"]), initial_state=state)
        assert (words[mask][1] != 0).all() and (words[mask][0, :4] == 0).all()

    def test_pairs_are_refused(self):
        with pytest.raises(StrictDataclassClassValidationError, match="integrator_size=.*sentence_pairs=False"):
            make_model(**BCN, sentence_pairs=True)

    def test_round_trip_and_training(self, tmp_path):
        torch.manual_seed(1)
        tokenizer = ElmoTokenizer(max_characters_per_word=9)
        config = tiny_config(
            **{**BCN, "task_lstm_size": 8, "integrator_size": 8, "pre_encoder_layers": [[8, "relu"]]}, num_labels=3,
            projection_size=8, cell_size=8, cell_clip=3.0, projection_clip=3.0,
        )  # fmt: skip
        examples = examples_of("single_label_classification", tokenizer)
        options = {"num_train_epochs": 25, "learning_rate": 0.02}
        trainer = train(ElmoForSequenceClassification(config), examples, tokenizer, tmp_path, **options)
        result = trainer.predict(examples)
        assert (result.predictions.argmax(-1) == result.label_ids).mean() > 0.95
        trainer.save_model(tmp_path / "model")
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
        assert again.config.words_only
        batch = tokenizer("cat good bad", return_tensors="pt")
        with torch.no_grad():
            assert torch.equal(again(**batch).logits, trainer.model.eval()(**batch).logits)
