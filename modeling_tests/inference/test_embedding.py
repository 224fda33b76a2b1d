"""`embed`, compared with the model on one sentence at a time."""

import io
import sys
import weakref

import numpy as np
import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer, embed, embed_iter
from elmo_hf.inference.batching import BatchSize
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", *"the cat sat on a mat , . !".split()]
# Many lengths, unordered; texts and lists of words; two are empty.
SENTENCES = ["The cat (a cat) sat.", ["on"], "", ["the", "mat", "", "n't", "<S>", "(so)"], "cat", [], "a b c d e f g h"]

TRANSFORMER = {"encoder_type": "transformer", "num_attention_heads": 2, "feed_forward_size": 6}


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, padding_side=request.param)


def tiny_model(cls=ElmoModel, **overrides):
    return with_large_weights(cls(tiny_config(vocab_size=len(WORDS) + 2, mask_token_id=13, **overrides))).eval()


@torch.no_grad()
def one_at_a_time(model, tokenizer, sentence, layers, boundaries=False):
    batch = tokenizer(sentence, is_split_into_words=not isinstance(sentence, str), return_tensors="pt")
    output = model.bilm(**batch, output_hidden_states=True)
    all_layers = np.stack([layer[0].numpy() for layer in output.hidden_states])
    found = {
        "mix": output.last_hidden_state[0].numpy(),
        "top": all_layers[-1],
        "average": sum(all_layers) / len(all_layers),
        "all": all_layers,
        **dict(enumerate(all_layers)),
    }[layers]
    return found if boundaries else found[..., 1:-1, :]


@pytest.mark.samples(8)
@pytest.mark.parametrize("layers", ["mix", "top", "average", "all", 0, 1, 2])
@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("reads", [{}, WORD_INPUT, TRANSFORMER], ids=["characters", "words", "transformer"])
def test_one_sentence_at_a_time(tokenizer, layers, boundaries, reads):
    model = tiny_model(**reads)
    arrays = embed(SENTENCES, model, tokenizer, layers=layers, boundaries=boundaries)
    assert len(arrays) == len(SENTENCES)
    for array, sentence in zip(arrays, SENTENCES, strict=True):
        expected = one_at_a_time(model, tokenizer, sentence, layers, boundaries)
        assert type(array) is np.ndarray and array.dtype == np.float32 and array.base is None
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)
    empty = (3, 0, 8) if layers == "all" else (0, 8)
    if not boundaries:
        assert arrays[2].shape == arrays[5].shape == empty


@pytest.mark.slow
def test_pos_tags(tokenizer):
    tagger = ElmoTokenizer(
        vocab=WORDS, max_characters_per_word=9, padding_side=tokenizer.padding_side, pos_tag_set=["N", "D"]
    )
    model = tiny_model(num_pos_tags=2)
    words, tags = [["the", "mat", ""], [], ["cat"], ["mat"] * 7], [["D", "N", None], [], ["N"], [None] * 7]
    for options in ({}, {"batch_words": 4, "window": 1}):
        arrays = embed(words, model, tagger, pos_tags=iter(tags), **options)
        for array, sentence, given in zip(arrays, words, tags, strict=True):
            batch = tagger(sentence, pos_tags=given, is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                expected = model(**batch).last_hidden_state[0, 1:-1].numpy()
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)
    assert (arrays[2] != embed([["cat"]], model, tagger, pos_tags=[["D"]])[0]).any()
    plain = tiny_model()  # reads none
    np.testing.assert_array_equal(embed(words, plain, tagger, pos_tags=tags)[0], embed(words, plain, tagger)[0])
    with pytest.raises(ValueError, match="pos_tags and sentences.* 3"):
        embed(words, model, tagger, pos_tags=tags[:3])
    with pytest.raises(ValueError, match="'Q'.*pos_tag_set.*N.*D"):
        embed([["cat"]], model, tagger, pos_tags=[["Q"]])
    # The error comes before anything is read.
    with pytest.raises(ValueError, match="num_pos_tags=2.*Expected pos_tags"):
        embed_iter(words, model, tagger)
    with pytest.raises(ValueError, match="0.*num_pos_tags=2"):
        embed_iter(words, model, tokenizer, pos_tags=tags)


@pytest.mark.slow
def test_batches_and_windows_change_nothing():
    model, tokenizer = tiny_model(), ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)
    generator = np.random.default_rng(0)
    sentences = [generator.choice(WORDS[3:], size=size).tolist() for size in generator.integers(0, 15, 40)]
    expected = [one_at_a_time(model, tokenizer, sentence, "mix") for sentence in sentences]
    batches, original = [], model.forward
    model.forward = lambda **batch: batches.append(batch["input_ids"].shape) or original(**batch)
    for batch_words, window in [(1, 1), (9, 1), (9, 100), (30, 1), (30, 3), (30, 100), (10_000, 1)]:
        batches.clear()
        arrays = embed(sentences, model, tokenizer, batch_words=batch_words, window=window)
        for array, same in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(array, same, rtol=0, atol=1e-5)
        assert all(rows == 1 or rows * words <= batch_words for rows, words in batches)
        assert sum(rows for rows, _ in batches) == 40
        if window == 100:  # sorted over all sentences: nearly no padding
            assert sum(rows * words for rows, words in batches) < 1.1 * sum(len(each) + 2 for each in sentences)


