"""Anchors, orthogonal maps and translation, compared with loops and known rotations."""

import copy
import json

import numpy as np
import pytest
import torch

from elmo_hf import ElmoForTokenClassification, ElmoModel, ElmoTokenizer, embed
from elmo_hf.alignment import (
    TASK_FIELDS,
    Alignment,
    Anchors,
    align,
    anchors,
    fit_alignment,
    read_dictionary,
    set_alignment,
    translation_precision,
    with_bilm_of,
)
from elmo_hf.cli import main
from hub_upload import convert, export, verify
from modeling_tests.model.test_layer_alignment import FAMILY, random_maps

from .hub_upload.checkpoints import read_hdf5, write_bilm
from .tiny import batch_of, tiny_config, with_large_weights

VOCABULARY = [f"{first}{second}" for first in "bdgklmnprst" for second in ("a", "ei", "o", "u")]


@pytest.fixture
def tokenizer():
    return ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *VOCABULARY], max_characters_per_word=9)


@pytest.fixture(scope="module")
def text():
    draw = np.random.default_rng(0)
    return [draw.choice(VOCABULARY, size=size).tolist() for size in draw.integers(1, 12, 60)]


def tiny_model(tokenizer, **overrides):
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, **overrides)
    return with_large_weights(ElmoModel(config)).eval()


def random_anchors(words, layers=2, width=6, seed=0):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(layers, len(words), width))
    return Anchors(tuple(words), vectors, np.ones(len(words), np.int64), np.ones(layers))


def rotated(source, maps, prefix="x"):
    return Anchors(
        tuple(prefix + word for word in source.words),
        source.vectors @ maps.swapaxes(1, 2),
        source.counts,
        source.lengths,
    )


def rotations(layers=2, width=6, seed=3):
    draw = np.random.default_rng(seed)
    return np.linalg.qr(draw.normal(size=(layers, width, width)))[0]


