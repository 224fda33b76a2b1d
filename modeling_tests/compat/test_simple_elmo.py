"""simple_elmo's class against `embed`, the language model, and bilm-tf's layers."""

import json

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoTokenizer, embed
from elmo_hf.compat.simple_elmo import ElmoModel
from hub_upload import convert
from modeling_tests.hub_upload.checkpoints import write_bilm, zip_folder
from modeling_tests.tiny import tiny_config, with_large_weights

VOCABULARY = ["<S>", "</S>", "<UNK>", "the", "cat", "sat", "on", "a", "mat"]
TEXTS = [["the", "cat"], ["a", "mat", "sat"], ["dog"], [], ["on"] * 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lm")
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, max_characters_per_word=9)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    with_large_weights(ElmoForPreTraining(config)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    model = ElmoModel()
    assert model.load(folder, max_batch_size=2) == "The model is now loaded."
    assert (model.batch_size, model.vector_size, model.n_layers, model.max_chars) == (2, 8, 3, 9)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["average", "top", "all"])
@pytest.mark.parametrize("warmup", [True, False])
def test_vectors(loaded, folder, layers, warmup):
    """The first batch is read twice, later ones from the state of the previous one; each call starts anew."""
    expected = embed(TEXTS, folder, layers=layers, carry_state=True, rows=2, warm_up=2 * warmup)
    for _ in range(2):
        found = loaded.get_elmo_vectors(TEXTS, warmup=warmup, layers=layers)
        assert found.dtype == np.float64 and found.shape == ((5, 3, 5, 8) if layers == "all" else (5, 5, 8))
        for row, array in zip(found, expected, strict=True):
            words = array.shape[-2]
            np.testing.assert_allclose(row[..., :words, :], array, rtol=0, atol=1e-6)
            assert not row[..., words:, :].any()


def test_session_carries_its_state(loaded, folder):
    expected = embed([*TEXTS[:2], *TEXTS[:2]], folder, layers="top", carry_state=True, rows=2)
    loaded.get_elmo_vectors(TEXTS[:2], warmup=False, layers="top")
    found = loaded.get_elmo_vectors(TEXTS[:2], warmup=False, layers="top", session=object())
    for row, array in zip(found, expected[2:], strict=True):
        np.testing.assert_allclose(row[: len(array)], array, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["average", "top", "all"])
