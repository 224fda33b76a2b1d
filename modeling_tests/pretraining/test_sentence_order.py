"""The order in which a corpus is read: permutations, windows, epochs, positions."""

import json
import warnings
from pathlib import Path

import pytest

from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.pretraining.sentence_order import SentenceOrder

LINES = [f"sentence {number}" for number in range(230)]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def order(corpus, **options):
    return SentenceOrder(corpus, **{"seed": (0,), "epochs": 1, "shuffle": True, "window": 50, **options})


def test_an_order_is_a_permutation_of_each_epoch(tmp_path):
    corpus = open_corpus(write(tmp_path / "text.txt", LINES), shard_bytes=1000)
    given = list(order(corpus, epochs=2))
    first, second = given[: len(LINES)], given[len(LINES) :]
    assert sorted(first) == sorted(second) == sorted(LINES)
    assert len({tuple(first), tuple(second), tuple(LINES)}) == 3
    assert list(order(corpus, epochs=2)) == given
    assert list(order(corpus, seed=(1,))) != first
    assert list(order(corpus, shuffle=False, epochs=2)) == LINES * 2


def test_a_window_of_long_sentences_is_bounded_in_characters():
    corpus = Corpus.from_sentences(["word " * 2000] * 3000)
    running = order(corpus, window=2048)
    next(running)
    assert len(running._sentences) == 1024  # one request of a shard; 2048 would be 20 MB


def test_an_order_without_windows_or_epochs():
    corpus = Corpus.from_sentences(["a"])
    with pytest.raises(ValueError, match="window of 0"):
        order(corpus, window=0)
    with pytest.raises(ValueError, match="epochs=0"):
        order(corpus, epochs=0)


def test_a_corpus_cut_since_the_position_is_refused():
    running = order(Corpus.from_sentences(["a"] * 40))
    for _ in range(30):
        next(running)
    with pytest.raises(ValueError, match="epoch 0.*given sentences"):
        order(Corpus.from_sentences(["a"] * 20)).load_state_dict(running.state_dict())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("window", [1, 40, 10_000])
def test_every_position_continues(tmp_path, shuffle, window):
    corpus = open_corpus(write(tmp_path / "text.txt", LINES), shard_bytes=1000)
    given = list(order(corpus, shuffle=shuffle, window=window, epochs=2))
    running = order(corpus, shuffle=shuffle, window=window, epochs=2)
    for number in range(0, len(given) + 1, 23):
        resumed = order(corpus, shuffle=shuffle, window=window, epochs=2)
        resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
        assert list(resumed) == given[number:]
        for expected in given[number : number + 23]:
            assert next(running) == expected
    assert next(running, None) is None
    assert next(running, None) is None


def test_a_shard_of_blank_lines_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    write(tmp_path / "b.txt", LINES)
    with pytest.warns(UserWarning, match=r"a\.txt holds no sentence"):
        assert sorted(order(open_corpus(tmp_path / "*.txt"))) == sorted(LINES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the cuts of a long line's file are not worth a warning
        write(tmp_path / "b.txt", ["long " * 500, "short"])
        assert len(list(order(open_corpus(tmp_path / "b.txt", shard_bytes=100)))) == 2
