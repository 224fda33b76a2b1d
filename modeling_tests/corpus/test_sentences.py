"""Corpora in files and data sets: formats, shards, positions, damaged and undecodable input."""

import bz2
import gzip
import json
import lzma
import pickle
import re
import sys

import pytest

from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.pretraining import text_shards

datasets = pytest.importorskip("datasets")

LINES = [f"sentence {number} of the text" + " and more" * (number % 5) for number in range(230)]
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some lines, so that a small file has many."""
    monkeypatch.setattr(text_shards, "BLOCK_BYTES", 256)


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
    assert list(open_corpus(path, text_column="sentence")) == ["one two", "a list of words", "x", "y", "z"]


@pytest.mark.parametrize("word", ["New York", "1\u00a0000", "a\nb", "c ", "\u3000", ""])
def test_words_of_lists_stay_whole(tmp_path, word):
    """A list's words are read again from a text: one that would become two, or none, is refused where it stands."""
    words = ["in", word, "now"]
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": ["in", "New_York"]}) + "\n" + json.dumps({"text": words}) + "\n")
    with pytest.raises(ValueError, match=f"text.jsonl, line 2: column 'text' holds the word {re.escape(repr(word))}:"):
        list(open_corpus(path))
    with pytest.raises(ValueError, match=r"the given data set.*column 'text' holds the word"):
        list(Corpus.from_dataset(datasets.Dataset.from_dict({"text": [words]})))


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


def test_data_sets_in_hand():
    table = datasets.Dataset.from_dict({"words": [line.split() for line in LINES]})
    assert list(Corpus.from_dataset(table, "words")) == LINES
    stream = table.to_iterable_dataset(num_shards=4)
    corpus = Corpus.from_dataset(stream, "words")
    assert len(corpus.shards) == 4
    assert list(corpus) == LINES


