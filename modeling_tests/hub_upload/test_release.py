"""Published originals by name: downloaded from a server or a mirror, converted, verified, described, cached."""

import hashlib
import json
import shutil
import sys
import tarfile
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard, constants, file_download

import elmo_hf
from elmo_hf import ElmoModel
from elmo_hf.hub import resolve
from hub_upload import CheckpointError, catalog, download, kept, release
from hub_upload.catalog import CATALOG, Published, RemoteFile, find
from hub_upload.cli import main
from hub_upload.release import home, is_kept
from modeling_tests.hub_server import Fault

from .checkpoints import VOCABULARY, options, write_bilm, zip_folder
from .task_archives import SIZES, tagger, write

STEM = "elmo_2x1024_128_2048cnn_1xhighway"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where originals are kept."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)
    return home()


@pytest.fixture
def mirror(tmp_path):
    """A folder with a tiny `small` of the original's form, by the names of the real files."""
    folder = tmp_path / "mirror" / "small"
    write_bilm(folder, vocabulary=VOCABULARY)
    (folder / "options.json").rename(folder / f"{STEM}_options.json")
    (folder / "weights.hdf5").rename(folder / f"{STEM}_weights.hdf5")
    return folder


def url_of(mirror):
    return mirror.parent.as_uri()


