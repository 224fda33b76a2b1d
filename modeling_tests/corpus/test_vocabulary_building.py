"""Vocabulary building: counts, order, limits, files, several processes, and refused files."""

from collections import Counter

import pytest

from elmo_hf import ElmoTokenizer
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.vocabulary_building import Vocabulary, build_vocabulary, check_vocabulary_file, counts_path

TEXT = ["the cat sat .", "the dog sat .", "a cat <UNK> <S> <pad>", "the end"]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.from_sentences(TEXT)


def test_words_by_falling_count_then_spelling(corpus):
    vocabulary = build_vocabulary(corpus, progress=False)
    assert vocabulary.words == ("<S>", "</S>", "<UNK>", "the", ".", "cat", "sat", "a", "dog", "end")
    assert vocabulary.counts == (4, 4, 3, 3, 2, 2, 2, 1, 1, 1)
    assert vocabulary.sentences == 4
    assert vocabulary.running_words == sum(len(line.split()) for line in TEXT) == 15
    assert vocabulary.coverage == pytest.approx(1 - 3 / 15, rel=1e-12)


def test_minimum_count_and_maximum_size(corpus):
    vocabulary = build_vocabulary(corpus, min_count=2, progress=False)
    assert vocabulary.words[3:] == ("the", ".", "cat", "sat")
    assert vocabulary.counts[2] == 6
    smaller = build_vocabulary(corpus, min_count=2, max_size=5, progress=False)
    assert smaller.words[3:] == ("the", ".")
    assert smaller.running_words == vocabulary.running_words


def test_raw_text(corpus):
    vocabulary = build_vocabulary(Corpus.from_sentences(["Don't stop."]), pre_tokenization="ptb", progress=False)
    assert set(vocabulary.words[3:]) == {"Do", "n't", "stop", "."}


def test_processes_do_not_change_the_result(tmp_path):
    lines = [" ".join(f"w{(i * j) % 97}" for j in range(1, 12)) for i in range(400)]
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    corpus = open_corpus(path, shard_bytes=2000)
    assert len(corpus.shards) > 4
    alone = build_vocabulary(corpus, progress=False)
    assert build_vocabulary(corpus, num_processes=2, progress=False) == alone
    assert dict(zip(alone.words[3:], alone.counts[3:])) == Counter(" ".join(lines).split())


def test_worker_errors_are_raised(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"good line\n" * 30 + b"bad \xff\n" + b"good line\n" * 30)
    with pytest.raises(ValueError, match=r"text\.txt, line 31"):
        build_vocabulary(open_corpus(path, shard_bytes=200), num_processes=2, progress=False)


def test_progress_goes_to_stderr(corpus, capsys):
    build_vocabulary(corpus)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "15.0 words" in captured.err


def test_save_load_and_tokenizer_round_trip(corpus, tmp_path):
    vocabulary = build_vocabulary(corpus, progress=False)
    vocabulary.save(tmp_path / "vocab.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocab.counts.tsv", "vocab.txt"]
    assert (tmp_path / "vocab.txt").read_text().splitlines() == list(vocabulary.words)
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary
    tokenizer = ElmoTokenizer(tmp_path / "vocab.txt")
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<S>", "the", "<mask>"]) == [0, 1, 4, len(vocabulary.words) + 1]
    vocabulary.save(tmp_path / "other.txt", counts=False)
    assert not counts_path(tmp_path / "other.txt").exists()


def test_a_failed_save_leaves_the_old_files(corpus, tmp_path, monkeypatch):
    vocabulary = build_vocabulary(corpus, progress=False)
    vocabulary.save(tmp_path / "vocab.txt")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        build_vocabulary(corpus, max_size=4, progress=False).save(tmp_path / "vocab.txt")
    monkeypatch.undo()
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary
    assert len(list(tmp_path.iterdir())) == 2


def test_words_with_unusual_characters_round_trip(tmp_path):
    words = ["naïve", "漢字", "\u200bzero", '"', "a\u2028b".split()[0], "😀"]
    vocabulary = build_vocabulary(Corpus.from_sentences([" ".join(words)]), progress=False)
    vocabulary.save(tmp_path / "vocab.txt")
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary
    assert set(words) == set(vocabulary.words[3:])


def test_words_not_storable_in_a_line_count_as_unknown(tmp_path):
    """A word with NUL leaves no file of counts without its vocabulary."""
    words = ["a\0b", "c", "\ud800", "New York", "a\tb", "d\n", "", "\u3000"]
    with pytest.warns(UserWarning, match="5 of 9 words") as told:
        vocabulary = build_vocabulary(Corpus.from_sentences([words, ["c"]]), progress=False)
    assert len(told) == 1
    assert vocabulary.words[3:] == ("c", "New York", "a\tb") and vocabulary.counts[2] == 5
    vocabulary.save(tmp_path / "vocab.txt")
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary
    # Of a vocabulary made otherwise, neither file appears.
    wrong = Vocabulary((*vocabulary.words, "e\0"), (*vocabulary.counts, 1))
    for name in ("vocab.txt", "other.txt"):
        with pytest.raises(ValueError, match=r"word 'e\\x00'"):
            wrong.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocab.counts.tsv", "vocab.txt"]
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary


def test_long_words_are_reported_once(corpus):
    text = ["x" * 49, "短" * 17, "短" * 16, "ok ok"]
    with pytest.warns(UserWarning, match=r"2 of 5 words \(40\.00%\).*48 bytes") as told:
        build_vocabulary(Corpus.from_sentences(text), progress=False)
    assert len(told) == 1


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_count": 0}, "min_count=0"),
        ({"max_size": 3}, "max_size=3"),
        ({"num_processes": 0}, "num_processes=0"),
        ({"pre_tokenization": "spaces"}, "pre_tokenization is 'spaces'"),
        ({"min_count": 9}, "word.* 9 times.*min_count.* 3"),
    ],
)
def test_impossible_arguments_are_named(corpus, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_vocabulary(corpus, progress=False, **arguments)


def test_a_corpus_without_words_is_refused(tmp_path):
    path = tmp_path / "blank.txt"
    path.write_text("\n  \n")
    with pytest.raises(ValueError, match=r"blank\.txt.*no word"):
        build_vocabulary(open_corpus(path), progress=False)


def test_missing_special_tokens_and_duplicates_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("<S>\nthe\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: no line for </S>, <UNK>"):
        check_vocabulary_file(path)
    path.write_text("<S>\n</S>\n<UNK>\nthe\ncat\nthe\n")
    with pytest.raises(ValueError, match=r"vocab\.txt.*6.*'the'.*4"):
        check_vocabulary_file(path)
    with pytest.raises(FileNotFoundError):
        check_vocabulary_file(tmp_path / "missing.txt")


def test_a_vocabulary_of_special_tokens_alone_is_refused(tmp_path):
    """A model would only predict the unknown word: loss 0, perplexity 1."""
    (tmp_path / "vocab.txt").write_text("<S>\n</S>\n<UNK>\n!!!MAXTERMID\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: no word besides <S>, </S>, <UNK>"):
        check_vocabulary_file(tmp_path / "vocab.txt")


def test_counts_of_other_words_are_refused(corpus, tmp_path):
    build_vocabulary(corpus, progress=False).save(tmp_path / "vocab.txt")
    counts_path(tmp_path / "vocab.txt").write_text("<S>\t1\n")
    with pytest.raises(ValueError, match=rf"{counts_path(tmp_path / 'vocab.txt').name}.*vocab\.txt"):
        Vocabulary.load(tmp_path / "vocab.txt")
