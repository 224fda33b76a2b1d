"""ELMo in AllenNLP's task models: the weights equal those of the HDF5 file, wherever the module is."""

import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer
from hub_upload import CheckpointError, convert, export, verify
from hub_upload.allennlp.reader import read_archive_config

from ..checkpoints import TAGGER_PREFIX, allennlp_config, allennlp_state, bilm_arrays, options, read_hdf5, write_bilm

MIXES = ((0.3, -0.2, 0.1), (0.0, 1.0, -1.0))
CLIPS = {"cell_clip": 3.0, "proj_clip": 3.0}


def write_model(folder, values=None, prefix=TAGGER_PREFIX, mixes=MIXES, config=None, legacy=False, extra=(), gamma=1.5):
    """An AllenNLP training folder; returns the bilm-tf arrays that the module was made of."""
    folder.mkdir(exist_ok=True)
    values = values or options(**CLIPS)
    arrays = bilm_arrays(values)
    state = allennlp_state(arrays, values, prefix, mixes, gamma)
    state |= {"tag_projection_layer.weight": torch.ones(2, 2), **dict(extra)}
    torch.save(state, folder / "weights.th", _use_new_zipfile_serialization=not legacy)
    (folder / "config.json").write_text(config or json.dumps(allennlp_config()))
    return arrays


def pack(folder, path):
    with tarfile.open(path, "w:gz") as file:
        for item in sorted(folder.rglob("*")):
            if item.is_file():
                file.add(item, str(item.relative_to(folder)))
    return path


@pytest.mark.samples(1)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_archive_gives_the_weights_of_the_hdf5(tmp_path, packed, legacy):
    arrays = write_model(tmp_path / "model", legacy=legacy)
    source = pack(tmp_path / "model", tmp_path / "model.tar.gz") if packed else tmp_path / "model"
    report = convert(source, tmp_path / "from_archive")
    write_bilm(tmp_path / "bilm", options(**CLIPS), arrays)
    convert(tmp_path / "bilm", tmp_path / "from_hdf5")
    ours, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("from_archive", "from_hdf5"))
    for name, tensor in expected.items():
        if name.endswith("input_proj.bias"):
            tensor[10:20] += 1  # AllenNLP has TensorFlow's forget bias inside
        if "scalar_mixes" not in name:
            assert ours[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    for k, mix in enumerate(MIXES):
        np.testing.assert_array_equal(ours[f"scalar_mixes.{k}.weights"].numpy(), np.float32(mix))
        assert ours[f"scalar_mixes.{k}.gamma"].tolist() == [1.5]
    config = ElmoConfig.from_pretrained(tmp_path / "from_archive")
    assert (config.forget_bias, config.num_representations, config.representation_dropout) == (0.0, 2, 0.5)
    assert any("left out 1 tensors of the task model" in note for note in report.notes)
    assert any("no options file was found" in note for note in report.notes)
    assert verify(tmp_path / "from_archive", source, tolerance=5e-6).passed  # float32 against float64


@pytest.mark.parametrize("prefix", ["", "_elmo.", "a.b._c."])
def test_elmo_module_is_found_under_any_prefix(tmp_path, prefix):
    write_model(tmp_path / "model", prefix=prefix)
    # Table, filters, highways and projection, four cells, two mixes of weights and gamma.
    assert convert(tmp_path / "model", tmp_path / "out").tensors == 1 + 6 + 4 + 2 + 4 * 4 + 2 * 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["fta", "inlined", "beside", "relative", "absolute", "given"])
