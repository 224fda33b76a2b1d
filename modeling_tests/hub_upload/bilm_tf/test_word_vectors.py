"""Tables of word vectors instead of characters, compared with the model that computed them."""

import gzip
import json

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer, embed
from hub_upload import CheckpointError, convert, verify
from hub_upload.cli import main
from modeling_tests.hub_upload.checkpoints import VOCABULARY, read_hdf5, write_bilm, write_hdf5
from modeling_tests.hub_upload.many_languages import write_model

SENTENCES = [["the", "neural", "."], [], ["neural", "the"]]


def vectors_of(folder, words):
    """Each word's vector from its characters, float32."""
    model = ElmoModel.from_pretrained(folder)
    rows = ElmoTokenizer(add_bos_token=False, add_eos_token=False)([words], is_split_into_words=True)["character_ids"]
    with torch.no_grad():
        return model.embeddings(torch.tensor(np.array(rows)), mask=torch.ones(1, len(words), dtype=torch.bool))[
            0
        ].numpy()


@pytest.fixture
def original(tmp_path):
    """A model over characters, its folder, and the vectors of its vocabulary."""
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    convert(tmp_path / "source", tmp_path / "characters")
    table = vectors_of(tmp_path / "characters", VOCABULARY)
    write_hdf5(tmp_path / "source" / "tokens.hdf5", {"embedding": table})
    return tmp_path / "source", tmp_path / "characters", table


