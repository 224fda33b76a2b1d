"""The conversion tables cover the model exactly; errors name the tensors."""

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining
from hub_upload import CheckpointError
from hub_upload.allennlp.rules import RULES as ALLENNLP_RULES
from hub_upload.bilm_tf.rules import ORIGINS, RENAMINGS, rename
from hub_upload.bilm_tf.rules import RULES as BILM_RULES
from hub_upload.common.errors import listing
from hub_upload.common.rules import check_complete, expand

from ..checkpoints import bilm_arrays, options

CONFIGS = {
    "original": ElmoConfig.from_preset("original"),
    "no projections": ElmoConfig(projection_size=8, cell_size=8, character_filters=[[1, 8]], num_highway_layers=0),
    "three layers": ElmoConfig.from_preset("small", num_hidden_layers=3, num_representations=2),
}


WORD_INPUT = ElmoConfig(character_filters=[], word_embedding_size=8, projection_size=8)


@pytest.mark.parametrize(
    ("config", "rules"),
    [(config, rules) for config in CONFIGS.values() for rules in (BILM_RULES, ALLENNLP_RULES)]
    + [(WORD_INPUT, BILM_RULES)],
)
def test_tables_name_every_parameter_of_the_model_once(config, rules):
    with torch.device("meta"):
        model = ElmoForPreTraining(config)
    expected = {key.removeprefix("elmo.") for key in model.state_dict()}
    # Each side lacks a part: a language model the mixes, AllenNLP's module the softmax.
    absent = "scalar_mixes." if rules is BILM_RULES else "softmax."
    named = [parameter for entry in expand(rules, config, 5, ORIGINS) for parameter in entry.parameters]
    assert sorted(named) == sorted(key for key in expected if not key.startswith(absent))


def test_expanded_names_and_shapes_are_those_of_the_original():
    values = options()
    arrays = bilm_arrays(values, words=7)
    config = ElmoConfig(
        character_embedding_size=3, character_filters=values["char_cnn"]["filters"], projection_size=6, cell_size=10
    )
    assert {entry.original: entry.shape for entry in expand(BILM_RULES, config, 7, ORIGINS)} == {
        name: array.shape for name, array in arrays.items()
    }


def test_a_shared_table_has_one_name():
    config = ElmoConfig(**{**WORD_INPUT.to_dict(), "tie_word_embeddings": True})
    names = {entry.original for entry in expand(BILM_RULES, config, 5, ORIGINS)}
    assert {"embedding", "softmax/b"} <= names and "softmax/W" not in names
    assert "softmax/b" not in {entry.original for entry in expand(BILM_RULES, config, 5, ORIGINS, softmax=False)}


def test_a_wrong_shape_names_dataset_shapes_and_option():
    config = ElmoConfig(character_embedding_size=4, character_filters=[[2, 5]])
    entries = expand(BILM_RULES, config, None, ORIGINS)
    entry = next(entry for entry in entries if entry.original == "CNN/W_cnn_0")
    entry.check_shape((1, 2, 4, 5), "w.hdf5")
    with pytest.raises(
        CheckpointError,
        match=r"w\.hdf5: 'CNN/W_cnn_0' has shape \(1, 2, 3, 5\), expected \(1, 2, 4, 5\): axis 2 is 3, but "
        r"char_cnn\.embedding\.dim is 4",
    ):
        entry.check_shape((1, 2, 3, 5), "w.hdf5")
    with pytest.raises(CheckpointError, match="3 axes.* 4"):
        entry.check_shape((2, 4, 5), "w.hdf5")


def test_missing_and_unused_names_are_listed():
    entries = list(expand(BILM_RULES, ElmoConfig(), None, ORIGINS, softmax=False))
    names = [entry.original for entry in entries]
    check_complete(entries, names, "f")
    with pytest.raises(CheckpointError, match="missing: char_embed; .*: extra"):
        check_complete(entries, ["extra", *names[1:]], "f")


def test_other_spellings_are_renamed():
    cell = "RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/"
    for stored, standard in {
        "RNN_1/RNN/LSTMCell/W_P_0": cell + "W_P_0",
        "lm/RNN_1/rnn/multi_rnn_cell/cell_0/lstm_cell/kernel": cell + "W_0",
        "lm/RNN_1/rnn/multi_rnn_cell/cell_0/lstm_cell/bias": cell + "B",
        "lm/RNN_1/rnn/multi_rnn_cell/cell_0/lstm_cell/projection/kernel": cell + "W_P_0",
        "lm/RNN_1/rnn/lstm_cell/kernel": cell + "W_0",
        "lm/RNN_1/rnn/lstm_cell/bias": cell + "B",
        "lm/RNN_1/rnn/lstm_cell/projection/kernel": cell + "W_P_0",
        "lm/CNN_high_0/W_carry": "CNN_high_0/W_carry",
        "lm/softmax/W": "softmax/W",
        "char_embed": "char_embed",
    }.items():
        assert rename([stored]) == {standard: stored}
    with pytest.raises(
        CheckpointError, match="'RNN_1/RNN/LSTMCell/B' both mean 'RNN_1/RNN/MultiRNNCell/Cell0/LSTMCell/B'"
    ):
        rename(["RNN_1/RNN/LSTMCell/B", cell + "B"])


def test_every_rule_states_its_reason():
    for row in (*BILM_RULES, *ALLENNLP_RULES, *RENAMINGS):
        assert row.reason.endswith(".")


def test_listing_is_short():
    assert listing(map(str, range(3))) == "0, 1, 2"
    assert listing(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
