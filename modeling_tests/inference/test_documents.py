"""Documents in chunks, compared with the whole documents."""

import weakref

import numpy as np
import pytest
import torch

from elmo_hf import ElmoModel, ElmoTokenizer, embed, embed_document
from elmo_hf.inference.chunks import Spool
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", *"the cat sat on a mat , . !".split()]


def tiny_model(scale=0.7, **overrides):
    model = ElmoModel(tiny_config(vocab_size=len(WORDS) + 2, mask_token_id=13, **overrides))
    return with_large_weights(model, scale).eval()


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, padding_side=request.param)


def check_equal(found, whole, bound=1e-6):
    assert found.dtype == whole.dtype and found.shape == whole.shape
    assert np.abs(found - whole).max(initial=0) <= bound * max(1, np.abs(whole).max(initial=0))


def document(count, seed=0):
    return np.random.default_rng(seed).choice([*WORDS[3:], "", "Straße", "<S>"], size=count).tolist()


@pytest.mark.samples(8)
@pytest.mark.parametrize("layers", ["mix", "all"])
@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize(
    "reads",
    [
        {},
        WORD_INPUT,
        BOTH_INPUTS,
        {"context_word_layer": True},
        {"num_hidden_layers": 3, "use_skip_connections": False},
    ],
    ids=["characters", "words", "both", "context", "deep"],
)
def test_equal_to_the_whole(tokenizer, layers, boundaries, reads):
    model, words = tiny_model(**reads), document(23)
    (whole,) = embed([words], model, tokenizer, layers=layers, boundaries=boundaries)
    for chunk_words in (1, 5, 22, 23, 100):
        chunks = list(
            embed_document(words, model, tokenizer, layers=layers, boundaries=boundaries, chunk_words=chunk_words)
        )
        assert len(chunks) == -(-23 // chunk_words)
        found = np.concatenate(chunks, axis=-2)
        check_equal(found, whole)


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["top", "average"])
def test_states_cross_the_borders(tokenizer, layers):
    """A chunk read alone has other vectors at its borders: those of a document's ends."""
    model, words = tiny_model(0.4, cell_clip=3.0, projection_clip=3.0), document(15)
    (whole,) = embed([words], model, tokenizer, layers=layers)
    chunks = list(embed_document(words, model, tokenizer, layers=layers, chunk_words=5))
    check_equal(np.concatenate(chunks), whole)
    (alone,) = embed([words[5:10]], model, tokenizer, layers=layers)
    assert np.abs(alone - chunks[1])[0, :4].max() > 1e-3 and np.abs(alone - chunks[1])[-1, 4:].max() > 1e-3


@pytest.mark.slow
def test_other_dtypes_and_training_mode(tokenizer):
    words = document(20)
    model = tiny_model(representation_dropout=0.5).train()
    chunks = np.concatenate(list(embed_document(words, model, tokenizer, chunk_words=6)))
    check_equal(chunks, embed([words], model, tokenizer)[0])
    assert model.training
    for dtype, bound in ((torch.float64, 1e-13), (torch.bfloat16, 0.02)):
        model.to(dtype)
        found = np.concatenate(list(embed_document(words, model, tokenizer, chunk_words=6)))
        (whole,) = embed([words], model, tokenizer)
        check_equal(found, whole, bound)


def test_texts_streams_and_empty_documents(tokenizer):
    model, text = tiny_model(), "The cat (a cat) sat on the mat."
    (whole,) = embed([text], model, tokenizer)
    found = np.concatenate(list(embed_document(text, model, tokenizer, chunk_words=4)))
    check_equal(found, whole)
    stream = (word for word in ["the", "cat", "sat"])
    (expected,) = embed([["the", "cat", "sat"]], model, tokenizer)
    found = np.concatenate(list(embed_document(stream, model, tokenizer, chunk_words=2)))
    check_equal(found, expected)
    for boundaries, count in ((False, 0), (True, 2)):
        (empty,) = embed_document([], model, tokenizer, boundaries=boundaries)
        assert np.array_equal(empty, embed([[]], model, tokenizer, boundaries=boundaries)[0])
        assert empty.shape == (count, 8)


def test_without_added_boundaries():
    bare = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, add_bos_token=False, add_eos_token=False)
    model, words = tiny_model(), document(9)
    found = np.concatenate(list(embed_document(words, model, bare, chunk_words=4)))
    check_equal(found, embed([words], model, bare)[0])