def test_options_are_found(tmp_path, place):
    values = options(activation="tanh", cell_clip=1.25, proj_clip=None)
    model, file = tmp_path / "model", tmp_path / "options_elsewhere.json"
    settings = {"do_layer_norm": True, "dropout": 0.25}
    file.write_text(json.dumps(values))
    if place == "inlined":
        settings["options_file"] = values
    if place == "relative":
        settings["options_file"] = "sub/o.json"
    if place == "absolute":
        settings["options_file"] = str(model / "sub" / "o.json")
    write_model(model, values, config=json.dumps(allennlp_config(**settings)))
    if place == "beside":
        file.rename(model / "options.json")
    if place in ("relative", "absolute"):
        (model / "sub").mkdir()
        file.rename(model / "sub" / "o.json")
    if place == "fta":
        (model / "fta").mkdir()
        file.rename(model / "fta" / "model.text_field_embedder.token_embedders.elmo.options_file")
    source = pack(model, tmp_path / "model.tar.gz") if place in ("fta", "inlined") else model
    convert(source, tmp_path / "out", options=file if place == "given" else None)
    config = ElmoConfig.from_pretrained(tmp_path / "out")
    assert (config.character_activation, config.cell_clip, config.projection_clip) == ("tanh", 1.25, None)
    assert (config.scalar_mix_layer_norm, config.scalar_mix_layer_norm_epsilon) == ("tokens", 1e-13)
    assert config.representation_dropout == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("place", ["absolute", "../o.json", "sub/../../o.json", "embedder's name"])
def test_a_configuration_names_files_of_its_own_folder_only(tmp_path, place, packed):
    """Readable files outside the folder are not read: their values would appear in results or errors."""
    file = tmp_path / "o.json"
    file.write_text(json.dumps(options(activation="tanh", **CLIPS)))
    config = allennlp_config(options_file=str(file) if place == "absolute" else place)
    if place == "embedder's name":
        # The name between `fta/` and `.options_file` is a key of the configuration.
        (tmp_path / "o.options_file").write_text(file.read_text())
        embedders = config["model"]["text_field_embedder"]["token_embedders"]
        config = {"../../o": embedders["elmo"] | {"options_file": "https://example.org/o.json"}}
    model = tmp_path / "model"
    write_model(model, config=json.dumps(config))
    (model / "fta").mkdir()
    (model / "sub").mkdir()
    source = pack(model, tmp_path / "model.tar.gz") if packed else model
    report = convert(source, tmp_path / "out")
    assert ElmoConfig.from_pretrained(tmp_path / "out").character_activation == "relu"
    notes = "\n".join(report.notes)
    assert "no options file was found" in notes
    assert ("which is not in the folder; files elsewhere are read only if you name them" in notes) == (
        place != "embedder's name"
    )
    convert(source, tmp_path / "given", options=file)
    assert ElmoConfig.from_pretrained(tmp_path / "given").character_activation == "tanh"


def convert_mixes(tmp_path, mixes, configured, gamma=1.0):
    """Convert a module whose mixes AllenNLP does not train; returns the report, the configuration and the tensors."""
    config = json.dumps(allennlp_config(scalar_mix_parameters=configured))
    write_model(tmp_path / "m", mixes=mixes, config=config, gamma=gamma)
    report = convert(tmp_path / "m", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    mixes = {name: value.tolist() for name, value in tensors.items() if "scalar_mixes" in name}
    return report, ElmoConfig.from_pretrained(tmp_path / "out"), mixes


@pytest.mark.slow
@pytest.mark.parametrize("mix", [[-9e10, 1.0, -9e10], [0.1, 0, 0.3]], ids=["one layer", "rounded in float32"])
def test_fixed_mixes_stay_fixed(tmp_path, mix):
    report, config, weights = convert_mixes(tmp_path, [mix, mix], mix)
    assert (config.scalar_mix, config.scalar_mix_parameters, config.num_representations) == ("fixed", mix, 2)
    assert not weights
    assert not any("scalar_mix_parameters" in note for note in report.notes)
    model = ElmoModel.from_pretrained(tmp_path / "out")
    for stored in model.scalar_mixes:
        assert stored.weights.tolist() == np.float32(mix).tolist()
        assert stored.gamma.tolist() == [1.0]
    assert verify(tmp_path / "out", tmp_path / "m", tolerance=5e-6).passed  # float32 against float64
    exported = export(tmp_path / "out", tmp_path / "back")
    assert any(f"the fixed mix is not part of these files: raw weights {mix}" in note for note in exported.notes)


@pytest.mark.parametrize("configured", [[0.0, 0.0, 1.0], [1.0]], ids=["other values", "other length"])
def test_stored_fixed_mixes_win_over_the_configuration(tmp_path, configured):
    mix = [0.1, 2.0, -0.3]
    report, config, weights = convert_mixes(tmp_path, [mix], configured)
    assert (config.scalar_mix, config.scalar_mix_parameters) == ("fixed", np.float32(mix).tolist())
    assert not weights
    assert any("took those of the weight file" in note for note in report.notes)
    assert ElmoModel.from_pretrained(tmp_path / "out").scalar_mixes[0].weights.tolist() == np.float32(mix).tolist()


@pytest.mark.parametrize(
    ("mixes", "gamma"), [([[0.5, 0.0, 0.0]], 1.5), ([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]], 1.0)], ids=["gamma", "several"]
)
def test_mixes_that_cannot_be_fixed_keep_their_values(tmp_path, mixes, gamma):
    report, config, weights = convert_mixes(tmp_path, mixes, mixes[0], gamma)
    assert (config.scalar_mix, config.scalar_mix_parameters) == ("learned", None)
    assert weights == {
        **{f"scalar_mixes.{k}.weights": mix for k, mix in enumerate(mixes)},
        **{f"scalar_mixes.{k}.gamma": [gamma] for k in range(len(mixes))},
    }
    assert any("kept as learned mixes" in note and f"gamma {gamma:g}" in note for note in report.notes)


