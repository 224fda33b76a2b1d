"""Readers of labeled texts: every format, and every error in a file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from elmo_hf import ElmoTokenizer
from elmo_hf.finetuning import (
    CorpusError,
    Text,
    TextArguments,
    TextColumns,
    encode_texts,
    label_names,
    read_text_dataset,
    read_texts,
)

NAMED = TextColumns()
FIRST_IS_LABEL = TextColumns(text="1", label="0")
TEXTS = [Text("a fine film", None, "good"), Text('"dull", he said', None, "bad")]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


FORMS = {
    "label first": ("a.tsv", 'good\ta fine film\nbad\t"dull", he said\n', FIRST_IS_LABEL),
    "label last": ("a.txt", 'a fine film\tgood\n\n"dull", he said\tbad', TextColumns(text="0", label="-1")),
    "a header": ("a.tsv", 'id\tsentence\tlabel\n1\ta fine film\tgood\n2\t"dull", he said\tbad\n', NAMED),
    "Windows": ("a.tsv", '\ufeffsentence\tlabel\r\na fine film\tgood\r\n"dull", he said\tbad\r\n', NAMED),
    "commas": ("a.csv", 'sentence,label\na fine film,good\n"""dull"", he said",bad\n', NAMED),
    "commas without a header": ("a.csv", 'good,a fine film\nbad,"""dull"", he said"\n', FIRST_IS_LABEL),
    "records": (
        "a.json",
        json.dumps([{"sentence": text, "label": label, "id": 1} for text, _, label in TEXTS]),
        NAMED,
    ),
    "lines": ("a.jsonl", "\n".join(json.dumps({"sentence": t, "label": label}) for t, _, label in TEXTS), NAMED),
}


@pytest.mark.parametrize(("name", "text", "columns"), FORMS.values(), ids=FORMS)
def test_file_formats(tmp_path: Path, name: str, text: str, columns: TextColumns) -> None:
    assert read_texts(write(tmp_path / name, text), columns) == TEXTS
    assert read_texts(tmp_path / name, columns, ["good", "bad"]) == TEXTS


def test_line_breaks_in_quotes_and_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'premise,hypothesis,label\n"one\ntwo",three,yes\nfour,five,no\n')
    columns = TextColumns(text="premise", pair="hypothesis")
    assert read_texts(path, columns) == [Text("one\ntwo", "three", "yes"), Text("four", "five", "no")]
    write(path, 'premise,hypothesis,label\n"one\ntwo",three,yes\nfour,,no\n')
    with pytest.raises(CorpusError, match=r"a\.csv:4: .*empty \(''\)"):
        read_texts(path, columns)


def test_labels_of_each_kind(tmp_path: Path) -> None:
    records = [{"sentence": "x", "label": label} for label in (3, "2", 10)]
    assert [t.label for t in read_texts(write(tmp_path / "a.json", json.dumps(records)), NAMED)] == ["3", "2", "10"]
    named = replace(NAMED, label_names=["no", "yes"])
    records = [{"sentence": "x", "label": label} for label in (1, "no")]
    assert [t.label for t in read_texts(write(tmp_path / "a.json", json.dumps(records)), named)] == ["yes", "no"]
    several = replace(NAMED, problem="multi_label_classification")
    path = write(tmp_path / "a.tsv", "sentence\tlabel\nx\tb, a\ny\t\n")
    assert [t.label for t in read_texts(path, several)] == [["b", "a"], []]
    path = write(tmp_path / "a.jsonl", '{"sentence": "x", "label": ["b", "a"]}\n{"sentence": "y", "label": []}')
    assert [t.label for t in read_texts(path, several)] == [["b", "a"], []]
    values = replace(FIRST_IS_LABEL, problem="regression")
    assert [t.label for t in read_texts(write(tmp_path / "a.tsv", "-0.5\tx\n3\ty\n"), values)] == [-0.5, 3.0]


def test_datasets() -> None:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = {"sentence": [t.text for t in TEXTS], "label": [1, 0]}
    split = datasets.Dataset.from_dict(data, features=features)
    assert read_text_dataset(split, "films, train", NAMED) == TEXTS
    with pytest.raises(CorpusError, match="0.*'good'.*--labels"):
        read_text_dataset(split, "films, train", NAMED, ["bad"])
    with pytest.raises(CorpusError, match="0.*'text'.*'sentence'.*'label'.*--text_column"):
        read_text_dataset(split, "films", replace(NAMED, text="text"))
    unlabeled = datasets.Dataset.from_dict({**data, "label": [-1, 0]}, features=features)
    with pytest.raises(CorpusError, match="label -1 .* 2 labels bad, good"):
        read_text_dataset(unlabeled, "films", NAMED)