def test_model_and_tokenizer_from_a_folder(tmp_path, tokenizer):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    words = document(9)
    found = np.concatenate(list(embed_document(words, tmp_path, chunk_words=4)))
    check_equal(found, embed([words], model, tokenizer)[0])


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["mix", "all"])
def test_pos_tags(tokenizer, layers):
    tagger = ElmoTokenizer(
        vocab=WORDS, max_characters_per_word=9, padding_side=tokenizer.padding_side, pos_tag_set=["N", "D"]
    )
    model = tiny_model(**WORD_INPUT, num_pos_tags=2)
    words = document(23)
    tags = np.random.default_rng(1).choice(["N", "D", None], size=23).tolist()
    (whole,) = embed([words], model, tagger, pos_tags=[tags], layers=layers)
    for chunk_words in (1, 5, 23, 100):
        found = embed_document(iter(words), model, tagger, pos_tags=iter(tags), layers=layers, chunk_words=chunk_words)
        check_equal(np.concatenate(list(found), axis=-2), whole)
    others = list(embed_document(words, model, tagger, pos_tags=tags[::-1], layers=layers, chunk_words=5))
    assert np.abs(np.concatenate(others, axis=-2) - whole).max() > 1e-3
    (empty,) = embed_document([], model, tagger, pos_tags=[], layers=layers)
    assert empty.shape[-2] == 0
    plain = tiny_model(**WORD_INPUT)  # reads none
    found = np.concatenate(list(embed_document(words, plain, tagger, pos_tags=tags, layers=layers, chunk_words=5)), -2)
    check_equal(found, embed([words], plain, tagger, layers=layers)[0])


def test_refused_pos_tags(tokenizer):
    tagger = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, pos_tag_set=["N", "D"])
    model = tiny_model(**WORD_INPUT, num_pos_tags=2)
    with pytest.raises(ValueError, match="num_pos_tags=2.*Expected pos_tags"):
        embed_document(["a"], model, tagger)
    with pytest.raises(ValueError, match="0.*num_pos_tags=2"):
        embed_document(["a"], model, tokenizer, pos_tags=["N"])
    with pytest.raises(ValueError, match="words.*'a cat'"):
        embed_document("a cat", model, tagger, pos_tags=["N", "D"])
    with pytest.raises(TypeError, match="pos_tags.*'ND'"):
        embed_document(["a", "cat"], model, tagger, pos_tags="ND")
    for error, tags, message in (
        (ValueError, ["N"], "pos_tags and words.* 1,"),
        (ValueError, ["N", "D", "N"], "pos_tags and words.* 2,"),
        (ValueError, ["N", "Q"], "'Q'.*pos_tag_set: N, D"),
        (TypeError, ["N", 1], "tag 1 is 1 .*int"),
    ):
        with pytest.raises(error, match=message):
            list(embed_document(["a", "cat"], model, tagger, pos_tags=tags, chunk_words=1))


class Word(str):
    """A text whose lifetime can be observed."""


@pytest.mark.slow
def test_memory_does_not_depend_on_the_length(monkeypatch):
    """Memory holds the words of at most two chunks and the vectors of one; the rest is on disk."""
    monkeypatch.setattr("elmo_hf.inference.chunks._MEMORY_BYTES", 64)
    spools, words, arrays = [], [], []
    original = Spool.__init__

    def watched(self):
        original(self)
        spools.append(self)

    monkeypatch.setattr(Spool, "__init__", watched)
    model, tokenizer = tiny_model(), ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)

    def stream():
        for number in range(200):
            word = Word(WORDS[3 + number % 9])
            words.append(weakref.ref(word))
            assert sum(reference() is not None for reference in words) <= 43
            yield word

    for array in embed_document(stream(), model, tokenizer, layers="all", chunk_words=20):
        assert sum(reference() is not None for reference in words) <= 2  # Python's enumerate keeps its last
        arrays.append(weakref.ref(array if array.base is None else array.base))
        assert sum(reference() is not None for reference in arrays) <= 2
        words_of_chunks, spare, states = spools
        assert (len(words_of_chunks), len(spare), len(states)) == (10, 0, 9)
        assert words_of_chunks._file._rolled and states._file._rolled, "in a file"
    assert len(arrays) == 10 and len(words) == 200


def test_spool(monkeypatch):
    monkeypatch.setattr("elmo_hf.inference.chunks._MEMORY_BYTES", 8)
    pieces = [b"abc", b"", b"defghijkl", b"m"]
    with Spool() as spool:
        for number, piece in enumerate(pieces):
            spool.append(piece)
            assert spool[number // 2] == pieces[number // 2]
        assert list(spool) == pieces and len(spool) == 4
        with pytest.raises(IndexError):
            spool[4]


def test_refusals(tokenizer):
    with pytest.raises(ValueError, match="encoder_type='transformer'.*Transformer"):
        embed_document(["a"], tiny_model(**TRANSFORMER), tokenizer)
    normalized = tiny_model(scalar_mix_layer_norm="tokens")
    with pytest.raises(ValueError, match="scalar_mix_layer_norm='tokens'.*Choose layers='all'.*'top'.*'average'"):
        embed_document(["a"], normalized, tokenizer)
    assert len(list(embed_document(["a"], normalized, tokenizer, layers="top"))) == 1
    with pytest.raises(ValueError, match="chunk_words=0.*1"):
        embed_document(["a"], tiny_model(), tokenizer, chunk_words=0)
    with pytest.raises(TypeError, match="words.*5"):
        embed_document(5, tiny_model(), tokenizer)
    with pytest.raises(TypeError, match="word 1.*5.*int.*str"):
        list(embed_document(["a", 5], tiny_model(), tokenizer))
