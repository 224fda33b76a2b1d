"""Damaged folders: every error names the file and comes before large allocations.

A seeded fuzzer changes the files of saved folders one at a time; what still loads may load.
"""

import json
import os
import random
import shutil
import time

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file

import elmo_hf
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer, embed
from elmo_hf.folders import check_sizes
from elmo_hf.inference.loading import load_tokenizer
from elmo_hf.model.configuration_elmo import MAX_LAYERS

from .tiny import BOTH_INPUTS, TRANSFORMER, tiny_config

MARKS = ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "sat"]
KINDS = {
    "tagger": (ElmoForTokenClassification, {"use_crf": True, "tag_scheme": "BIO", "task_lstm_size": 3}),
    "both": (ElmoForPreTraining, BOTH_INPUTS),
    "transformer": (ElmoForPreTraining, TRANSFORMER),
}
# Values that no field accepts, or only some.
HOSTILE = [
    None, True, -1, 0, 3, 10**6, 10**12, 10**30, 0.5, -1e308, 1e308, float("nan"), float("inf"), "", "x", "\u0000", [],
    [[]], [[1, 10**12]], [1] * 9, {}, {"a": {}}, {"0": "O"}, [None], "O" * 10_000,
]  # fmt: skip
ALLOWED = (ValueError, OSError, TypeError, StrictDataclassError, RuntimeError)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    made = {}
    for name, (kind, fields) in KINDS.items():
        made[name] = tmp_path_factory.mktemp(name)
        symbols = [*MARKS, *"acehst"] if name == "both" else None
        tokenizer = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9, character_vocabulary=symbols)
        labels = {0: "O", 1: "B-PER", 2: "I-PER"}
        sizes = {"vocab_size": len(tokenizer), "num_characters": tokenizer.num_characters}
        kind(tiny_config(id2label=labels, **{**sizes, **fields})).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def load(folder, kind, changed=""):
    """Load the parts that read the changed file; by default all."""
    if "token" not in changed and "vocabulary" not in changed:
        ElmoConfig.from_pretrained(folder)
        kind.from_pretrained(folder)
    if not changed.startswith(("config", "model")):
        tokenizer = load_tokenizer(None, folder)
        tokenizer(["the", "cat"], is_split_into_words=True)


def fault_of(folder, kind, changed="", seconds=20.0):
    """The checked error of loading a folder; `None` without an error."""
    start, fault = time.perf_counter(), None
    try:
        load(folder, kind, changed)
    except Exception as error:
        fault = error
    assert time.perf_counter() - start < seconds
    if fault is not None:
        assert isinstance(fault, ALLOWED) and not isinstance(fault, RecursionError), repr(fault)
        assert str(folder) in str(fault), repr(fault)
    return fault


# ---- mutations: each changes one file of a folder


def damage_bytes(draw, path):
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 3, 20))):
        # The header of weights, not their values.
        content[draw.randrange(min(len(content), 2000))] = draw.randrange(256)
    path.write_bytes(content)


def cut(draw, path):
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def replace_whole(draw, path):
    deep = "[" * 100_000
    texts = ["", "null", "[]", "{}", '"x"', deep, '{"a": ' + deep, '{"vocab_size": ' + "9" * 5000 + "}", "\x00" * 100]
    path.write_bytes(draw.choice([text.encode() for text in texts] + [b"\xff\xfe{\x00"]))


def change_value(draw, path):
    value = json.loads(path.read_text())
    place, keys = value, list(value) if isinstance(value, dict) else []
    while keys:
        key = draw.choice(keys)
        child = place[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.5:
            place, keys = child, list(child) if isinstance(child, dict) else list(range(len(child)))
            continue
        if draw.random() < 0.15 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = draw.choice(HOSTILE)
        break
    path.write_text(json.dumps(value))


def change_shape(draw, path):
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    change = draw.choice(["shape", "drop", "double", "axis"])
    if change == "drop":
        del tensors[name]
    else:
        value = tensors[name]
        made = {"shape": lambda: torch.zeros(7, 7), "double": value.double, "axis": lambda: value[None].contiguous()}
        tensors[name] = made[change]()
    save_file(tensors, path, metadata={"format": "pt"})


def mutate(draw, folder):
    """Change one file; return its name and the change."""
    path = draw.choice(sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")))
    ways = [damage_bytes, cut, replace_whole]
    ways += [change_shape] * 3 if path.suffix == ".safetensors" else [change_value] * 6
    way = draw.choice(ways)
    way(draw, path)
    return path.name, way.__name__


def fuzz(folders, tmp_path, count, seed):
    draw, damaged = random.Random(seed), 0
    for number in range(count):
        name = draw.choice(sorted(folders))
        folder = tmp_path / str(number)
        shutil.copytree(folders[name], folder, ignore=shutil.ignore_patterns("*.py"))
        changed, way = mutate(draw, folder)
        try:
            damaged += fault_of(folder, KINDS[name][0], changed) is not None
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, number {number}, {name}: {way} of {changed}: {error}") from error
        shutil.rmtree(folder)
    return damaged


@pytest.mark.filterwarnings("ignore")
def test_a_few_mutations(folders, tmp_path):
    assert fuzz(folders, tmp_path, 80, seed=0) > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, 3))
def test_thousands_of_mutations(folders, tmp_path, seed):
    assert fuzz(folders, tmp_path, 1000, seed) > 400


# ---- the cases that were reported


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders["both"], tmp_path / "folder", ignore=shutil.ignore_patterns("*.py"))


