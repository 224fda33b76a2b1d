"""Pipelines and composite models of Transformers, unmodified, over real tokenizer output; values, not only shapes."""

import pytest
import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, pipeline

import elmo_hf
from elmo_hf import (
    ElmoForMaskedLM,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)

from .tiny import tiny_config, with_large_weights

TEXTS = ["Ada met Grace (the admiral).", "No.", "They didn't say why."]


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    return ElmoTokenizer(max_characters_per_word=9, padding_side=request.param)


@pytest.mark.samples(4)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("mixes", [1, 2])
def test_feature_extraction(tokenizer, batch_size, mixes):
    model = with_large_weights(ElmoModel(tiny_config(num_representations=mixes))).eval()
    extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    for text, found in zip(TEXTS, extract(TEXTS, batch_size=batch_size), strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        values = torch.tensor(found)[0]
        # The pipeline keeps the batch's padding.
        values = values[: len(expected)] if tokenizer.padding_side == "right" else values[-len(expected) :]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_token_classification(tokenizer, batch_size):
    config = tiny_config(id2label={0: "O", 1: "B-PER", 2: "I-PER"}, label2id={"O": 0, "B-PER": 1, "I-PER": 2})
    model = with_large_weights(ElmoForTokenClassification(config)).eval()
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    for text, found in zip(TEXTS, tag(TEXTS, batch_size=batch_size), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        probabilities = model(**batch).logits[0, 1:-1].softmax(-1)
        words = tokenizer.words(text)
        assert [(item["word"], (item["start"], item["end"])) for item in found] == words
        assert [item["entity"] for item in found] == [config.id2label[i] for i in probabilities.argmax(-1).tolist()]
        assert [item["score"] for item in found] == pytest.approx(probabilities.max(-1).values.tolist(), abs=1e-5)


class TestTokenClassificationWithCrf:
    """The pipeline takes the best label of each word; the logits of a CRF make this the best sequence."""

    LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    LONG = "Ada met Grace (the admiral) in New York. They didn't say why, and nobody in London asked them."

    @pytest.fixture
    def words(self, tokenizer):
        vocabulary = ["<S>", "</S>", "<UNK>", "Ada", "met", "Grace", "the", "in", "London", "."]
        return ElmoTokenizer(vocab=vocabulary, max_characters_per_word=9, padding_side=tokenizer.padding_side)

    @pytest.fixture
    def model(self, words):
        config = tiny_config(
            vocab_size=len(words), use_crf=True, tag_scheme="BIO", id2label=dict(enumerate(self.LABELS)),
            label2id={name: i for i, name in enumerate(self.LABELS)}, elmo_at=["input", "output"], word_vector_size=4,
            task_lstm_size=3,
        )  # fmt: skip
        model = with_large_weights(ElmoForTokenClassification(config)).eval()
        batch = words(self.LONG, return_tensors="pt")
        with torch.no_grad():
            # Scores have deviation 2, so that the CRF sometimes overrules a word's score.
            model.classifier.bias.zero_()
            scores = model.classifier(model.encode_words(**batch)[0])[0, 1:-1]
            model.classifier.weight.mul_(2 / scores.std(0).unsqueeze(1))
            model.classifier.bias.sub_(scores.mean(0) * 2 / scores.std(0))
        return model

    def best_sequence(self, model, batch):
        """Labels and scores of one sentence by Viterbi's algorithm, word by word."""
        emissions = model.classifier(model.encode_words(**batch)[0])[0, 1:-1]
        start, transitions, end = model.crf()
        paths = [(start[tag] + emissions[0, tag], [tag]) for tag in range(5)]
        for values in emissions[1:]:
            paths = [
                max((score + transitions[path[-1], tag] + values[tag], [*path, tag]) for score, path in paths)
                for tag in range(5)
            ]
        _, best = max((score + end[path[-1]], path) for score, path in paths)
        scores = model(**batch).logits[0, 1:-1].softmax(-1).max(-1).values
        return [self.LABELS[tag] for tag in best], scores.tolist()

    @pytest.mark.samples(1)
    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_texts(self, words, model, batch_size):
        tag = pipeline("token-classification", model=model, tokenizer=words, ignore_labels=[])
        texts = [self.LONG, *TEXTS]
        for text, found in zip(texts, tag(texts, batch_size=batch_size), strict=True):
            labels, scores = self.best_sequence(model, words(text, return_tensors="pt"))
            assert [(item["word"], (item["start"], item["end"])) for item in found] == words.words(text)
            assert [item["entity"] for item in found] == labels
            assert [item["score"] for item in found] == pytest.approx(scores, abs=1e-5)
        # The CRF's sequence differs from the best labels of single words.
        batch = words(self.LONG, return_tensors="pt")
        alone = model.classifier(model.encode_words(**batch)[0])[0, 1:-1].argmax(-1)
        assert [self.LABELS[tag] for tag in alone.tolist()] != self.best_sequence(model, batch)[0]

    def test_entities(self, words, model):
        """Grouped, in the text's own characters; every entity begins with B, as the scheme has it."""
        group = pipeline("token-classification", model=model, tokenizer=words, aggregation_strategy="simple")
        for text, found in zip([self.LONG, *TEXTS], group([self.LONG, *TEXTS], batch_size=3), strict=True):
            labels, _ = self.best_sequence(model, words(text, return_tensors="pt"))
            expected = []
            for (_, (start, end)), label in zip(words.words(text), labels, strict=True):
                if label.startswith("I"):
                    expected[-1][2] = end
                elif label.startswith("B"):
                    expected.append([label[2:], start, end])
            assert [[item["entity_group"], item["start"], item["end"]] for item in found] == expected

    def test_given_words(self, words, model):
        tag = pipeline("token-classification", model=model, tokenizer=words, ignore_labels=[])
        sentences = [["didn't", "(say)", "why."], ["Ada", "met", "Grace", "in", "London", "."]]
        # The pipeline's word numbers ignore padding on the left.
        batch_size = 2 if words.padding_side == "right" else 1
        found = tag(sentences, is_split_into_words=True, delimiter=" ", batch_size=batch_size)
        for sentence, items in zip(sentences, found, strict=True):
            batch = words(sentence, is_split_into_words=True, return_tensors="pt")
            labels, scores = self.best_sequence(model, batch)
            assert [item["entity"] for item in items] == labels
            assert [item["score"] for item in items] == pytest.approx(scores, abs=1e-5)
            starts = [len(" ".join(sentence[:place])) + (place > 0) for place in range(len(sentence))]
            assert [item["start"] for item in items] == starts

    @pytest.mark.samples(1)
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_stride(self, words, model, batch_size):
        """Each window has its own best sequence; of overlapping entities the longer or the more probable one stays."""
        words.model_max_length = 9
        tag = pipeline(
            "token-classification", model=model, tokenizer=words, aggregation_strategy="simple", stride=3,
            batch_size=batch_size,
        )  # fmt: skip
        windows = words(
            self.LONG, truncation=True, stride=3, return_overflowing_tokens=True, return_offsets_mapping=True,
            padding=True, return_tensors="pt",
        )  # fmt: skip
        assert len(windows["input_ids"]) > 3
        entities = []
        for row in range(len(windows["input_ids"])):
            real = windows["attention_mask"][row].bool()
            batch = {name: windows[name][row][real][None] for name in ("input_ids", "attention_mask", "character_ids")}
            labels, scores = self.best_sequence(model, batch)
            spans = windows["offset_mapping"][row][real][1:-1].tolist()
            found = []
            for (start, end), label, score in zip(spans, labels, scores, strict=True):
                if label.startswith("I"):
                    found[-1][2], found[-1][3] = end, [*found[-1][3], score]
                elif label.startswith("B"):
                    found.append([label[2:], start, end, [score]])
            entities += [[kind, start, end, sum(scores) / len(scores)] for kind, start, end, scores in found]
        entities.sort(key=lambda entity: entity[1])
        expected = entities[:1]
        for entity in entities[1:]:
            before = expected[-1]
            if not before[1] <= entity[1] < before[2]:
                expected.append(entity)
            elif (entity[2] - entity[1], entity[3]) > (before[2] - before[1], before[3]):
                expected[-1] = entity
        found = tag(self.LONG)
        assert len(entities) > len(found) > 2
        assert [[item["entity_group"], item["start"], item["end"]] for item in found] == [e[:3] for e in expected]
        assert [item["score"] for item in found] == pytest.approx([entity[3] for entity in expected], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_token_classification_by_code_points(tokenizer, batch_size):
    """The pipeline pads character rows of different lengths."""
    words = ElmoTokenizer(
        max_characters_per_word=9, code_point_set=["A", "d", "a"], padding_side=tokenizer.padding_side
    )
    fields = {"task_character_size": 3, "num_task_characters": words.num_code_points, "words_only": True}
    config = tiny_config(**fields, task_lstm_size=3, id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1})
    model = with_large_weights(ElmoForTokenClassification(config)).eval()
    tag = pipeline("token-classification", model=model, tokenizer=words, ignore_labels=[])
    for text, found in zip(TEXTS, tag(TEXTS, batch_size=batch_size), strict=True):
        probabilities = model(**words(text, return_tensors="pt")).logits[0, 1:-1].softmax(-1)
        assert [item["score"] for item in found] == pytest.approx(probabilities.max(-1).values.tolist(), abs=1e-5)


class TestEntitiesOfEveryScheme:
    """Complete entities from the unmodified pipeline, with and without CRF."""

    TEXT = "Marie Curie met Ada Lovelace Grace in New South Wales ."
    # Two entities of one type side by side, one of a single word, one of three.
    ENTITIES = [("PER", "Marie Curie"), ("PER", "Ada Lovelace"), ("PER", "Grace"), ("LOC", "New South Wales")]
    TAGS = {
        "BIO": "B-PER I-PER O B-PER I-PER B-PER O B-LOC I-LOC I-LOC O",
        "BIOES": "B-PER E-PER O B-PER E-PER S-PER O B-LOC I-LOC E-LOC O",
        "BIOUL": "B-PER L-PER O B-PER L-PER U-PER O B-LOC I-LOC L-LOC O",
        "BMES": "B-PER E-PER O B-PER E-PER S-PER O B-LOC M-LOC E-LOC O",
        "IOB1": "I-PER I-PER O I-PER I-PER B-PER O I-LOC I-LOC I-LOC O",
    }

    def tagger(self, scheme, use_crf):
        """A model that has learned this sentence: scores from a table of word vectors, large enough for every field."""
        gold = self.TAGS[scheme].split()
        labels = sorted({*gold, *(f"{letter}-PER" for letter in {tag[0] for tag in gold} - {"O"})})
        words = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *dict.fromkeys(self.TEXT.split())])
        config = tiny_config(
            vocab_size=len(words), elmo_at=[], word_vector_size=len(labels), use_crf=use_crf, tag_scheme=scheme,
            crf_constraints="decoding", id2label=dict(enumerate(labels)),
        )  # fmt: skip
        model = ElmoForTokenClassification(config).eval()
        with torch.no_grad():
            model.classifier.weight.copy_(torch.eye(len(labels)))
            model.classifier.bias.zero_()
            table = model.task_layers.word_vectors.word_embeddings.weight.zero_()
            for word, tag in zip(self.TEXT.split(), gold, strict=True):
                table[words.convert_tokens_to_ids(word), labels.index(tag)] = 20
        return model, words

    @pytest.mark.samples(4)
    @pytest.mark.parametrize("use_crf", [True, False])
    @pytest.mark.parametrize("scheme", TAGS)
    def test_whole_entities(self, scheme, use_crf, tmp_path):
        model, words = self.tagger(scheme, use_crf)
        model.save_pretrained(tmp_path)
        words.save_pretrained(tmp_path)
        for strategy in ("simple", "first", "average", "max"):
            tag = pipeline("token-classification", model=str(tmp_path), aggregation_strategy=strategy)
            found = [(one["entity_group"], self.TEXT[one["start"] : one["end"]]) for one in tag(self.TEXT)]
            assert found == self.ENTITIES
        # The scheme's own names are what `tag` gives, in the order of the logits.
        assert elmo_hf.tag([self.TEXT.split()], str(tmp_path))[0].tags == self.TAGS[scheme].split()
        ids = model(**words(self.TEXT, return_tensors="pt")).logits[0, 1:-1].argmax(-1).tolist()
        assert [model.config.tag_names[index] for index in ids] == self.TAGS[scheme].split()


