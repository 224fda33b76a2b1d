"""Vocabulary files and mappings, read through the tokenizer."""

import gzip
from pathlib import Path

import pytest

from elmo_hf import ElmoTokenizer
from elmo_hf.tokenizer import vocabulary
from elmo_hf.tokenizer.characters import character_ids_of_boundaries

VOCABULARY = ["<S>", "</S>", "<UNK>", "the", ".", "Mary", "do", "n't", "know", "(", ")", "New", "York", "ist", "naïve"]


@pytest.fixture(scope="module")
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer(vocab=VOCABULARY)


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def test_vocabulary_file(vocab_file: Path, tmp_path: Path, tokenizer: ElmoTokenizer) -> None:
    assert ElmoTokenizer(vocab_file).get_vocab() == tokenizer.get_vocab()
    assert ElmoTokenizer(vocab_file=str(vocab_file)).get_vocab() == tokenizer.get_vocab()
    packed = tmp_path / "vocab.txt.gz"
    packed.write_bytes(gzip.compress(vocab_file.read_bytes()))
    assert ElmoTokenizer(packed).get_vocab() == tokenizer.get_vocab()
    # Stripped, Windows line ends, a byte order mark, no last line end; a maximum term takes no id.
    lines = ["\ufeff<S> ", "</S>", "!!!MAXTERMID", "\t<UNK>", *VOCABULARY[3:]]
    vocab_file.write_bytes("\r\n".join(lines).encode())
    assert ElmoTokenizer(vocab_file).get_vocab() == tokenizer.get_vocab()


def test_words_of_a_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("<S>\n</S>\n<UNK>\n\na\u2028b\nA\na\n<mask>\n##x\nlast\n", encoding="utf-8")
    tokenizer = ElmoTokenizer(path)
    assert tokenizer.convert_tokens_to_ids(["", "a\u2028b", "A", "a", "<mask>", "##x", "last"]) == list(range(4, 11))
    assert len(tokenizer) == 11
    assert tokenizer(["", "x", "a"], is_split_into_words=True)["input_ids"] == [1, 4, 3, 7, 2]
    saved = tokenizer.save_vocabulary(str(tmp_path), "copy")
    assert saved == (str(tmp_path / "copy-vocab.txt"),)
    assert ElmoTokenizer(saved[0]).get_vocab() == tokenizer.get_vocab()


def test_vocabulary_as_list_or_mapping(tokenizer: ElmoTokenizer) -> None:
    ids = tokenizer.get_vocab()
    assert ElmoTokenizer(vocab=ids).get_vocab() == ids
    assert ElmoTokenizer(vocab=tuple(VOCABULARY)).get_vocab() == ids
    without_mask = {word: number for word, number in ids.items() if word != "<mask>"}
    assert ElmoTokenizer(vocab=without_mask).get_vocab() == ids
    named = ElmoTokenizer(
        vocab=["<s>", "</s>", "@@UNKNOWN@@", "a"], bos_token="<s>", eos_token="</s>", unk_token="@@UNKNOWN@@"
    )
    assert named("a b")["input_ids"] == [1, 4, 3, 2]
    assert named("a b")["character_ids"][0].tolist() == character_ids_of_boundaries(50)[0].tolist()


BAD_VOCABULARIES = {
    b"<S>\n</S>\n<UNK>\na\nb\na\n": "vocab.txt, line 6: the word 'a' .* 4[;:]",
    b"<S>\n</S>\n<UNK>\n\n\n": "vocab.txt, line 5: the word '' .* 4[;:]",
    b"<S>\na\n<UNK>\n": "vocab.txt: no entry for eos_token='</S>'.*eos_token=",
    b"": "vocab.txt: no entry for bos_token='<S>', eos_token='</S>', unk_token='<UNK>'",
    b"<S>\n</S>\n<UNK>\na\0b\n": "vocab.txt, line 4: a NUL byte",
    b"<S>\n</S>\n<UNK>\n\xe9t\xe9\n": "vocab.txt, line 4: byte 0xe9.*UTF-8",
    "<S>\n</S>\n<UNK>\n".encode("utf-16"): "vocab.txt, line 1: a NUL byte.*UTF-16",
    b"<S>\n</S>\n<UNK>\n<pad>\n": r"vocab.txt: lists '<pad>'.*pad_token=",
    # Without a time, because parameters are test names, which must be equal in all workers.
    gzip.compress(b"<S>\n</S>\n<UNK>\n" * 100, mtime=0)[:-12]: "vocab.txt: damaged gzip",
}


def test_decompressed_file_over_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vocab.txt.gz"
    path.write_bytes(gzip.compress(b"<S>\n</S>\n<UNK>\n" + b"a" * 2**20))
    monkeypatch.setattr(vocabulary, "ANY_RATIO_UP_TO", 2**20)
    with pytest.raises(ValueError, match="vocab.txt.gz.*1048576"):
        ElmoTokenizer(path)
    path.write_bytes(gzip.compress(b"<S>\n</S>\n<UNK>\n" + b"a" * 2**19))
    assert len(ElmoTokenizer(path)) == 6


@pytest.mark.parametrize(("content", "message"), BAD_VOCABULARIES.items())
def test_bad_vocabulary_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ElmoTokenizer(vocab_file=path)


def test_words_not_storable_in_a_line_are_refused(tmp_path: Path) -> None:
    tokenizer = ElmoTokenizer(vocab=[*VOCABULARY, "a\nb"])
    with pytest.raises(ValueError, match=r"'a\\nb'"):
        tokenizer.save_vocabulary(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotADirectoryError, match="nowhere"):
        tokenizer.save_vocabulary(str(tmp_path / "nowhere"))