SEVERAL = replace(FIRST_IS_LABEL, problem="multi_label_classification")
VALUES = replace(FIRST_IS_LABEL, problem="regression")
BAD = {
    "empty": ("a.tsv", "", NAMED, r"a\.tsv is empty"),
    "a header only": ("a.tsv", "sentence\tlabel\n", NAMED, r"a\.tsv: holds no text"),
    "no such column": ("a.tsv", "text\tlabel\nx\t1\n", NAMED, r"a\.tsv:1.*column 'sentence'.*--text_column"),
    "no header": ("a.tsv", "x\t1\n", NAMED, r"a\.tsv:1: .* 0, if .* no header line"),
    "no such number": ("a.tsv", "x\t1\n", TextColumns("0", "2"), r"a\.tsv:1: no column 2 among 2.*--label_column"),
    "no label column": ("a.tsv", "1\tx\ny\n", FIRST_IS_LABEL, r"a\.tsv:2: .*1 columns and line 1 has 2"),
    "a tab too many": ("a.tsv", "1\tx\n1\ty\tz\n", FIRST_IS_LABEL, r"a\.tsv:2: .*3 columns and line 1 has 2"),
    "a comma too many": ("a.csv", "1,x\n1,y,z\n", FIRST_IS_LABEL, r"a\.csv:2: .*3 columns .*quotes"),
    "not CSV": ("a.csv", '1,x\n1,"y"z\n', FIRST_IS_LABEL, r"a\.csv:2: not CSV"),
    "no text": ("a.tsv", "1\tx\n2\t \n", FIRST_IS_LABEL, r"a\.tsv:2: the text is empty \(' '\)"),
    "no label": ("a.tsv", "1\tx\n\ty\n", FIRST_IS_LABEL, r"a\.tsv:2: no label.*--label_column"),
    "no label in a record": ("a.jsonl", '{"sentence": "x"}', NAMED, r"a\.jsonl:1: .*'label' among 'sentence'"),
    "null": ("a.jsonl", '{"sentence": "x", "label": null}', NAMED, r"a\.jsonl:1: no label.*--label_column"),
    "not a label": ("a.jsonl", '{"sentence": "x", "label": 0.5}', NAMED, r"a\.jsonl:1: label 0\.5; expected a string"),
    "twice": ("a.tsv", "b,b\tx\n", SEVERAL, r"a\.tsv:1: .*twice in b, b"),
    "not labels": ("a.jsonl", '{"1": "x", "0": 5}', SEVERAL, r"a\.jsonl:1: labels 5; expected a list"),
    "not a number": ("a.tsv", "1.5\tx\ngood\ty\n", VALUES, r"a\.tsv:2: value 'good'"),
    "not finite": ("a.tsv", "nan\tx\n", VALUES, r"a\.tsv:1: value 'nan'"),
    "not JSON": ("a.jsonl", '{"sentence"', NAMED, r"a\.jsonl:1: not JSON"),
    "not a record": ("a.jsonl", "[1]", NAMED, r"a\.jsonl:1: a list"),
    "not UTF-8": ("a.tsv", b"1\tx\n1\tM\xfcll\n", FIRST_IS_LABEL, r"a\.tsv, line 2, byte 4.*utf-8"),
}