class TestTextClassification:
    LABELS = ["bad", "fair", "good"]

    def model(self, **overrides):
        names = {"id2label": dict(enumerate(self.LABELS)), "label2id": {name: i for i, name in enumerate(self.LABELS)}}
        config = tiny_config(**names, pooling=["mean", "attention"], **overrides)
        return with_large_weights(ElmoForSequenceClassification(config), 0.4).eval()

    def logits(self, model, tokenizer, *text, **options):
        return model(**tokenizer(*text, return_tensors="pt", **options)).logits[0]

    def expected(self, scores):
        """All labels, best first."""
        order = scores.argsort(descending=True).tolist()
        return [{"label": self.LABELS[i], "score": pytest.approx(scores[i].item(), abs=1e-5)} for i in order]

    @pytest.mark.samples(2)
    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_texts(self, tokenizer, batch_size):
        model = self.model()
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        best = classify(TEXTS, batch_size=batch_size)
        for top_k in (None, 2, 1):
            for text, found, one in zip(TEXTS, classify(TEXTS, batch_size=batch_size, top_k=top_k), best, strict=True):
                scores = self.expected(self.logits(model, tokenizer, text).softmax(-1))
                assert found == scores[:top_k]
                assert one == scores[0]
        assert classify(TEXTS[0]) == best[:1]
        assert len({one["score"] for one in best}) == 3

    @pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
    def test_other_kinds_of_problem(self, tokenizer, problem):
        model = self.model(problem_type=problem)
        found = pipeline("text-classification", model=model, tokenizer=tokenizer)(TEXTS, top_k=None)
        for text, scores in zip(TEXTS, found, strict=True):
            logits = self.logits(model, tokenizer, text)
            assert scores == self.expected(logits if problem == "regression" else logits.sigmoid())

    @pytest.mark.parametrize("sentence_pairs", [False, True])
    def test_pairs(self, tokenizer, sentence_pairs):
        model = self.model(sentence_pairs=sentence_pairs)
        pairs = [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[1], "text_pair": TEXTS[2]}]
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        for pair, found in zip(pairs, classify(pairs, batch_size=2, top_k=None), strict=True):
            logits = self.logits(model, tokenizer, pair["text"], pair["text_pair"])
            assert found == self.expected(logits.softmax(-1))
        if sentence_pairs:
            with pytest.raises(ValueError, match="sentence_pairs=True"):
                classify(TEXTS[0])

    @pytest.mark.samples(1)
    def test_long_and_short_texts(self, tokenizer):
        """Texts are read whole: an LSTM has no maximum length."""
        model, texts = self.model(), [" ".join(TEXTS * 60), TEXTS[1]]
        assert tokenizer(texts[0], return_tensors="pt")["input_ids"].shape[1] > 900
        found = pipeline("text-classification", model=model, tokenizer=tokenizer)(texts, batch_size=2, top_k=None)
        for text, scores in zip(texts, found, strict=True):
            assert scores == self.expected(self.logits(model, tokenizer, text).softmax(-1))
        cut = pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True, max_length=5)
        logits = self.logits(model, tokenizer, "Ada met Grace")
        assert cut(texts[0], top_k=None) == self.expected(logits.softmax(-1))

    def test_given_words(self, tokenizer):
        model = self.model()
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        words = ["didn't", "(say)", "why."]
        found = classify({"text": words}, is_split_into_words=True, top_k=None)
        logits = self.logits(model, tokenizer, words, is_split_into_words=True)
        assert found == self.expected(logits.softmax(-1))
        assert found != self.expected(self.logits(model, tokenizer, " ".join(words)).softmax(-1))