def rewrite(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", "[]"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "character_vocabulary.json"])
def test_invalid_json(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises((ValueError, OSError), match=f"{folder / name}: "):
        load(folder, ElmoForPreTraining)
    if name != "config.json":
        with pytest.raises((ValueError, OSError), match=f"{folder / name}: "):
            ElmoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "fields",
    [{"unk_token": None}, {"unk_token": ""}, {"pad_token": None}, {"model_max_length": "x"}, {"bos_token": 5}],
    ids=lambda fields: "-".join(fields),
)
def test_options_of_a_tokenizer_that_fail_in_use(folder, fields):
    rewrite(folder / "tokenizer_config.json", **fields)
    with pytest.raises(ValueError, match=f"{folder}: .*{next(iter(fields))}"):
        load(folder, ElmoForPreTraining, "tokenizer_config.json")


def test_weights_of_another_shape(folder):
    """The error names the tensor, both shapes and the folder, not only an option of Transformers."""
    rewrite(folder / "config.json", cell_size=7)
    with pytest.raises(RuntimeError, match=rf"{folder}: elmo.encoder.*\(.*config\.json.*\("):
        ElmoForPreTraining.from_pretrained(folder)
    assert ElmoForPreTraining.from_pretrained(folder, ignore_mismatched_sizes=True).config.cell_size == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 300_000},
        {"character_filters": [[1, 10**7]], "character_projection": None},
        {"num_characters": 10**12},
        {"num_characters": 10**9},
        {"vocab_size": 10**9},
        {"word_embedding_size": 10**8},
        {"projection_size": 10**6, "cell_size": 10**6},
        {"num_highway_layers": 10**6},
        {"num_representations": 10**6},
        {"max_characters_per_word": 10**12},
        {"num_labels": 10**10},
        {"character_filters": [[1, 1]] * 5000},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_sizes_that_the_weights_do_not_have(folder, fields):
    rewrite(folder / "config.json", **fields)
    start = time.perf_counter()
    with pytest.raises(ALLOWED, match=str(folder)):
        ElmoForPreTraining.from_pretrained(folder)
    assert time.perf_counter() - start < 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", "tagger"])
@pytest.mark.parametrize(
    "fields",
    [
        {"max_position_embeddings": 10**9},
        {"feed_forward_size": 10**9},
        {"task_lstm_size": 10**6},
        {"word_vector_size": 10**9},
        {"task_character_size": 10**6, "num_task_characters": 10**6, "task_character_filters": [[1, 1]]},
        {"classifier_layers": [[10**9, "relu"]]},
        {"integrator_size": 10**7, "task_lstm_size": 3},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_too_large_new_parts_are_refused(folders, kind, fields, tmp_path):
    """Parts that the weights lack are initialized; if they take gigabytes, they are refused before allocation."""
    folder = shutil.copytree(folders[kind], tmp_path / "folder", ignore=shutil.ignore_patterns("*.py"))
    rewrite(folder / "config.json", **fields)
    fault_of(folder, KINDS[kind][0])


def test_configurations_of_other_copies(folder):
    """A configuration of another version that lacks a field is not damaged; the sizes of all others are checked."""
    config = ElmoConfig.from_pretrained(folder)
    del config.__dict__["maxout_sizes"]
    with pytest.raises(AttributeError):
        _ = config.maxout_sizes
    assert ElmoForPreTraining.from_pretrained(folder, config=config).config is not None
    check_sizes(ElmoForPreTraining, folder, config)

    class OtherConfig(ElmoConfig):
        pass

    class OtherCopy(ElmoForPreTraining):
        config_class = OtherConfig

    other = ElmoConfig.from_pretrained(folder, cell_size=10**6)
    with pytest.raises(ValueError, match=str(folder)):
        OtherCopy.from_pretrained(folder, config=other)


def test_parts_missing_from_the_weights_are_initialized(folder):
    """A configuration may need more weights than a folder has, up to a model's size."""
    model = ElmoModel.from_pretrained(folder, num_representations=3)
    assert model.config.num_representations == len(model.scalar_mixes) == 3
    with pytest.raises(RuntimeError, match=rf"{folder}.*scalar_mixes.0.weights.*\(3,\).*asks.*\(4,\)"):
        ElmoModel.from_pretrained(folder, num_hidden_layers=3)
    with pytest.raises((ValueError, StrictDataclassError), match="num_hidden_layers"):
        ElmoModel.from_pretrained(folder, num_hidden_layers=MAX_LAYERS + 1)


def test_a_header_that_claims_gigabytes(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[:8] = (2**40).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"{folder}/model.safetensors: .*{2**40} bytes"):
        ElmoForPreTraining.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"{folder}/model.safetensors: .*{2**40} bytes"):
        embed(["the cat"], folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_pipe_in_place_of_a_file(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    kind = ElmoForPreTraining if name == "config.json" else ElmoTokenizer
    with pytest.raises(ValueError, match=f"{folder / name}: .*regular file") as refused:
        kind.from_pretrained(folder)
    assert str(refused.value).count(str(folder)) == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damage_is_reported_once(folder, name):
    (folder / name).write_text("{")
    with pytest.raises(ValueError, match=f"{folder / name}: ") as refused:
        elmo_hf.embed(["a word"], folder)
    assert str(refused.value).count("Fetch or save") == 1


def test_missing_folder_raises_the_usual_errors():
    for load_one in (ElmoConfig.from_pretrained, ElmoModel.from_pretrained, ElmoTokenizer.from_pretrained):
        with pytest.raises((OSError, ValueError), match="no-such-elmo"):
            load_one("no-such-elmo")
