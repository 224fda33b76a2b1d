"""The plain implementation against cases worked out by hand and the original program."""

import json

import numpy as np
import pytest

from hub_upload.bilm_tf.plain import Words, from_bilm
from hub_upload.common.plain import Cell, PlainElmo, character_row, sentence_rows, sigmoid

from ..checkpoints import read_hdf5


def test_character_rows_are_those_of_bilm_tf():
    # bilm-tf's test data, with each id increased by one.
    assert character_row(list(b"thhhhh"), 5) == [259, 117, 105, 105, 260]
    assert character_row(list("Āt".encode()), 5) == [259, 197, 129, 117, 260]
    assert character_row([], 5) == [259, 260, 261, 261, 261]
    begin, special, lone, end = sentence_rows(["</S>", "a\ud800"], 6)
    assert begin == [259, 257, 260, 261, 261, 261]
    assert special == end == [259, 258, 260, 261, 261, 261]
    assert lone == [259, 98, 260, 261, 261, 261]


def test_words_have_the_rows_of_their_vocabulary_lines():
    table = np.arange(10.0).reshape(5, 2)
    words = Words.of(table, ["!!!MAXTERMID\n", "<S>\n", "<UNK> \r\n", "b\n", "</S>\n", "\n"])
    np.testing.assert_array_equal(words(["b", "zebra", "</S>", ""]), table[[0, 2, 1, 3, 4, 3]])


def test_sigmoid_has_no_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_allclose(sigmoid(np.array([-1e3, 0, 1e3])), [0, 0.5, 1])


def test_one_step_by_hand():
    gate = (np.array([[1.0]]), np.array([[0.5]]), np.array([0.25]))
    cell = Cell(dict.fromkeys("igfo", gate), np.array([[2.0]]))
    a = 1 * 3.0 + 0.5 * 0.1 + 0.25
    s = 1 / (1 + np.exp(-a))
    c = s * 0.4 + s * np.tanh(a)
    h, new = cell.step(np.array([3.0]), np.array([0.1]), np.array([0.4]), None, None)
    assert new[0] == pytest.approx(c)
    assert h[0] == pytest.approx(2 * s * np.tanh(c))
    h, new = cell.step(np.array([3.0]), np.array([0.1]), np.array([0.4]), 0.5, 0.125)
    assert (h[0], new[0]) == (0.125, 0.5)


def test_the_original_program_agrees(reference):
    folder = reference / "bilm_tf"
    arrays = {name: array.astype(np.float64) for name, array in read_hdf5(folder / "lm_weights.hdf5").items()}
    plain: PlainElmo = from_bilm(set(arrays), arrays.__getitem__, json.loads((folder / "options.json").read_text()))
    lists = json.loads((folder / "lm_embeddings_sentences.json").read_text())
    expected = [read_hdf5(folder / f"lm_embeddings_{k}.hdf5") for k in range(3)]
    for i in range(3):
        batch = [lists[k][i].split() for k in range(3)]
        for k, layers in enumerate(plain.embed(batch)):
            top = np.concatenate(list(expected[k][str(i)]), axis=1)
            assert np.abs(layers[-1, 1:-1] - top).max() <= 2e-6  # the reference is float32
