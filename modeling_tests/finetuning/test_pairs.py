"""Readers of text pairs: every format, and errors that name the location and the remedy."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from elmo_hf.finetuning import CorpusError, Pair, PairColumns, read_pair_dataset, read_pairs

TEXTS = [("A dog runs .", "Ein Hund läuft ."), ("Two\u2028men", "Zwei Männer")]
DEFAULT = PairColumns()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def texts_of(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in pairs]


def test_two_files(tmp_path: Path) -> None:
    source = write(tmp_path / "train.en", "".join(f"{text} \n" for text, _ in TEXTS))
    target = write(tmp_path / "train.de", "\n".join(text for _, text in TEXTS))
    pairs = read_pairs([source, target], DEFAULT)
    assert texts_of(pairs) == TEXTS
    assert [pair.place for pair in pairs] == [f"{target}:1", f"{target}:2"]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("", PairColumns("1", "3")),
        ("id\ten\tnote\tde\n", PairColumns("en", "de")),
        ("id\ten\tnote\t3\n", PairColumns("en", "3")),  # one name is enough for names
    ],
)
def test_tsv(tmp_path: Path, header: str, columns: PairColumns) -> None:
    rows = "".join(f"{n}\t{source}\t\t {target}\n" for n, (source, target) in enumerate(TEXTS))
    pairs = read_pairs([write(tmp_path / "a.tsv", header + rows)], columns)
    assert texts_of(pairs) == TEXTS
    assert pairs[-1].place == f"{tmp_path / 'a.tsv'}:{len(TEXTS) + bool(header)}"


def test_tsv_by_default_holds_the_source_first(tmp_path: Path) -> None:
    pairs = read_pairs([write(tmp_path / "a.tsv", 'a "b\tc\td\n')], DEFAULT)
    assert texts_of(pairs) == [('a "b', "c")]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("nested", [False, True])
def test_records(tmp_path: Path, suffix: str, nested: bool) -> None:
    records = [
        {"translation": {"en": source, "de": target}} if nested else {"source": source, "target": target, "id": 3}
        for source, target in TEXTS
    ]
    lines = json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)) + "\n"
    columns = PairColumns("translation.en", "translation.de") if nested else DEFAULT
    path = write(tmp_path / f"a{suffix}", lines)
    assert texts_of(read_pairs([path], columns)) == TEXTS
    assert texts_of(read_pair_dataset(Dataset.from_list(records), "mine, train", columns)) == TEXTS


def test_a_field_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text.en": "a", "text": {"de": "b"}}')
    assert texts_of(read_pairs([path], PairColumns("text.en", "text.de"))) == [("a", "b")]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\nc\n", "x\ny\n", "{0}:3: .*{1}.* 2 lines against 3"),
        ("a\n", "x\ny\nz\n", "{1}:2: .*{0}.* 1 lines against 3"),
        ("a\n\nc\n", "x\ny\nz\n", "{0}:2: an empty line.*{0} and {1}"),
        ("a\nb\n", "x\n \n", "{1}:2: an empty line"),
        ("", "", "{0} is empty"),
    ],
)
def test_two_files_that_do_not_match(tmp_path: Path, source: str, target: str, message: str) -> None:
    paths = [write(tmp_path / "a.en", source), write(tmp_path / "a.de", target)]
    with pytest.raises(CorpusError, match=message.format(*paths)):
        read_pairs(paths, DEFAULT)


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("a.tsv", "a\tb\na b\n", DEFAULT, ":2: 1 columns.*column 1;.*--target_column"),
        ("a.tsv", "en\tde\na\tb\n", PairColumns("en", "fr"), ":1: .*'fr' among 'en', 'de'.*--target_column"),
        ("a.tsv", "a\tb\n\tb\n", DEFAULT, ":2: column 0 is empty"),
        ("a.tsv", "", DEFAULT, "a.tsv is empty"),
        ("a.tsv", "source\ttarget\n", PairColumns("source", "target"), r"a\.tsv: no text"),
        ("a.jsonl", '{"source": "a"}', DEFAULT, ":1: .*'target' among 'source'.*--target_column"),
        ("a.jsonl", '{"source": "a", "target": 3}', DEFAULT, r":1: field 'target' is 3; expected a text"),
        ("a.jsonl", '{"source": " ", "target": "b"}', DEFAULT, ":1: field 'source' is empty"),
        ("a.jsonl", '{"a": "b"}', PairColumns("a.c", "a"), ":1: .*'a.c' among 'a'.*--source_column"),
        ("a.json", '{"source": "a", "target": "b"}', DEFAULT, r"a\.json: .*dict"),
        ("a.txt", "a\n", DEFAULT, r"a\.txt: .*\.tsv, \.json or \.jsonl"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, columns: PairColumns, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(CorpusError, match=message) as error:
        read_pairs([path], columns)
    assert str(path) in str(error.value)


def test_missing_file_and_other_encoding(tmp_path: Path) -> None:
    good = write(tmp_path / "a.en", "a\n")
    with pytest.raises(CorpusError, match=r"a\.de: .*No such file"):
        read_pairs([good, tmp_path / "a.de"], DEFAULT)
    (tmp_path / "a.de").write_bytes("schön\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"a\.de.*1.*4.*utf-8"):
        read_pairs([good, tmp_path / "a.de"], DEFAULT)


def test_a_dataset_without_records_or_fields() -> None:
    with pytest.raises(CorpusError, match="mine, test: .*no record"):
        read_pair_dataset(Dataset.from_list([]), "mine, test", DEFAULT)
    with pytest.raises(CorpusError, match="0.*'source'.*'en'.*'de'"):
        read_pair_dataset(Dataset.from_list([{"en": "a", "de": "b"}]), "mine, test", DEFAULT)
