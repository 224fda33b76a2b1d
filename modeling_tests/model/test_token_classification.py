"""The tagger with a CRF and its own layers, trained by an unmodified Trainer."""

import itertools

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, Trainer, TrainingArguments

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer, start_from_word_vectors
from elmo_hf.model.tag_schemes import forbidden_transitions
from modeling_tests.tiny import assert_finite_gradients, batch_of, tiny_config, with_large_weights

SENTENCES = ["a cat sat", "why", "the dogs ran off at once", "no no", ""]
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def named(labels):
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


FIELD = {"use_crf": True, "tag_scheme": "BIO", **named(BIO)}
WHOLE = {
    **FIELD,
    "elmo_at": ["input", "output"],
    "word_vector_size": 5,
    "task_lstm_size": 3,
    "task_lstm_layers": 2,
}


def words_of(batch):
    """Mask of the words without boundaries."""
    return batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], torch.tensor([1, 2]))


def tiny_tagger(**overrides):
    model = with_large_weights(ElmoForTokenClassification(tiny_config(**overrides))).eval()
    batch = batch_of(SENTENCES)
    with torch.no_grad():
        # Scores have deviation 2, so that the CRF sometimes overrules a word's score.
        model.classifier.bias.zero_()
        scores = model.classifier(model.encode_words(**batch)[0])[words_of(batch)]
        model.classifier.weight.mul_(2 / scores.std(0).unsqueeze(1))
        model.classifier.bias.sub_(scores.mean(0) * 2 / scores.std(0))
    return model