def test_averages(loaded, folder, layers):
    found = loaded.get_elmo_vector_average(TEXTS, layers=layers)
    arrays = embed(TEXTS, folder, layers=layers, carry_state=True, rows=2, warm_up=2)
    for row, array in zip(found, arrays, strict=True):
        mean = array.sum(axis=-2)
        np.testing.assert_allclose(row, mean / max(np.linalg.norm(mean), 1e-9), rtol=0, atol=1e-6)
    assert not found[3].any()


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["average", "top", "all"])
def test_averages_over_padding(folder, layers):
    """The word layer at padding: the encoder's vector of a row of zeros."""
    model = ElmoModel(count_padding=True)
    model.load(folder, max_batch_size=2)
    found = model.get_elmo_vector_average(TEXTS, layers=layers)
    words = ElmoForPreTraining.from_pretrained(folder).elmo.embeddings
    rows = torch.zeros(1, 9, dtype=torch.int64)
    with torch.no_grad():
        padding = np.tile(words.encode(rows)[0].numpy(), 2)
    arrays = embed(TEXTS, folder, layers="all", carry_state=True, rows=2, warm_up=2)
    for number, (row, array) in enumerate(zip(found, arrays, strict=True)):
        longest = [3, 3, 1, 1, 5][number]
        padded = np.zeros((3, longest, 8))
        padded[:, : array.shape[1]] = array
        padded[0, array.shape[1] :] = padding
        chosen = {"all": padded, "top": padded[-1], "average": padded.mean(axis=0)}[layers]
        mean = chosen.sum(axis=-2) / longest
        np.testing.assert_allclose(row, mean / (np.linalg.norm(mean) or 1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_substitutes(folder):
    """The true word has the language model's probability in each direction's distribution."""
    model = ElmoModel()
    model.load(folder, max_batch_size=4, full=True)
    data = ["the cat sat", ["on", "a", "mat"], "cat", ""]
    sentences = [text.split() if isinstance(text, str) else text for text in data]
    found = model.get_elmo_substitutes(data, topn=9, nodelimiters=False)
    language_model, tokenizer = ElmoForPreTraining.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    assert [[each["word"] for each in sentence] for sentence in found] == sentences
    for words, sentence in zip(sentences, found, strict=True):
        output = language_model(**tokenizer([words], is_split_into_words=True, return_tensors="pt"))
        for direction, values in (("forward", output.forward_log_probs), ("backward", output.backward_log_probs)):
            for each, expected in zip(sentence, values[0, 1:-1].tolist(), strict=True):
                side = each[direction]
                assert side["logp"] == sorted(side["logp"], reverse=True)
                assert sorted(side["candidate_words"]) == sorted(VOCABULARY)
                assert [VOCABULARY[number] for number in side["candidates"]] == side["candidate_words"]
                np.testing.assert_allclose(np.exp(side["logp"]).sum(), 1, rtol=1e-5)
                true = side["logp"][side["candidate_words"].index(each["word"])]
                np.testing.assert_allclose(true, expected, rtol=0, atol=1e-5)
    short = model.get_elmo_substitutes(data, topn=2)
    assert len(short[0][0]["forward"]["logp"]) == 2
    assert not {"<S>", "</S>"} & {word for each in short[0] for word in each["forward"]["candidate_words"]}
    # The vectors are also returned.
    assert model.get_elmo_vectors(TEXTS).shape == (5, 5, 8)


@pytest.mark.slow
def test_vectors_equal_bilm_tf(reference, tmp_path):
    """bilm-tf's outputs, from a folder of the NLPL repository's form and from a ZIP, in batches of three."""
    files = reference / "bilm_tf"
    folder = tmp_path / "nlpl"
    folder.mkdir()
    (folder / "options.json").write_bytes((files / "options.json").read_bytes())
    (folder / "model.hdf5").write_bytes((files / "lm_weights.hdf5").read_bytes())
    zip_folder(folder, tmp_path / "nlpl.zip")
    lists = json.loads((files / "lm_embeddings_sentences.json").read_text())
    texts = [each[place].split() for place in range(10) for each in lists]
    for source in (folder, tmp_path / "nlpl.zip"):
        model = ElmoModel()
        model.load(source, max_batch_size=3)
        found = model.get_elmo_vectors(texts, warmup=False, layers="top")
        for number, row in enumerate(found):
            with h5py.File(files / f"lm_embeddings_{number % 3}.hdf5") as file:
                expected = np.concatenate(list(file[str(number // 3)][...]), axis=-1)
            np.testing.assert_allclose(row[: len(expected)], expected, rtol=0, atol=2e-6)


def test_a_language_model_of_the_original(tmp_path):
    write_bilm(tmp_path / "lm", vocabulary=VOCABULARY)
    model = ElmoModel()
    model.load(tmp_path / "lm", full=True)
    convert(tmp_path / "lm", tmp_path / "ours")
    found = model.get_elmo_substitutes(["the cat"], topn=1)
    same = ElmoModel()
    same.load(tmp_path / "ours", full=True)
    assert found == same.get_elmo_substitutes(["the cat"], topn=1)


def test_refusals(loaded, tmp_path):
    with pytest.raises(ValueError, match="layers='mix'.*'average'.*'top'.*'all'"):
        loaded.get_elmo_vectors(TEXTS, layers="mix")
    with pytest.raises(ValueError, match="full=True"):
        loaded.get_elmo_substitutes(["a"])
    with pytest.raises(ValueError, match="model=None.*load"):
        ElmoModel().get_elmo_vectors(TEXTS)
    with pytest.raises(TypeError, match="sentence 1.*'a cat'.*list"):
        loaded.get_elmo_vectors([["a"], "a cat"])
    write_bilm(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"lacks \d+ weights of ElmoForPreTraining, softmax\.bias"):
        ElmoModel().load(tmp_path / "bare", full=True)
