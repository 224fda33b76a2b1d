"""Files of labeled data: lines, records, and errors in them."""

import gzip
import json
from pathlib import Path

import pytest

from elmo_hf.finetuning import CorpusError, read_json, read_lines, read_records, write_lines
from elmo_hf.finetuning.files import suffix_of


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines(tmp_path: Path, end: str) -> None:
    lines = ["one", "", "two\x85\u2028\x0c words", "three"]
    path = tmp_path / "a.txt"
    for text in (end.join(lines), end.join(lines) + end, "\ufeff" + end.join(lines)):
        path.write_bytes(text.encode())
        assert list(read_lines(path)) == list(enumerate(lines, start=1))
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(end.join(lines).encode())
    assert [line for _, line in read_lines(tmp_path / "a.txt.gz")] == lines
    assert (suffix_of("b/a.tsv.gz"), suffix_of("a.conllu"), suffix_of("a")) == (".tsv", ".conllu", "")


def test_line_numbers_continue_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1, 200_001)))  # more than one block of 1 MiB
    lines = list(read_lines(path))
    assert len(lines) == 200_000 and all(line == f"line {number}" for number, line in lines)


def test_records(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": "x\u2028y"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert list(read_records(tmp_path / "a.jsonl")) == [
        (f"{tmp_path}/a.jsonl:{n}", row) for n, row in zip((1, 3), rows)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row for _, row in read_records(tmp_path / "a.json")] == read_json(tmp_path / "a.json") == rows


@pytest.mark.parametrize("text", ["[" * 100_000, "[1", "1" * 5000, '{"a": 1}'], ids=["deep", "cut", "long", "object"])
def test_bad_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CorpusError, match=r"a\.json.*expected"):
        list(read_records(tmp_path / "a.json"))


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_lines(path, ["old\n"])

    def lines():
        yield "new\n"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_lines(path, lines())
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old\n"