@pytest.mark.parametrize(("name", "text", "columns", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path: Path, name: str, text: str | bytes, columns: TextColumns, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_texts(write(tmp_path / name, text), columns)


def test_a_list_in_a_cell_that_is_nested_too_deeply(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    path = write(tmp_path / "a.jsonl", json.dumps({"sentence": "x", "label": deep}) + "\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl:1.*expected") as caught:
        read_texts(path, replace(NAMED, problem="multi_label_classification"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("columns", [FIRST_IS_LABEL, SEVERAL])
def test_labels_that_the_training_data_lacks(tmp_path: Path, columns: TextColumns) -> None:
    path = write(tmp_path / "dev.tsv", "1\tx\n3\ty\n")
    with pytest.raises(CorpusError, match=r"dev\.tsv:2.*'3'.*1.*2"):
        read_texts(path, columns, ["1", "2"])


def test_label_names_are_ordered() -> None:
    def texts(*labels: Any) -> list[Text]:
        return [Text("x", None, label) for label in labels]

    assert label_names(texts("10", "9", "9"), "single_label_classification") == ["9", "10"]
    assert label_names(texts("b", "a", "-1"), "single_label_classification") == ["-1", "a", "b"]
    assert label_names(texts(["b"], [], ["b", "a"]), "multi_label_classification") == ["a", "b"]
    assert label_names(texts(0.5, 2.0), "regression") == ["value"]


def test_encoding() -> None:
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "b"], pre_tokenization="whitespace")
    ids = {"no": 0, "yes": 1}
    plain = encode_texts(
        [Text("a b", None, "yes"), Text("b", None, "no")], tokenizer, ids, "single_label_classification"
    )
    assert plain["input_ids"] == [[1, 4, 5, 2], [1, 5, 2]]
    assert plain["labels"] == [1, 0]
    several = [Text("a", None, ["yes"]), Text("a", None, []), Text("a", None, ["yes", "no"])]
    rows = encode_texts(several, tokenizer, ids, "multi_label_classification")["labels"]
    assert rows == [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    assert encode_texts([Text("a", None, 2.5)], tokenizer, {}, "regression")["labels"] == [2.5]
    pair = encode_texts([Text("a", "b b", "no")], tokenizer, ids, "single_label_classification")
    assert pair["input_ids"] == [[1, 4, 2, 1, 5, 5, 2]]


def test_long_texts_are_cut_and_counted() -> None:
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "b"], pre_tokenization="whitespace")
    reports: list[str] = []
    texts = [Text("a b a b", None, 1.0), Text("a", None, 1.0)]
    cut = encode_texts(texts, tokenizer, {}, "regression", max_words=3, report=reports.append)
    assert cut["input_ids"] == [[1, 4, 5, 4, 2], [1, 4, 2]]
    assert reports == ["1 of 2 texts reach --max_words 3; longer ones were truncated"]


def test_texts_without_a_word() -> None:
    with pytest.raises(CorpusError, match=r"no word in the text '\\u200b'"):
        encode_texts([Text("\u200b", None, 1.0)], _WordlessTokenizer(), {}, "regression")


class _WordlessTokenizer(ElmoTokenizer):
    """Tokenizer that finds no word, as in a text of control characters."""

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(["" for _ in text], *args, **kwargs)


# ---- labels of several kinds

SEVERAL = TextColumns(problem="multi_label_classification")


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 0, 1], [0, 0, 0], [0, 1, 0]],
        [[True, False, True], [False] * 3, [False, True, False]],
        [[1.0, 0.0, 1.0], [0.0] * 3, [0.0, 1.0, 0.0]],
        ["[1, 0, 1]", "[0, 0, 0]", "[0, 1, 0]"],
        ["1,0,1", "0,0,0", "0,1,0"],
    ],
    ids=str,
)
def test_indicator_lists_are_not_class_numbers(tmp_path: Path, rows: list[Any]) -> None:
    text = "\n".join(json.dumps({"sentence": "x", "label": row}) for row in rows)
    path = write(tmp_path / "a.jsonl", text)
    assert [each.label for each in read_texts(path, SEVERAL)] == [["0", "2"], [], ["1"]]
    named = replace(SEVERAL, label_names=["a", "b", "c"])
    assert [each.label for each in read_texts(path, named)] == [["a", "c"], [], ["b"]]
    assert [each.label for each in read_texts(path, SEVERAL, ["p", "q", "r"])] == [["p", "r"], [], ["q"]]
    with pytest.raises(CorpusError, match=r"a\.jsonl:1.*3.*0.*1.*--labels"):
        read_texts(path, SEVERAL, ["p", "q"])


def test_class_number_lists_are_kept(tmp_path: Path) -> None:
    rows = [[1, 0], [0], [], [2]]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"sentence": "x", "label": row}) for row in rows))
    assert [each.label for each in read_texts(path, SEVERAL)] == [["1", "0"], ["0"], [], ["2"]]
    feature = datasets.List(datasets.ClassLabel(names=["no", "yes"]))
    features = datasets.Features({"sentence": datasets.Value("string"), "label": feature})
    dataset = datasets.Dataset.from_dict({"sentence": ["x"], "label": [[1, 0]]}, features=features)
    assert read_text_dataset(dataset, "d", SEVERAL)[0].label == ["yes", "no"]


def test_spaces_around_columns_are_stripped(tmp_path: Path) -> None:
    text = 'sentence, label\n"A fine, old film.", "good"\ndull film. , bad\n'
    first, second = read_texts(write(tmp_path / "a.csv", text), NAMED)
    assert (first.text, first.label) == ("A fine, old film.", "good")
    assert ([word for word, _ in ElmoTokenizer().words(second.text)], second.label) == (["dull", "film", "."], "bad")


def test_single_column_is_refused(tmp_path: Path) -> None:
    """Spaces do not separate columns."""
    path = write(tmp_path / "a.tsv", "good A fine film.\nbad A dull film.\n")
    with pytest.raises(CorpusError, match=r"a\.tsv:1: columns -1 and 0 .* 1; .*tabs"):
        read_texts(path, TextColumns(text="-1", label="0"))
    with pytest.raises(ValueError, match="--text_column 0, --label_column 0"):
        TextArguments(text_column="0", label_column="0")


def test_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "good\ta\u2028b\rbad\tc\x0cd\x85e\r\ngood\tf\n")
    texts = read_texts(path, FIRST_IS_LABEL)
    assert [(each.label, each.text) for each in texts] == [("good", "a\u2028b"), ("bad", "c\x0cd\x85e"), ("good", "f")]


def test_null_like_words_are_kept(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan"]
    path = write(tmp_path / "a.csv", "sentence,label\n" + "".join(f"{word},NA\n" for word in words))
    assert [(each.text, each.label) for each in read_texts(path, NAMED)] == [(word, "NA") for word in words]
    for record, what in (
        ({"sentence": None, "label": "a"}, "None"),
        ({"sentence": "a", "label": None}, "--label_column"),
    ):
        with pytest.raises(CorpusError, match=rf"a\.jsonl:1: .*{what}"):
            read_texts(write(tmp_path / "a.jsonl", json.dumps(record)), NAMED)
