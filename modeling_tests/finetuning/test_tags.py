"""Readers of tagged corpora: every format, and every error in a file."""

import json
from pathlib import Path

import datasets
import pytest

from elmo_hf.finetuning import (
    CorpusError,
    Sentence,
    TagColumns,
    is_well_formed,
    read_tagged,
    read_tagged_dataset,
    tag_scheme,
    tag_set,
    windows,
)

COLUMNS = TagColumns()
SENTENCES = [
    Sentence(["Ada", "Lovelace", "sleeps", "."], ["B-PER", "I-PER", "O", "O"]),
    Sentence(["Oslo"], ["B-LOC"]),
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


CONLL = {
    "tabs": "Ada\tB-PER\nLovelace\tI-PER\nsleeps\tO\n.\tO\n\nOslo\tB-LOC\n",
    "spaces": "Ada B-PER\nLovelace   I-PER\nsleeps O\n. O\n\nOslo B-LOC\n",
    "no newline at the end": "Ada\tB-PER\nLovelace\tI-PER\nsleeps\tO\n.\tO\n\nOslo\tB-LOC",
    "many blank lines": "\n\nAda\tB-PER\nLovelace\tI-PER\nsleeps\tO\n.\tO\n\n  \n\nOslo\tB-LOC\n\n\n",
    "documents": "-DOCSTART- O\n\nAda B-PER\nLovelace I-PER\nsleeps O\n. O\n-DOCSTART- O\nOslo B-LOC\n",
    "old Macintosh": "Ada\tB-PER\rLovelace\tI-PER\rsleeps\tO\r.\tO\r\rOslo\tB-LOC\r",
    "Windows": "\ufeffAda\tB-PER\r\nLovelace\tI-PER\r\nsleeps\tO\r\n.\tO\r\n\r\nOslo\tB-LOC\r\n",
}


@pytest.mark.parametrize("text", CONLL.values(), ids=CONLL)
def test_conll(tmp_path: Path, text: str) -> None:
    assert read_tagged(write(tmp_path / "a.conll", text), COLUMNS) == SENTENCES


def test_conll_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "conll2003.txt", "1 Oslo NNP I-NP B-LOC _\n2 sleeps VBZ I-VP O _\n")
    assert read_tagged(path, TagColumns(word=1, tag=-2)) == [Sentence(["Oslo", "sleeps"], ["B-LOC", "O"])]
    assert read_tagged(path, TagColumns(word=1, tag=4)) == [Sentence(["Oslo", "sleeps"], ["B-LOC", "O"])]


def test_conll_words_may_contain_any_character(tmp_path: Path) -> None:
    words = ["#tag", "New York", "\u2028", "l\u00edne\x85", "-", "O", '"', "\U0001f600", "a\x00b"]
    words[2] = "a\u2028b"  # Unicode's line separator does not end a line
    text = "".join(f"{word}\tO\n" for word in words)
    assert read_tagged(write(tmp_path / "a.tsv", text), COLUMNS)[0].words == [word.strip() for word in words]


def test_json(tmp_path: Path) -> None:
    records = [{"id": i, "tokens": words, "ner_tags": tags} for i, (words, tags) in enumerate(SENTENCES)]
    lines = "\n".join(map(json.dumps, records)) + "\n\n"
    assert read_tagged(write(tmp_path / "a.jsonl", lines), COLUMNS) == SENTENCES
    assert read_tagged(write(tmp_path / "a.json", json.dumps(records, indent=1)), COLUMNS) == SENTENCES


def test_json_columns_and_integer_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"words": ["Oslo", "sleeps"], "tags": [1, 0]}))
    columns = TagColumns(tokens="words", ner_tags="tags", tag_names=["O", "B-LOC"])
    assert read_tagged(path, columns) == [Sentence(["Oslo", "sleeps"], ["B-LOC", "O"])]


