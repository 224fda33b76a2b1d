"""Vocabulary files are recognized by content and read once, with the originals' rules for lines."""

import gzip
from pathlib import Path

import pytest

from elmo_hf import ElmoTokenizer
from hub_upload import CheckpointError
from hub_upload.common.vocabulary import Vocabulary

WORDS = ["<S>", "</S>", "<UNK>", "a", "", "b\u2028c", "Größe"]
TEXT = "\ufeff!!!MAXTERMID\n<S> \r\n</S>\n<UNK>\n\ta\r\n\nb\u2028c\nGröße"


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.txt.gz"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_compression_is_detected_by_content(tmp_path, name, compress):
    path = tmp_path / name
    path.write_bytes(compress(TEXT.encode()))
    vocabulary = Vocabulary(path)
    assert vocabulary.words == WORDS
    assert len(vocabulary.lines) == len(WORDS) + 1
    # The words as the tokenizer reads the file.
    assert ElmoTokenizer(vocab_file=path).get_vocab() == ElmoTokenizer(vocab=vocabulary.words).get_vocab()


def test_the_file_is_read_once_and_only_when_needed(tmp_path, monkeypatch):
    path = tmp_path / "v"
    vocabulary = Vocabulary(path)
    path.write_bytes(gzip.compress(TEXT.encode()))
    opened = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read_bytes(self))
    for _ in range(2):
        assert vocabulary.words == WORDS
    assert vocabulary.lines
    assert opened == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<S>\n</S>\n\xff\n", "v, line 3: byte 0xff"),
        (gzip.compress(b"<S>\n\xff\n"), r"v, line 2: byte 0xff"),
        (gzip.compress(b"<S>\n" * 100)[:-5], "v: damaged gzip"),
        (b"<S>\nthe\n\nthe \n", r"v, line 4: the word 'the' .* 2[;:]"),
    ],
    ids=["plain", "in gzip", "cut short", "listed twice"],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        _ = Vocabulary(tmp_path / "v").words