@pytest.mark.slow
def test_release_from_a_folder_end_to_end(mirror, place, capsys):
    assert main(["release", "small", "--base-url", url_of(mirror), "--yes"]) == 0
    assert "passed: " in capsys.readouterr().out
    card = ModelCard.load(place / "small" / "README.md")
    assert (card.data.license, card.data.language) == ("unknown", ["en"])
    digest = hashlib.sha256((mirror / f"{STEM}_weights.hdf5").read_bytes()).hexdigest()
    for part in (digest, "not stated by the authors", "absolute difference", catalog.ELMO_PAGE):
        assert part in card.content
    assert str(mirror) not in card.content and str(place) not in card.content
    assert main(["list"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("small "))
    assert "~54 MB" in row and " kept " in row and "not stated" in row
    # Now it is found by name, without a prompt or network.
    arrays = elmo_hf.embed([["the", "neural"]], "elmo:small", layers="top")
    assert arrays[0].shape[0] == 2
    assert resolve("elmo:small") == str(place / "small") == str(kept("small"))


@pytest.mark.slow
def test_interrupted_download_resumes(hub, mirror, place):
    for path in mirror.iterdir():
        hub.web[f"/mirror/small/{path.name}"] = path.read_bytes()
    base, weights = f"{hub.url}/mirror", f"/mirror/small/{STEM}_weights.hdf5"
    hub.faults += [Fault("GET", weights, cut_after=5_000), Fault("GET", weights, status=404)]
    with pytest.raises(CheckpointError, match=f"{base}/.*--base-url"):
        release("small", base_url=base, yes=True)
    assert not is_kept("small")
    partial = next((place / ".downloads" / "small").glob("*.incomplete"))
    assert partial.stat().st_size == 5_000
    release("small", base_url=base, yes=True)
    assert [value for _, path, value in hub.requests if path == weights and value][-1] == "bytes=5000-"
    assert is_kept("small") and not (place / ".downloads" / "small").exists()


@pytest.mark.slow
def test_changed_file_at_the_url_is_downloaded_again(hub, mirror, place):
    for path in mirror.iterdir():
        hub.web[f"/mirror/small/{path.name}"] = path.read_bytes()
    weights = f"/mirror/small/{STEM}_weights.hdf5"
    hub.faults += [Fault("GET", weights, cut_after=5_000), Fault("GET", weights, status=404)]
    with pytest.raises(CheckpointError, match=f"{hub.url}{weights}: .*--base-url"):
        release("small", base_url=f"{hub.url}/mirror", yes=True)
    write_bilm(mirror.parent / "other", vocabulary=VOCABULARY, dim=12)
    hub.web[weights] = (mirror.parent / "other" / "weights.hdf5").read_bytes()
    hub.web[weights.replace("weights.hdf5", "options.json")] = (mirror.parent / "other" / "options.json").read_bytes()
    shutil.rmtree(place / ".downloads" / "small" / "none", ignore_errors=True)
    (place / ".downloads" / "small" / f"{STEM}_options.json").unlink()
    release("small", base_url=f"{hub.url}/mirror", yes=True)
    assert ElmoModel.from_pretrained(place / "small").config.cell_size == 12


def test_a_checksum_that_differs(hub, mirror, place, monkeypatch):
    options, weights = CATALOG["small"].files
    known = Published("small", "x", "en", 1, (options, RemoteFile(weights.url, "weights", "0" * 64)))
    monkeypatch.setitem(CATALOG, "small", known)
    for path in mirror.iterdir():
        hub.web[f"/mirror/small/{path.name}"] = path.read_bytes()
    with pytest.raises(CheckpointError, match="expected 0000"):
        release("small", base_url=f"{hub.url}/mirror", yes=True)
    assert not is_kept("small") and not list((place / ".downloads" / "small").glob("*weights*"))
    (mirror / download.SUMS).write_text(f"{'1' * 64}  {STEM}_options.json\n")
    with pytest.raises(CheckpointError, match="expected 1111"):
        release("small", base_url=url_of(mirror), yes=True)


def test_a_full_disk_is_seen_before_the_download(hub, mirror, place, monkeypatch):
    for path in mirror.iterdir():
        hub.web[f"/mirror/small/{path.name}"] = path.read_bytes()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(CheckpointError, match=f"no room for .*{hub.url}/mirror"):
        release("small", base_url=f"{hub.url}/mirror", yes=True)
    assert not hub.asked("GET", "/mirror/") and not (place / "small").exists()


def test_without_network_a_mirror_is_named(place, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE.*--base-url"):
        release("small", yes=True)


def test_damaged_files_leave_nothing(mirror, place):
    path = mirror / f"{STEM}_weights.hdf5"
    path.write_bytes(path.read_bytes()[:9_000])
    with pytest.raises(CheckpointError, match=rf"{STEM}_weights\.hdf5.*truncated"):
        release("small", base_url=url_of(mirror), yes=True)
    assert not (place / "small").exists() and not list(place.glob(".small*"))


@pytest.mark.slow
def test_model_that_fails_verification_is_not_kept(mirror, place, monkeypatch):
    from dataclasses import replace

    module = sys.modules["hub_upload.release"]
    plain = module.verify
    monkeypatch.setattr(module, "verify", lambda *a, **k: replace(plain(*a, **k), tolerance=0.0))
    with pytest.raises(CheckpointError, match=r"small: .*tolerance 0\)"):
        release("small", base_url=url_of(mirror), yes=True)
    assert not (place / "small").exists() and not list(place.glob(".small*"))


@pytest.mark.slow
def test_the_question_about_size_and_license(mirror, place, monkeypatch):
    asked = []
    with pytest.raises(CheckpointError, match="small: not fetched"):
        release("small", base_url=url_of(mirror), ask=lambda question: asked.append(question) or "n")
    assert "about 54 MB" in asked[0] and "not stated by the authors" in asked[0]
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(CheckpointError, match="elmo-hub release small --yes"):
        resolve("elmo:small")
    release("small", base_url=url_of(mirror), ask=lambda question: "yes")
    with pytest.raises(CheckpointError, match="--overwrite"):
        release("small", base_url=url_of(mirror), yes=True)


def test_folder_of_the_same_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elmo:small").mkdir()
    assert resolve("elmo:small") == "elmo:small"
    for given in ("small", tmp_path, None, "user/elmo:small"):
        assert resolve(given) is given


@pytest.mark.slow
def test_archive_with_vocabulary_and_softmax(tmp_path, place):
    write_bilm(tmp_path / "files", vocabulary=VOCABULARY)
    (tmp_path / "mirror" / "nlpl-210").mkdir(parents=True)
    zip_folder(tmp_path / "files", tmp_path / "mirror" / "nlpl-210" / "210.zip")
    report = release("nlpl-210", tmp_path / "out", base_url=(tmp_path / "mirror").as_uri(), yes=True)
    assert report.folder == tmp_path / "out" and not (place / "nlpl-210").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["no"]) and "kutuzov-etal" in card.content
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["ElmoForPreTraining"]
    with pytest.raises(CheckpointError, match="--softmax"):
        release("nlpl-210", tmp_path / "other", softmax=True, yes=True)


@pytest.mark.slow
@torch.no_grad()
def test_the_softmax_of_the_original(tmp_path, place):
    original = CATALOG["original"]
    folder = tmp_path / "mirror" / "original"
    write_bilm(folder, vocabulary=VOCABULARY, separate_softmax=True)
    roles = {
        "options": "options.json",
        "weights": "weights.hdf5",
        "softmax": "softmax_weights.hdf5",
        "vocabulary": "vocab.txt",
    }
    for file in (*original.files, *original.softmax):
        (folder / roles[file.role]).rename(folder / file.name)
    release("original", base_url=(tmp_path / "mirror").as_uri(), softmax=True, yes=True)
    assert json.loads((place / "original" / "config.json").read_text())["architectures"] == ["ElmoForPreTraining"]


def test_catalog_names():
    assert find("elmo:small") is CATALOG["small"]
    assert find("nlpl-144") is CATALOG["many-en"]
    other = find("nlpl-250")
    assert not other.is_confirmed and other.files[0].url.endswith("/20/250.zip")
    with pytest.raises(CheckpointError, match="small.*elmo-hub list"):
        find("smal")
    wanted = "small medium original original-5.5B portuguese pubmed transformer ner ner-elmo fine-grained-ner sst"
    assert set(wanted.split()) <= CATALOG.keys()
    assert sum(name.startswith("many-") for name in CATALOG) == 44
    for item in CATALOG.values():
        assert item.documented.startswith("http") and item.files
        assert len({file.name for file in (*item.files, *item.softmax)}) == len(item.files) + len(item.softmax)
        assert [file.role for file in item.files] in (["source"], ["options", "weights"], ["source", "options"])


@pytest.mark.slow
def test_a_whole_tagger_from_its_archive(tmp_path, place):
    item = CATALOG["ner"]
    folder = tmp_path / "mirror" / "ner"
    folder.mkdir(parents=True)
    write(tmp_path / "archive", tagger())
    with tarfile.open(folder / item.files[0].name, "w:gz") as file:
        for path in (tmp_path / "archive").iterdir():
            file.add(path, path.name)
    (folder / item.files[1].name).write_text(json.dumps(options(**SIZES)))
    report = release("ner", base_url=(tmp_path / "mirror").as_uri(), yes=True)
    assert report.verification.task is not None and report.verification.task.passed
    card = ModelCard.load(place / "ner" / "README.md")
    assert card.data.pipeline_tag == "token-classification" and "of the task's scores" in card.content
    assert card.content.count(item.files[0].name) == 1
