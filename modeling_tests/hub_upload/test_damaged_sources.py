"""Damaged originals of every format: errors are quick, name the source, and are printed by the command line.

A seeded fuzzer changes one file at a time; what still converts may.
"""

import json
import random
import shutil
import time

import pytest
import torch

from hub_upload import CheckpointError, convert

from . import many_languages
from .checkpoints import TAGGER_PREFIX, VOCABULARY, allennlp_config, allennlp_state, bilm_arrays, options, write_bilm
from .language_models import pack, write_language_model
from .task_archives import classifier, tagger
from .task_archives import write as write_task

HOSTILE = [
    None, True, -1, 0, 3, 10**6, 10**12, 10**30, 0.5, -1e308, 1e308, float("nan"), float("inf"), "", "x", "\u0000", [],
    [[]], [[1, 10**12]], [1] * 9, {}, {"a": {}}, [None], "O" * 10_000, "../../../etc/passwd",
]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    made = {}
    for name in ("bilm", "allennlp", "languages", "language_model", "tagger", "classifier"):
        made[name] = tmp_path_factory.mktemp(name) / "source"
    write_bilm(made["bilm"], vocabulary=VOCABULARY)
    made["allennlp"].mkdir()
    values = options()
    state = allennlp_state(bilm_arrays(values), values, TAGGER_PREFIX)
    torch.save(state, made["allennlp"] / "weights.th")
    (made["allennlp"] / "config.json").write_text(json.dumps(allennlp_config(options_file=values)))
    many_languages.write_model(made["languages"])
    torch.save(many_languages.classifier(), made["languages"] / "classifier.pkl")
    config = write_language_model(made["language_model"])
    assert config
    write_task(made["tagger"], tagger())
    write_task(made["classifier"], classifier())
    return made


def change_value(draw, path):
    value = json.loads(path.read_text())
    place, keys = value, list(value)
    while keys:
        key = draw.choice(keys)
        child = place[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.8:
            place, keys = child, list(child) if isinstance(child, dict) else list(range(len(child)))
            continue
        if draw.random() < 0.15 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = draw.choice(HOSTILE)
        break
    path.write_text(json.dumps(value))


def change_bytes(draw, path):
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3, 20))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)


def cut(draw, path):
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def change_tensor(draw, path):
    state = torch.load(path, weights_only=True)
    name = draw.choice(sorted(state))
    value = state[name]
    others = [value.double(), torch.zeros(7, 7), value[None], value * torch.inf, torch.tensor(1.0), value.to_sparse()]
    state[name] = draw.choice([*others, 5, "x"])
    torch.save(state, path)


def remove(draw, path):
    path.unlink()


def mutate(draw, folder):
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    ways = [change_bytes, cut, remove]
    ways += [change_value] * 8 if path.suffix == ".json" else []
    ways += [change_tensor] * 3 if path.suffix in (".th", ".pkl") else []
    way = draw.choice(ways)
    way(draw, path)
    return f"{way.__name__} of {path.name}"


def fuzz(sources, tmp_path, count, seed):
    draw, refused = random.Random(seed), 0
    for number in range(count):
        name = draw.choice(sorted(sources))
        source, output = tmp_path / str(number), tmp_path / f"{number}_out"
        shutil.copytree(sources[name], source)
        done = mutate(draw, source)
        if name == "tagger" and draw.random() < 0.2:  # as it is published
            archive = pack(source, tmp_path / f"{number}.tar.gz")
            change_bytes(draw, archive)
            shutil.rmtree(source)
            archive.rename(source)
        start, fault = time.perf_counter(), None
        try:
            convert(source, output, remote_code=False)
        except (CheckpointError, OSError) as error:
            fault = error
        except Exception as error:
            raise AssertionError(f"seed {seed}, number {number}, {name}: {done}: {error!r}") from error
        where = f"seed {seed}, number {number}, {name}: {done}: {fault!r}"
        assert time.perf_counter() - start < 20, where
        if fault is not None:
            refused += 1
            assert str(source) in str(fault), where
            assert not output.exists(), where
        for path in tmp_path.glob(f"{number}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return refused


@pytest.mark.filterwarnings("ignore")
def test_a_few_mutations(sources, tmp_path):
    assert fuzz(sources, tmp_path, 40, seed=0) > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, 4))
def test_hundreds_of_mutations(sources, tmp_path, seed):
    assert fuzz(sources, tmp_path, 300, seed) > 150
