"""Forward-only language models, which bilm-tf dumps under names that no program reads."""

import json

import numpy as np
import pytest

from elmo_hf import ElmoForPreTraining, embed, score
from hub_upload import CheckpointError, convert, export, verify
from hub_upload.bilm_tf.rules import rename
from modeling_tests.hub_upload.checkpoints import (
    VOCABULARY,
    bilm_arrays,
    options,
    word_options,
    write_bilm,
)

ENDS = (("W_0", "kernel"), ("B", "bias"), ("W_P_0", "projection/kernel"))


def one_direction(arrays):
    """The forward half of a dump, under the names that bilm-tf gives it."""
    layers = {name.split("/")[3] for name in arrays if name.startswith("RNN_0")}
    found = {name: array for name, array in arrays.items() if not name.startswith("RNN_")}
    for layer in layers:
        for old, new in ENDS:
            stack = f"MultiRNNCell/{layer}/" if len(layers) > 1 else ""
            array = arrays.get(f"RNN_0/RNN/MultiRNNCell/{layer}/LSTMCell/{old}")
            if array is not None:
                found[f"rnn/{stack}LSTMCell/{new}"] = array
    return found


def write_pair(tmp_path, values, vocabulary=None):
    """The same forward weights in a bidirectional and in a forward-only model."""
    arrays = bilm_arrays(values, words=len(vocabulary) if vocabulary else None)
    write_bilm(tmp_path / "both", values, arrays, vocabulary)
    write_bilm(tmp_path / "one", {**values, "bidirectional": False}, one_direction(arrays), vocabulary)
    for name in ("both", "one"):
        convert(tmp_path / name, tmp_path / f"{name}-folder")
    return tmp_path / "both-folder", tmp_path / "one-folder"


@pytest.mark.slow
@pytest.mark.parametrize(
    "values", [options(), options(n_layers=1), word_options(dim=6)], ids=["two", "single", "words"]
)
def test_forward_model_equals_the_forward_half(tmp_path, values):
    both, one = write_pair(tmp_path, values, VOCABULARY)
    sentences = [["the", "neural", "."], [], ["the"]]
    narrow, wide = (embed(sentences, folder, layers="all", carry_state=True) for folder in (one, both))
    for array, same in zip(narrow, wide, strict=True):
        assert array.shape[-1] == 6
        np.testing.assert_allclose(array, same[..., :6], rtol=0, atol=1e-6)
    report = verify(one, tmp_path / "one")
    assert report.passed and len(report.differences) == array.shape[0]
    model = ElmoForPreTraining.from_pretrained(one)
    assert not model.config.bidirectional and not any("backward" in name for name in model.state_dict())
    expected, found = score(sentences, both, progress=False), score(sentences, one, progress=False)
    np.testing.assert_allclose(found.forward, expected.forward, rtol=1e-5)
    assert np.isnan(found.backward).all()


def test_names():
    """Names of variables in checkpoints and dumps, with several layers or one."""
    for stored, standard in (
        ("lm/rnn/multi_rnn_cell/cell_1/lstm_cell/kernel", "RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"),
        ("lm/rnn/lstm_cell/projection/kernel", "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"),
        ("rnn/MultiRNNCell/Cell1/LSTMCell/bias", "RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/B"),
        ("rnn/LSTMCell/kernel", "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_0"),
    ):
        assert rename([stored]) == {standard: stored}


class TestRefusals:
    def test_export(self, tmp_path):
        _, one = write_pair(tmp_path, options())
        with pytest.raises(CheckpointError, match=r"\(bidirectional\)"):
            export(one, tmp_path / "back")

    def test_contradicting_bidirectional_option(self, tmp_path):
        write_pair(tmp_path, options())
        for name, other, holds in (("both", False, "both directions"), ("one", True, "the forward direction alone")):
            values = {**options(), "bidirectional": other}
            (tmp_path / "options.json").write_text(json.dumps(values))
            with pytest.raises(CheckpointError, match=f"bidirectional.*{other}.*{holds}"):
                convert(tmp_path / name, tmp_path / "out", options=tmp_path / "options.json")

    def test_bidirectional_file_with_one_direction(self, tmp_path):
        """A bidirectional model without one direction is damaged, not forward-only."""
        arrays = {name: array for name, array in bilm_arrays(options()).items() if not name.startswith("RNN_1")}
        write_bilm(tmp_path / "half", options(), arrays)
        with pytest.raises(CheckpointError, match="missing: RNN_1/"):
            convert(tmp_path / "half", tmp_path / "out")

    def test_another_model(self, tmp_path):
        both, _ = write_pair(tmp_path, options())
        with pytest.raises(CheckpointError, match="bidirectional is True and False"):
            verify(both, tmp_path / "one")
