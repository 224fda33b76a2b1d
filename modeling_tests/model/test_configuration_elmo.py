"""ElmoConfig: every published size, strict fields, and a round trip."""

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from elmo_hf import ElmoConfig

# Parameters of the published models in millions, from their authors' table of models.
PUBLISHED = {"small": 13.6, "medium": 28.0, "original": 93.6, "5.5B": 93.6}


FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]
# Filters, cell, projection, highways. The published ones are those of the originals' options.json.
SIZES = {
    "mini": (FILTERS[:5], 512, 128, 1),
    "small": (FILTERS, 1024, 128, 1),
    "medium": (FILTERS, 2048, 256, 1),
    "original": (FILTERS, 4096, 512, 2),
    "5.5B": (FILTERS, 4096, 512, 2),
}


@pytest.mark.parametrize("name", SIZES)
def test_presets_have_the_published_sizes(name):
    config = ElmoConfig.from_preset(name)
    found = (config.character_filters, config.cell_size, config.projection_size, config.num_highway_layers)
    assert found == SIZES[name]


def test_defaults():
    """Folders saved before a field existed are read with its default, which must not change."""
    defaults = {
        "vocab_size": 5,
        "word_embedding_size": 0,
        "num_pos_tags": 0,
        "pos_tag_embedding_size": 32,
        "num_characters": 262,
        "max_characters_per_word": 50,
        "character_embedding_size": 16,
        "character_filters": FILTERS,
        "character_activation": "relu",
        "num_highway_layers": 2,
        "character_projection": True,
        "character_projection_location": "after_highway",
        "character_layer_norm": False,
        "projection_size": 512,
        "encoder_type": "lstm",
        "bidirectional": True,
        "cell_size": 4096,
        "num_hidden_layers": 2,
        "cell_projection": True,
        "use_skip_connections": True,
        "cell_clip": 3.0,
        "projection_clip": 3.0,
        "forget_bias": 1.0,
        "lstm_input_dropout": 0.0,
        "num_attention_heads": 8,
        "feed_forward_size": 2048,
        "max_position_embeddings": 2147483647,
        "layer_norm_epsilon": 1e-06,
        "transformer_input_dropout": 0.0,
        "attention_dropout": 0.0,
        "transformer_dropout": 0.0,
        "softmax_dropout": 0.0,
        "context_word_layer": False,
        "causal": True,
        "aligned": False,
        "weight_precision": None,
        "num_representations": 1,
        "scalar_mix": "learned",
        "scalar_mix_parameters": None,
        "scalar_mix_layer_norm": None,
        "scalar_mix_layer_norm_epsilon": 1e-12,
        "scalar_mix_l2": 0.0,
        "representation_dropout": 0.5,
        "softmax_cutoffs": None,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unk_token_id": 3,
        "mask_token_id": None,
        "tie_word_embeddings": False,
        "direction": "forward",
        "mask_prior_weight": 1.0,
        "sparse_prediction": False,
        "elmo_at": ["input"],
        "word_vector_size": 0,
        "train_word_vectors": True,
        "task_lstm_size": 0,
        "task_lstm_layers": 1,
        "task_encoder": "lstm",
        "task_forget_bias": 1.0,
        "task_recurrent_dropout": 0.0,
        "words_only": False,
        "task_character_size": 0,
        "num_task_characters": 2,
        "task_character_filters": [[3, 128]],
        "task_character_activation": "relu",
        "pre_encoder_layers": [],
        "classifier_layers": [],
        "integrator_size": 0,
        "integrator_layers": 1,
        "task_dropout": 0.0,
        "use_crf": False,
        "tag_scheme": None,
        "tag_names": None,
        "crf_constraints": "always",
        "crf_start_end_transitions": True,
        "crf_label_weights": None,
        "crf_weight_strategy": "emission",
        "pooling": ["mean"],
        "maxout_sizes": [],
        "maxout_pieces": 4,
        "maxout_classifier": False,
        "sentence_pairs": False,
    }
    config = ElmoConfig()
    assert {name: getattr(config, name) for name in defaults} == defaults
    assert set(defaults) == {name for name in ElmoConfig.__annotations__ if not name.startswith("_")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name):
    import torch

    from elmo_hf import ElmoModel

    with torch.device("meta"):
        model = ElmoModel(ElmoConfig.from_preset(name))
    # The mix is counted with the task, and the row of padding characters is ours.
    count = sum(p.numel() for part in (model.embeddings, model.encoder) for p in part.parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED[name], abs=0.06)