def test_default_batch_size_depends_on_the_device(monkeypatch):
    model, asked = tiny_model(), []
    monkeypatch.setattr(BatchSize, "of", lambda *given: asked.append(given) or BatchSize(rows=3, words=30))
    batches, original = [], model.forward
    model.forward = lambda **batch: batches.append(len(batch["input_ids"])) or original(**batch)
    embed([["cat"]] * 7, model, ElmoTokenizer(vocab=WORDS, max_characters_per_word=9))
    assert (asked, batches) == ([(None, model.device)], [3, 3, 1])


@pytest.mark.slow
def test_stream_is_read_and_held_one_window_at_a_time():
    model, tokenizer = tiny_model(), ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)
    taken = []

    def stream():
        for number in range(200):
            taken.append(number)
            yield ["cat"] * 6  # eight with boundaries

    arrays = embed_iter(stream(), model, tokenizer, batch_words=16, window=4)
    assert not taken, "nothing is read before the first array is asked for"
    alive: list[weakref.ref] = []
    for number, array in enumerate(arrays):
        window = number // 8  # 64 words are eight sentences
        assert len(taken) == 8 * (window + 1)
        alive.append(weakref.ref(array))
        assert sum(reference() is not None for reference in alive) <= 8
    assert len(alive) == 200


@pytest.mark.slow
def test_batch_normalized_mixes_do_not_depend_on_other_sentences(tokenizer):
    for counted in ("words", "tokens"):
        model = tiny_model(scalar_mix_layer_norm=counted)
        arrays = embed(SENTENCES, model, tokenizer)
        for array, sentence in zip(arrays, SENTENCES, strict=True):
            np.testing.assert_allclose(array, one_at_a_time(model, tokenizer, sentence, "mix"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", [ElmoForPreTraining, ElmoForTokenClassification])
def test_any_model_with_a_bilm(tokenizer, cls):
    model = tiny_model(cls)
    expected = embed(SENTENCES, model.elmo, tokenizer)
    for array, same in zip(embed(SENTENCES, model, tokenizer), expected, strict=True):
        assert np.array_equal(array, same)


def test_model_and_tokenizer_from_a_folder(tmp_path, tokenizer):
    model = tiny_model(ElmoForTokenClassification)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = embed(SENTENCES, model, tokenizer)
    for source in (tmp_path, str(tmp_path)):
        for array, same in zip(embed(SENTENCES, source), expected, strict=True):
            np.testing.assert_allclose(array, same, rtol=0, atol=1e-6)
    half = embed(SENTENCES, tmp_path, dtype=torch.bfloat16)
    for array, same in zip(half, expected, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, same, rtol=0, atol=0.05)


def test_double_precision_is_kept(tokenizer):
    assert embed(["a cat"], tiny_model().double(), tokenizer)[0].dtype == np.float64


def test_the_model_keeps_its_mode_and_dropout_is_off(tokenizer):
    model = tiny_model(representation_dropout=0.5).train()
    first = embed(SENTENCES, model, tokenizer)
    assert model.training
    for array, same in zip(embed(SENTENCES, model.eval(), tokenizer), first, strict=True):
        assert np.array_equal(array, same)
    assert not model.training
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_without_added_boundaries(tokenizer):
    bare = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, add_bos_token=False, add_eos_token=False)
    model = tiny_model()
    arrays = embed([["the", "cat"], []], model, bare)
    batch = bare([["the", "cat"]], is_split_into_words=True, return_tensors="pt")
    np.testing.assert_allclose(arrays[0], model(**batch).last_hidden_state[0].detach().numpy(), rtol=0, atol=1e-6)
    assert arrays[1].shape == (0, 8)


def test_empty_input(tokenizer):
    assert embed([], tiny_model(), tokenizer) == []


@pytest.mark.parametrize("progress", [None, False, True])
def test_progress_bar(tokenizer, progress, monkeypatch):
    shown = io.StringIO()  # no terminal
    monkeypatch.setattr(sys, "stderr", shown)
    embed(SENTENCES, tiny_model(), tokenizer, progress=progress)
    assert ("7/7" in shown.getvalue()) == (progress is True)


class TestRefusals:
    def test_options(self, tokenizer):
        model = tiny_model()
        with pytest.raises(ValueError, match="layers='last'.*'mix', 'top', 'average', 'all'"):
            embed(["a"], model, tokenizer, layers="last")
        for name in ("batch_words", "window"):
            with pytest.raises(ValueError, match=f"{name}=0.*1"):
                embed_iter(["a"], model, tokenizer, **{name: 0})  # before the first array

    def test_sentences(self, tokenizer):
        model = tiny_model()
        with pytest.raises(TypeError, match="sentences.*'a text'"):
            embed_iter("a text", model, tokenizer)
        with pytest.raises(TypeError, match="sentence 1.*5.*int"):
            embed(["a", ["b", 5]], model, tokenizer)

    def test_models(self, tokenizer):
        with pytest.raises(TypeError, match="model.*Linear.*ElmoModel"):
            embed(["a"], torch.nn.Linear(2, 2))
        baseline = ElmoForTokenClassification(tiny_config(elmo_at=[], word_vector_size=4))
        with pytest.raises(ValueError, match=r"biLM \(elmo_at=\[\]\)"):
            embed(["a"], baseline, tokenizer)
        with pytest.raises(ValueError, match="tokenizer=None"):
            embed(["a"], tiny_model())
        with pytest.raises(ValueError, match="5 words.*vocab_size=14"):
            embed(["a"], tiny_model(**WORD_INPUT), ElmoTokenizer())

    def test_folder_of_a_model_without_bilm(self, tokenizer, tmp_path):
        ElmoForTokenClassification(tiny_config(elmo_at=[], word_vector_size=4)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=rf"{tmp_path} lacks \d+ weights of ElmoModel"):
            embed(["a"], tmp_path, tokenizer)