@pytest.mark.parametrize("value", ["[0, NaN, 0]", "[0, 1e39, 0]", "[true, 0, 0]", "1", f"[0, 0, {'9' * 400}]"])
def test_impossible_mixes_are_refused(tmp_path, value):
    config = json.dumps(allennlp_config(scalar_mix_parameters="?")).replace('"?"', value)
    write_model(tmp_path / "m", config=config)
    with pytest.raises(CheckpointError, match=r"config\.json.*scalar_mix_parameters.*expected"):
        convert(tmp_path / "m", tmp_path / "out")


def test_cached_vocabulary_and_projection_are_left_out(tmp_path):
    extra = {
        TAGGER_PREFIX + "_elmo_lstm._word_embedding.weight": torch.ones(4, 6),
        TAGGER_PREFIX.removesuffix("_elmo.") + "_projection.weight": torch.ones(3, 12),
    }
    write_model(tmp_path / "model", extra=extra.items())
    report = convert(tmp_path / "model", tmp_path / "out")
    assert any("projects ELMo's vectors" in note for note in report.notes)


def test_a_vocabulary_can_be_given_and_a_softmax_cannot(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "v.txt").write_text("<S>\n</S>\n<UNK>\nword\n")
    assert convert(tmp_path / "model", tmp_path / "out", vocabulary=tmp_path / "v.txt").vocab_size == 6
    with pytest.raises(CheckpointError, match="leave --softmax .* out"):
        convert(tmp_path / "model", tmp_path / "b", softmax=tmp_path / "v.txt")


def test_a_forget_bias_moved_out_is_reported(tmp_path):
    arrays = write_model(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "folder")
    report = export(tmp_path / "folder", tmp_path / "back")
    exported = read_hdf5(tmp_path / "back" / "weights.hdf5")
    for name, array in arrays.items():
        if name.endswith("/B"):
            np.testing.assert_allclose(exported[name], array, atol=2e-7)  # 1 was added and subtracted in float32
        else:
            assert exported[name].tobytes() == array.tobytes(), name
    lost = sum(
        np.count_nonzero(array[20:30] + np.float32(1) != exported[name][20:30] + np.float32(1))
        for name, array in arrays.items()
        if name.endswith("/B")
    )
    assert report.reversible == (lost == 0)
    assert any("mix 1 is not part" in note for note in report.notes)
    assert any("forget bias" in note for note in report.notes)