BAD_CONLL = {
    "empty": ("", r"a\.conll is empty"),
    "only blank lines": ("\n\n \n-DOCSTART- O\n", r"a\.conll: holds no sentence"),
    "no tag": ("Oslo\tB-LOC\nsleeps\n", r"a\.conll:2: 'sleeps' has no tag"),
    "no column": ("Oslo\tB-LOC\n\nsleeps\tVBZ\tO\n", r"a\.conll:3: .* 3 columns and line 1 has 2"),
    "a space in a word": ("New York B-LOC\nsleeps O\n", r"a\.conll:2: .* 2 columns and line 1 has 3"),
    "an empty word": ("\tO\n", r"a\.conll:1: .*word '' and tag 'O'.*begins with a tab"),
    "an empty tag": ("Oslo\t\n", r"a\.conll:1: .*word 'Oslo' and tag ''.*ends with a tab"),
    "a leading tab": (
        "\tOslo\tB-LOC\n",
        r"a\.conll:1: .*word '' .*begins with a tab.*--word_column",
    ),
    "a trailing tab": ("a\tO\t\n", r"a\.conll:1: .*word 'a' and tag ''.*ends with a tab.*--tag_column"),
    "one trailing tab": ("a\tO\nb\tO\t\n", r"a\.conll:2: .* 3 columns and line 1 has 2.*ends with a tab"),
    "not a tag": ("Oslo\tNNP\n", r"a\.conll:1: tag 'NNP'; expected O or a prefix .* --tag_column"),
    "an unknown prefix": ("Oslo\tX-LOC\n", r"a\.conll:1: tag 'X-LOC'; expected"),
    "not UTF-8": (
        b"Oslo\tB-LOC\nM\xfcnchen\tB-LOC\n",
        r"a\.conll, line 2, byte 2.*utf-8",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_CONLL.values(), ids=BAD_CONLL)
def test_bad_conll(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_tagged(write(tmp_path / "a.conll", text), COLUMNS)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.conll: .*\(No such file"):
        read_tagged(tmp_path / "none.conll", COLUMNS)
    with pytest.raises(CorpusError, match=f"{tmp_path}.*regular file"):
        read_tagged(tmp_path, COLUMNS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (TagColumns(word=2), r"a\.conll:1: no column 2 among 2.*--word_column"),
        (TagColumns(tag=5), r"a\.conll:1: no column 5 among 2.*--tag_column"),
        (TagColumns(tag=-3), r"a\.conll:1: no column -3"),
    ],
)
def test_missing_column(tmp_path: Path, columns: TagColumns, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_tagged(write(tmp_path / "a.conll", "Oslo\tB-LOC\n"), columns)


@pytest.mark.parametrize("name", ["a.conll", "a.jsonl"])
def test_tag_that_the_training_data_lacks(tmp_path: Path, name: str) -> None:
    text = "Ada\tB-PER\nOslo\tB-LOC\n" if name == "a.conll" else '\n{"tokens": ["Oslo"], "ner_tags": ["B-LOC"]}'
    with pytest.raises(CorpusError, match=f"{name}:2.*'B-LOC'.*O.*B-PER.*I-PER.*--labels"):
        read_tagged(write(tmp_path / name, text), COLUMNS, ["O", "B-PER", "I-PER"])


BAD_JSON = {
    "not JSON": ("a.jsonl", '{"tokens": ["Oslo"], "ner_tags": ["O"]}\n{"tokens"', r"a\.jsonl:2: not JSON"),
    "cut off": ("a.json", '[{"tokens": ["Oslo"]', r"a\.json: not JSON"),
    "an object": ("a.json", "{}", r"a\.json: .*dict"),
    "no records": ("a.json", "[]", r"a\.json: holds no sentence"),
    "not an object": ("a.jsonl", "[1]", r"a\.jsonl:1.*list"),
    "no words": ("a.jsonl", '{"ner_tags": ["O"]}', r"a\.jsonl:1: .*'tokens' among 'ner_tags'.*--tokens_column"),
    "no tags": ("a.jsonl", '{"tokens": ["a"]}', r"a\.jsonl:1: .*'ner_tags'.*--ner_tags_column"),
    "words are a string": ("a.jsonl", '{"tokens": "a b", "ner_tags": ["O"]}', r"a\.jsonl:1: .*'tokens' among"),
    "too few tags": ("a.jsonl", '{"tokens": ["a", "b"], "ner_tags": ["O"]}', r"a\.jsonl:1: 2 words and 1 tags"),
    "an empty sentence": (
        "a.jsonl",
        '{"tokens": [], "ner_tags": []}',
        "0 words and 0 tags",
    ),
    "a blank word": ("a.jsonl", '{"tokens": [" "], "ner_tags": ["O"]}', "word ' ' is empty"),
    "a number as word": ("a.jsonl", '{"tokens": [3], "ner_tags": ["O"]}', "word 3 is empty"),
    "numbers without names": ("a.jsonl", '{"tokens": ["a"], "ner_tags": [0]}', r"tag 0 is a number; .*--labels"),
    "a bad tag": ("a.json", '[{"tokens": ["a"], "ner_tags": ["LOC"]}]', r"a\.json: record 0: tag 'LOC'"),
}


@pytest.mark.parametrize(("name", "text", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_tagged(write(tmp_path / name, text), COLUMNS)


@pytest.mark.parametrize("tag", [2, -1])
def test_integer_tag_out_of_range(tmp_path: Path, tag: int) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"tokens": ["a"], "ner_tags": [tag]}))
    with pytest.raises(CorpusError, match=f"{tag}.*2.*O.*B-LOC"):
        read_tagged(path, TagColumns(tag_names=["O", "B-LOC"]))


def dataset_with(tags: list[int] | list[str], feature: object) -> datasets.Dataset:
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": feature})
    return datasets.Dataset.from_dict({"tokens": [["Oslo", "sleeps"]], "ner_tags": [tags]}, features=features)


@pytest.mark.parametrize(
    "dataset",
    [
        dataset_with([1, 0], datasets.List(datasets.ClassLabel(names=["O", "B-LOC"]))),
        dataset_with(["B-LOC", "O"], datasets.List(datasets.Value("string"))),
    ],
    ids=["numbers", "strings"],
)
def test_dataset(dataset: datasets.Dataset) -> None:
    # The order of the labels is the model's and need not be the dataset's.
    assert read_tagged_dataset(dataset, "x", COLUMNS, ["B-LOC", "O"]) == [Sentence(["Oslo", "sleeps"], ["B-LOC", "O"])]
    with pytest.raises(CorpusError, match="0.*'B-LOC'.*O"):
        read_tagged_dataset(dataset, "x", COLUMNS, ["O"])
    with pytest.raises(CorpusError, match="0.*'words'.*'tokens'.*'ner_tags'"):
        read_tagged_dataset(dataset, "x", TagColumns(tokens="words"))
    with pytest.raises(CorpusError, match="x: holds no sentence"):
        read_tagged_dataset(dataset.select([]), "x", COLUMNS)


def test_label_set_is_closed_under_prefixes() -> None:
    assert tag_set(SENTENCES) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    bioes = [Sentence(["a", "b", "c"], ["S-PER", "B-LOC", "E-LOC"])]
    assert tag_set(bioes) == ["O", "B-LOC", "E-LOC", "S-LOC", "B-PER", "E-PER", "S-PER"]
    assert tag_set([Sentence(["a"], ["O"])]) == ["O"]


@pytest.mark.parametrize("total", range(1, 14))
@pytest.mark.parametrize(("max_words", "stride"), [(1, 0), (4, 0), (4, 1), (4, 3), (100, 2)])
def test_windows_keep_every_label_once(total: int, max_words: int, stride: int) -> None:
    words = [str(i) for i in range(total)]
    tags = [f"B-{i}" for i in range(total)]
    parts = list(windows(Sentence(words, tags), max_words, stride))
    assert all(len(part.words) == len(part.tags) <= max_words for part in parts)
    labeled = [pair for part in parts for pair in zip(part.words, part.tags) if pair[1] is not None]
    assert labeled == list(zip(words, tags))
    assert all(part.tags.count(None) == (stride if index else 0) for index, part in enumerate(parts))
    assert all(any(tag is not None for tag in part.tags) for part in parts)


def test_windows_without_a_limit() -> None:
    assert [tuple(part) for part in windows(SENTENCES[0], None)] == [tuple(SENTENCES[0])]


def test_non_entity_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "Ada\tPROPN\n-\t-LRB-\n\nsleeps\tO\n")
    columns = TagColumns(any_tag=True)
    sentences = read_tagged(path, columns)
    assert sentences == [Sentence(["Ada", "-"], ["PROPN", "-LRB-"]), Sentence(["sleeps"], ["O"])]
    assert tag_set(sentences, any_tag=True) == ["-LRB-", "O", "PROPN"]
    with pytest.raises(CorpusError, match=r"a\.conll:1.*'PROPN'.*give --task"):
        read_tagged(path, TagColumns())
    with pytest.raises(CorpusError, match=r"a\.conll:4.*'O'.*PROPN"):
        read_tagged(path, columns, ["-LRB-", "PROPN"])


@pytest.mark.parametrize(
    ("tags", "schemes"),
    [
        ("B-X I-X O B-Y", {"BIO"}),
        ("B-X I-X B-X I-X", {"BIO"}),
        ("I-X O", set()),
        ("O I-X", set()),
        ("B-X I-Y", set()),
        ("B-X O", {"BIO"}),
        ("B-X E-X S-X O", {"BIOES"}),
        ("B-X I-X I-X E-X B-Y E-Y", {"BIOES"}),
        ("B-X E-Y", set()),
        ("B-X B-X E-X", set()),
        ("S-X E-X", set()),
        ("B-X I-X", {"BIO"}),
        ("O O", {"BIO", "BIOES"}),
        ("", {"BIO", "BIOES"}),
        # Unknown tags may be anything, at the beginning, inside and at the end.
        ("? I-X O", {"BIO"}),
        ("B-X ? E-X", {"BIOES"}),
        ("B-X I-X ?", {"BIO", "BIOES"}),
    ],
)
def test_well_formed_sequences(tags: str, schemes: set[str]) -> None:
    sequence = [None if tag == "?" else tag for tag in tags.split()]
    prefixes = {tag[0] for tag in sequence if tag}
    if "E" not in prefixes and "S" not in prefixes:
        assert is_well_formed(sequence, "BIO") is ("BIO" in schemes)
    assert is_well_formed(sequence, "BIOES") is ("BIOES" in schemes)


def test_scheme_of_the_training_data() -> None:
    bio = ["O", "B-X", "I-X"]
    assert tag_scheme([["B-X", "I-X"], ["O"]], bio) == "BIO"
    assert tag_scheme([["B-X", "I-X"], ["I-X"]], bio) is None  # an entity begins in both ways
    assert tag_scheme([["I-X", "B-X", "I-X"], ["O", "I-X"]], bio) == "IOB1"
    assert tag_scheme([["I-X"]], ["O", "I-X"]) == "IOB1"
    assert tag_scheme([["B-X", "E-X"], ["S-X"]], ["O", "B-X", "E-X", "S-X"]) == "BIOES"
    assert tag_scheme([["B-X", "L-X"], ["U-X"]], ["O", "B-X", "L-X", "U-X"]) == "BIOUL"
    assert tag_scheme([["B-X", "M-X", "E-X"]], ["O", "B-X", "M-X", "E-X", "S-X"]) == "BMES"
    assert tag_scheme([["B-X", "L-X"], ["L-X"]], ["O", "B-X", "L-X"]) is None


# ---- CoNLL-U

CONLLU = """# newdoc
# sent_id = weblog-1
# text = The don't go .
1	The	the	DET	DT	_	5	det	_	_
2-3	don't	_	_	_	_	_	_	_	_
2	do	do	AUX	VBP	_	4	aux	_	_
3	n't	not	PART	RB	_	4	advmod	_	_
4	go	go	VERB	VB	_	0	root	_	_
4.1	going	go	VERB	VBG	_	_	_	_	_
5	.	.	PUNCT	.	_	4	punct	_	_

# sent_id = weblog-2
1	#	#	SYM	NN	_	0	root	_	_
2	_	_	PUNCT	.	_	1	punct	_	_
"""


@pytest.mark.parametrize("name", ["a.conllu", "a.conll", "a.txt"])
def test_conllu_words_and_their_tags(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, CONLLU)
    first, second = read_tagged(path, TagColumns(any_tag=True))
    assert first == Sentence("The do n't go .".split(), "DET AUX PART VERB PUNCT".split())
    assert second == Sentence(["#", "_"], ["SYM", "PUNCT"])
    for column in ("xpos", "4"):
        found = read_tagged(path, TagColumns(tag=column, any_tag=True))
        assert found[0].tags == "DT VBP RB VB .".split()
    assert read_tagged(path, TagColumns(any_tag=True), ["DET", "AUX", "PART", "VERB", "PUNCT", "SYM"])[1] == second


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (CONLLU, TagColumns(), "tag 'DET'; expected .*--task pos"),
        (CONLLU, TagColumns(tag="feats", any_tag=True), "word 'The'.*column feats.*--tag_column"),
        (CONLLU, TagColumns(tag="tag", any_tag=True), "column 'tag' of CoNLL-U"),
        ("1\tThe\tDET\n", TagColumns(any_tag=True), "3 columns"),
    ],
)
def test_bad_conllu(tmp_path: Path, text: str, columns: TagColumns, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_tagged(write(tmp_path / "a.conllu", text), columns)


def test_column_names_require_conllu(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="--tag_column upos: expected a number"):
        read_tagged(write(tmp_path / "a.conll", "Oslo\tB-LOC\n"), TagColumns(tag="upos"))


def test_null_like_words_are_kept(tmp_path: Path) -> None:
    words = ["null", "NA", "None", "nan"]
    assert (
        read_tagged(write(tmp_path / "a.conll", "".join(f"{word}\tO\n" for word in words)), COLUMNS)[0].words == words
    )
    record = json.dumps({"tokens": words, "ner_tags": ["O"] * 4})
    assert read_tagged(write(tmp_path / "a.jsonl", record), COLUMNS)[0].words == words
    for field, values in (("tokens", ["a", None]), ("ner_tags", ["O", None])):
        record = json.dumps({"tokens": ["a", "b"], "ner_tags": ["O", "O"], field: values})
        with pytest.raises(CorpusError, match=r"a\.jsonl:1: .*None"):
            read_tagged(write(tmp_path / "a.jsonl", record), COLUMNS)