@pytest.mark.samples(1)
@pytest.mark.parametrize("sentence_pairs", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_zero_shot_classification(tokenizer, sentence_pairs, batch_size):
    """By an entailment model: every label is a hypothesis about the text."""
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = tiny_config(id2label=names, label2id={name: i for i, name in names.items()}, sentence_pairs=sentence_pairs)
    model = with_large_weights(ElmoForSequenceClassification(config)).eval()
    classify = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    labels, template = ["naval", "cooking", "a very long name"], "This is about {}."
    for multi_label in (False, True):
        results = classify(TEXTS, labels, hypothesis_template=template, multi_label=multi_label, batch_size=batch_size)
        for text, found in zip(TEXTS, results, strict=True):
            pairs = [tokenizer(text, template.format(label), return_tensors="pt") for label in labels]
            logits = torch.cat([model(**pair).logits for pair in pairs])
            if multi_label:
                scores = logits[:, [0, 2]].softmax(-1)[:, 1]
            else:
                scores = logits[:, 2].softmax(-1)
            order = scores.argsort(descending=True).tolist()
            assert found["sequence"] == text
            assert found["labels"] == [labels[i] for i in order]
            assert found["scores"] == pytest.approx(scores[order].tolist(), abs=1e-5)


class TestFillMask:
    TEXTS = ["Ada <mask> Grace.", "<mask>", "They didn't <mask> why, no."]
    WORDS = ["<S>", "</S>", "<UNK>", "Ada", "met", "Grace", ".", "They", "say", "why"]

    @pytest.fixture
    def words(self, tokenizer):
        return ElmoTokenizer(vocab=self.WORDS, max_characters_per_word=9, padding_side=tokenizer.padding_side)

    @pytest.fixture(params=[0.0, 1.0])
    def model(self, words, request):
        config = tiny_config(vocab_size=len(words), mask_token_id=words.mask_token_id, mask_prior_weight=request.param)
        return with_large_weights(ElmoForMaskedLM(config)).eval()

    def specials(self, words):
        return [words.bos_token_id, words.eos_token_id, words.unk_token_id]

    def probabilities(self, model, words, text):
        """[gaps, vocabulary] of a text alone, from the top layer and the softmax's weights."""
        batch = words(text, return_tensors="pt")
        top = model.elmo(**batch, output_hidden_states=True).hidden_states[-1][0]
        ranks = torch.arange(10)  # the words: ids 1 to 10, between padding and mask
        prior = ((ranks + 2) / (ranks + 1)).log() / torch.tensor(11.0).log()
        found = torch.zeros(0, len(words))
        for gap in batch["input_ids"][0].eq(words.mask_token_id).nonzero().flatten():
            weight, bias = model.softmax.weight[1:11], model.softmax.bias[1:11]
            before, after = weight @ top[gap - 1, :4] + bias, weight @ top[gap + 1, 4:] + bias
            scores = before.softmax(0) * after.softmax(0) / prior**model.config.mask_prior_weight
            scores[[number - 1 for number in self.specials(words)]] = 0.0  # no answers
            row = torch.cat([torch.zeros(1), scores / scores.sum(), torch.zeros(1)])
            found = torch.cat([found, row[None].detach()])
        return found

    def check(self, words, found, probabilities):
        assert [item["score"] for item in found] == pytest.approx(
            probabilities.sort(descending=True).values[: len(found)].tolist(), abs=1e-5
        )
        for item in found:
            assert item["score"] == pytest.approx(float(probabilities[item["token"]]), abs=1e-5)
            assert item["token_str"] == words.convert_ids_to_tokens(item["token"])

    @pytest.mark.samples(3)
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_single_and_batched(self, words, model, batch_size):
        fill = pipeline("fill-mask", model=model, tokenizer=words)
        for top_k in (1, 5, 12):
            for text, found in zip(self.TEXTS, fill(self.TEXTS, batch_size=batch_size, top_k=top_k), strict=True):
                probabilities = self.probabilities(model, words, text)
                assert len(found) == top_k and len(probabilities) == 1
                self.check(words, found, probabilities[0])
            # All words together; padding, mask and special words at zero.
            if top_k == 12:
                assert sum(item["score"] for item in found) == pytest.approx(1, abs=1e-5)
                none = {0, words.mask_token_id, *self.specials(words)}
                assert {item["token"] for item in found if item["score"] == 0} == none
        best, *others = fill(self.TEXTS[0])
        assert len(others) == 4
        filled = words(self.TEXTS[0].replace("<mask>", best["token_str"]))
        assert best["sequence"] == words.decode(filled["input_ids"], skip_special_tokens=True)

    def test_targets(self, words, model):
        fill = pipeline("fill-mask", model=model, tokenizer=words)
        probabilities = self.probabilities(model, words, self.TEXTS[0])[0]
        found = fill(self.TEXTS[0], targets=["say", "met", "Grace"])
        expected = {words.convert_tokens_to_ids(word): word for word in ("say", "met", "Grace")}
        assert {item["token"]: item["token_str"] for item in found} == expected
        for item in found:
            assert item["score"] == pytest.approx(float(probabilities[item["token"]]), abs=1e-5)
        assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)

    def test_several_masked_words(self, words, model):
        fill = pipeline("fill-mask", model=model, tokenizer=words)
        text = "Ada <mask> <mask>. They <mask> why"
        rows = self.probabilities(model, words, text)
        gaps = fill([text, self.TEXTS[0]], batch_size=2)[0]
        assert len(gaps) == len(rows) == 3
        for found, probabilities in zip(gaps, rows, strict=True):
            self.check(words, found, probabilities)


def test_encoder_of_an_encoder_decoder(tokenizer, tmp_path):
    decoder = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        is_decoder=True, add_cross_attention=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config(), decoder, decoder_start_token_id=1, pad_token_id=0, eos_token_id=2
    )
    model = EncoderDecoderModel(config).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    labels = torch.tensor([[4, 5, 2], [6, 2, -100], [7, 8, 2]])
    output = model(**batch, labels=labels)
    output.loss.backward()
    assert model.encoder.encoder.layers[0].forward_lstm.input_proj.weight.grad.abs().sum() > 0
    generated = model.generate(**batch, max_new_tokens=4, num_beams=2, do_sample=False)
    # A sentence alone is translated as in a batch.
    alone = model.generate(**tokenizer(TEXTS[1], return_tensors="pt"), max_new_tokens=4, num_beams=2, do_sample=False)
    assert generated[1, : alone.shape[1]].tolist() == alone[0].tolist()
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch, labels=labels).logits, output.logits, rtol=0, atol=1e-5)
