"""options.json to a configuration and back."""

import pytest

from elmo_hf import ElmoConfig
from hub_upload import CheckpointError
from hub_upload.bilm_tf.options import config_from_options, options_from_config
from hub_upload.common.options import read_json

from ..checkpoints import options, word_options


def config_of(values):
    notes = []
    return config_from_options(values, "options.json", notes), notes


def test_every_option_is_converted():
    config, notes = config_of(options(max_characters_per_token=30, activation="tanh", use_skip_connections=False))
    assert not notes
    assert (config.projection_size, config.cell_size, config.num_hidden_layers) == (6, 10, 2)
    assert (config.cell_clip, config.projection_clip, config.use_skip_connections) == (0.8, 0.5, False)
    assert (config.character_filters, config.character_embedding_size) == ([[1, 4], [2, 3], [3, 5]], 3)
    assert (config.character_activation, config.num_highway_layers) == ("tanh", 2)
    assert (config.num_characters, config.max_characters_per_word) == (262, 30)
    assert config.forget_bias == 1.0


@pytest.mark.parametrize("preset", ["small", "medium", "original"])
def test_round_trip_of_published_shapes(preset):
    config = ElmoConfig.from_preset(preset)
    values = options_from_config(config)
    assert config_of(values)[0].to_dict() == config.to_dict()
    # Keys that AllenNLP and bilm-tf's reader require.
    assert values["char_cnn"]["n_characters"] == 262
    assert values["lstm"]["cell_clip"] == 3
    assert values["lstm"]["use_skip_connections"] is True


@pytest.mark.parametrize("share", [False, True])
def test_word_input(share):
    values = {**word_options(), "share_embedding_softmax": share, "n_tokens_vocab": 9}
    config, notes = config_of(values)
    assert not notes
    assert (config.word_embedding_size, config.projection_size, config.character_filters) == (6, 6, [])
    assert "char_cnn" not in options_from_config(config)
    assert config_of(options_from_config(config))[0].to_dict() == config.to_dict()
    with pytest.raises(CheckpointError, match="share_embedding_softmax.*'yes'.*True.*False"):
        config_of({**values, "share_embedding_softmax": "yes"})


def test_training_options_and_defaults():
    values = {**options(n_characters=261, n_highway=..., n_layers=...), "n_tokens_vocab": 9, "dropout": 0.1}
    config, notes = config_of(values)
    assert (config.num_characters, config.num_highway_layers, config.num_hidden_layers) == (262, 0, 1)
    assert not notes


def test_absent_clips_mean_none_and_zero_is_noted():
    config, notes = config_of(options(cell_clip=None, proj_clip=...))
    assert (config.cell_clip, config.projection_clip, notes) == (None, None, [])
    config, notes = config_of(options(cell_clip=0))
    assert config.cell_clip is None
    assert "lstm.cell_clip is 0" in notes[0]


def test_absent_skip_connections_are_noted():
    config, notes = config_of(options(use_skip_connections=...))
    assert not config.use_skip_connections
    assert "use_skip_connections is missing" in notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": ...}, r"options\.json: lstm\.dim is missing"),
        ({"dim": "big"}, r"lstm\.dim.*'big'"),
        ({"dim": True}, r"lstm\.dim.*True"),
        ({"projection_dim": 0}, r"lstm\.projection_dim is 0"),
        ({"filters": []}, r"char_cnn\.filters.*\[\]"),
        ({"filters": [[1, 2, 3]]}, r"char_cnn\.filters is \[\[1, 2, 3\]\].*\[width, count\]"),
        ({"activation": "gelu"}, r"char_cnn\.activation.*'gelu'.*'relu', 'tanh'"),
        ({"n_characters": 300}, "n_characters.*300.*261, 262"),
        ({"cell_clip": -1}, r"lstm\.cell_clip is -1"),
        ({"use_skip_connections": "yes"}, r"use_skip_connections is 'yes'"),
        ({"embedding": 16}, r"'char_cnn\.embedding\.dim'.*16"),
        ({"max_characters_per_token": 2}, r"max_characters_per_token is 2"),
        ({"filters": [[60, 4]]}, r"\[60, 4\]"),
    ],
)
def test_impossible_options_are_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        config_of(options(**changes))


def test_one_direction():
    assert config_of(options())[0].bidirectional
    assert not config_of({**options(), "bidirectional": False})[0].bidirectional
    with pytest.raises(CheckpointError, match="bidirectional.*'no'.*True, False"):
        config_of({**options(), "bidirectional": "no"})


def test_damaged_json(tmp_path):
    path = tmp_path / "options.json"
    for content, message in (
        (b'{"lstm": {', "not valid JSON .*line 1"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", r"options\.json: holds a list"),
        (b"[" * 100_000, "not valid JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_json(path)
    with pytest.raises(CheckpointError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
