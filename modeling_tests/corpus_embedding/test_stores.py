"""Files through fsspec: on disk, and in a store that has no local paths."""

import uuid
from pathlib import Path

import fsspec
import pytest

from elmo_hf.corpus_embedding.stores import Folder, LocalCopies


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a folder with two texts and a subfolder."""
    address = str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    for name in ("b.txt", "a.txt", "deeper/c.txt"):
        with fsspec.open(f"{address}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    return address


def test_copies_one_file_at_a_time(place: str) -> None:
    copies = LocalCopies()
    first = copies.path(f"{place}/a.txt")
    assert Path(first).read_text() == "a.txt" and Path(first).suffix == ".txt"
    assert copies.path(f"{place}/a.txt") == first
    assert Path(copies.path(f"{place}/b.txt")).read_text() == "b.txt"
    assert Path(first).exists() == (not place.startswith("memory"))
    copies.close()


def test_a_file_appears_whole_and_replaces_another(place: str, tmp_path: Path, monkeypatch) -> None:
    folder = Folder(f"{place}/new")
    assert folder.names() == set()
    folder.put_json("a.json", {"a": 1})
    folder.put_json("a.json", [2])
    assert folder.json("a.json") == [2] and folder.names() == {"a.json"}
    (tmp_path / "whole").write_bytes(b"{")
    folder.put(tmp_path / "whole", "b.json")
    with pytest.raises(ValueError, match=r"new/b\.json.*damaged"):
        folder.json("b.json")
    folder.remove("b.json")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(folder._store), "mv", broken)
    with pytest.raises(OSError, match="No space"):
        folder.put(tmp_path / "whole", "b.json")
    assert folder.names() == {"a.json"}
