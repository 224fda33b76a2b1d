"""Carried state over the shards of a corpus, compared with `embed`; sentences as keys."""

import h5py
import pytest
import torch

from elmo_hf import OutputConflictError, embed, embed_corpus
from elmo_hf.corpus_embedding.carried import ShardStates
from elmo_hf.corpus_embedding.processes import Processes
from elmo_hf.corpus_embedding.shard_embedding import ShardEmbedder

from . import corpora
from .corpora import FORMATS, check_equal, model_and_tokenizer, read, tagger_and_tokenizer, write_text

OPTIONS = {"shard_words": 16, "chunk_words": 20, "progress": False}
CARRIED = {"carry_state": True, "rows": 3, "warm_up": 5}


def sentences(count=14):
    """Sentences, one of them long and one empty."""
    return corpora.sentences(count)


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text.txt", sentences())


@pytest.fixture(scope="module")
def both():
    torch.manual_seed(0)
    return model_and_tokenizer()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rows"), [("hdf5", 1), *((kind, 3) for kind in FORMATS)])
def test_equal_to_embed(text, tmp_path, both, kind, rows):
    """One sentence has 43 words and is read in chunks."""
    output = tmp_path / f"out.{kind}"
    carried = {**CARRIED, "rows": rows}
    summary = embed_corpus(text, output, *both, layers="all", **carried, **OPTIONS)
    assert summary.shards > 3
    check_equal(read(output), embed(sentences(), *both, layers="all", **carried), 1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", output.name}
    if kind != "hdf5":
        assert not list(output.glob("state-*"))


@pytest.mark.slow
def test_other_models(tmp_path):
    """A mix normalized over all words reads each row alone and long lines whole; the model also reads POS tags."""
    given = sentences(12)
    write_text(tmp_path / "in.txt", given)
    model, tokenizer = model_and_tokenizer(scalar_mix_layer_norm="tokens")
    embed_corpus(tmp_path / "in.txt", tmp_path / "a.h5", model, tokenizer, **CARRIED, **OPTIONS)
    check_equal(read(tmp_path / "a.h5"), embed(given, model, tokenizer, **CARRIED))
    tagger = tagger_and_tokenizer()
    write_text(tmp_path / "tagged.txt", [[f"{word}_N" for word in words] for words in given])
    embed_corpus(tmp_path / "tagged.txt", tmp_path / "b.h5", *tagger, pos_separator="_", **CARRIED, **OPTIONS)
    tags = [["N"] * len(words) for words in given]
    check_equal(read(tmp_path / "b.h5"), embed(given, *tagger, pos_tags=tags, **CARRIED))


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("place", ["shard", "state"])
def test_the_same_command_continues(text, tmp_path, both, monkeypatch, place):
    """Killed before a shard, or between its state and the shard: the result is bit-identical."""
    whole, output = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    total = embed_corpus(text, whole, *both, **CARRIED, **OPTIONS).shards
    owner, name = (ShardEmbedder, "write") if place == "shard" else (ShardStates, "end")
    original, done = getattr(owner, name), [0]

    def stop_after_two(*arguments):
        done[0] += 1
        if done[0] > 2 and place == "shard":
            raise Interrupted
        result = original(*arguments)
        if done[0] > 2:
            raise Interrupted
        return result

    monkeypatch.setattr(owner, name, stop_after_two)
    with pytest.raises(Interrupted):
        embed_corpus(text, output, *both, **CARRIED, **OPTIONS)
    monkeypatch.undo()
    for changed in ({"rows": 2}, {"warm_up": 4}, {"carry_state": False, "rows": 1, "warm_up": 0}):
        with pytest.raises(OutputConflictError, match=f"begun with {next(iter(changed))}="):
            embed_corpus(text, output, *both, **{**CARRIED, **changed}, **OPTIONS)
    assert embed_corpus(text, output, *both, **CARRIED, **OPTIONS).new_shards == total - 2
    files = {path.name: path.read_bytes() for path in output.iterdir()}
    assert files == {path.name: path.read_bytes() for path in whole.iterdir()}


@pytest.mark.slow
def test_missing_state_file_is_reported(text, tmp_path, both, monkeypatch):
    output = tmp_path / "out.safetensors"
    monkeypatch.setattr("elmo_hf.corpus_embedding.output.Output.finish", lambda *_: 1)
    embed_corpus(text, output, *both, **CARRIED, **OPTIONS)
    monkeypatch.undo()
    next(output.glob("embeddings-00002-*")).unlink()
    next(output.glob("state-00001-*")).unlink()
    with pytest.raises(ValueError, match="state-00001-of-.*overwrite"):
        embed_corpus(text, output, *both, **CARRIED, **OPTIONS)
    embed_corpus(text, output, *both, overwrite=True, **CARRIED, **OPTIONS)
    check_equal(read(output), embed(sentences(), *both, **CARRIED))


def test_several_processes_are_refused(text, tmp_path, both, monkeypatch):
    monkeypatch.setattr(Processes, "from_environment", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match="carry_state.*2"):
        embed_corpus(text, tmp_path / "out.h5", *both, **CARRIED, **OPTIONS)


class TestSentenceKeys:
    def test_keys_are_the_sentences(self, tmp_path, both):
        given = ["the cat", "1/2 a mat .", "a / b", "Straße"]
        (tmp_path / "in.txt").write_text("\n".join(given), encoding="utf-8")
        keys = {"use_sentence_keys": True, **OPTIONS, "shard_words": 2}
        embed_corpus(tmp_path / "in.txt", tmp_path / "out.h5", *both, **keys)
        expected = embed([line.split() for line in given], *both)
        with h5py.File(tmp_path / "out.h5") as file:
            found = [file[line][...] for line in given]
            assert "sentence_to_index" not in file and "0" not in file
        check_equal(found, expected)
        with pytest.raises(OutputConflictError, match="use_sentence_keys=True.*None"):
            embed_corpus(tmp_path / "in.txt", tmp_path / "out.h5", *both, **{**OPTIONS, "shard_words": 2})

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["a cat", "", "b"], "in.txt, line 2: a blank line"),
            (["a", "."], r"in.txt, line 2: the sentence '\.'"),
            (
                ["a cat", "b", "a cat"],
                "in.txt, line 3: the sentence 'a cat'.*in.txt, line 1",
            ),
            (["a", "a/b"], "line 2: the sentence 'a/b'.*line 1 "),
            (["a/b", "c", "a"], "line 3: the sentence 'a'.*line 1 "),
            (["a//b", "a/b"], "line 2: .*line 1 "),
            (["a", "a \0 b"], r"line 2: the sentence 'a \\x00 b'"),
        ],
    )
    def test_invalid_keys_are_refused(self, tmp_path, both, lines, message):
        (tmp_path / "in.txt").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=message):
            embed_corpus(tmp_path / "in.txt", tmp_path / "out.h5", *both, use_sentence_keys=True, **OPTIONS)
        assert not (tmp_path / "out.h5.parts").exists()

    def test_sentence_named_like_the_identifiers_is_refused(self, tmp_path, both):
        (tmp_path / "in.jsonl").write_text('{"text": "ids", "n": "x"}\n')
        options = {"id_column": "n", "use_sentence_keys": True, **OPTIONS}
        with pytest.raises(ValueError, match="'ids'.*HDF5"):
            embed_corpus(tmp_path / "in.jsonl", tmp_path / "out.h5", *both, **options)

    def test_other_formats(self, text, tmp_path, both):
        with pytest.raises(ValueError, match="use_sentence_keys.*format='parquet'"):
            embed_corpus(text, tmp_path / "out.parquet", *both, use_sentence_keys=True, **OPTIONS)


def test_one_layer(text, tmp_path, both):
    embed_corpus(text, tmp_path / "1.h5", *both, layers=1, **OPTIONS)
    check_equal(read(tmp_path / "1.h5"), [array[1] for array in embed(sentences(), *both, layers="all")])
    with pytest.raises(ValueError, match="layers=3.* 0 .* 2"):
        embed_corpus(text, tmp_path / "3.h5", *both, layers=3, **OPTIONS)