@pytest.mark.parametrize("name", ["transformer", "transformer-words"])
def test_transformer_presets(name):
    import torch

    from elmo_hf import ElmoForPreTraining

    config = ElmoConfig.from_preset(name, vocab_size=10_000)
    sizes = (config.projection_size, config.feed_forward_size, config.num_hidden_layers, config.num_attention_heads)
    assert sizes == (512, 2048, 6, 8)
    with torch.device("meta"):
        model = ElmoForPreTraining(config)
    # Of a direction's layer: four maps of attention, two of the feed-forward layer, two norms; a norm at the top.
    layer = 4 * (512**2 + 512) + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    assert sum(p.numel() for p in model.elmo.encoder.parameters()) == 2 * (6 * layer + 2 * 512)
    if name == "transformer":
        words = 262 * 16 + sum(width * 16 * count + count for width, count in config.character_filters)
        words += 2 * 2 * (2048**2 + 2048) + 2048 * 512 + 512 + 2 * 512
    else:
        assert ElmoConfig.from_preset(name).vocab_size == 10_000
        words = 10_000 * 128 + 128 * 512 + 512
    assert sum(p.numel() for p in model.elmo.embeddings.parameters()) == words
    assert sum(p.numel() for p in model.softmax.parameters()) == 10_000 * 513


def test_set_dropout_changes_the_encoder_in_use():
    for encoder, names in (
        ("lstm", ["lstm_input_dropout"]),
        (
            "transformer",
            ["transformer_input_dropout", "attention_dropout", "transformer_dropout", "softmax_dropout"],
        ),
    ):
        config = ElmoConfig(encoder_type=encoder)
        before = config.to_dict()
        config.set_dropout(0.25)
        changed = {name for name, value in config.to_dict().items() if value != before[name]}
        assert changed == set(names)
        assert config.top_layer_dropout == 0.25


def test_derived_sizes():
    config = ElmoConfig.from_preset("original", vocab_size=7)
    assert (config.num_filters, config.hidden_size, config.vocab_size) == (2048, 1024, 7)
    assert config.character_projection is True and config.cell_projection is True
    same = ElmoConfig(character_filters=[[1, 8]], projection_size=8, cell_size=8)
    assert same.character_projection is False and same.cell_projection is False
    assert ElmoConfig(projection_size=8, cell_size=8, cell_projection=True).cell_projection is True


def test_word_input():
    config = ElmoConfig(character_filters=[], word_embedding_size=512)
    assert config.character_projection is False and config.num_filters == 0
    assert ElmoConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert ElmoConfig(character_filters=[], word_embedding_size=512, tie_word_embeddings=True).tie_word_embeddings


def test_round_trip(tmp_path):
    config = ElmoConfig(
        cell_clip=None, projection_clip=2, scalar_mix="fixed", scalar_mix_parameters=[1, 0.5, -2], num_labels=3
    )
    config.save_pretrained(tmp_path)
    again = ElmoConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.cell_clip is None and again.scalar_mix_parameters == [1, 0.5, -2]


