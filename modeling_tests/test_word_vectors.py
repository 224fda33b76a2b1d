"""Word vectors from files: every format, and every error in a file."""

import gzip

import numpy as np
import pytest
import torch

from elmo_hf import (
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
    read_word_vectors,
    start_from_word_vectors,
)

from .tiny import tiny_config

VECTORS = {
    "the": [0.5, -1.0, 2.0],
    "cat": [0.25, 1e-3, -3.5],
    "Paris": [1.0, 2.0, 3.0],
    "paris": [-1.0, -2.0, -3.0],
    "straße": [0.125, 0.0, -0.0625],
}
WORDS = ["cat", "Paris", "The", "unseen", "straße"]
FOUND = np.array([VECTORS["cat"], VECTORS["Paris"], VECTORS["the"], [0, 0, 0], VECTORS["straße"]], dtype=np.float32)


def glove(vectors=VECTORS) -> bytes:
    return "".join(f"{word} {' '.join(map(repr, vector))}\n" for word, vector in vectors.items()).encode()


def word2vec(vectors=VECTORS) -> bytes:
    return f"{len(vectors)} 3\n".encode() + glove(vectors)


def binary(vectors=VECTORS, after=b"\n") -> bytes:
    entries = [word.encode() + b" " + np.array(vector, "<f4").tobytes() + after for word, vector in vectors.items()]
    return f"{len(vectors)} 3\n".encode() + b"".join(entries)


