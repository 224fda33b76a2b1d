"""The input of corpus embedding: numbered sentences from any position, and their shards."""

import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.corpus_embedding.plan import Plan, ShardReader, plan_shards
from elmo_hf.pretraining import open_corpus

LINES = ["the cat", "", "Straße 猫\u2028x", " spaces  here ", "a\tb", "last"]


def numbered(path, **options):
    return open_corpus(path, numbered=True, **options)


def records(path, start=None, **options):
    return [record for _, record in numbered(path, **options).records(start)]


def test_lines_of_text(tmp_path):
    text = "\n".join(LINES)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n")
    (tmp_path / "b").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "d.xz").write_bytes(lzma.compress(text.encode()))
    for name in ("a.txt", "b", "c.txt.gz", "d.xz"):
        found = records(tmp_path / name)
        assert [record.sentence for record in found] == LINES, name
        assert [record.where for record in found] == [f"{tmp_path / name}, line {n}" for n in range(1, 7)]
        assert found[0].identifier is None
    assert [record.sentence for record in records(tmp_path / "*")] == LINES * 4
    (tmp_path / "latin").write_bytes("café\n".encode("latin-1"))
    assert records(tmp_path / "latin", encoding="latin-1")[0].sentence == "café"
    assert records(tmp_path / "latin", undecodable="replace")[0].sentence == "caf\ufffd"