class Evil:
    def __reduce__(self):
        return os.system, ("touch " + os.environ["EVIL_FILE"],)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL_FILE", str(tmp_path / "ran"))
    (tmp_path / "config.json").write_text("{}")
    for save in (
        lambda value, path: torch.save(value, path),
        lambda value, path: path.write_bytes(pickle.dumps(value, 2)),
    ):
        save({"x": Evil()}, tmp_path / "weights.th")
        with pytest.raises(CheckpointError, match=r"weights\.th: .*pickle"):
            convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_damaged_and_foreign_state_dicts(tmp_path):
    model = tmp_path / "model"
    write_model(model)
    content = (model / "weights.th").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"hello"):
        (model / "weights.th").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"weights\.th: (damaged|not a plain file)"):
            convert(model, tmp_path / "out")
    for state, message in (
        ([torch.ones(1)], "expected a state dict"),
        ({"epoch": 3}, "expected a state dict"),
        ({"linear.weight": torch.ones(1)}, "`Elmo`.*linear.weight"),
        ({"_contextualizer._module.x": torch.ones(1)}, r"config\.json: model\.type is None"),
        ({"a._lm._contextualizer._module.x": torch.ones(1)}, r" a\._lm\."),
    ):
        torch.save(state, model / "weights.th")
        with pytest.raises(CheckpointError, match=message):
            convert(model, tmp_path / "out")


def test_incomplete_and_contradicting_modules(tmp_path):
    values = options(**CLIPS)
    state = allennlp_state(bilm_arrays(values), values)
    (tmp_path / "model").mkdir()
    (tmp_path / "o.json").write_text(json.dumps(options(dim=11)))
    torch.save(state, tmp_path / "model" / "weights.th")
    with pytest.raises(CheckpointError, match=r"input_linearity\.weight'.*\(40, 6\).*\(44, 6\)"):
        convert(tmp_path / "model", tmp_path / "out", options=tmp_path / "o.json")
    (tmp_path / "o.json").write_text(json.dumps(options(use_skip_connections=False)))
    with pytest.raises(CheckpointError, match="lstm.use_skip_connections"):
        convert(tmp_path / "model", tmp_path / "out", options=tmp_path / "o.json")
    name = "_elmo_lstm._elmo_lstm.backward_layer_1.state_linearity.bias"
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "model" / "weights.th")
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        convert(tmp_path / "model", tmp_path / "out")


def test_several_modules_need_a_choice(tmp_path):
    values = options(**CLIPS)
    arrays = bilm_arrays(values)
    torch.save(allennlp_state(arrays, values, "a.") | allennlp_state(arrays, values, "b."), tmp_path / "weights.th")
    with pytest.raises(CheckpointError, match=r"Elmo.*a\..*b\."):
        convert(tmp_path, tmp_path / "out")


def test_jsonnet_of_old_archives(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('// a comment\n{"a": [1, 2,], /* b */ "url": "http://x, }", # c\n}')
    assert read_archive_config(path) == {"a": [1, 2], "url": "http://x, }"}
    path.write_text("local x = 1; {}")
    with pytest.raises(CheckpointError, match=r"config\.json: .*Jsonnet"):
        read_archive_config(path)


def test_tokens_to_add(tmp_path):
    """The indexer's `tokens_to_add` is passed to the tokenizer and saved with it."""
    config = allennlp_config()
    indexers = {"elmo": {"type": "elmo_characters", "tokens_to_add": {"<first>": 1}}, "tokens": {"type": "single_id"}}
    config["dataset_reader"] = {"token_indexers": indexers}
    write_model(tmp_path / "model", config=json.dumps(config))
    convert(tmp_path / "model", tmp_path / "folder")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.tokens_to_add == {"<first>": 1}
    rows = tokenizer([["<first>", "a"]], is_split_into_words=True)["character_ids"][0]
    assert rows[1, :4].tolist() == [259, 2, 260, 261] and rows[2, :3].tolist() == [259, ord("a") + 1, 260]
    for value, message in (
        ([1], r"tokens_to_add is \[1\]"),
        ({"x": 300}, "tokens_to_add has 300 for 'x'.* 260"),
    ):
        indexers["elmo"]["tokens_to_add"] = value
        write_model(tmp_path / "model", config=json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "model", tmp_path / "other")