def test_names_of_data_sets(tmp_path, monkeypatch):
    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_dict({"text": ["a b"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_corpus("owner/name:part", split="test", streaming=False, revision="v1")) == ["a b"]
    assert asked == {"path": "owner/name", "name": "part", "split": "test", "streaming": False, "revision": "v1"}
    for missing in ("text.txt", "text/corpus.jsonl.gz", "text/*.gz", "./name", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no file matches"):
            open_corpus(missing)


def test_a_data_set_that_cannot_be_loaded(monkeypatch):
    def load_dataset(**arguments):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/none' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"data set owner/none, split train cannot be loaded: .* doesn't exist"):
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
    """Only a line feed ends a line; a byte-order mark and a carriage return are no text."""
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone\r\n\r\n two\u2028\x0b\x85three \n \nlast".encode())
    expected = ["one", "", " two\u2028\x0b\x85three ", " ", "last"]
    kept = expected if policy == "keep" else [line for line in expected if line.strip()]
    assert list(open_corpus(path, blank_lines=policy)) == kept


def test_other_encodings(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("café\n".encode("latin-1"))
    assert list(open_corpus(path, encoding="latin-1")) == ["café"]


# ---- shards and positions


@pytest.mark.parametrize("shard_bytes", [1, 7, 30, 100, 1000, 5000, 10**6])
@pytest.mark.parametrize("end", [True, False])
def test_a_large_file_is_read_once_in_spans(tmp_path, shard_bytes, end, small_blocks):
    path = write(tmp_path / "text.txt", LINES[:60])
    if not end:
        path.write_bytes(path.read_bytes()[:-1])
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


def test_every_position_of_every_shard(tmp_path, small_blocks, monkeypatch):
    """Positions through JSON, shards through pickle, blocks far smaller than the shard."""
    monkeypatch.setattr("elmo_hf.corpus.dataset_shards.RECORDS_AT_A_TIME", 40)
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
    assert kinds == 8


def test_the_fingerprint_knows_the_content_not_the_folder(tmp_path):
    first = open_corpus(write(tmp_path / "text.txt"))
    (tmp_path / "other").mkdir()
    assert open_corpus(write(tmp_path / "other" / "text.txt")).fingerprint == first.fingerprint
    assert open_corpus(tmp_path / "text.txt", blank_lines="keep").fingerprint != first.fingerprint
    assert open_corpus(tmp_path / "text.txt", shard_bytes=1000).fingerprint != first.fingerprint
    assert open_corpus(write(tmp_path / "text.txt", LINES[1:])).fingerprint != first.fingerprint


def test_only_what_is_needed_is_read(tmp_path, small_blocks):
    """A reader that gives ten sentences has read some blocks of the file, not the file."""
    path = write(tmp_path / "text.txt", LINES * 100)
    reader = open_corpus(path).shards[0].open()
    reader.take(10)
    assert reader._file.tell() < path.stat().st_size / 10


# ---- bad input


def test_undecodable_bytes_are_refused_skipped_or_replaced(tmp_path, small_blocks):
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\n" * 200 + b"b\xffd one\n" + b"good\n" + b"b\xfed two\n")
    for shard_bytes in (300, 10**6):
        with pytest.raises(ValueError, match=r"text\.txt, line 201, byte 2 of the line: b'\\xff' is not utf-8"):
            list(open_corpus(path, shard_bytes=shard_bytes))
    with pytest.warns(UserWarning, match=r"line 201, byte 2.*left the line out") as caught:
        assert list(open_corpus(path, undecodable="skip")) == ["good"] * 201
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=r"line 201, byte 2.*put U\+FFFD"):
        lines = list(open_corpus(path, undecodable="replace"))
    assert lines[200:] == ["b\ufffdd one", "good", "b\ufffdd two"]


def test_nothing_but_undecodable_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\n")
    with pytest.warns(UserWarning, match="left the line out"):
        assert list(open_corpus(path, undecodable="skip", blank_lines="keep")) == []


def test_a_very_long_line(tmp_path, small_blocks):
    path = tmp_path / "text.txt"
    path.write_text("short\n" + "word " * 1_000_000 + "\nshort\n")
    assert [len(line.split()) for line in open_corpus(path, shard_bytes=10**6)] == [1, 1_000_000, 1]
    with pytest.raises(ValueError, match=r"text\.txt, line 2: a line of more than 4000 bytes"):
        list(open_corpus(path, max_line_bytes=4000))


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz", ".jsonl"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    write(tmp_path / "full.txt")
    write(tmp_path / f"void{suffix}", [])
    with pytest.raises(ValueError, match=rf"void\{suffix} is empty: expected text"):
        open_corpus(tmp_path / "*")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = write(tmp_path / f"text{suffix}", LINES * 50)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=rf"text\{suffix} is damaged or cut short"):
        list(open_corpus(path))
    path.write_bytes(b"this was never compressed")
    with pytest.raises(ValueError, match=rf"text\{suffix} is damaged"):
        open_corpus(path)


def test_what_is_no_corpus(tmp_path):
    write(tmp_path / "text.zst")
    with pytest.raises(ValueError, match=r"\.zst files cannot be read"):
        open_corpus(tmp_path / "text.zst")
    with pytest.raises(ValueError, match=r"is a folder: expected files; for all of its files write .*/\*"):
        open_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_corpus([tmp_path / "text.zst", "owner/name"])
    for nothing in ([], Corpus.from_sentences):
        with pytest.raises(ValueError, match="expected"):
            nothing([]) if callable(nothing) else open_corpus(nothing)
    with pytest.raises(ValueError, match="expected at least one"):
        Corpus("nothing", ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-16"}, "writes a line break as .*Convert the files to UTF-8"),
        ({"encoding": "no-such"}, "encoding 'no-such' is unknown"),
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
    with pytest.raises(ValueError, match=r"text\.jsonl, line 2: column 'text' holds 3"):
        list(open_corpus(path))
    with pytest.raises(ValueError, match=r"line 1: no column 'sentence', found the columns 'text'"):
        list(open_corpus(path, text_column="sentence"))
    path.write_text('{"text": "fine"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"text\.jsonl, line 3 is not JSON"):
        list(open_corpus(path))
    path.write_text('"text"\n')
    with pytest.raises(ValueError, match=r"line 1: no column 'text', found str"):
        list(open_corpus(path))
    write_parquet(tmp_path / "text.parquet", ["a"], numbers=[1])
    with pytest.raises(ValueError, match="has no column 'words' but 'text', 'numbers'"):
        open_corpus(tmp_path / "text.parquet", text_column="words")
    with pytest.raises(ValueError, match=r"column 'numbers' holds 1: expected text"):
        list(open_corpus(tmp_path / "text.parquet", text_column="numbers"))


def test_bad_data_sets(monkeypatch):
    with pytest.raises(ValueError, match="the given data set is empty"):
        Corpus.from_dataset(datasets.Dataset.from_dict({"text": []}))
    with pytest.raises(ValueError, match="has no column 'text' but 'words'"):
        Corpus.from_dataset(datasets.Dataset.from_dict({"words": ["a"]}))
    both = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": ["a"]}) for name in ("train", "test")})
    with pytest.raises(ValueError, match="has the splits train, test: give one of them"):
        Corpus.from_dataset(both)


def test_without_the_datasets_library(tmp_path, monkeypatch):
    write_parquet(tmp_path / "text.parquet", ["a"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert list(open_corpus(write(tmp_path / "text.txt"))) == LINES
    with pytest.raises(ImportError, match=r"needs the datasets library: pip install 'elmo-hf\[train\]'"):
        open_corpus(tmp_path / "text.parquet")


# ---- parts of speech

TAGGED = [TaggedSentence([f"w{n}", "b!", "_"], ["X", None, f"T{n % 3}"]) for n in range(60)]


def test_parts_of_speech_in_columns_and_lines(tmp_path, small_blocks):
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
    # The words alone.
    assert list(open_corpus(tmp_path / "a.jsonl", text_column="words")) == [" ".join(each.words) for each in TAGGED]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a_X b_Y\nc_X d\n", {"pos_separator": "_"}, "line 2: 'd' is no word with a tag behind '_'"),
        ('{"text": ["a"]}\n', {"pos_column": "pos"}, "line 1: no column 'pos', found the columns 'text'"),
        ('{"text": ["a"], "pos": []}', {"pos_column": "pos"}, "line 1, columns 'text' and 'pos': 0 tags for the 1"),
        ("a b", {"pos_column": "pos", "file_format": "text"}, "is plain text, which has no columns"),
        ("a b", {"pos_column": "pos", "pos_separator": "_"}, "expected parts of speech in a column of their own or"),
        ("a b", {"pos_separator": ""}, "pos_separator='': expected characters that are no whitespace"),
        ("a b", {"pos_separator": "a b"}, "pos_separator='a b': expected characters that are no whitespace"),
    ],
)
def test_parts_of_speech_that_are_not_there(tmp_path, content, options, message):
    path = tmp_path / ("text.jsonl" if "pos_column" in options else "text.txt")
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(open_corpus(path, **options))


@pytest.mark.parametrize("wrong", [["a", "b"], None, 3])
def test_sentences_in_memory_are_texts(wrong):
    with pytest.raises(TypeError, match=r"sentence 1 is .* of type (list|NoneType|int): expected a text"):
        Corpus.from_sentences(["a b", wrong])


def test_parts_of_speech_of_all_sentences_or_none():
    with pytest.raises(ValueError, match="1 of 2 sentences have parts of speech: expected all or none"):
        Corpus.from_sentences(["a b", TAGGED[0]])
    dataset = datasets.Dataset.from_dict({"text": [["a"]]})
    with pytest.raises(ValueError, match="no column 'pos' but 'text': name the one that holds the parts of speech"):
        Corpus.from_dataset(dataset, pos_column="pos")