def check_same(words, characters):
    for array, same in zip(
        embed(SENTENCES, words, layers="all"), embed(SENTENCES, characters, layers="all"), strict=True
    ):
        np.testing.assert_allclose(array, same, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_hdf5_token_embeddings(original, tmp_path):
    """The softmax has the same rows, and stays."""
    source, characters, table = original
    out = tmp_path / "words"
    report = convert(source, out, word_vectors=source / "tokens.hdf5")
    assert report.architecture == "ElmoForPreTraining" and report.source.endswith(", tokens.hdf5")
    check_same(out, characters)
    model = ElmoForPreTraining.from_pretrained(out)
    assert model.config.word_embedding_size == 6 and not model.config.character_filters
    assert np.array_equal(model.elmo.embeddings.word_embeddings.weight[1 : len(table) + 1].detach(), table)
    assert verify(out, source, word_vectors=source / "tokens.hdf5").passed
    # A word without a row is read as <UNK>.
    unknown, known = embed([["walrus"], ["<UNK>"]], out, layers="all")
    assert np.array_equal(unknown, known)


@pytest.mark.slow
def test_text(original, tmp_path):
    """AllenNLP's text format: gzip, with `@@UNKNOWN@@` first; words outside the vocabulary are not read."""
    source, characters, table = original
    words = ["@@UNKNOWN@@", "<S>", "</S>", "neural", "the", "."]
    rows = dict(zip(VOCABULARY, table, strict=True))
    with gzip.open(source / "elmo_embeddings.txt.gz", "wt", encoding="utf-8") as file:
        for word in [*words, "walrus"]:
            vector = rows.get("<UNK>" if word == "@@UNKNOWN@@" else word, table[0])
            file.write(f"{word} {' '.join(map(str, vector.tolist()))}\n")
    (source / "tokens.txt").write_text("".join(word + "\n" for word in words))
    given = {"word_vectors": source / "elmo_embeddings.txt.gz", "vocabulary": source / "tokens.txt"}
    report = convert(source / "weights.hdf5", tmp_path / "words", without_softmax=True, **given)
    assert report.vocab_size == 8
    check_same(tmp_path / "words", characters)
    assert verify(tmp_path / "words", source / "weights.hdf5", **given).passed


def test_a_softmax_of_other_words_is_left_out(original, tmp_path):
    source, _, table = original
    write_hdf5(source / "fewer.hdf5", {"embedding": table[:5]})
    (source / "fewer.txt").write_text("".join(word + "\n" for word in VOCABULARY[:5]))
    report = convert(source, tmp_path / "words", word_vectors=source / "fewer.hdf5", vocabulary=source / "fewer.txt")
    assert report.architecture == "ElmoModel"
    assert any("the softmax does not have one row for each of the 5 words" in note for note in report.notes)


def test_the_command(original, tmp_path, capsys):
    source, characters, _ = original
    given = ["--word-vectors", str(source / "tokens.hdf5")]
    assert main(["convert", str(source), str(tmp_path / "words"), *given]) == 0
    assert main(["verify", str(tmp_path / "words"), "--against", str(source), *given]) == 0
    assert "passed" in capsys.readouterr().out
    check_same(tmp_path / "words", characters)


def test_ten_batches_of_bilm_tf(reference, tmp_path):
    """bilm-tf's own test of token input: dump the vectors of all words, read them, and get the same top layers."""
    files = reference / "bilm_tf"
    lists = json.loads((files / "lm_embeddings_sentences.json").read_text())
    convert(files, tmp_path / "characters", without_vocabulary=True)
    sentences = [lists[number][place].split() for place in range(10) for number in range(3)]
    words = list(dict.fromkeys(["<S>", "</S>", "<UNK>", *(word for sentence in sentences for word in sentence)]))
    write_hdf5(tmp_path / "tokens.hdf5", {"embedding": vectors_of(tmp_path / "characters", words)})
    (tmp_path / "vocab.txt").write_text("".join(word + "\n" for word in words), encoding="utf-8")
    convert(
        files / "lm_weights.hdf5",
        tmp_path / "words",
        options=files / "options.json",
        word_vectors=tmp_path / "tokens.hdf5",
        vocabulary=tmp_path / "vocab.txt",
    )
    arrays = embed(sentences, tmp_path / "words", layers="top", carry_state=True, rows=3)
    for number, array in enumerate(arrays):
        with h5py.File(files / f"lm_embeddings_{number % 3}.hdf5") as file:
            expected = np.concatenate(list(file[str(number // 3)][...]), axis=-1)
        np.testing.assert_allclose(array, expected, rtol=0, atol=2e-6)


class TestRefusals:
    def refused(self, source, tmp_path, message, **given):
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "words", **given)
        assert not (tmp_path / "words").exists()

    def test_tables(self, original, tmp_path):
        source, _, table = original
        self.refused(
            source / "tokens.hdf5",
            tmp_path,
            "give that as the source and this file with --word-vectors",
            options=source / "options.json",
        )
        self.refused(
            source,
            tmp_path,
            "expected the dataset 'embedding' .*, found CNN/W_cnn_0",
            word_vectors=source / "weights.hdf5",
        )
        write_hdf5(source / "narrow.hdf5", {"embedding": table[:, :4]})
        self.refused(
            source, tmp_path, r"'embedding' has shape \(6, 4\), expected \(6, 6\)", word_vectors=source / "narrow.hdf5"
        )
        write_hdf5(source / "short.hdf5", {"embedding": table[:4]})
        self.refused(
            source,
            tmp_path,
            "vocab.txt: has 6 words, but the table of words .* has 4",
            word_vectors=source / "short.hdf5",
            without_softmax=True,
        )
        (source / "glove.txt").write_text("the 1 2 3 4 5 6\n")
        self.refused(
            source,
            tmp_path,
            "glove.txt: no vectors of <S>, </S>, <UNK>, neural, .*vocab.txt lists",
            word_vectors=source / "glove.txt",
        )
        self.refused(source, tmp_path, "none.txt: no such file", word_vectors=source / "none.txt")

    def test_no_vocabulary(self, tmp_path):
        write_bilm(tmp_path / "bare")
        write_hdf5(tmp_path / "tokens.hdf5", {"embedding": np.zeros((6, 6), np.float32)})
        self.refused(
            tmp_path / "bare",
            tmp_path,
            "give the vocabulary whose lines are its rows",
            word_vectors=tmp_path / "tokens.hdf5",
        )

    def test_other_formats(self, tmp_path):
        write_model(tmp_path / "179")
        (tmp_path / "v.txt").write_text("a 1\n")
        self.refused(
            tmp_path / "179",
            tmp_path,
            "only models of bilm-tf read a table .* leave --word-vectors",
            word_vectors=tmp_path / "v.txt",
        )


@pytest.mark.slow
def test_source_files_are_unchanged(original):
    """The original's files are unchanged."""
    source, _, table = original
    assert np.array_equal(read_hdf5(source / "tokens.hdf5")["embedding"], table)
