"""Corpora in files and data sets: formats, shards, positions, damaged and undecodable input."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import sys

import pytest

from elmo_hf.corpus import lines
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.tagged_text import TaggedSentence, sentence_of
from elmo_hf.pretraining import build_vocabulary

datasets = pytest.importorskip("datasets")

LINES = [f"sentence {number} of the text" + " and more" * (number % 5) for number in range(230)]
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some lines, so that a small file has many."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 256)


def write(path, lines=LINES, end="\n"):
    data = "".join(f"{line}{end}" for line in lines).encode()
    with COMPRESSED.get(path.suffix, open)(path, "wb") as file:
        file.write(data)
    return path


def read(shard, position=None, count=10**9):
    reader = shard.open(position)
    try:
        return reader.take(count)
    finally:
        reader.close()


def write_parquet(path, texts, **columns):
    datasets.Dataset.from_dict({"text": texts, **columns}).to_parquet(path)
    return path


# ---- formats


@pytest.mark.parametrize("suffix", [".txt", "", ".gz", ".bz2", ".xz"])
def test_text_files(tmp_path, suffix, small_blocks):
    path = write(tmp_path / f"text{suffix}")
    assert list(open_corpus(path)) == LINES


def test_json_lines(tmp_path, small_blocks):
    path = tmp_path / "text.jsonl.gz"
    records = [
        {"n": 1, "sentence": "one two"},
        {"sentence": ["a", "list", "of", "words"]},
        {"sentence": "x\n\ny\r\nz\n"},
    ]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(json.dumps(record) for record in records) + "\n\n")
    words = ["a", "list", "of", "words"]
    assert list(open_corpus(path, text_column="sentence")) == ["one two", words, "x", "y", "z"]


def test_words_of_lists_are_not_split(tmp_path):
    """The words of a list are never joined and split again."""
    words = ["New York", "1\u00a0000", "a\nb", "c ", "\u3000", "", "\t", "\ud800", "don't"]
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": words}) + "\n" + json.dumps({"text": []}) + "\n")
    whole = datasets.Dataset.from_dict({"text": [words[:-2]]})
    for corpus, expected in ((open_corpus(path), words), (Corpus.from_dataset(whole), words[:-2])):
        assert list(corpus) == [expected]
        assert [sentence_of(text, False) for text in read(corpus.shards[0])] == [expected]
        for rule in ("whitespace", "ptb"):
            counted = build_vocabulary(corpus, pre_tokenization=rule, progress=False)
            assert counted.running_words == len(expected)
            assert "New York" in counted.words and ("don't" in counted.words) == (expected == words)


def test_a_json_list(tmp_path):
    path = tmp_path / "text.json"
    path.write_text(json.dumps([{"text": "one two"}, {"text": "three"}]))
    assert list(open_corpus(path)) == ["one two", "three"]


def test_parquet(tmp_path):
    for number in range(3):
        write_parquet(tmp_path / f"part-{number}.parquet", LINES[number * 70 : number * 70 + 70])
    corpus = open_corpus(tmp_path / "*.parquet")
    assert len(corpus.shards) == 3
    assert list(corpus) == LINES[:210]


def test_dataset_objects():
    table = datasets.Dataset.from_dict({"words": [line.split() for line in LINES]})
    assert list(Corpus.from_dataset(table, "words")) == [line.split() for line in LINES]
    stream = table.to_iterable_dataset(num_shards=4)
    corpus = Corpus.from_dataset(stream, "words")
    assert len(corpus.shards) == 4
    assert list(corpus) == [line.split() for line in LINES]


def test_dataset_names(tmp_path, monkeypatch):
    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_dict({"text": ["a b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_corpus("owner/name:part", split="test", streaming=False, revision="v1")) == ["a b"]
    assert asked == {"path": "owner/name", "name": "part", "split": "test", "streaming": False, "revision": "v1"}
    for missing in ("text.txt", "text/corpus.jsonl.gz", "text/*.gz", "./name", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=re.escape(missing)):
            open_corpus(missing)


def test_a_data_set_that_cannot_be_loaded(monkeypatch):
    def load_dataset(**arguments):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/none' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="owner/none, split train"):
        open_corpus("owner/none")


def test_globs_and_order(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.txt", "a.txt", "below/c.txt", "odd[1].txt"):
        (tmp_path / name).write_text(f"in {name}\n")
    assert list(open_corpus(tmp_path / "?.txt")) == ["in a.txt", "in b.txt"]
    assert list(open_corpus([tmp_path / "b.txt", str(tmp_path / "?.txt")])) == ["in b.txt", "in a.txt"]
    assert "in below/c.txt" in list(open_corpus(f"{tmp_path}/**/*.txt"))
    assert list(open_corpus(tmp_path / "odd[1].txt")) == ["in odd[1].txt"]


@pytest.mark.parametrize("policy", ["skip", "keep"])
def test_lines(tmp_path, policy):
    """Line feeds and carriage returns end lines, alone or together; only a byte-order mark is not text."""
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone\r\n\r\n two\u2028\x0b\x0c\x1c\x85three \rfour\r\r\n \nlast".encode())
    expected = ["one", "", " two\u2028\x0b\x0c\x1c\x85three ", "four", "", " ", "last"]
    kept = expected if policy == "keep" else [line for line in expected if line.strip()]
    assert list(open_corpus(path, blank_lines=policy)) == kept


ONE_TEXT = ["one two .", "three\u2028four .", "five\x85\x0c."]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_every_format_splits_the_same_lines(tmp_path, end, small_blocks):
    text = end.join(ONE_TEXT) + end
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_bytes(end.join(json.dumps({"text": line}) for line in ONE_TEXT).encode())
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}))
    (tmp_path / "a.json").write_text(json.dumps([{"text": text}]))
    (tmp_path / "a.csv").write_bytes(end.join(["text", *(f'"{line}"' for line in ONE_TEXT)]).encode())
    (tmp_path / "a.tsv").write_bytes(end.join(["text", *ONE_TEXT]).encode())
    write_parquet(tmp_path / "a.parquet", [text])
    for path in tmp_path.iterdir():
        assert list(open_corpus(path)) == ONE_TEXT, path.name
    assert list(Corpus.from_dataset(datasets.Dataset.from_dict({"text": [text]}))) == ONE_TEXT


SOME_MISSING = ["null", "NA", None, "None", "nan", "N/A word", None, "", "not missing at all"]


def test_null_like_words_are_kept_and_null_text_is_skipped(tmp_path):
    """Only records with null text are skipped; they are counted and reported."""
    records = [{"text": text} for text in SOME_MISSING]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    write_parquet(tmp_path / "a.parquet", SOME_MISSING)
    table = datasets.Dataset.from_list(records)
    corpora = [open_corpus(tmp_path / f"a.{suffix}") for suffix in ("jsonl", "json", "parquet")]
    corpora += [Corpus.from_dataset(table), Corpus.from_dataset(table.to_iterable_dataset())]
    expected = [text for text in SOME_MISSING if text]
    for corpus in corpora:
        with pytest.warns(UserWarning, match="2 records.*column 'text'") as told:
            assert list(corpus) == expected
        assert len(told) == 1
        if corpus is not corpora[-1]:  # a streamed data set does not count
            assert re.search("at .*(line|row|record) 3$", str(told[0].message))
    for suffix in ("jsonl", "json", "parquet"):
        numbered = open_corpus(tmp_path / f"a.{suffix}", numbered=True)
        with pytest.raises(ValueError, match=rf"a\.{suffix}, (line|row) 3: column 'text'.*None"):
            list(numbered.records())


def test_null_like_words_in_csv_are_kept(tmp_path):
    """6 sentences of 9 words; "null", "NA", "None" and "nan" are words."""
    rows = ["null", "NA", "None", "nan", "one two", "three four five"]
    (tmp_path / "a.csv").write_text("text,n\n" + "".join(f"{row},1\n" for row in rows))
    (tmp_path / "a.tsv").write_text("text\tn\n" + "".join(f"{row}\t1\n" for row in rows))
    for name in ("a.csv", "a.tsv"):
        assert list(open_corpus(tmp_path / name)) == rows
        counted = build_vocabulary(open_corpus(tmp_path / name), progress=False)
        assert (counted.sentences, counted.running_words) == (6, 9)


def test_csv_cells_are_not_parsed(tmp_path):
    """No cell is parsed as a number, date or boolean; quoted cells hold commas, quotes and line breaks."""
    (tmp_path / "a.csv").write_text('n,text\n1,007\n2,1.50\n3,True\n4,"a ""b"", c\nd"\n\n5,\n6,2024-01-01\n')
    assert list(open_corpus(tmp_path / "a.csv")) == ["007", "1.50", "True", 'a "b", c', "d", "2024-01-01"]
    assert len(list(open_corpus(tmp_path / "a.csv", blank_lines="keep"))) == 6
    long = "word " * 60_000  # more than Python's csv module reads by default
    (tmp_path / "b.csv").write_text(f"text\n{long}\n\nend\n")
    assert list(open_corpus(tmp_path / "b.csv")) == [long, "end"]
    assert [record.sentence for _, record in open_corpus(tmp_path / "b.csv", numbered=True).records()] == [
        long,
        "",
        "end",
    ]


def test_conllu(tmp_path, small_blocks):
    """Ranges, empty nodes and comments are not words; words may contain spaces."""
    path = tmp_path / "a.conllu"
    rest = "\t_\t_\t_\t_\t_\t_"
    rows = [("1", "The", "DET"), ("2-3", "don't", "_"), ("2", "do", "AUX"), ("3", "n't", "PART"), ("4", "go", "VERB")]
    rows += [("4.1", "going", "VERB"), ("5", ".", "PUNCT")]
    first = "".join(f"{number}\t{form}\t{form.lower()}\t{tag}{rest}\n" for number, form, tag in rows)
    text = f"# newdoc\n# sent_id = a-1\n# text = The don't go.\n{first}\n"
    text += "".join(f"# sent_id = b-{n}\n1\t#\t#\tSYM{rest}\n2\t1 000\t_\t_{rest}\n\n" for n in range(60))
    path.write_text(text)
    words = [["The", "do", "n't", "go", "."], *[["#", "1 000"]] * 60]
    assert list(open_corpus(path)) == words
    tags = [["DET", "AUX", "PART", "VERB", "PUNCT"], *[["SYM", None]] * 60]
    assert list(open_corpus(path, pos_column="upos")) == [
        TaggedSentence(*each) for each in zip(words, tags, strict=True)
    ]
    assert list(open_corpus(path, pos_column="3")) == list(open_corpus(path, pos_column="UPOS"))
    assert next(iter(open_corpus(path, text_column="lemma"))) == ["the", "do", "n't", "go", "."]
    numbered = [record for _, record in open_corpus(path, numbered=True, id_column="sent_id").records()]
    assert [record.identifier for record in numbered] == ["a-1", *(f"b-{n}" for n in range(60))]
    assert numbered[1].where == f"{path}, line 12"
    path.write_bytes(text.replace("\n", "\r").encode())
    assert list(open_corpus(path)) == words


def test_other_encodings(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("café\n".encode("latin-1"))
    assert list(open_corpus(path, encoding="latin-1")) == ["café"]


# ---- shards and positions


@pytest.mark.slow
@pytest.mark.parametrize("shard_bytes", [1, 7, 30, 100, 1000, 5000, 10**6])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last_has_end", [True, False])
def test_large_file_is_split_into_byte_shards(tmp_path, shard_bytes, end, last_has_end, small_blocks):
    path = write(tmp_path / "text.txt", LINES[:60], end)
    if not last_has_end:
        path.write_bytes(path.read_bytes().removesuffix(end.encode()))
    corpus = open_corpus(path, shard_bytes=shard_bytes)
    assert len(corpus.shards) == -(-path.stat().st_size // shard_bytes)
    assert list(corpus) == LINES[:60]


def every_kind_of_shard(tmp_path):
    yield open_corpus(write(tmp_path / "text.txt")).shards[0]
    yield open_corpus(write(tmp_path / "text.txt"), shard_bytes=4000).shards[1]
    yield open_corpus(write(tmp_path / "text.gz")).shards[0]
    yield open_corpus(write(tmp_path / "text.xz")).shards[0]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{line}\nnext line\n"}) + "\n" for line in LINES))
    yield open_corpus(path).shards[0]
    yield Corpus.from_sentences(LINES).shards[0]
    yield open_corpus(write_parquet(tmp_path / "text.parquet", ["a\nb", *LINES])).shards[0]
    yield Corpus.from_dataset(datasets.Dataset.from_dict({"text": ["a\nb", *LINES]})).shards[0]
    path = tmp_path / "returns.txt"
    path.write_bytes("\r".join(LINES).encode())
    yield open_corpus(path).shards[0]
    yield open_corpus(path, shard_bytes=4000).shards[1]
    (tmp_path / "text.csv").write_text("n,text\n" + "".join(f'1,"{line}\nnext line"\n' for line in LINES))
    yield open_corpus(tmp_path / "text.csv").shards[0]
    (tmp_path / "text.json").write_text(json.dumps([{"text": line.split()} for line in LINES]))
    yield open_corpus(tmp_path / "text.json").shards[0]
    rest = "\t_" * 8
    (tmp_path / "text.conllu").write_text("".join(f"1\t{line}{rest}\n\n" for line in LINES))
    yield open_corpus(tmp_path / "text.conllu").shards[0]
    datasets.Dataset.from_dict({"text": LINES}).save_to_disk(tmp_path / "saved")
    yield open_corpus(tmp_path / "saved" / "*.arrow").shards[0]


def test_resume_at_every_position_of_every_shard(tmp_path, small_blocks, monkeypatch):
    """Positions are saved as JSON and shards are pickled; blocks are much smaller than the shard."""
    monkeypatch.setattr("elmo_hf.corpus.dataset_shards.RECORDS_AT_A_TIME", 40)
    monkeypatch.setattr("elmo_hf.corpus.table_shards.ROWS_AT_A_TIME", 40)
    monkeypatch.setattr("elmo_hf.corpus.shards.MEMORY_BLOCK", 40)
    kinds = 0
    for shard in every_kind_of_shard(tmp_path):
        kinds += 1
        sentences = read(shard)
        assert len(sentences) > 50
        copy = pickle.loads(pickle.dumps(shard))
        reader = shard.open()
        for start in range(0, len(sentences) + 1, 13):
            position = json.loads(json.dumps(reader.position))
            assert copy.open(position).position == position
            assert read(copy, position) == sentences[start:], (shard.name, start)
            assert reader.take(13) == sentences[start : start + 13]
        assert reader.take(5) == []
        reader.close()
    assert kinds == 14


def test_fingerprint_depends_on_the_content_not_the_folder(tmp_path):
    first = open_corpus(write(tmp_path / "text.txt"))
    (tmp_path / "other").mkdir()
    assert open_corpus(write(tmp_path / "other" / "text.txt")).fingerprint == first.fingerprint
    assert open_corpus(tmp_path / "text.txt", blank_lines="keep").fingerprint != first.fingerprint
    assert open_corpus(tmp_path / "text.txt", shard_bytes=1000).fingerprint != first.fingerprint
    assert open_corpus(write(tmp_path / "text.txt", LINES[1:])).fingerprint != first.fingerprint


def test_files_are_read_lazily(tmp_path, small_blocks):
    """After ten sentences, only some blocks of the file have been read."""
    path = write(tmp_path / "text.txt", LINES * 100)
    reader = open_corpus(path).shards[0].open()
    reader.take(10)
    assert reader._lines._file.tell() < path.stat().st_size / 10


# ---- bad input


def test_undecodable_bytes_are_refused_skipped_or_replaced(tmp_path, small_blocks):
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\n" * 200 + b"b\xffd one\n" + b"good\n" + b"b\xfed two\n")
    for shard_bytes in (300, 10**6):
        with pytest.raises(ValueError, match=r"text\.txt.*201.*2.*b'\\xff'.*utf-8"):
            list(open_corpus(path, shard_bytes=shard_bytes))
    with pytest.warns(UserWarning, match=r"text\.txt.*left (the line out|out 2 lines)") as caught:
        assert list(open_corpus(path, undecodable="skip")) == ["good"] * 201
    first, last = [str(each.message) for each in caught]
    assert "line 201, byte 2" in first and first.endswith("left the line out")
    assert last == f"{path}: left out 2 lines that are not utf-8"
    with pytest.warns(UserWarning, match=r"201.*2.*put U\+FFFD"):
        lines = list(open_corpus(path, undecodable="replace"))
    assert lines[200:] == ["b\ufffdd one", "good", "b\ufffdd two"]


def test_file_of_undecodable_lines_only(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\n")
    with pytest.warns(UserWarning, match=r"text\.txt, line 1.*left"):
        assert list(open_corpus(path, undecodable="skip", blank_lines="keep")) == []


def test_a_very_long_line(tmp_path, small_blocks):
    path = tmp_path / "text.txt"
    path.write_text("short\n" + "word " * 1_000_000 + "\nshort\n")
    assert [len(line.split()) for line in open_corpus(path, shard_bytes=10**6)] == [1, 1_000_000, 1]
    with pytest.raises(ValueError, match=r"text\.txt.*2.*4000"):
        list(open_corpus(path, max_line_bytes=4000))


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz", ".jsonl"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    write(tmp_path / "full.txt")
    write(tmp_path / f"void{suffix}", [])
    with pytest.raises(ValueError, match=rf"void\{suffix}.*empty"):
        open_corpus(tmp_path / "*")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = write(tmp_path / f"text{suffix}", LINES * 50)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=rf"text\{suffix}.*damaged"):
        list(open_corpus(path))
    path.write_bytes(b"this was never compressed")
    with pytest.raises(ValueError, match=rf"text\{suffix}.*damaged"):
        open_corpus(path)


def test_invalid_sources_are_refused(tmp_path):
    write(tmp_path / "text.zst")
    with pytest.raises(ValueError, match=r"text\.zst: \.zst"):
        open_corpus(tmp_path / "text.zst")
    with pytest.raises(ValueError, match=rf"{tmp_path} is a folder.*{tmp_path}/\*"):
        open_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="owner/name"):
        open_corpus([tmp_path / "text.zst", "owner/name"])
    with pytest.raises(ValueError, match="^sources "):
        open_corpus([])
    with pytest.raises(ValueError, match="^the given sentences: "):
        Corpus.from_sentences([])
    with pytest.raises(ValueError, match="^nothing: "):
        Corpus("nothing", ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-16"}, "encoding 'utf-16'"),
        ({"encoding": "no-such"}, "encoding 'no-such'"),
        ({"undecodable": "ignore"}, "undecodable='ignore': expected 'refuse', 'skip' or 'replace'"),
        ({"blank_lines": "drop"}, "blank_lines='drop'"),
        ({"shard_bytes": 0}, "shard_bytes=0"),
        ({"max_line_bytes": 0}, "max_line_bytes=0"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_corpus(write(tmp_path / "text.txt"), **options)


def test_bad_records_are_named(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 3}\n')
    with pytest.raises(ValueError, match=r"text\.jsonl.*2.*'text'.*3"):
        list(open_corpus(path))
    with pytest.raises(ValueError, match="1.*'sentence'.*'text'. .*text_column"):
        list(open_corpus(path, text_column="sentence"))
    path.write_text('{"text": "fine"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"text\.jsonl, line 3 is not JSON"):
        list(open_corpus(path))
    for damaged in ("[" * 100_000, '{"text": ' + "9" * 5000 + "}", '{"text": "a"} x'):
        path.write_text('{"text": "fine"}\n' + damaged)
        with pytest.raises(ValueError, match=r"text\.jsonl.*2.*JSON.*JSON"):
            list(open_corpus(path, file_format="json"))
        (tmp_path / "text.json").write_text(f"[{damaged}")
        with pytest.raises(ValueError, match=r"text\.json is not JSON"):
            list(open_corpus(tmp_path / "text.json"))
    path.write_text('"text"\n')
    with pytest.raises(ValueError, match="line 1.*str"):
        list(open_corpus(path))
    write_parquet(tmp_path / "text.parquet", ["a"], numbers=[1])
    with pytest.raises(ValueError, match=r"text\.parquet.*'words'.*'text'.*'numbers'"):
        open_corpus(tmp_path / "text.parquet", text_column="words")
    with pytest.raises(ValueError, match=r"text\.parquet.*1.*'numbers'.*1"):
        list(open_corpus(tmp_path / "text.parquet", text_column="numbers"))


def test_bad_data_sets(monkeypatch):
    with pytest.raises(ValueError, match="^the given data set: .*records"):
        Corpus.from_dataset(datasets.Dataset.from_dict({"text": []}))
    with pytest.raises(ValueError, match="'text'.*'words'"):
        Corpus.from_dataset(datasets.Dataset.from_dict({"words": ["a"]}))
    both = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": ["a"]}) for name in ("train", "test")})
    with pytest.raises(ValueError, match="train, test"):
        Corpus.from_dataset(both)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text,n\n"a,1\n', r"a\.csv, line 2: .*end of data"),
        ("a.csv", b"text,n\na\n", r"a\.csv, line 2: 1 cells.* 2"),
        ("a.tsv", b"text\tn\na\tb\tc\n", r"a\.tsv, line 2: 3 cells.* 2.*tabs"),
        ("a.csv", b"sentence,n\na,1\n", r"a\.csv, line 1.*column 'text'.*'sentence', 'n'.*text_column"),
        ("a.csv", b"text,n\n", r"a\.csv has no rows"),
        ("a.csv", b"text\nb\xff\n", r"a\.csv, line 2, byte 2.*b'\\xff'.*utf-8"),
        ("a.json", b'[{"text": "b\xff"}]', r"a\.json, line 1: byte 0xff.*utf-8"),
        ("a.json", b"[]", r"a\.json has no rows"),
        ("a.json", b'["text"]', r"a\.json, row 1.*str"),
        ("a.parquet", b"PAR1 no", r"a\.parquet.*damaged.*Parquet"),
        ("a.arrow", b"ARROW1 no", r"a\.arrow.*damaged.*Arrow"),
        (
            "a.conllu",
            b"1\tThe\tDET\n",
            r"a\.conllu, line 1: '1\\tThe\\tDET' has 3 columns.* 10",
        ),
        ("a.conllu", b"x\ta" + b"\t_" * 8, r"a\.conllu, line 1: id 'x'.*'a'"),
        ("a.conllu", b"1\t" + b"\t_" * 8, r"a\.conllu, line 1: id '1'.*''"),
        ("a.conllu", b"1\ta" + b"\t_" * 8 + b"\n\n# text = b\n\n", r"a\.conllu, line 3: comments"),
    ],
)
def test_damaged_tables_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(open_corpus(tmp_path / name))


def test_columns_that_a_format_lacks(tmp_path):
    (tmp_path / "a.conllu").write_text("1\ta" + "\t_" * 8 + "\n")
    (tmp_path / "a.txt").write_text("a\n")
    for name, options, message in (
        (
            "a.conllu",
            {"pos_column": "tags"},
            r"a\.conllu: column 'tags'",
        ),
        ("a.conllu", {"text_column": "10"}, r"a\.conllu: column '10'"),
        ("a.conllu", {"pos_separator": "_"}, r"a\.conllu .*CoNLL-U.*pos_column"),
        ("a.txt", {"id_column": "id"}, "id_column='id': .*a.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            open_corpus(tmp_path / name, **options)
    with pytest.raises(ValueError, match=r"a\.conllu.*1.*'# sent_id = ...'"):
        list(open_corpus(tmp_path / "a.conllu", id_column="sent_id", numbered=True).records())


def test_pipes_and_devices_are_refused(tmp_path):
    """Detecting the format would consume the beginning of a pipe, and without a writer it blocks forever."""
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path}.*regular file"):
            open_corpus(path)


def test_json_list_over_the_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("elmo_hf.corpus.table_shards.LARGEST_LIST", 1000)
    with gzip.open(tmp_path / "a.json.gz", "wb") as file:
        file.write(b"[" + b" " * 10**6 + b"]")
    with pytest.raises(ValueError, match=r"a\.json\.gz.*\d bytes.*\.jsonl"):
        open_corpus(tmp_path / "a.json.gz")


def test_positions_saved_by_the_datasets_library(tmp_path):
    """Positions saved by versions that read tables through the datasets library are still valid."""
    texts = [f"line {number}" for number in range(2500)]
    write_parquet(tmp_path / "a.parquet", texts)
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in texts]))
    for suffix in ("parquet", "json"):
        path = str(tmp_path / f"a.{suffix}")
        stream = datasets.load_dataset(suffix, data_files=path, split="train", streaming=True).shard(1, 0)
        batches = stream.iter(batch_size=1000)
        next(batches)
        place = json.loads(json.dumps(stream.state_dict()))
        assert read(open_corpus(path).shards[0], [place, 7]) == texts[1007:]
        assert open_corpus(path).shards[0].identity == [path, None, "text", "skip", 1, -1]


def test_missing_optional_libraries(tmp_path, monkeypatch):
    write_parquet(tmp_path / "text.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert list(open_corpus(write(tmp_path / "text.txt"))) == LINES
    assert list(open_corpus(tmp_path / "text.parquet")) == ["a"]
    with pytest.raises(ImportError, match=r"datasets.*'elmo-hf\[train\]'"):
        open_corpus("owner/name")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pyarrow.*'elmo-hf\[train\]'"):
        open_corpus(tmp_path / "text.parquet")


# ---- POS tags

TAGGED = [TaggedSentence([f"w{n}", "b!", "_"], ["X", None, f"T{n % 3}"]) for n in range(60)]


def test_pos_tags_in_columns_and_lines(tmp_path, small_blocks):
    records = [{"words": list(each.words), "pos": list(each.tags)} for each in TAGGED]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    datasets.Dataset.from_list(records).to_parquet(tmp_path / "a.parquet")
    numbers = datasets.ClassLabel(names=["T2", "T1", "T0", "X"])
    feature = {"words": datasets.List(datasets.Value("string")), "pos": datasets.List(numbers)}
    as_numbers = [
        {**each, "pos": [None if tag is None else numbers.str2int(tag) for tag in each["pos"]]} for each in records
    ]
    in_memory = datasets.Dataset.from_list(as_numbers, features=datasets.Features(feature))
    columns = {"text_column": "words", "pos_column": "pos"}
    corpora = [open_corpus(tmp_path / f"a.{suffix}", **columns) for suffix in ("jsonl", "json", "parquet")]
    corpora += [Corpus.from_dataset(each, **columns) for each in (in_memory, in_memory.to_iterable_dataset(2))]
    corpora.append(Corpus.from_sentences(TAGGED))
    lines = [" ".join(f"{word}/{tag or ''}" for word, tag in zip(s.words, s.tags, strict=True)) for s in TAGGED]
    write(tmp_path / "a.txt", lines)
    corpora += [open_corpus(tmp_path / "a.txt", pos_separator="/", shard_bytes=300)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    corpora += [open_corpus(tmp_path / "b.jsonl", pos_separator="/")]
    for corpus in corpora:
        assert corpus.is_tagged
        assert sorted(corpus, key=lambda each: int(each.words[0][1:])) == TAGGED
        # Workers get shards by pickling; positions count tagged sentences.
        shard = pickle.loads(pickle.dumps(corpus.shards[0]))
        whole = read(shard)
        reader = shard.open()
        reader.take(3)
        assert read(shard, json.loads(json.dumps(reader.position))) == whole[3:]
    assert len(corpora[-2].shards) > 2
    fingerprints = {corpora[-2].fingerprint, open_corpus(tmp_path / "a.txt", shard_bytes=300).fingerprint}
    fingerprints.add(open_corpus(tmp_path / "a.txt", pos_separator="!/", shard_bytes=300).fingerprint)
    assert len(fingerprints) == 3
    # Words only.
    assert list(open_corpus(tmp_path / "a.jsonl", text_column="words")) == [list(each.words) for each in TAGGED]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a_X b_Y\nc_X d\n", {"pos_separator": "_"}, "line 2: 'd'.*'_'"),
        ('{"text": ["a"]}\n', {"pos_column": "pos"}, "line 1.*column 'pos'.*'text'.*pos_column"),
        ('{"text": ["a"], "pos": []}', {"pos_column": "pos"}, "line 1, columns 'text' and 'pos': 0 tags.* 1"),
        ("a b", {"pos_column": "pos", "file_format": "text"}, "pos_column='pos': .*plain text"),
        ("a b", {"pos_column": "pos", "pos_separator": "_"}, "pos_column='pos'.*pos_separator='_'"),
        ("a b", {"pos_separator": ""}, "pos_separator=''"),
        ("a b", {"pos_separator": "a b"}, "pos_separator='a b'"),
    ],
)
def test_missing_pos_tags(tmp_path, content, options, message):
    path = tmp_path / ("text.jsonl" if "pos_column" in options else "text.txt")
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(open_corpus(path, **options))


@pytest.mark.parametrize("wrong", [["a", 1], None, 3])
def test_in_memory_sentences_are_texts_or_word_lists(wrong):
    with pytest.raises(TypeError, match="sentence 1 .* (list|NoneType|int)"):
        Corpus.from_sentences(["a b", wrong])
    assert list(Corpus.from_sentences(["a b", ["a b"]])) == ["a b", ["a b"]]


def test_pos_tags_of_all_sentences_or_none():
    with pytest.raises(ValueError, match="1 of 2 sentences"):
        Corpus.from_sentences(["a b", TAGGED[0]])
    dataset = datasets.Dataset.from_dict({"text": [["a"]]})
    with pytest.raises(ValueError, match="'pos'.*'text'. Name.*pos_column"):
        Corpus.from_dataset(dataset, pos_column="pos")