def test_word_lists_are_unchanged(tmp_path):
    words = [["New York", "", "<S>", "a\nb"], [], ["x"]]
    names = [7, "b", "c"]
    with (tmp_path / "a.jsonl").open("w") as file:
        for name, sentence in zip(names, words, strict=True):
            file.write(json.dumps({"id": name, "tokens": sentence, "more": None}) + "\n\n")
    table = pa.table({"id": [str(name) for name in names], "tokens": words, "more": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for name in ("a.jsonl", "a.parquet"):
        found = records(tmp_path / name, text_column="tokens", id_column="id")
        assert [record.sentence for record in found] == words
        assert [record.identifier for record in found] == ["7", "b", "c"]
    lines = [record.where.rpartition(" ")[2] for record in records(tmp_path / "a.jsonl", text_column="tokens")]
    assert lines == ["1", "3", "5"]
    assert found[2].where.endswith("a.parquet, row 3")


def test_pos_tags(tmp_path):
    given = [TaggedSentence(["New York", "a"], ["N", None]), TaggedSentence([], []), TaggedSentence(["a_b"], ["D"])]
    rows = [{"w": list(each.words), "t": list(each.tags)} for each in given]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = records(tmp_path / name, text_column="w", pos_column="t")
        assert [record.sentence for record in found] == given
    (tmp_path / "b.jsonl").write_text('{"text": "the  cat", "t": "D N"}\n{"text": ["the"], "t": [""]}\n')
    found = [record.sentence for record in records(tmp_path / "b.jsonl", pos_column="t")]
    assert found == [TaggedSentence(["the", "cat"], ["D", "N"]), TaggedSentence(["the"], [None])]
    (tmp_path / "c.txt").write_text("the_D a_cat_N\n\nmat_\n")
    (tmp_path / "c.jsonl").write_text('{"text": "the_D a_cat_N"}\n{"text": []}\n{"text": ["mat_"]}\n')
    for name in ("c.txt", "c.jsonl"):
        found = [record.sentence for record in records(tmp_path / name, pos_separator="_")]
        assert found == [
            TaggedSentence(["the", "a_cat"], ["D", "N"]),
            TaggedSentence([], []),
            TaggedSentence(["mat"], [None]),
        ]
    plans = [plan_shards(numbered(tmp_path / "c.txt", pos_separator=each), 2) for each in ("_", None)]
    assert [shard.words for shard in plans[0].shards] == [2, 1]
    assert plans[0].digest != plans[1].digest


@pytest.fixture
def mixed(tmp_path):
    lines = [f"line {number} of text" for number in range(30)]
    (tmp_path / "1.txt").write_text("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "2.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": line}) + "\n" * (1 + number % 3) for number, line in enumerate(lines)))
    pq.write_table(pa.table({"text": lines * 20}), tmp_path / "3.parquet", row_group_size=7)
    return numbered(tmp_path / "*")


def test_records_resume_at_any_position(mixed):
    everything = list(mixed.records())
    assert len(everything) == 660
    for number in (0, 1, 29, 30, 31, 59, 60, 61, 66, 67, 320, 659):
        place = json.loads(json.dumps(everything[number][0]))
        assert list(mixed.records(place)) == everything[number:], number


@pytest.mark.slow
@pytest.mark.parametrize("shard_words", [10, 77, 100_000])
def test_plan(mixed, shard_words):
    plan = plan_shards(mixed, shard_words)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan.sentences == 660 and plan.words == 4 * 660
    everything = [record for _, record in mixed.records()]
    for order in (plan.shards, plan.shards[1::3], plan.shards[::-1]):
        reader = ShardReader(mixed)
        for shard in order:
            assert reader.read(shard) == everything[shard.first : shard.first + shard.sentences]
        reader.close()
    for shard in plan.shards:
        assert shard.words == 4 * shard.sentences
        assert shard.words < shard_words + 4
    assert [shard.first for shard in plan.shards[1:]] == [shard.first + shard.sentences for shard in plan.shards[:-1]]
    assert plan_shards(mixed, shard_words).digest == plan.digest
    # Different shards have different digests; a shard size above the number of words gives one shard.
    is_one_shard = shard_words > plan.words
    assert len(plan.shards) == 1 if is_one_shard else len(plan.shards) > 20
    assert (plan_shards(mixed, shard_words + 4).digest == plan.digest) is is_one_shard


def test_compressed_files_are_read_once(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("one two\n" * 40)
    given = numbered(tmp_path / "a.txt.gz")
    plan, opened, original = plan_shards(given, 10), [], type(given.shards[0]).open
    monkeypatch.setattr(type(given.shards[0]), "open", lambda *place: opened.append(place) or original(*place))
    reader = ShardReader(given)
    assert sum(len(reader.read(shard)) for shard in plan.shards[1::2]) == 20
    reader.close()
    assert len(opened) == 1


def test_blank_lines_end_shards_too(tmp_path):
    (tmp_path / "a.txt").write_text("\n" * 50)
    assert [shard.sentences for shard in plan_shards(numbered(tmp_path / "a.txt"), 20).shards] == [
        20,
        20,
        10,
    ]


def test_changed_input_is_detected(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two\nthree four\n")
    given = numbered(path)
    plan = plan_shards(given, 2)
    path.write_text("one two\nthree five\n")
    assert plan_shards(given, 2).digest != plan.digest
    reader = ShardReader(given)
    assert reader.read(plan.shards[0])[0].sentence == "one two"
    with pytest.raises(ValueError, match=r"\(from .*a.txt.*line 2 on\)"):
        reader.read(plan.shards[1])
    # A list of words and the same words as text have different digests.
    for name, value in (("b.jsonl", "a b"), ("c.jsonl", ["a", "b"]), ("d.jsonl", ["a b"])):
        (tmp_path / name).write_text(json.dumps({"text": value}))
    digests = {plan_shards(numbered(tmp_path / f"{name}.jsonl"), 9).digest for name in "bcd"}
    assert len(digests) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", b"", "a.txt.*empty"),
            ("a.txt", b"ok\n\xff\xfe\n", r"a.txt, line 2, byte 1.*b'\\xff'.*utf-8"),
            ("a.zip", b"PK", "a.zip: .zip"),
            ("a.txt.gz", gzip.compress(b"text " * 99, mtime=0)[:-9], "a.txt.gz.*damaged"),
            ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "a.jsonl, line 3.*JSON"),
            ("a.jsonl", b'["text"]\n', "a.jsonl, row 1.*str"),
            ("a.jsonl", b'{"body": "a"}\n', "a.jsonl, line 1.*column 'text'.*'body'.*text_column"),
            ("a.jsonl", b'{"text": null}\n', "a.jsonl, line 1: column 'text' holds None:"),
            ("a.jsonl", b'{"text": 5}\n', "a.jsonl, line 1: column 'text' holds 5"),
            ("a.jsonl", b'{"text": ["a", null]}\n', "a.jsonl, line 1: column 'text' holds None among"),
            ("a.parquet", b"PAR1 no", "a.parquet.*damaged.*Parquet"),
        ],
    )
    def test_contents(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            records(tmp_path / name)

    def test_columns(self, tmp_path):
        pq.write_table(pa.table({"body": ["a"], "n": [1.5]}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="a.parquet.*'text'.*'body'.*'n'"):
            records(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="'key'.*'body'.*'n'. Name.*id_column"):
            records(tmp_path / "a.parquet", text_column="body", id_column="key")
        with pytest.raises(ValueError, match="a.parquet.*1.*'n'.*1.5"):
            records(tmp_path / "a.parquet", text_column="body", id_column="n")
        pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="a.parquet.*2.*'text'.*None"):
            records(tmp_path / "a.parquet")
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"a.parquet has no rows"):
            records(tmp_path / "a.parquet")
        (tmp_path / "a.txt").write_text("a\n")
        with pytest.raises(ValueError, match="id_column='id'.*a.txt"):
            records(tmp_path / "a.txt", id_column="id")

    @pytest.mark.parametrize(
        ("name", "content", "options", "message"),
        [
            ("a.txt", "a\n", {"pos_column": "t"}, "pos_column='t': .*a.txt"),
            ("a.txt", "a_N\nthe cat_N\n", {"pos_separator": "_"}, "a.txt, line 2: 'the'"),
            ("a.txt", "a\n", {"pos_separator": " "}, "pos_separator=' '"),
            ("a.jsonl", "{}", {"pos_column": "t", "pos_separator": "_"}, "pos_column='t'.*pos_separator='_'"),
            ("a.jsonl", '{"text": "a"}\n', {"pos_column": "t"}, "line 1.*column 't'.*'text'.*: pos_column"),
            (
                "a.jsonl",
                '{"text": ["a", "b"], "t": ["N"]}',
                {"pos_column": "t"},
                "a.jsonl, line 1, columns 'text' and 't': 1 tags.* 2 words 'a b'",
            ),
            ("a.jsonl", '{"text": ["a"], "t": [3]}', {"pos_column": "t"}, "tags.* 3 .*int"),
            ("a.jsonl", '{"text": ["a"], "t": null}', {"pos_column": "t"}, "column 't' holds None: expected a list"),
        ],
    )
    def test_pos_tags(self, tmp_path, name, content, options, message):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            records(tmp_path / name, **options)

    def test_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="matches missing: .*txt.gz$"):
            records("missing")
        with pytest.raises(ValueError, match=f"{tmp_path} is a folder"):
            records(tmp_path)
        (tmp_path / "a.txt").write_text("a\n")
        with pytest.raises(ValueError, match="undecodable='skip'.*'refuse'.*'replace'"):
            records(tmp_path / "a.txt", undecodable="skip")

    def test_identifiers(self, tmp_path):
        """Names that cannot be stored unchanged are refused."""
        for name in ("a\0", "\ud800", None, 1.5, True):
            (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "id": name}))
            with pytest.raises(ValueError, match="a.jsonl, line 1: column 'id'"):
                records(tmp_path / "a.jsonl", id_column="id")