def test_configurations_share_nothing():
    first = ElmoConfig()
    first.character_filters[0][1] = 99
    first.auto_map["AutoModel"] = "other"
    assert ElmoConfig().character_filters[0] == [1, 32]
    assert ElmoConfig().auto_map["AutoModel"] == "modeling_elmo.ElmoModel"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell_size": 4096.0}, "cell_size.* int.* float"),
        ({"character_activation": "gelu"}, "'character_activation' .* gelu"),
        ({"cell_size": 0}, "cell_size=0"),
        ({"cell_clip": float("nan")}, "cell_clip=nan"),
        ({"forget_bias": float("nan")}, "forget_bias=nan.*finite"),
        ({"scalar_mix_layer_norm_epsilon": -1.0}, "scalar_mix_layer_norm_epsilon=-1.0"),
        ({"cell_clip": -1.0}, "cell_clip=-1.0.*0.*None"),
        ({"representation_dropout": 1.0}, r"representation_dropout=1.0.*\[0, 1\)"),
        ({"character_filters": []}, "character_filters is empty.*word_embedding_size"),
        (
            {"word_embedding_size": 100, "tie_word_embeddings": True},
            "projection_size=512.*word_embedding_size=100",
        ),
        ({"num_pos_tags": -1}, "num_pos_tags=-1"),
        ({"num_pos_tags": 3, "pos_tag_embedding_size": 0}, "pos_tag_embedding_size=0"),
        ({"num_pos_tags": 3, "character_filters": []}, "character_filters is empty.*word_embedding_size"),
        (
            {"context_word_layer": True, "scalar_mix_parameters": [0.0] * 3},
            "scalar_mix_parameters has 3 values: expected 4",
        ),
        ({"word_embedding_size": -1}, "word_embedding_size=-1"),
        ({"character_filters": [], "word_embedding_size": 512, "vocab_size": 0}, "vocab_size=0"),
        (
            {"character_filters": [], "word_embedding_size": 512, "character_projection": True},
            "character_projection=True without character_filters",
        ),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True: .*no table of words"),
        (
            {
                "character_filters": [],
                "word_embedding_size": 512,
                "tie_word_embeddings": True,
                "softmax_cutoffs": [2],
            },
            r"tie_word_embeddings=True: .*softmax_cutoffs=\[2\]",
        ),
        ({"character_filters": [[3]]}, r"character_filters.*\[3\].*\[width, count\]"),
        ({"character_filters": [[60, 8]]}, r"\[60, 8\].*max_characters_per_word=50"),
        (
            {"max_characters_per_word": 2, "character_filters": [[1, 4]]},
            "max_characters_per_word=2.*3",
        ),
        ({"character_projection": False}, "projection_size=512.*character_filters has 2048"),
        ({"cell_projection": False}, "needs cell_size == projection_size, got 4096 and 512"),
        ({"encoder_type": "gru"}, "'encoder_type' .* gru"),
        ({"causal": False}, 'causal=False needs encoder_type="transformer"'),
        (
            {"encoder_type": "transformer", "num_attention_heads": 7},
            "num_attention_heads=7.*projection_size=512",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon=0.0.*finite.*0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon=nan.*finite.*0"),
        ({"attention_dropout": 1.0}, r"attention_dropout=1.0.*\[0, 1\)"),
        ({"character_projection_location": "before"}, "'character_projection_location' .* before"),
        ({"scalar_mix": "fixed"}, "needs scalar_mix_parameters"),
        ({"scalar_mix_parameters": [0.0]}, "scalar_mix_parameters has 1 values: expected 3"),
    ],
)
def test_impossible_models_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        ElmoConfig(**fields)


def test_unknown_preset():
    with pytest.raises(ValueError, match="'large'.*'mini'.*'small'.*'medium'"):
        ElmoConfig.from_preset("large")


def test_mask_token_id_is_none_by_default(tmp_path):
    config = ElmoConfig()
    assert config.mask_token_id is None
    ElmoConfig(mask_token_id=6).save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path).mask_token_id == 6
    # Saved even if it is the default.
    assert '"mask_token_id": null' in config.to_json_string()


def test_hidden_size_is_derived_and_saved(tmp_path):
    config = ElmoConfig(projection_size=6)
    assert config.to_dict()["hidden_size"] == config.hidden_size == 12
    config.save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path, projection_size=8).hidden_size == 16
    assert ElmoConfig(projection_size=6, hidden_size=12) == config
    with pytest.raises(ValueError, match="hidden_size=7"):
        ElmoConfig(projection_size=6, hidden_size=7)


def test_only_a_transformer_limits_positions(tmp_path):
    assert ElmoConfig().max_position_embeddings == 2**31 - 1
    # Folders of earlier versions have 5000 for every encoder.
    assert ElmoConfig.from_dict({"max_position_embeddings": 5000}).max_position_embeddings == 2**31 - 1
    transformer = ElmoConfig(encoder_type="transformer")
    assert transformer.max_position_embeddings == 5000
    transformer.save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path, max_position_embeddings=9).max_position_embeddings == 9
    with pytest.raises(StrictDataclassClassValidationError, match="max_position_embeddings=0"):
        ElmoConfig(encoder_type="transformer", max_position_embeddings=0)


def test_long_values_are_truncated_in_errors():
    with pytest.raises(StrictDataclassClassValidationError) as caught:
        ElmoConfig(character_filters=[[1, 1]] * 5000)
    told = str(caught.value)
    assert "character_filters=[[1, 1], " in told and "...]: expected" in told and "list of at most 1000" in told