def labeled(batch, tags):
    """`labels` of a batch from one list of tags per sentence."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels[words_of(batch)] = torch.tensor([tag for row in tags for tag in row])
    return labels


GOLD = [[1, 2, 0], [3], [0, 0, 1, 2, 2, 3], [0, 0], []]


def brute_force(model, emissions, gold=None):
    """Log-likelihood of tags, or the best tags, of one sentence by all sequences, in NumPy."""
    crf = model.crf
    forbidden = forbidden_transitions(crf.labels, crf.tag_scheme).numpy() * -1e6
    start, end, between = (
        weight.detach().double().numpy() + penalty
        for weight, penalty in (
            (crf.start_transitions, forbidden[-1, :-1]),
            (crf.end_transitions, forbidden[:-1, -1]),
            (crf.transitions, forbidden[:-1, :-1]),
        )
    )
    emissions = emissions.detach().double().numpy()

    def score(tags):
        if not tags:
            return 0.0
        pairs = sum(between[pair] for pair in itertools.pairwise(tags))
        return emissions[range(len(tags)), tags].sum() + start[tags[0]] + end[tags[-1]] + pairs

    every = list(itertools.product(range(emissions.shape[1]), repeat=len(emissions)))
    scores = np.array([score(list(tags)) for tags in every])
    if gold is None:
        return list(every[scores.argmax()])
    return score(gold) - (scores.max() + np.log(np.exp(scores - scores.max()).sum()))


@pytest.mark.parametrize("options", [FIELD, WHOLE, {**FIELD, "tag_scheme": None}], ids=["field", "whole", "free"])
@pytest.mark.parametrize("side", ["right", "left"])
class TestCrf:
    @pytest.mark.samples(2)
    def test_loss_is_the_negative_log_likelihood_of_a_word(self, options, side):
        model, batch = tiny_tagger(**options).double(), batch_of(SENTENCES, side, 9)
        labels = labeled(batch, GOLD)
        emissions = model.classifier(model.encode_words(**batch)[0])
        total = sum(
            brute_force(model, values[kept], gold)
            for values, kept, gold in zip(emissions, words_of(batch), GOLD, strict=True)
        )
        loss = model(**batch, labels=labels).loss
        assert loss.item() == pytest.approx(-total / 12, abs=1e-9)
        assert model.train()(**batch, labels=labels).loss.item() == pytest.approx(loss.item(), abs=1e-12)
        assert model(**batch, labels=labels, num_items_in_batch=24).loss.item() == pytest.approx(-total / 24, abs=1e-9)
        count = torch.tensor(24)
        assert model(**batch, labels=labels, num_items_in_batch=count).loss.item() == pytest.approx(-total / 24)

    @pytest.mark.samples(2)
    def test_logits_and_predictions_are_the_best_sequences(self, options, side):
        model, batch = tiny_tagger(**options).double(), batch_of(SENTENCES, side, 9)
        emissions = model.classifier(model.encode_words(**batch)[0])
        kept = words_of(batch)
        expected = [brute_force(model, values[row]) for values, row in zip(emissions, kept, strict=True)]
        assert model.predict(**batch) == expected
        logits = model(**batch).logits
        assert [values[row].argmax(-1).tolist() for values, row in zip(logits, kept, strict=True)] == expected
        assert (logits.amax(-1) == 0).all() and (logits[~kept] == 0).all()
        # In training, logits are the classifier's scores, whose argmax differs from the CRF's sequence.
        model.train()
        assert torch.equal(model(**batch).logits, emissions)
        assert [values[row].argmax(-1).tolist() for values, row in zip(emissions, kept, strict=True)] != expected
        assert model.predict(**batch) == expected


def test_gradients_of_small_batches_add_up_to_the_large_one():
    model, batch = tiny_tagger(**WHOLE, scalar_mix_l2=0.1).double().train(), batch_of(SENTENCES)
    labels = labeled(batch, GOLD)
    labels[2, 3] = -100  # some tag, in the middle of a sentence
    model(**batch, labels=labels, num_items_in_batch=11).loss.backward()
    whole = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert all(gradient.abs().sum() > 0 for name, gradient in whole.items() if name.startswith(("crf", "task_layers")))
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        rows = {name: value[part] for name, value in batch.items()}
        model(**rows, labels=labels[part], num_items_in_batch=11).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, whole[name], rtol=0, atol=1e-10)


def test_unlabeled_word_is_marginalized():
    model, batch = tiny_tagger(**FIELD).double(), batch_of(["a cat sat"])
    unknown = labeled(batch, [[1, -100, 0]])
    # Five tags are possible between B-PER and O; I-LOC is not among them.
    each = [model(**batch, labels=labeled(batch, [[1, tag, 0]])).loss * 3 for tag in (0, 1, 2, 3)]
    expected = -torch.logsumexp(-torch.stack(each), 0) / 2
    torch.testing.assert_close(model(**batch, labels=unknown).loss, expected)
    nothing = torch.full_like(unknown, -100)
    output = model(**batch, labels=nothing)
    assert output.loss == 0
    output.loss.backward()


@pytest.mark.parametrize("options", [{"num_labels": 5}, FIELD], ids=["linear", "field"])
class TestLabels:
    def test_batch_without_labels_has_zero_gradients(self, options):
        model, batch = tiny_tagger(**options), batch_of(SENTENCES)
        nothing = torch.full_like(batch["input_ids"], -100)
        for count in (None, 0, 7):
            loss = model(**batch, labels=nothing, num_items_in_batch=count).loss
            assert loss == 0
            loss.backward()
        assert_finite_gradients(model)
        assert not any(weight.grad.any() for weight in model.parameters())

    def test_of_any_integer_type(self, options):
        model, batch = tiny_tagger(**options), batch_of(SENTENCES)
        labels = labeled(batch, GOLD)
        assert model(**batch, labels=labels.int()).loss == model(**batch, labels=labels).loss

    def test_of_another_shape_or_type(self, options):
        model, batch = tiny_tagger(**options), batch_of(SENTENCES)
        labels = labeled(batch, GOLD)
        with pytest.raises(ValueError, match=r"\(5.*7\).*expected \(5.*8\)"):
            model(**batch, labels=labels[:, :-1])
        with pytest.raises(ValueError, match="labels.*torch.float32"):
            model(**batch, labels=labels.float())


def test_predictions_of_a_linear_tagger():
    model, batch = tiny_tagger(num_labels=3), batch_of(SENTENCES, "left")
    logits, kept = model(**batch).logits, words_of(batch)
    expected = [values[row].argmax(-1).tolist() for values, row in zip(logits, kept, strict=True)]
    assert model.predict(**batch) == expected
    assert [len(row) for row in expected] == [3, 1, 6, 2, 0]


def test_tuple_output_and_half_precision():
    model, batch = tiny_tagger(**WHOLE), batch_of(SENTENCES)
    labels = labeled(batch, GOLD)
    loss, logits = model(**batch, labels=labels, return_dict=False)[:2]
    assert torch.equal(logits, model(**batch).logits)
    with_large_weights(model, 0.3)
    loss = model(**batch, labels=labels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch, labels=labels)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(loss.item(), rel=0.02)
    output = model.to(torch.bfloat16)(**batch, labels=labels)
    assert output.loss.item() == pytest.approx(loss.item(), rel=0.02)
    output.loss.backward()
    assert_finite_gradients(model)


@pytest.mark.parametrize("options", [WHOLE, {**WHOLE, "elmo_at": []}], ids=["ELMo", "no biLM"])
def test_round_trip(options, tmp_path):
    model, batch = tiny_tagger(**options), batch_of(SENTENCES)
    model.save_pretrained(tmp_path)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert type(again) is ElmoForTokenClassification
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.predict(**batch) == model.predict(**batch)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)
    with torch.device("meta"):
        assert all(weight.is_meta for weight in ElmoForTokenClassification(tiny_config(**options)).parameters())


def test_device_map(tmp_path):
    """Every part can be placed on a device of its own; here it is offloaded to disk."""
    model, batch = tiny_tagger(**WHOLE), batch_of(SENTENCES)
    model.save_pretrained(tmp_path / "model")
    placed = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "model",
        device_map={"elmo": "cpu", "task_layers": "disk", "classifier": "cpu", "crf": "disk"},
        offload_folder=tmp_path / "offload",
    )
    assert placed.crf.transitions.is_meta
    labels = labeled(batch, GOLD)
    for found, expected in zip(placed(**batch, labels=labels)[:2], model(**batch, labels=labels)[:2], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert placed.predict(**batch) == model.predict(**batch)


@pytest.mark.slow
def test_lora_beside_a_trained_crf():
    peft = pytest.importorskip("peft")
    model, batch = tiny_tagger(**WHOLE), batch_of(SENTENCES)
    before, labels = model(**batch).logits, labeled(batch, GOLD)
    settings = peft.LoraConfig(r=2, target_modules=["input_proj", "hidden_proj"], modules_to_save=["classifier", "crf"])
    adapted = peft.get_peft_model(model, settings)
    torch.testing.assert_close(adapted(**batch).logits, before, rtol=0, atol=1e-5)
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.02)
    losses = []
    for _ in range(5):
        loss = adapted(**batch, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    for part in ("task_layers.layers.0.forward_lstm.input_proj.lora_A", "crf.modules_to_save.default.transitions"):
        assert any(part in name for name in trained)
    after = adapted(**batch).logits
    torch.testing.assert_close(adapted.merge_and_unload()(**batch).logits, after, rtol=0, atol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize("label", [5, -1])
    def test_labels_out_of_range(self, label):
        model, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        labels = labeled(batch, GOLD)
        labels[1, 1] = label
        with pytest.raises(ValueError, match=f"{label}.*0.*4.*-100"):
            model(**batch, labels=labels)

    def test_labels_outside_of_the_sentence(self):
        model, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        for column in (0, 2, 4):  # both boundaries and padding
            labels = labeled(batch, GOLD)
            labels[1, column] = 0
            with pytest.raises(ValueError, match=f"0.*1.*{column}.*boundary"):
                model(**batch, labels=labels)

    def test_labels_forbidden_by_the_scheme(self):
        model, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        labels = labeled(batch, [[1, 2, 0], [3], [0, 0, 3, 2, 2, 3], [0, 0], []])
        with pytest.raises(ValueError, match="2.*'I-PER'.*3.*'B-LOC'.*2.*BIO"):
            model(**batch, labels=labels)
        assert torch.isfinite(tiny_tagger(**{**FIELD, "tag_scheme": None})(**batch, labels=labels).loss)

    def test_scheme_that_does_not_match_the_labels(self, tmp_path):
        with pytest.raises(ValueError, match="'LABEL_0'.*tag_scheme='BIO'"):
            ElmoForTokenClassification(tiny_config(use_crf=True, tag_scheme="BIO"))
        with pytest.raises(ValueError, match="'B-PER'.*BIOES.*'E-PER'"):
            ElmoForTokenClassification(tiny_config(**{**FIELD, "tag_scheme": "BIOES"}))
        tiny_tagger(**FIELD).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="'I-PER'.*BIO.*IOB1"):
            ElmoForTokenClassification.from_pretrained(tmp_path, **named(["O", "I-PER"]), ignore_mismatched_sizes=True)
        with pytest.raises(StrictDataclassClassValidationError, match=r"crf_label_weights=\[-1\]"):
            ElmoForTokenClassification.from_pretrained(tmp_path, crf_label_weights=[-1])

    def test_crf_requires_word_ids(self):
        model, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        with pytest.raises(ValueError, match="labels.*input_ids is missing"):
            model(character_ids=batch["character_ids"])


class TestTrainer:
    TEXTS = [
        ("Ada Lovelace met Grace in London .", "B-PER I-PER O B-PER O B-LOC O"),
        ("London is big .", "B-LOC O O O"),
        ("They saw New York and Ada .", "O O B-LOC I-LOC O B-PER O"),
        ("No !", "O O"),
        ("Grace Hopper left York", "B-PER I-PER O B-LOC"),
        ("Why did York win ?", "O O B-PER O O"),
    ]

    @pytest.mark.slow
    def test_overfits_and_reloads_bit_for_bit(self, tmp_path):
        sentences = [(text.split(), [BIO.index(tag) for tag in tags.split()]) for text, tags in self.TEXTS]
        vocabulary = sorted({word for words, _ in sentences for word in words})
        tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *vocabulary], max_characters_per_word=9)
        options = {**WHOLE, "task_lstm_size": 8, "vocab_size": len(tokenizer), "cell_clip": 3.0, "projection_clip": 3.0}
        model = ElmoForTokenClassification(tiny_config(**options, task_dropout=0.1, scalar_mix_l2=0.001))
        (tmp_path / "vectors.txt").write_text("ada 1 0 0 0 1\nlondon 0 1 0 -1 0\nYork 0 2 0 1 1\n")
        start_from_word_vectors(model, tokenizer, tmp_path / "vectors.txt")
        encodings = []
        for words, tags in sentences:
            encoding = dict(tokenizer(words, is_split_into_words=True))
            encodings.append({**encoding, "labels": [-100, *tags, -100]})
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                tmp_path / "out", max_steps=60, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                learning_rate=0.05, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
                dataloader_pin_memory=False, logging_steps=10,
            ),
            train_dataset=encodings,
            processing_class=tokenizer,
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )  # fmt: skip
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < 0.05 < losses[0]
        prediction = trainer.predict(encodings)
        gold = prediction.label_ids
        assert (prediction.predictions.argmax(-1) == gold)[gold != -100].all()
        trainer.save_model(tmp_path / "model")
        again = ElmoForTokenClassification.from_pretrained(tmp_path / "model")
        loaded = again.state_dict()
        assert loaded.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded[name]), name
        batch = DataCollatorForTokenClassification(tokenizer)(encodings)
        assert again.predict(**batch) == [tags for _, tags in sentences]

    @pytest.mark.slow
    def test_accumulated_steps_equal_the_large_batch(self, tmp_path):
        """Sentences of different length: the loss is a mean over words and not over batches."""
        weights = []
        for rows, steps in ((4, 1), (1, 4)):
            torch.manual_seed(0)
            model = ElmoForTokenClassification(tiny_config(**WHOLE, vocab_size=12)).double()
            tokenizer = ElmoTokenizer(max_characters_per_word=9)
            data = [
                {
                    **tokenizer(words := text.split(), is_split_into_words=True),
                    "labels": [-100, *[0] * len(words), -100],
                }
                for text, _ in self.TEXTS[:4]
            ]
            args = TrainingArguments(
                tmp_path / "out", max_steps=2, per_device_train_batch_size=rows, gradient_accumulation_steps=steps,
                learning_rate=0.1, optim="sgd", report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
                dataloader_pin_memory=False, lr_scheduler_type="constant", max_grad_norm=0.0,
            )  # fmt: skip
            collator = DataCollatorForTokenClassification(tokenizer)
            Trainer(
                model=model, args=args, train_dataset=data, processing_class=tokenizer, data_collator=collator
            ).train()
            weights.append(model.state_dict())
        for name, expected in weights[0].items():
            torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-9)


class TestBestPaths:
    def test_all_sequences_in_order(self):
        model, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        model.requires_grad_(False)
        emissions = model(**batch).emissions
        found = model.predict_paths(6, **batch)
        for row, (paths, words) in enumerate(zip(found, words_of(batch), strict=True)):
            scores = emissions[row][words]
            if len(scores) > 3:
                assert len(paths) == 6
                continue
            transitions, start, end = model.crf().transitions, model.crf().start, model.crf().end
            every = []
            for tags in itertools.product(range(len(BIO)), repeat=len(scores)):
                score = sum(scores[place, tag] for place, tag in enumerate(tags))
                score += sum(transitions[pair] for pair in itertools.pairwise(tags))
                every.append((float(score + (start[tags[0]] + end[tags[-1]] if tags else 0)), list(tags)))
            possible = [one for one in sorted(every, reverse=True) if one[0] > -1e5]
            assert [tags for tags, _ in paths] == [tags for _, tags in possible[:6]]
            assert [score for _, score in paths] == pytest.approx([score for score, _ in possible[:6]], abs=1e-4)
        assert [paths[0][0] for paths in found] == model.predict(**batch)
        # The sentence without words has one sequence, and a word of five tags three that BIO allows.
        assert [len(paths) for paths in found] == [6, 3, 6, 6, 1]

    def test_only_a_crf_scores_sequences(self):
        with pytest.raises(ValueError, match="use_crf=False"):
            tiny_tagger(**named(BIO)).predict_paths(2, **batch_of(SENTENCES))


class TestCarriedState:
    @pytest.mark.parametrize("options", [FIELD, WHOLE], ids=["field", "whole"])
    def test_next_batch_continues_from_the_state(self, options):
        """Like the biLM, the model keeps nothing of a batch except the returned state."""
        model = tiny_tagger(**options)
        first, second = batch_of(["a cat", "why not"]), batch_of(["the dogs ran"])
        state = model(**first, return_state=True).state
        found = model(**second, initial_state=state)
        assert found.state is None
        features = model.elmo(**second, initial_state=state).representations
        mask = second["attention_mask"].bool()
        expected = model.classifier(model.task_layers(features, second["input_ids"], mask)[0])
        torch.testing.assert_close(found.emissions, expected, rtol=0, atol=1e-6)
        assert not torch.allclose(found.emissions, model(**second).emissions, atol=1e-3)
        paths = model.predict_paths(1, **second, initial_state=state)
        assert model.predict(**second, initial_state=state) == [row[0][0] for row in paths]

    def test_model_without_bilm_has_no_state(self):
        model = tiny_tagger(elmo_at=[], word_vector_size=4, **named(BIO))
        assert model(**batch_of(SENTENCES), return_state=True).state is None


class TestLayersOverTheEncoder:
    def test_classifier_layers(self):
        config, batch = tiny_config(classifier_layers=[[7, "tanh"]], **named(BIO)), batch_of(SENTENCES)
        model = with_large_weights(ElmoForTokenClassification(config)).eval()
        features, layer = model.encode_words(**batch)[0], model.hidden_layers.layers[0]
        expected = model.classifier(torch.tanh(layer(features)))
        torch.testing.assert_close(model(**batch).logits, expected)

    @pytest.mark.parametrize("strategy", ["emission", "transition", "lannoy"])
    def test_label_weights_change_the_loss_and_nothing_else(self, strategy):
        plain, batch = tiny_tagger(**FIELD), batch_of(SENTENCES)
        weights = [0.2, 1.0, 2.0, 3.0, 1.0]
        model = ElmoForTokenClassification(
            tiny_config(**FIELD, crf_label_weights=weights, crf_weight_strategy=strategy)
        ).eval()
        model.load_state_dict(plain.state_dict())
        labels = labeled(batch, GOLD)
        found, expected = model(**batch, labels=labels), plain(**batch, labels=labels)
        assert torch.equal(found.logits, expected.logits) and found.loss != expected.loss
        total = -model.crf.log_likelihood(found.emissions, labels, words_of(batch)).sum()
        torch.testing.assert_close(found.loss, total / sum(map(len, GOLD)))
