"""Untrusted archives are unpacked only inside their folder and within size limits."""

import io
import os
import random
import re
import struct
import tarfile
import zipfile

import pytest

from hub_upload import CheckpointError
from hub_upload.common import archives
from hub_upload.common.archives import is_tar, single_root, unpack


def make(path, members):
    """An archive of (name, content) pairs; ZIP or tar by its name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_wanted_members_are_unpacked(tmp_path, folder, kind):
    path = make(tmp_path / kind, [("m/options.json", b"{}"), ("m/other.bin", b"x")])
    unpack(path, folder, lambda name: name.endswith(".json"))
    assert [str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file()] == ["m/options.json"]
    assert single_root(folder) == folder / "m"
    assert is_tar(path) == kind.endswith(".tar.gz")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json", "C:\\e.json"])
def test_paths_out_of_the_folder_are_refused(tmp_path, folder, kind, name):
    path = make(tmp_path / kind, [(name, b"{}")])
    with pytest.raises(CheckpointError, match=rf"{path.name}.*{re.escape(repr(name))}"):
        unpack(path, folder, lambda name: True)
    assert not any(folder.iterdir())


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_bombs_are_stopped_by_their_decompressed_size(tmp_path, folder, kind, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    path = make(tmp_path / kind, [("bomb.json", bytes(4 << 20))])
    with pytest.raises(CheckpointError, match=rf"{path.name}.*\d{{7}} bytes"):
        unpack(path, folder, lambda name: True)


def test_skipped_members_of_a_tar_count_too(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    path = make(tmp_path / "a.tar.gz", [("bomb", bytes(4 << 20))])
    with pytest.raises(CheckpointError, match=rf"{path.name}.*\d{{7}} bytes"):
        unpack(path, folder, lambda name: False)


def test_links_are_not_unpacked(tmp_path, folder):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"link{kind.decode()}.json")
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
    unpack(path, folder, lambda name: True)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        member = zipfile.ZipInfo("link.json")
        member.external_attr = 0o120777 << 16
        file.writestr(member, "/etc/passwd")
    unpack(tmp_path / "a.zip", folder, lambda name: True)
    assert not any(folder.iterdir())


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_damaged_archives(tmp_path, folder, kind):
    path = make(tmp_path / kind, [("options.json", os.urandom(5000))])
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content if kind == "a.zip" else content[:2000])
    with pytest.raises(CheckpointError, match=f"{path.name}: damaged"):
        unpack(path, folder, lambda name: True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path, folder):
    path = make(tmp_path / "a.zip", [("options.json", b"{}"), ("options.json", b"[]")])
    with pytest.raises(CheckpointError, match=r"a\.zip: holds two members .*options\.json"):
        unpack(path, folder, lambda name: True)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_millions_of_members_are_stopped_by_their_number(tmp_path, folder, kind, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 50 * 60)
    few = make(tmp_path / f"few.{kind}", [(f"{n}.json", b"") for n in range(50)])
    unpack(few, folder, lambda name: False)
    many = make(tmp_path / kind, [(f"{n}.json", b"") for n in range(60)])
    with pytest.raises(CheckpointError, match=f"{many}: .*(50 members|[0-9,]+ bytes)"):
        unpack(many, folder, lambda name: False)


def test_the_directory_of_a_large_zip_is_measured_too(tmp_path, folder):
    """The ZIP64 record takes precedence over the older record."""
    path = make(tmp_path / "a.zip", [("options.json", b"{}")])
    assert 0 < archives._directory_size(path) < 100
    end = path.read_bytes()[-22:]
    large = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**33, 0)
    path.write_bytes(path.read_bytes()[:-22] + large + b"PK\6\7" + bytes(16) + end[:12] + b"\xff" * 4 + end[16:])
    with pytest.raises(CheckpointError, match="8,589,934,592 bytes"):
        unpack(path, folder, lambda name: True)


@pytest.mark.parametrize("name", ["x" * 5000, "ü" * 5000])
def test_headers_of_gigabytes(tmp_path, folder, name, monkeypatch):
    """A long name is read into memory completely before its member is returned."""
    monkeypatch.setattr(archives, "MAX_HEADER", 4096)
    path = make(tmp_path / "a.tar.gz", [(f"{name}.json", b"{}")])
    with pytest.raises(CheckpointError, match=f"{path}: .*header of [0-9,]+ bytes"):
        unpack(path, folder, lambda name: False)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_damage_of_every_compression_names_the_archive(tmp_path, folder, kind):
    path = tmp_path / f"a.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as file:
        member = tarfile.TarInfo("options.json")
        member.size = 50_000
        file.addfile(member, io.BytesIO(random.Random(0).randbytes(50_000)))
    whole = path.read_bytes()
    unpack(path, folder, lambda name: True)
    assert (folder / "options.json").stat().st_size == 50_000
    draw, noticed = random.Random(1), 0
    for number in range(12):
        content = bytearray(whole)
        for _ in range(3):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content[: draw.randrange(len(content))] if number % 2 else content)
        is_tar(path)
        target = folder / str(number)
        target.mkdir()
        told = ""
        try:
            unpack(path, target, lambda name: True)
        except CheckpointError as error:
            told = str(error)
        assert not told or str(path) in told  # some damage is outside of what is read
        noticed += bool(told)
    assert noticed >= 6


@pytest.mark.parametrize("members", [["a.json", "a.json/b.json"], ["x" * 300 + ".json"]])
def test_names_that_no_folder_can_hold(tmp_path, folder, members):
    path = make(tmp_path / "a.tar.gz", [(name, b"{}") for name in members])
    with pytest.raises(CheckpointError, match=str(path)):
        unpack(path, folder, lambda name: True)
