"""Options of a run: ranges, conflicts, command line, and resuming."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from elmo_hf.pretraining import OptimizerSettings, PretrainingSettings
from elmo_hf.pretraining.settings import RECIPES, default_cutoffs

NEEDED: dict[str, Any] = {"train_data": ["text.txt"], "output_dir": "run", "vocabulary": "vocab.txt"}


@pytest.mark.parametrize("named", [{"recipe": "bilm-tf"}, {"preset": "original"}, {"initialize_from": "folder"}])
def test_bilm_tf_recipe(named: dict[str, Any]) -> None:
    settings = PretrainingSettings(**NEEDED, **named)
    assert (settings.rows, settings.unroll_steps, settings.num_samples) == (128, 20, 8192)
    assert (settings.optimizer, settings.learning_rate, settings.initial_accumulator) == ("adagrad", 0.2, 1.0)
    assert (settings.schedule, settings.warmup_steps) == ("constant", 0)
    assert (settings.max_gradient_norm, settings.dropout, settings.epochs) == (10.0, 0.1, 10)
    assert settings.model_config(vocab_size=7).lstm_input_dropout == 0.1
    assert PretrainingSettings(**NEEDED, **named, optimizer="adamw").learning_rate == 0.001
    assert settings.reset_states  # the only difference: bilm-tf carries states across all batches


def test_default_preset_and_recipe() -> None:
    settings = PretrainingSettings(**NEEDED)
    assert (settings.preset, settings.recipe) == ("mini", "small-corpus")
    assert (settings.rows, settings.unroll_steps, settings.num_samples) == (64, 40, 2048)
    assert (settings.optimizer, settings.learning_rate, settings.schedule) == ("adamw", 4e-3, "cosine")
    assert (settings.warmup_steps, settings.max_gradient_norm, settings.dropout) == (200, 5.0, 0.0)
    config = settings.model_config(vocab_size=7)
    assert (config.cell_size, config.projection_size, config.num_filters) == (512, 128, 512)
    assert PretrainingSettings(**NEEDED, optimizer="adagrad").learning_rate == 0.2
    changed = PretrainingSettings(**NEEDED, preset="small", recipe="small-corpus", rows=3)
    assert (changed.rows, changed.optimizer) == (3, "adamw")


def test_samples_and_warmup_are_fitted_to_the_data() -> None:
    settings = PretrainingSettings(**NEEDED)
    fitted = settings.fitted(words=1000, steps=300)
    assert (fitted.num_samples, fitted.warmup_steps) == (500, 30)
    assert settings.fitted(words=100_000, steps=None) == settings
    given = PretrainingSettings(**NEEDED, num_samples=1001, warmup_steps=100)
    assert given.fitted(words=1001, steps=300) == given
    with pytest.raises(ValueError, match="num_samples=1001.*1.*1000"):
        given.fitted(words=1000, steps=None)
    # Other softmaxes draw no samples.
    assert PretrainingSettings(**NEEDED, num_samples=9, loss="full").fitted(words=5, steps=None).num_samples == 9


@pytest.mark.parametrize(
    ("vocab_size", "expected"), [(100, [1, 5, 25]), (30_000, [300, 1500, 7500]), (799_999, [7999, 39_999, 199_999])]
)
def test_default_cutoffs(vocab_size: int, expected: list[int]) -> None:
    assert default_cutoffs(vocab_size) == expected
    with pytest.raises(ValueError, match="vocab_size=99"):
        default_cutoffs(99)


def test_has_every_option_of_the_optimizer() -> None:
    ours = {field.name: field.default for field in dataclasses.fields(PretrainingSettings)} | RECIPES["bilm-tf"]
    for field in dataclasses.fields(OptimizerSettings):
        assert ours[field.name] == (0.2 if field.name == "learning_rate" else field.default)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": 0}, "rows=0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0"),
        ({"dropout": 1.0}, r"dropout=1.0.*\[0, 1\)"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm=-1.0"),
        ({"loss": "hinge"}, "loss='hinge'.*'sampled', 'full', 'adaptive'"),
        ({"preset": "huge"}, "preset='huge'"),
        ({"train_data": []}, "train_data is empty"),
        ({"vocabulary": None}, "vocabulary is missing.*`elmo-hf build-vocab`"),
        ({"softmax_only_steps": 5}, "softmax_only_steps=5 needs initialize_from"),
        ({"initialize_from": "folder", "config_overrides": "{}"}, "config_overrides and initialize_from"),
        ({"evaluate_every": 5}, "evaluate_every=5 needs held_out_data"),
        ({"recipe": "adam"}, "recipe='adam'.*'small-corpus', 'bilm-tf'"),
        ({"max_hours": 0.0}, "max_hours=0.0"),
        ({"schedule": "noam", "recipe": "bilm-tf"}, "schedule='noam' needs warmup_steps"),
        ({"max_steps": 5, "warmup_steps": 5}, "warmup_steps=5.*max_steps=5"),
        ({"softmax_cutoffs": [10]}, "softmax_cutoffs=.*loss='adaptive'"),
        ({"pos_column": "a", "pos_separator": "_"}, "pos_column='a'.*pos_separator='_'"),
        ({"pos_column": "a", "pre_tokenization": "ptb"}, "pre_tokenization='ptb'"),
        ({"pos_tag_set": "tags.txt"}, "pos_tag_set='tags.txt'.*pos_column.*pos_separator"),
        (
            {"initialize_from": "folder", "pos_tag_set": "tags.txt", "pos_separator": "_"},
            "pos_tag_set and initialize_from",
        ),
        ({"initialize_from": "folder", "character_dictionary": "c.json"}, "character_dictionary and initialize_from"),
    ],
)
def test_refuses_invalid_values(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingSettings(**{**NEEDED, **changed})


def test_the_model_is_the_preset_with_overrides(tmp_path: Path) -> None:
    file = tmp_path / "shape.json"
    file.write_text('{"projection_size": 32}')
    for overrides in ('{"projection_size": 32}', str(file)):
        config = PretrainingSettings(**NEEDED, preset="small", config_overrides=overrides).model_config(vocab_size=9)
        assert (config.cell_size, config.projection_size, config.vocab_size) == (1024, 32, 9)
    cutoffs = PretrainingSettings(**NEEDED, loss="adaptive", softmax_cutoffs=[4]).model_config(vocab_size=9)
    assert cutoffs.softmax_cutoffs == [4]
    by_default = PretrainingSettings(**NEEDED, loss="adaptive")
    assert by_default.model_config(vocab_size=1000).softmax_cutoffs == [10, 50, 250]
    named = PretrainingSettings(**NEEDED, loss="adaptive", config_overrides='{"softmax_cutoffs": [7]}')
    assert named.model_config(vocab_size=1000).softmax_cutoffs == [7]


def test_word_input_by_overrides() -> None:
    overrides = {"character_filters": [], "word_embedding_size": 128, "tie_word_embeddings": True}
    settings = PretrainingSettings(**NEEDED, preset="small", config_overrides=json.dumps(overrides))
    config = settings.model_config(vocab_size=9)
    assert (config.word_embedding_size, config.num_filters, config.tie_word_embeddings) == (128, 0, True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ('{"cell": 5}', "'cell'.*ElmoConfig"),
        ('{"cell_size": }', r"config_overrides=.* is not JSON"),
        ("missing.json", "config_overrides='missing.json'"),
        ('{"cell_size": 0}', "cell_size=0"),
        ('{"cell_size": "large"}', "cell_size.*int.*str"),
        ('{"character_filters": 3}', "Field 'character_filters'.*list.*int"),
        ('{"word_embedding_size": 100, "tie_word_embeddings": true}', "word_embedding_size=100"),
        ('{"encoder_type": "transformer", "num_attention_heads": 7}', "num_attention_heads=7: expected a divisor"),
    ],
)
def test_refuses_impossible_overrides(overrides: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainingSettings(**NEEDED, config_overrides=overrides).model_config()


def test_the_command_line_has_every_option() -> None:
    parser = HfArgumentParser(PretrainingSettings)
    arguments = ["--train_data", "a.txt", "b/*.gz", "--output-dir", "run", "--vocabulary", "vocab.txt"]
    arguments += ["--no_shuffle", "--max_steps", "5", "--loss", "adaptive", "--softmax_cutoffs", "10", "20"]
    arguments += ["--no_reset_states"]
    (settings,) = parser.parse_args_into_dataclasses(arguments)
    assert settings == PretrainingSettings(
        train_data=["a.txt", "b/*.gz"],
        output_dir="run",
        vocabulary="vocab.txt",
        shuffle=False,
        max_steps=5,
        loss="adaptive",
        softmax_cutoffs=[10, 20],
        reset_states=False,
    )
    assert "%" not in parser.format_help()
    assert all(field.metadata["help"] for field in dataclasses.fields(PretrainingSettings))


def test_survives_json() -> None:
    settings = PretrainingSettings(**NEEDED)
    assert PretrainingSettings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_refuses_to_resume_with_changed_settings(tmp_path: Path) -> None:
    settings = PretrainingSettings(**NEEDED, recipe="bilm-tf", max_steps=10)
    stored = settings.to_dict()
    settings.check_resumes(stored, tmp_path)
    free = {"output_dir": "moved", "max_steps": 20, "log_every": 1, "keep_checkpoints": 5, "stop_after": 3}
    PretrainingSettings(**{**NEEDED, "recipe": "bilm-tf", **free}).check_resumes(stored, tmp_path)
    with pytest.raises(ValueError, match=r"seed=3 \(was 0\)"):
        PretrainingSettings(**NEEDED, recipe="bilm-tf", max_steps=10, seed=3).check_resumes(stored, tmp_path)
    scheduled = PretrainingSettings(**NEEDED, max_steps=10, schedule="cosine")
    with pytest.raises(ValueError, match=r"max_steps=20 \(was 10\)"):
        PretrainingSettings(**NEEDED, max_steps=20, schedule="cosine").check_resumes(scheduled.to_dict(), tmp_path)


def test_omitted_settings_keep_their_stored_values(tmp_path: Path) -> None:
    """Also runs older than recipes, whose defaults were bilm-tf's."""
    before = PretrainingSettings(**NEEDED, recipe="bilm-tf", preset="original", rows=7).to_dict()
    for name in ("recipe", "max_hours"):
        del before[name]
    again = PretrainingSettings(**NEEDED, rows=7).continuing(before, tmp_path)
    assert {**again.to_dict(), **before} == again.to_dict()
    assert again.recipe == "bilm-tf"
    with pytest.raises(ValueError, match=r"rows=8 \(was 7\)"):
        PretrainingSettings(**NEEDED, rows=8).continuing(before, tmp_path)
    # Choosing the recipe sets its values.
    with pytest.raises(ValueError, match=r"rows=64 \(was 7\)"):
        PretrainingSettings(**NEEDED, recipe="small-corpus").continuing(before, tmp_path)
    fitted = PretrainingSettings(**NEEDED, recipe="small-corpus").fitted(words=100, steps=50)
    assert PretrainingSettings(**NEEDED, recipe="small-corpus").continuing(fitted.to_dict(), tmp_path) == fitted
