"""Pushing of folders: one commit with the permitted files only, conflicts, interruptions, refusals."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.hub import HubError, errors, pushing
from elmo_hf.hub.card import add_facts
from elmo_hf.hub.pushing import push
from modeling_tests.hub_server import Fault
from modeling_tests.tiny import tiny_config, with_large_weights

NAME = "writer/elmo-tiny"
WORDS = ["<S>", "</S>", "<UNK>", "the", "cat"]


def save(folder, large=False, **overrides):
    tokenizer = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)
    if large:  # in several files
        overrides["cell_size"] = 40
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, **overrides)
    model = with_large_weights(ElmoForPreTraining(config)).eval()
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if large else {}))
    tokenizer.save_pretrained(folder)
    add_facts(folder, license="apache-2.0", language=["en"])
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "elmo-tiny"
    save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "elmo-tiny"))


def test_pushed_model_loads_and_other_files_are_not_sent(hub, folder):
    for name in ("training_args.bin", "optimizer.pt", "train.py", "notes.txt", "run_record.json", "trainer_state.json"):
        (folder / name).write_text("/home/somebody/secret")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"x")
    (folder / "all_results.json").write_text('{"f1": 0.5}')
    report = push(folder, NAME, private=True)
    found = hub.files(NAME)
    assert {name for name, _ in report.files} == found.keys() - {".gitattributes"}
    left = {"training_args.bin", "optimizer.pt", "train.py", "notes.txt", "run_record.json", "trainer_state.json"}
    assert not left & found.keys() and not any("/" in name for name in found)
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "all_results.json", "bilstm.py"} <= set(
        found
    )
    assert found["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.repositories[NAME].private and report.commit in str(report.url)
    assert f'name = "{NAME}"  # this model' in found["README.md"].decode()
    text = b"".join(content for name, content in found.items() if name != "model.safetensors").decode()
    assert str(folder.parent) not in text and str(Path.home()) + "/" not in text
    # Loaded by name and commit, in the layout of the Hub's cache.
    model = AutoModel.from_pretrained(NAME, revision=report.commit)
    tokenizer = AutoTokenizer.from_pretrained(NAME, revision=report.commit)
    batch = tokenizer(["the cat"], return_tensors="pt")
    expected = ElmoModel.from_pretrained(folder)(**batch).last_hidden_state
    torch.testing.assert_close(model(**batch).last_hidden_state, expected)
    kept = Path(constants.HF_HUB_CACHE) / "models--writer--elmo-tiny" / "snapshots" / str(report.commit)
    assert (kept / "model.safetensors").resolve().parent.name == "blobs"


@pytest.mark.slow
def test_large_files_are_sent_whole_in_parts_and_as_shards(hub, tmp_path):
    save(tmp_path / "large", large=True)
    hub.part = 18_000
    push(tmp_path / "large", NAME)
    found = hub.files(NAME)
    shards = [name for name in found if name.endswith(".safetensors")]
    assert len(shards) > 1 and "model.safetensors.index.json" in found
    assert all(found[name] == (tmp_path / "large" / name).read_bytes() for name in shards)
    assert hub.parts and hub.asked("PUT", r"/lfs/\w{64}$")
    # A single weight file replaces shards, which are removed, since they would be loaded instead.
    push_small = tmp_path / "small"
    save(push_small)
    report = push(push_small, NAME)
    assert {*shards, "model.safetensors.index.json"} <= set(report.deleted)
    assert [name for name in hub.files(NAME) if "safetensors" in name] == ["model.safetensors"]


@pytest.mark.slow
def test_obsolete_code_is_deleted_in_the_same_commit_and_other_code_kept(hub, folder):
    push(folder, NAME)
    files = hub.files(NAME)
    old = {**files, "modeling_elmo.py": b"from .crf_elmo import ElmoCrf\n", "crf_elmo.py": b"from .old import x\n"}
    old |= {"old.py": b"", "train.py": b"import elmo_hf\n"}
    hub.put(NAME, old)
    before = len(hub.repositories[NAME].commits)
    report = push(folder, NAME)
    assert report.deleted == ("crf_elmo.py", "old.py")
    assert hub.files(NAME) == {**files, "train.py": b"import elmo_hf\n"}
    assert len(hub.repositories[NAME].commits) == before + 1


def test_every_auto_class_is_in_auto_map(hub, folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["auto_map"] = {
        "AutoModel": "modeling_elmo.ElmoModel",
        "AutoConfig": "other/repo--configuration_elmo.ElmoConfig",
    }
    path.write_text(json.dumps(values))
    push(folder, NAME)
    assert json.loads(hub.files(NAME)["config.json"])["auto_map"] == ElmoConfig().auto_map
    assert json.loads(path.read_text()) == values, "the folder stays as it is"
    values["auto_map"] = {"AutoModel": "elsewhere.ElmoModel"}
    path.write_text(json.dumps(values))
    with pytest.raises(HubError, match=r"elsewhere\.ElmoModel"):
        push(folder, NAME)


def test_a_folder_without_code_has_no_auto_map(hub, folder):
    for path in folder.glob("*.py"):
        path.unlink()
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        del values["auto_map"]
        (folder / name).write_text(json.dumps(values))
    push(folder, NAME)
    assert "auto_map" not in json.loads(hub.files(NAME)["config.json"])
    assert not [name for name in hub.files(NAME) if name.endswith(".py")]


def test_a_dry_run_makes_no_request(hub, folder):
    report = push(folder, NAME, dry_run=True)
    assert not hub.requests and report.commit is None
    assert dict(report.files)["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    assert report.card.startswith("---\n") and NAME in report.card


@pytest.mark.slow
def test_branches_and_pull_requests(hub, folder):
    push(folder, NAME)
    before = hub.files(NAME)
    add_facts(folder, datasets=["somebody/corpus"])
    push(folder, NAME, branch="next")
    assert hub.files(NAME) == before
    assert b"somebody/corpus" in hub.files(NAME, "next")["README.md"]
    report = push(folder, NAME, pull_request=True)
    assert report.url == f"{hub.url}/{NAME}/discussions/1"
    assert hub.files(NAME) == before and b"somebody/corpus" in hub.files(NAME, "refs/pr/1")["README.md"]
    push(folder, NAME, revision="next")
    with pytest.raises(HubError, match=r"--branch"):
        push(folder, NAME, revision="nowhere")


@pytest.mark.slow
def test_second_of_two_concurrent_pushes_reports_the_conflict(hub, folder, tmp_path, monkeypatch):
    push(folder, NAME)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    add_facts(folder, datasets=["somebody/first"])
    add_facts(other, datasets=["somebody/second"])
    plain, waits = pushing._outdated, threading.Event()

    def meanwhile(*arguments):
        if not waits.is_set():
            waits.set()
            push(other, NAME)
        return plain(*arguments)

    monkeypatch.setattr(pushing, "_outdated", meanwhile)
    with pytest.raises(HubError, match=f"{NAME}: .*412"):
        push(folder, NAME)
    assert b"somebody/second" in hub.files(NAME)["README.md"]
    push(folder, NAME)
    assert b"somebody/first" in hub.files(NAME)["README.md"]


@pytest.mark.slow
def test_interrupted_push_leaves_nothing_and_resumes(hub, tmp_path, monkeypatch):
    save(tmp_path / "large", large=True)
    push(tmp_path / "large", NAME)
    before, commits = hub.files(NAME), len(hub.repositories[NAME].commits)
    save(tmp_path / "large", large=True)
    hub.faults.append(Fault("POST", "/commit/", cut_after=10))
    with pytest.raises(HubError, match=f"{NAME}: no answer"):
        push(tmp_path / "large", NAME)
    assert hub.files(NAME) == before and len(hub.repositories[NAME].commits) == commits
    sent = hub.asked("PUT", "/lfs/")
    push(tmp_path / "large", NAME)
    assert hub.asked("PUT", "/lfs/") == sent, "large files that arrived are not sent again"
    assert hub.files(NAME) != before


@pytest.mark.slow
def test_rate_limited_requests_are_retried(hub, folder, monkeypatch):
    waited = []
    monkeypatch.setattr(errors, "sleep", waited.append)
    hub.faults.append(Fault("POST", "/commit/", status=429, headers={"Retry-After": "7"}, times=2))
    hub.faults.append(Fault("POST", "/repos/create", status=429, headers={"RateLimit": '"api";r=0;t=3'}))
    push(folder, NAME)
    assert waited == [4.0, 7.0, 7.0]
    hub.faults.append(Fault("POST", "/commit/", status=429, headers={"Retry-After": "1"}, times=99))
    add_facts(folder, datasets=["somebody/corpus"])
    with pytest.raises(HubError, match=f"{NAME}: .*429"):
        push(folder, NAME)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        ("hf_wrong", NAME, "401.*HF_TOKEN"),
        ("hf_reader", NAME, "403"),
        ("hf_writer", "somebody/model", "403"),
    ],
)
def test_invalid_tokens_and_names(hub, folder, token, name, words):
    hub.put("somebody/model", {"config.json": b'{"model_type": "elmo"}'})
    with pytest.raises(HubError, match=f"{name}: .*{words}"):
        push(folder, name, token=token)
    assert hub.repositories.keys() == {"somebody/model"} and hub.files("somebody/model").keys() == {"config.json"}


def test_a_missing_token(hub, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="HF_TOKEN"):
        push(folder, NAME)


def test_a_private_model_needs_its_owners_token(hub, folder):
    push(folder, NAME, private=True)
    with pytest.raises(OSError, match=NAME):
        AutoModel.from_pretrained(NAME, token="hf_reader")


def test_a_name_that_holds_another_model_is_refused(hub, folder):
    hub.put("writer/bert", {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(HubError, match="writer/bert: .*'bert'"):
        push(folder, "writer/bert")
    with pytest.raises(HubError, match="user/name"):
        push(folder, "a/b/c")


def test_without_network(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=f"{NAME}: no answer"):
        push(folder, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(folder, NAME)


def test_interrupted_download_resumes(hub, folder, monkeypatch):
    from huggingface_hub import file_download

    push(folder, NAME)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    hub.faults.append(Fault("GET", r"/resolve/.*/model\.safetensors", cut_after=9_000))
    place = Path(hf_hub_download(NAME, "model.safetensors"))
    ranges = [value for method, path, value in hub.requests if path.endswith("model.safetensors") and value]
    assert ranges and ranges[-1] == "bytes=9000-"
    assert place.read_bytes() == (folder / "model.safetensors").read_bytes()


# ---- folders that are refused before any request


def without_license(folder):
    path = folder / "README.md"
    path.write_text(path.read_text().replace("license: apache-2.0\n", ""))


def with_other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if weights[name].dim() == 2)
    weights[name] = weights[name][:, 1:].contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["softmax.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def appended(name, text):
    def change(folder):
        (folder / name).write_text((folder / name).read_text() + text if (folder / name).exists() else text)

    return change


BAD = {
    "no license": (without_license, r"README\.md: .*license: .*--license"),
    "no card": (lambda folder: (folder / "README.md").unlink(), r"README\.md\): elmo-hub card"),
    "card that is no card": (lambda folder: (folder / "README.md").write_text("---\n[\n---\n"), "line 1, column 2"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"holds no weights \(model\.safetensors\)"),
    "damaged weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 30), r"model\.safetensors: "),
    "weights of another shape": (with_other_weights, r"\(.*\(262, 2\).*\(262, 3\)"),
    "a weight too few": (without_a_weight, r"softmax\.bias"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: .*No such"),
    "damaged config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: .*line 1 column 2"),
    "another model": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "type is 'bert'"),
    "a home": (appended("README.md", "\nTrained on /home/somebody/corpus.txt.\n"), "line .* names /home/somebody"),
    "a token": (appended("all_results.json", '{"token": "hf_' + "a" * 34 + '"}'), r"all_results\.json.*token"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_folders_that_are_refused(case, hub, folder):
    change, words = BAD[case]
    change(folder)
    with pytest.raises(HubError, match=words) as refusal:
        push(folder, NAME)
    assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)
    assert not hub.requests


def test_local_folder_path_in_the_card_is_refused(hub, folder):
    appended("README.md", f"\nSee {folder}/train.txt.\n")(folder)
    with pytest.raises(HubError, match=r"README\.md: line \d+ names .*elmo-tiny"):
        push(folder, NAME, dry_run=True)


def test_transformers_own_push_has_every_auto_class_too(hub, folder):
    ElmoForPreTraining.from_pretrained(folder).push_to_hub(NAME, private=True)
    ElmoTokenizer.from_pretrained(folder).push_to_hub(NAME)
    found = hub.files(NAME)
    assert json.loads(found["config.json"])["auto_map"] == ElmoConfig().auto_map
    assert {"modeling_elmo.py", "tokenization_elmo.py", "tokenizer.json"} <= found.keys()
    assert type(AutoModel.from_pretrained(NAME)) is ElmoModel