FORMS = {
    "glove": glove(),
    "word2vec": word2vec(),
    "fasttext": b"".join(line + b" \n" for line in word2vec().splitlines()),
    "windows": b"\xef\xbb\xbf" + glove().replace(b"\n", b"\r\n"),
    "old Macintosh": glove().replace(b"\n", b"\r"),
    "without the last line break": glove()[:-1],
    "binary": binary(),
    "binary without line breaks": binary(after=b""),
    "glove.gz": gzip.compress(glove()),
    "binary.gz": gzip.compress(binary()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_vectors(form, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(FORMS[form])
    read = read_word_vectors(path, WORDS, size=3)
    np.testing.assert_array_equal(read.vectors, FOUND)
    assert read.vectors.dtype == np.float32
    assert read.exact.tolist() == [True, True, False, False, True]
    assert read.lowercased.tolist() == [False, False, True, False, False]
    assert read.found.tolist() == [True, True, True, False, True]
    assert read.duplicates == 0
    assert np.array_equal(read_word_vectors(path, WORDS).vectors, FOUND)


def test_files_larger_than_a_chunk(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = {f"word{index}": rng.standard_normal(3).round(4).tolist() for index in range(2000)}
    monkeypatch.setattr("elmo_hf.word_vectors.CHUNK", 1000)
    monkeypatch.setattr("elmo_hf.word_vectors.ENTRIES_A_REPORT", 7)
    for content in (glove(vectors), word2vec(vectors), binary(vectors), gzip.compress(binary(vectors))):
        (tmp_path / "vectors").write_bytes(content)
        read = read_word_vectors(tmp_path / "vectors", list(vectors), progress=True)
        np.testing.assert_array_equal(read.vectors, np.array(list(vectors.values()), dtype=np.float32))


def test_lowercase_option(tmp_path):
    (tmp_path / "vectors").write_bytes(glove())
    read = read_word_vectors(tmp_path / "vectors", WORDS, lowercase=False)
    assert read.found.tolist() == [True, True, False, False, True]
    assert not read.vectors[2].any()
    # The exact form takes precedence, wherever it is in the file.
    (tmp_path / "vectors").write_bytes(glove(dict(reversed(VECTORS.items()))))
    assert read_word_vectors(tmp_path / "vectors", ["Paris", "PARIS"]).vectors.tolist() == [[1, 2, 3], [-1, -2, -3]]


def test_the_first_of_duplicates_wins(tmp_path):
    (tmp_path / "vectors").write_bytes(glove() + b"cat 9 9 9\ndog 1 1 1\ndog 2 2 2\ncat 8 8 8\n")
    read = read_word_vectors(tmp_path / "vectors", WORDS)
    np.testing.assert_array_equal(read.vectors, FOUND)
    assert read.duplicates == 2


def test_words_with_spaces_are_words(tmp_path):
    """Words with spaces, such as `. . .` in GloVe's vectors of 840 billion words."""
    (tmp_path / "vectors").write_bytes(glove() + b". . . 1 2 3\nat name@domain.com 4 5 6\n")
    found = read_word_vectors(tmp_path / "vectors", [". . .", "at name@domain.com", "name@domain.com"])
    assert found.vectors.tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]


def test_unusual_words(tmp_path):
    # Line separators of Unicode are ordinary characters; a lone surrogate stands in no file.
    (tmp_path / "vectors").write_bytes("a\u2028b 1 2 3\n\u00a0 4 5 6\n7 7 8 9\n".encode())
    found = read_word_vectors(tmp_path / "vectors", ["a\u2028b", "\u00a0", "7", "\ud800"])
    assert found.vectors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]]


BAD = {
    "empty": (b"", "line 1: empty"),
    "too few numbers": (glove() + b"dog 1 2\n", r"line 6: 'dog 1 2' has 2 numbers; expected 3"),
    "too many numbers": (glove() + b"dog 1 2 3 4\n", r"line 6: 'dog 1 2 3 4' has 4 numbers; expected 3"),
    "cut off": (glove()[:-12], "line 5: .*expected 3"),
    "no numbers": (b"the cat sat\n", "line 1: 'the cat sat'"),
    "no number": (glove() + b"unseen 1 2,5 3\n", "line 6: '2,5'.*word 'unseen'"),
    "not a number": (glove() + b"unseen 1 nan 3\n", "line 6: .*'unseen' holds nan"),
    "too large": (glove() + b"unseen 1 1e39 3\n", "line 6: .*'unseen' holds inf"),
    "latin-1": (glove() + b"caf\xe9 1 2 3\n", "line 6: byte 0xe9.*UTF-8"),
    "fewer words than promised": (b"6 3\n" + glove(), "line 6.*5 words.*6"),
    "more words than promised": (b"4 3\n" + glove(), "line 6.*5 words.*4"),
    "truncated binary": (binary()[:-5], "word 5: the file ends.* 5 words of 3 float32"),
    "binary without words": (b"5 3\n\0\0\0", "word 1: the file ends"),
    "longer binary": (binary() + b"more", "word 5"),
    "infinite binary": (binary(VECTORS | {"unseen": [0, np.inf, 0]}), "word 6: .*'unseen' holds"),
    "latin-1 binary": (binary().replace("straße".encode(), b"stra\xdfe"), "word 5: byte 0xdf.*UTF-8"),
    "truncated gzip": (gzip.compress(glove())[:-20], "damaged gzip"),
    "damaged gzip": (gzip.compress(glove())[:20] + b"\0" * 40, "damaged gzip"),
    "zip": (b"PK\x03\x04 and so on", "a zip archive"),
    "no columns": (b"3 0\na\nb\nc\n", "line 1: vectors of no numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(case, tmp_path):
    content, message = BAD[case]
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_word_vectors(path, WORDS)
    assert str(caught.value).startswith(str(path))


def test_another_size_is_refused(tmp_path):
    for content in (glove(), word2vec(), binary()):
        (tmp_path / "vectors").write_bytes(content)
        with pytest.raises(ValueError, match="line 1.*3 numbers.*5"):
            read_word_vectors(tmp_path / "vectors", WORDS, size=5)
    (tmp_path / "vectors").write_bytes(glove())
    with pytest.raises(ValueError, match='line 1: .*format="text"'):
        read_word_vectors(tmp_path / "vectors", WORDS, format="word2vec-binary")
    with pytest.raises(FileNotFoundError):
        read_word_vectors(tmp_path / "other", WORDS)


class TestStart:
    @pytest.fixture
    def tokenizer(self):
        return ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *WORDS, *"uvwxyz"], max_characters_per_word=9)

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "vectors.txt").write_bytes(glove(VECTORS | {"<unk>": [4.0, 4.0, 4.0]}))
        return tmp_path / "vectors.txt"

    def config(self, tokenizer, **overrides):
        return tiny_config(**{"vocab_size": len(tokenizer), "word_vector_size": 3, **overrides})

    @pytest.mark.parametrize("trained", [True, False])
    def test_a_tasks_own_vectors(self, tokenizer, path, trained, tmp_path):
        model = ElmoForTokenClassification(self.config(tokenizer, train_word_vectors=trained))
        report = start_from_word_vectors(model, tokenizer, path)
        table = model.task_layers.word_vectors.word_embeddings.weight
        ids = tokenizer.convert_tokens_to_ids(["<UNK>", *(word for word in WORDS if word != "unseen")])
        known = torch.tensor([[4.0, 4.0, 4.0], *FOUND[[0, 1, 2, 4]].tolist()])
        assert torch.equal(table[ids], known)
        assert (table[0] == 0).all()
        assert (report.words, report.exact, report.lowercased, report.missing) == (15, 3, 2, 10)
        assert report.table == "task" and report.path == path and report.token_coverage is None
        assert report.coverage == 5 / 15
        assert str(report) == f"{path}: vectors of 5 of 15 words (33.3%), 2 of them in lower case only"
        assert table.requires_grad == trained
        # The vectors are saved in the checkpoint, and frozen ones stay frozen.
        model.save_pretrained(tmp_path / "model")
        again = ElmoForTokenClassification.from_pretrained(tmp_path / "model")
        assert torch.equal(again.task_layers.word_vectors.word_embeddings.weight, table)
        assert again.task_layers.word_vectors.word_embeddings.weight.requires_grad == trained

    def test_words_without_a_vector_are_drawn_like_the_others(self, path):
        tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *WORDS, *map(str, range(4000))])
        model = ElmoForTokenClassification(self.config(tokenizer))
        start_from_word_vectors(model, tokenizer, path, seed=3)
        table = model.task_layers.word_vectors.word_embeddings.weight.detach().clone()
        known = torch.tensor([[4.0, 4.0, 4.0], *FOUND[[0, 1, 2, 4]].tolist()])
        drawn = table[tokenizer.convert_tokens_to_ids(list(map(str, range(4000))))]
        torch.testing.assert_close(drawn.mean(0), known.mean(0), rtol=0, atol=0.2)
        torch.testing.assert_close(drawn.std(0), known.std(0, correction=0), rtol=0.05, atol=0)
        torch.randn(7)  # whatever else was drawn
        start_from_word_vectors(model, tokenizer, path, seed=3)
        assert torch.equal(model.task_layers.word_vectors.word_embeddings.weight, table)
        start_from_word_vectors(model, tokenizer, path, seed=4)
        assert not torch.equal(model.task_layers.word_vectors.word_embeddings.weight, table)

    def test_coverage_of_tokens(self, tokenizer, path):
        model = ElmoForTokenClassification(self.config(tokenizer))
        counts = {"cat": 5, "The": 3, "unseen": 1, "not in the vocabulary": 1}
        report = start_from_word_vectors(model, tokenizer, path, counts=counts)
        assert report.token_coverage == 0.8
        assert "80.0% of the tokens" in str(report)
        report = start_from_word_vectors(model, tokenizer, path, counts=counts, lowercase=False)
        assert report.token_coverage == 0.5

    def test_the_words_of_a_bilm(self, tokenizer, path):
        words = {"character_filters": [], "word_embedding_size": 3, "projection_size": 3, "word_vector_size": 0}
        model = ElmoModel(self.config(tokenizer, **words))
        assert start_from_word_vectors(model, tokenizer, path).table == "bilm"
        cat = tokenizer.convert_tokens_to_ids("cat")
        assert model.embeddings.word_embeddings.weight[cat].tolist() == FOUND[0].tolist()

    def test_two_tables_need_a_choice(self, tokenizer, path):
        words = {"character_filters": [], "word_embedding_size": 3, "projection_size": 3}
        model = ElmoForTokenClassification(self.config(tokenizer, **words))
        with pytest.raises(ValueError, match='table="task".*or table="bilm"'):
            start_from_word_vectors(model, tokenizer, path)
        cat = tokenizer.convert_tokens_to_ids("cat")
        tables = {
            "task": model.task_layers.word_vectors.word_embeddings.weight,
            "bilm": model.elmo.embeddings.word_embeddings.weight,
        }
        for name, table in tables.items():
            assert table[cat].tolist() != FOUND[0].tolist()
            assert start_from_word_vectors(model, tokenizer, path, table=name).table == name
            assert table[cat].tolist() == FOUND[0].tolist()

    def test_mismatched_models_and_files_are_refused(self, tokenizer, path, tmp_path):
        plain = ElmoForTokenClassification(self.config(tokenizer, word_vector_size=0))
        with pytest.raises(ValueError, match="no table of words.*word_vector_size.*word_embedding_size"):
            start_from_word_vectors(plain, tokenizer, path)
        model = ElmoForTokenClassification(self.config(tokenizer))
        with pytest.raises(ValueError, match="table='bilm'.*'task'"):
            start_from_word_vectors(model, tokenizer, path, table="bilm")
        wide = ElmoForTokenClassification(self.config(tokenizer, word_vector_size=5))
        with pytest.raises(ValueError, match="1.*3.*5.*word_vector_size"):
            start_from_word_vectors(wide, tokenizer, path)
        small = ElmoForTokenClassification(self.config(tokenizer, vocab_size=9))
        with pytest.raises(ValueError, match="16.*9.*model.resize_token_embed"):
            start_from_word_vectors(small, tokenizer, path)
        (tmp_path / "other.txt").write_bytes(b"chat 1 2 3\n")
        before = model.task_layers.word_vectors.word_embeddings.weight.clone()
        with pytest.raises(ValueError, match="tokenizer's 15 words"):
            start_from_word_vectors(model, tokenizer, tmp_path / "other.txt")
        assert torch.equal(model.task_layers.word_vectors.word_embeddings.weight, before)

    def test_a_padded_table_in_half_precision(self, tokenizer, path):
        model = ElmoForTokenClassification(self.config(tokenizer, vocab_size=24)).to(torch.bfloat16)
        start_from_word_vectors(model, tokenizer, path)
        table = model.task_layers.word_vectors.word_embeddings.weight
        assert table.dtype == torch.bfloat16 and table.isfinite().all()
        assert table[tokenizer.convert_tokens_to_ids("Paris")].tolist() == [1, 2, 3]