class TestAnchors:
    @pytest.mark.slow
    def test_the_mean_of_all_vectors_of_a_word(self, tokenizer, text):
        model = tiny_model(tokenizer)
        asked = ["do", "never", *VOCABULARY[:9], "do"]
        every = {word: [] for word in dict.fromkeys(asked)}
        for sentence in text:
            batch = tokenizer([sentence], is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                layers = torch.stack(model(**batch, output_hidden_states=True).hidden_states)[:, 0, 1:-1]
            for place, word in enumerate(sentence):
                if word in every:
                    every[word].append(layers[:, place].double().numpy())
        occurring = [word for word, vectors in every.items() if vectors]
        expected = np.stack([np.mean(every[word], axis=0) for word in occurring], axis=1)
        lengths = [np.linalg.norm(vector, axis=-1) for vectors in every.values() for vector in vectors]
        for batch_words in (30, 4096):
            found = anchors(text, model, tokenizer, words=asked, batch_words=batch_words)
            assert found.words == tuple(occurring) and "never" not in found.rows
            assert found.counts.tolist() == [len(every[word]) for word in found.words]
            np.testing.assert_allclose(found.vectors, expected, rtol=0, atol=1e-5)
            np.testing.assert_allclose(found.lengths, np.mean(lengths, axis=0), rtol=1e-5)

    def test_lowercase(self, tokenizer):
        model = tiny_model(tokenizer)
        sentences = [["Do", "do"], ["DO", "ga"]]
        exact = anchors(sentences, model, tokenizer, words=["do", "DO"])
        assert dict(zip(exact.words, exact.counts.tolist(), strict=True)) == {"do": 1, "DO": 1}
        lowered = anchors(sentences, model, tokenizer, words=["do", "DO"], lowercase=True)
        assert dict(zip(lowered.words, lowered.counts.tolist(), strict=True)) == {"do": 2, "DO": 1}

    def test_texts_are_split_by_the_tokenizer(self, tokenizer):
        model = tiny_model(tokenizer)
        one = anchors(["Do(ga)."], model, tokenizer, words=["ga"])
        other = anchors([["Do", "(", "ga", ")", "."]], model, tokenizer, words=["ga"])
        assert np.array_equal(one.vectors, other.vectors)

    @pytest.mark.slow
    def test_stream_is_read_one_window_at_a_time(self, tokenizer):
        """At most one window of sentences is read ahead."""
        model, taken, seen = tiny_model(tokenizer), [], []
        original = model.forward

        def forward(**batch):
            seen.append(len(taken))
            return original(**batch)

        model.forward = forward
        stream = (taken.append(number) or ["do"] for number in range(200))
        found = anchors(stream, model, tokenizer, words=["do"], batch_words=6)
        assert found.counts.tolist() == [200] and len(taken) == 200
        assert seen[0] <= 16 and max(np.diff(seen)) <= 16

    def test_an_aligned_models_anchors_are_mapped(self, tokenizer, text):
        model = tiny_model(tokenizer)
        before = anchors(text, model, tokenizer, words=VOCABULARY)
        maps = random_maps(model.config)
        set_alignment(model, maps)
        after = anchors(text, model, tokenizer, words=VOCABULARY)
        mapped = Alignment(maps.numpy(), (), 1, np.zeros(3), np.zeros(3)).apply(before)
        np.testing.assert_allclose(after.vectors, mapped.vectors, rtol=0, atol=1e-5)

    def test_refusals(self, tokenizer):
        model = tiny_model(tokenizer)
        with pytest.raises(ValueError, match="words.*empty"):
            anchors([["do"]], model, tokenizer, words=[])
        with pytest.raises(ValueError, match="sentences.*empty"):
            anchors([], model, tokenizer, words=["do"])
        with pytest.raises(ValueError, match=r"1.*\(such as 'ga'\).*lowercase=True"):
            anchors([["do"], []], model, tokenizer, words=["ga"])
        with pytest.raises(TypeError, match="sentences is 'do'"):
            anchors("do", model, tokenizer, words=["do"])


class TestFit:
    def test_a_known_rotation_is_found(self):
        source, maps = random_anchors(VOCABULARY), rotations()
        found = fit_alignment(source, rotated(source, maps), [(word, "x" + word) for word in VOCABULARY])
        np.testing.assert_allclose(found.maps, maps, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.after, 1, rtol=0, atol=1e-12)
        assert found.coverage == 1 and found.before.max() < 0.9
        np.testing.assert_allclose(found.apply(source).vectors, rotated(source, maps).vectors, rtol=0, atol=1e-12)

    def test_no_other_orthogonal_map_is_nearer(self):
        """For a target that is not a rotation of the source."""
        source, target = random_anchors(VOCABULARY), random_anchors(VOCABULARY, seed=7)
        found = fit_alignment(source, target, [(word, word) for word in VOCABULARY])
        for layer in range(2):
            weight = found.maps[layer]
            np.testing.assert_allclose(weight @ weight.T, np.eye(6), rtol=0, atol=1e-12)

            def distance(candidate, layer=layer):
                return sum(
                    ((candidate @ x - y) ** 2).sum()
                    for x, y in zip(source.vectors[layer], target.vectors[layer], strict=True)
                )

            best = distance(weight)
            for seed in range(30):
                assert best < distance(rotations(1, seed=seed)[0])
                skew = np.random.default_rng(seed).normal(size=(6, 6))
                step = torch.matrix_exp(torch.from_numpy(0.01 * (skew - skew.T))).numpy()
                assert best < distance(step @ weight)

    def test_matched_lengths(self):
        source = random_anchors(VOCABULARY)
        target = rotated(source, 2.5 * rotations())
        target = Anchors(target.words, target.vectors, target.counts, np.array([2.5, 5.0]))
        pairs = [(word, "x" + word) for word in VOCABULARY]
        found = fit_alignment(source, target, pairs, match_lengths=True)
        np.testing.assert_allclose(found.maps, rotations() * np.array([2.5, 5.0])[:, None, None], rtol=0, atol=1e-12)

    def test_only_known_pairs_count(self):
        source, maps = random_anchors(VOCABULARY), rotations()
        target = rotated(source, maps)
        pairs = [(word, "x" + word) for word in VOCABULARY]
        more = [("unknown", "xba"), *pairs, ("ba", "unknown"), pairs[0]]
        found = fit_alignment(source, target, more)
        assert found.pairs == tuple(pairs) and found.given == len(pairs) + 2
        assert found.coverage == len(pairs) / (len(pairs) + 2)
        np.testing.assert_allclose(found.maps, maps, rtol=0, atol=1e-12)
        assert "44 of 46 pairs (95.7%) occur in both texts" in str(found)

    def test_refusals(self):
        source = random_anchors(VOCABULARY)
        pairs = [(word, word) for word in VOCABULARY]
        with pytest.raises(ValueError, match="2 layers of 6 dimensions.* 3 of 6"):
            fit_alignment(source, random_anchors(VOCABULARY, layers=3), pairs)
        with pytest.raises(ValueError, match="pairs.*empty"):
            fit_alignment(source, source, [])
        with pytest.raises(ValueError, match=r"2 pairs .*\(1 source words and 0 target words"):
            fit_alignment(source, source, [("ba", "Ba"), ("x", "y")])
        with pytest.warns(UserWarning, match="2 pairs.* 6 dimensions"):
            few = fit_alignment(source, source, pairs[:2])
        np.testing.assert_allclose(few.maps @ few.maps.swapaxes(1, 2), np.tile(np.eye(6), (2, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(few.after, 1)
        broken = copy.deepcopy(source)
        broken.vectors[0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="anchors .*finite"):
            fit_alignment(broken, source, pairs)
        flat = Anchors(source.words, source.vectors, source.counts, np.array([1.0, 0.0]))
        with pytest.raises(ValueError, match="match_lengths=True"):
            fit_alignment(flat, source, pairs, match_lengths=True)


class TestTranslation:
    @pytest.mark.slow
    @pytest.mark.parametrize("neighbours", [1, 3, 10, 1000])
    def test_equals_one_word_at_a_time(self, neighbours, monkeypatch):
        monkeypatch.setattr("elmo_hf.alignment.SIMILARITIES_AT_A_TIME", 100)  # several pieces
        source, target = random_anchors(VOCABULARY), random_anchors(VOCABULARY[:30], seed=5)
        mixed = Anchors(target.words, target.vectors + source.vectors[:, :30], target.counts, target.lengths)
        pairs = [(word, word) for word in VOCABULARY] + [("ba", "do"), ("unknown", "do")]
        found = translation_precision(source, mixed, pairs, neighbours=neighbours)
        gold = {word: {right for left, right in pairs if left == word} & set(mixed.words) for word in source.words}
        gold = {word: right for word, right in gold.items() if right}

        def cosine(x, y):
            return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))

        for layer in range(2):
            xs, ys = source.vectors[layer], mixed.vectors[layer]

            def nearest(x, others):
                return np.mean(sorted((cosine(x, y) for y in others), reverse=True)[:neighbours])

            hubs = [nearest(y, xs) for y in ys]
            hits = np.zeros(2)
            for word, right in gold.items():
                x = xs[source.rows[word]]
                plain = [cosine(x, y) for y in ys]
                csls = [2 * value - nearest(x, ys) - hub for value, hub in zip(plain, hubs, strict=True)]
                hits += [mixed.words[int(np.argmax(scores))] in right for scores in (plain, csls)]
            assert [found.cosine[layer], found.csls[layer]] == pytest.approx(list(hits / len(gold)))
        assert 0 < found.cosine[0] < 1
        assert (found.words, found.candidates) == (30, 30)

    def test_perfect_precision_after_the_fitted_map(self):
        source, maps = random_anchors(VOCABULARY), rotations()
        target = rotated(source, maps)
        pairs = [(word, "x" + word) for word in VOCABULARY]
        found = fit_alignment(source, target, pairs[:12])  # the other words are held out
        unmapped = translation_precision(source, target, pairs[12:])
        mapped = translation_precision(found.apply(source), target, pairs[12:])
        assert mapped.cosine.tolist() == mapped.csls.tolist() == [1, 1]
        assert unmapped.cosine.max() < 0.3
        assert "translations found first for 32 words among 44, by cosine / CSLS" in str(mapped)

    def test_refusals(self):
        source = random_anchors(VOCABULARY)
        with pytest.raises(ValueError, match="neighbours=0.*1"):
            translation_precision(source, source, [("ba", "ba")], neighbours=0)
        with pytest.raises(ValueError, match="none of the 1 pairs"):
            translation_precision(source, source, [("x", "y")])


class TestDictionary:
    def test_spaces_and_tabs(self, tmp_path):
        path = tmp_path / "de-en.txt"
        path.write_bytes("\ufeffHaus house\rBank\tbank\r\n\nBank\u2028bench \nHaus house\n".encode())
        assert read_dictionary(path) == [("Haus", "house"), ("Bank", "bank"), ("Bank", "bench")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"\n \n", "has no pair"),
            (b"a b\nHaus\n", "line 2: 'Haus'.*1 words"),
            (b"New York New York\n", "line 1: 'New York New York' has 4 words"),
            (b"a b\n\xfcber over\n", r"line 2, byte 1.*b'\\xfc'.*utf-8"),
        ],
    )
    def test_refusals(self, content, message, tmp_path):
        (tmp_path / "d.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"d.txt.*{message}"):
            read_dictionary(tmp_path / "d.txt")
        with pytest.raises(OSError):
            read_dictionary(tmp_path / "missing.txt")


class TestAlign:
    @pytest.mark.slow
    @pytest.mark.parametrize("overrides", FAMILY.values(), ids=FAMILY)
    def test_two_models_that_differ_by_rotations(self, overrides, tokenizer, text, tmp_path):
        """The target is a rotation of the source, so the fitted model gives the target's vectors."""
        source = tiny_model(tokenizer, **overrides)
        target = copy.deepcopy(source)
        set_alignment(target, random_maps(source.config))
        dictionary = [(word, word) for word in VOCABULARY]
        found = align(source, target, dictionary, text, text, source_tokenizer=tokenizer, target_tokenizer=tokenizer)
        assert source.config.aligned and found.coverage == 1
        eye = np.tile(np.eye(found.maps.shape[-1]), (len(found.maps), 1, 1))
        np.testing.assert_allclose(found.maps @ found.maps.swapaxes(1, 2), eye, rtol=0, atol=1e-12)
        unseen = [["zzz", "do", "Brrr"], ["ga"]]
        ours = embed(unseen, source, tokenizer, layers="all")
        for one, other in zip(ours, embed(unseen, target, tokenizer, layers="all"), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)
        after = [anchors(text, model, tokenizer, words=VOCABULARY) for model in (source, target)]
        precision = translation_precision(*after, dictionary)
        # Words that no filter distinguishes have equal vectors at layer 0.
        assert precision.cosine[1:].tolist() == [1.0] * len(found.maps[1:]) and precision.cosine[0] > 0.9
        source.save_pretrained(tmp_path)
        assert torch.equal(ElmoModel.from_pretrained(tmp_path).alignment.maps, source.alignment.maps)
        with pytest.raises(ValueError, match="aligned=False"):
            align(source, target, dictionary, text, text)

    def test_a_task_model_may_be_aligned(self, tokenizer, text):
        source = tiny_model(tokenizer)
        target = copy.deepcopy(source)
        set_alignment(target, random_maps(source.config))
        tagger = ElmoForTokenClassification(copy.deepcopy(source.config))
        tagger.elmo.load_state_dict(source.state_dict())
        align(
            tagger,
            target,
            [(word, word) for word in VOCABULARY],
            text,
            text,
            source_tokenizer=tokenizer,
            target_tokenizer=tokenizer,
        )
        batch = tokenizer(text[:3], is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            ours, theirs = (model.eval()(**batch).last_hidden_state for model in (tagger.elmo, target))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


class TestTransfer:
    def models(self):
        """A tagger, and the aligned biLM of another language that reads other words."""
        torch.manual_seed(3)
        config = tiny_config(
            num_labels=3, task_lstm_size=5, elmo_at=["input", "output"], pooling=["max"], representation_dropout=0.1
        )
        tagger = with_large_weights(ElmoForTokenClassification(config)).eval()
        other = with_large_weights(ElmoModel(tiny_config(vocab_size=20, cell_size=9, max_characters_per_word=9))).eval()
        set_alignment(other, random_maps(other.config))
        return tagger, other

    @torch.no_grad()
    def test_its_own_task_layers_over_the_other_bilm(self, tmp_path):
        tagger, other = self.models()
        found = with_bilm_of(tagger, other)
        assert not found.training and found.config.aligned and found.config.vocab_size == 20
        batch = batch_of(["Ada met Grace .", "No"])
        layers = other(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"].bool()
        mixes = torch.stack([mix(layers, mask, mask) for mix in tagger.elmo.scalar_mixes], dim=1)
        features, _ = tagger.task_layers(mixes, batch["input_ids"], mask)
        torch.testing.assert_close(found(**batch).logits, tagger.classifier(features))
        found.save_pretrained(tmp_path)
        again = ElmoForTokenClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(again(**batch).logits, found(**batch).logits, rtol=0, atol=1e-6)
        assert tagger.config.vocab_size == 12 and not tagger.config.aligned

    def test_fields_of_either_side(self):
        tagger, other = self.models()
        found = with_bilm_of(tagger, other).config.to_dict()
        ours, theirs = tagger.config.to_dict(), other.config.to_dict()
        for name in TASK_FIELDS:
            assert found[name] == ours[name], name
        assert found["id2label"] == ours["id2label"]
        for name in ("vocab_size", "cell_size", "aligned", "max_characters_per_word"):
            assert found[name] == theirs[name], name

    def test_refusals(self):
        tagger, other = self.models()
        with pytest.raises(ValueError, match=r"config\.aligned is False"):
            with_bilm_of(tagger, ElmoModel(tiny_config()))
        wide = ElmoModel(tiny_config(projection_size=6, aligned=True))
        with pytest.raises(ValueError, match="3 layers of 8 dimensions.* 3 of 12"):
            with_bilm_of(tagger, wide)
        baseline = ElmoForTokenClassification(tiny_config(elmo_at=[], word_vector_size=4))
        with pytest.raises(ValueError, match="task_model.*biLM"):
            with_bilm_of(baseline, other)
        with_vectors = ElmoForTokenClassification(tiny_config(word_vector_size=4))
        with pytest.raises(ValueError, match="word_vector_size=4.*task_model"):
            with_bilm_of(with_vectors, other)


class TestCommandLine:
    @pytest.fixture
    def folders(self, tokenizer, text, tmp_path):
        source = tiny_model(tokenizer)
        target = copy.deepcopy(source)
        set_alignment(target, random_maps(source.config))
        for name, model in (("source", source), ("target", target)):
            model.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / "text.txt").write_text("".join(" ".join(words) + "\n" for words in text))
        (tmp_path / "d.txt").write_text("".join(f"{word} {word}\n" for word in VOCABULARY[:30]))
        (tmp_path / "test.txt").write_text("".join(f"{word}\t{word}\n" for word in VOCABULARY[30:]))
        return tmp_path

    def arguments(self, folder, **changes):
        files = {
            "dictionary": folder / "d.txt",
            "source_text": folder / "text.txt",
            "target-text": folder / "text.txt",
            "output_dir": folder / "aligned",
        }
        options = [part for name, value in {**files, **changes}.items() for part in (f"--{name}", str(value))]
        return ["align", str(folder / "source"), str(folder / "target"), "--device", "cpu", *options]

    @pytest.mark.slow
    def test_aligns_two_folders_end_to_end(self, folders, tokenizer, capsys):
        assert main(self.arguments(folders, test_dictionary=folders / "test.txt")) == 0
        printed = capsys.readouterr().out
        assert "30 of 30 pairs (100.0%) occur in both texts" in printed
        assert "for 14 words among 44, by cosine / CSLS, layer by layer: 100.0% / " in printed
        unseen = [["zzz", "do"], ["ga"]]
        ours, theirs = (embed(unseen, folders / name, layers="all") for name in ("aligned", "target"))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)
        assert json.loads((folders / "aligned" / "config.json").read_text())["aligned"] is True
        assert main(self.arguments(folders, max_sentences=0)) == 1
        assert "max_sentences=0: expected at least 1" in capsys.readouterr().err
        again = self.arguments(folders)
        again[1] = str(folders / "aligned")
        assert main(again) == 1
        assert "is aligned already: give the model it was made of" in capsys.readouterr().err

    def test_malformed_dictionary(self, folders, capsys):
        (folders / "d.txt").write_text("one two three\n")
        assert main(self.arguments(folders)) == 1
        assert "d.txt, line 1: 'one two three' has 3 words" in capsys.readouterr().err
        assert not (folders / "aligned").exists()


@pytest.mark.slow
def test_export_and_verify_ignore_the_alignment(tmp_path):
    """Export and verification use the biLM without its alignment."""
    arrays = write_bilm(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "hf")
    model = ElmoModel.from_pretrained(tmp_path / "hf")
    set_alignment(model, random_maps(model.config))
    model.save_pretrained(tmp_path / "hf")
    assert verify(tmp_path / "hf", tmp_path / "original").passed
    report = export(tmp_path / "hf", tmp_path / "back")
    assert any("alignment.maps" in note for note in report.notes)
    exported = read_hdf5(tmp_path / "back" / "weights.hdf5")
    assert {name: array.tobytes() for name, array in exported.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
