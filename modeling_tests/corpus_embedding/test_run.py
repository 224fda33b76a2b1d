"""`embed_corpus` against `embed`; interruptions, conflicts, memory."""

import errno
import json
import shutil
import tracemalloc

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from elmo_hf import ElmoTokenizer, OutputConflictError, embed, embed_corpus
from elmo_hf.corpus_embedding.shard_embedding import ShardEmbedder
from elmo_hf.corpus_embedding.writers import Hdf5Writer, ParquetWriter, SafetensorsWriter
from elmo_hf.inference.embedding import Embedder
from modeling_tests.tiny import TRANSFORMER, WORD_INPUT

from .corpora import (
    FORMATS,
    WORDS,
    check_equal,
    model_and_tokenizer,
    read,
    sentences,
    tagger_and_tokenizer,
    tags_of,
    write_text,
)

OPTIONS = {"shard_words": 40, "batch_words": 24, "chunk_words": 20, "progress": False}


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text.txt", sentences())


@pytest.fixture(scope="module")
def both():
    torch.manual_seed(0)
    return model_and_tokenizer()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.samples(2)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("layers", ["mix", "top", "average", "all"])
def test_equal_to_embed(text, tmp_path, both, kind, layers):
    model, tokenizer = both
    output = tmp_path / f"out.{kind}"
    summary = embed_corpus(text, output, model, tokenizer, layers=layers, **OPTIONS)
    given = sentences()
    check_equal(read(output), embed(given, model, tokenizer, layers=layers))
    assert read(output)[0].dtype == np.float32
    words = sum(map(len, given))
    assert (summary.sentences, summary.words) == (40, words) and summary.shards == summary.new_shards > 3
    assert summary.line().startswith(f"{output}: 40 sentences, {words} words; ")
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == {"text.txt", output.name}
    if kind != "hdf5":
        index = json.loads((output / "_embeddings.index.json").read_text())
        assert (index["sentences"], index["words"]) == (40, words)
        assert [shard["file"] for shard in index["shards"]] == sorted(
            set(contents(output)) - {"_embeddings.index.json"}
        )
        assert sum(shard["words"] for shard in index["shards"]) == words
        assert [shard["first"] for shard in index["shards"]][-1] < 40 and index["shards"][0]["first"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_half_precision_and_boundaries(text, tmp_path, both, kind):
    model, tokenizer = both
    embed_corpus(text, tmp_path / "out", model, tokenizer, format=kind, dtype="float16", boundaries=True, **OPTIONS)
    found = read(tmp_path / "out")
    assert all(array.dtype == np.float16 for array in found)
    check_equal(found, embed(sentences(), model, tokenizer, boundaries=True), 5e-3)


def test_layout_of_the_originals(tmp_path, both):
    """bilm-tf: one dataset per line. AllenNLP: an index of sentences; of equal ones, the last one."""
    (tmp_path / "text.txt").write_text("the cat\n\non a mat\n  the cat \n\tthe  cat\ton\u00a0a \0mat\u00a0\n")
    embed_corpus(tmp_path / "text.txt", tmp_path / "out.h5", *both, layers="all", **OPTIONS)
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {"0", "1", "2", "3", "4", "sentence_to_index"}
        assert [file[str(number)].shape[1] for number in range(5)] == [2, 0, 3, 2, 5]
        assert file["sentence_to_index"].shape == (1,)
        # The line, stripped at its ends alone.
        names = {"the cat": "3", "": "1", "on a mat": "2", "the  cat\ton\u00a0a \0mat": "4"}
        assert json.loads(file["sentence_to_index"][0]) == names
    embed_corpus(tmp_path / "text.txt", tmp_path / "bare.h5", *both, sentence_index=False, **OPTIONS)
    with h5py.File(tmp_path / "bare.h5") as file:
        assert set(file) == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize("kind", FORMATS)
def test_word_lists_and_identifiers(tmp_path, both, kind):
    model, tokenizer = both
    given = [["New York", "", "\ud800x"], [], ["cat"]]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"n": f"doc-{n}", "w": words}) + "\n" for n, words in enumerate(given))
    )
    output = tmp_path / "out"
    columns = {"text_column": "w", "id_column": "n"}
    embed_corpus(
        tmp_path / "in.jsonl", output, model, tokenizer, format=kind, **columns, **{**OPTIONS, "shard_words": 2}
    )
    check_equal(read(output), embed(given, model, tokenizer))
    names = ["doc-0", "doc-1", "doc-2"]
    if kind == "hdf5":
        with h5py.File(output) as file:
            assert file["ids"].asstr()[...].tolist() == names
    elif kind == "parquet":
        tables = [pq.read_table(path) for path in sorted(output.glob("*.parquet"))]
        assert [name for table in tables for name in table["id"].to_pylist()] == names
        assert tables[0]["words"].to_pylist()[0] == ["New York", "", "?x"]
        assert tables[0].schema.names == ["index", "id", "words", "vectors"]
    else:
        found = []
        for path in sorted(output.glob("*.safetensors")):
            with safe_open(path, "numpy") as file:
                found += json.loads(file.metadata()["ids"])
        assert found == names


def test_raw_text(tmp_path, both):
    model, tokenizer = both
    pq.write_table(pa.table({"text": ["The cat (a cat) sat.", "Don't!"]}), tmp_path / "in.parquet")
    embed_corpus(tmp_path / "in.parquet", tmp_path / "out", *both, format="hdf5", pre_tokenization="ptb", **OPTIONS)
    check_equal(read(tmp_path / "out"), embed(["The cat (a cat) sat.", "Don't!"], model, tokenizer))


@pytest.mark.slow
@pytest.mark.parametrize("reads", [WORD_INPUT, TRANSFORMER, {"scalar_mix_layer_norm": "tokens"}])
def test_other_models(tmp_path, reads):
    """A mix normalized over all words and a Transformer read long lines whole."""
    model, tokenizer = model_and_tokenizer(**reads, **({"vocab_size": 5} if "word_embedding_size" in reads else {}))
    given = [words[:12] for words in sentences(12)]
    write_text(tmp_path / "in.txt", given)
    embed_corpus(tmp_path / "in.txt", tmp_path / "out.hdf5", model, tokenizer, **{**OPTIONS, "chunk_words": 5})
    check_equal(read(tmp_path / "out.hdf5"), embed(given, model, tokenizer))


@pytest.fixture
def tagged(tmp_path):
    """The same words and tags as records and as `word_TAG` text, with the options that read each."""
    given, tags = sentences(), tags_of(sentences())
    with (tmp_path / "in.jsonl").open("w") as file:
        for words, beside in zip(given, tags, strict=True):
            file.write(json.dumps({"text": words, "pos": beside}) + "\n")
    joined = [[f"{word}_{tag or ''}" for word, tag in zip(*pair, strict=True)] for pair in zip(given, tags)]
    lines = write_text(tmp_path / "in.txt", joined)
    return [(tmp_path / "in.jsonl", {"pos_column": "pos"}), (lines, {"pos_separator": "_"})]


@pytest.mark.slow
@torch.no_grad()
def test_pos_tags(tmp_path, tagged):
    model, tokenizer = tagger_and_tokenizer()
    given, tags = sentences(), tags_of(sentences())
    expected = []
    for words, beside in zip(given, tags, strict=True):
        batch = tokenizer(words, pos_tags=beside, is_split_into_words=True, return_tensors="pt")
        expected.append(model(**batch).last_hidden_state[0, 1:-1].numpy())
    for kind, (source, how) in zip(("hdf5", "parquet"), tagged, strict=True):
        output = tmp_path / f"out.{kind}"
        # The longest sentence is read in chunks.
        embed_corpus(source, output, model, tokenizer, **how, **OPTIONS)
        check_equal(read(output), expected)
        plain, words_of = model_and_tokenizer()  # reads none
        embed_corpus(source, output, plain, words_of, **how, overwrite=True, **OPTIONS)
        check_equal(read(output), embed(given, plain, words_of))
    assert (
        np.abs(
            np.concatenate(embed(given, model, tokenizer, pos_tags=[[None] * len(words) for words in given]))
            - np.concatenate(expected)
        ).max()
        > 1e-3
    )


@pytest.mark.slow
def test_changed_pos_tags_do_not_resume(tmp_path, tagged, monkeypatch):
    models, output = tagger_and_tokenizer(), tmp_path / "out.safetensors"
    (source, how), (lines, behind) = tagged
    whole = tmp_path / "whole.safetensors"
    total = embed_corpus(source, whole, *models, **how, **OPTIONS).shards
    count, original = [0], ShardEmbedder.write

    def write_two_shards(*arguments):
        count[0] += 1
        if count[0] > 2:
            raise Interrupted
        return original(*arguments)

    monkeypatch.setattr(ShardEmbedder, "write", write_two_shards)
    with pytest.raises(Interrupted):
        embed_corpus(source, output, *models, **how, **OPTIONS)
    monkeypatch.undo()

    def refused(message, source=source, models=models, **changed):
        with pytest.raises(OutputConflictError, match=message):
            embed_corpus(source, output, *models, **{**how, **changed}, **OPTIONS)

    refused("was begun with pos_column='pos', not None", lines, pos_column=None, **behind)
    reordered = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *WORDS], max_characters_per_word=9, pos_tag_set=["D", "N"])
    refused("was begun with model=", models=(models[0], reordered))
    text = source.read_text()
    source.write_text(text.replace('"N"', '"D"', 1))
    refused("the files' names and sizes are the same, but not their sentences")
    source.write_text(text)
    assert embed_corpus(source, output, *models, **how, **OPTIONS).new_shards == total - 2
    assert contents(output) == contents(whole)


@pytest.mark.slow
def test_long_lines_go_by_chunks(tmp_path, both, monkeypatch):
    model, _ = both
    write_text(tmp_path / "in.txt", [["cat"], WORDS * 9, ["mat"]])
    longest, original = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: longest.append(inputs["input_ids"].shape[1]) or original(**inputs)
    )
    for kind in FORMATS:
        embed_corpus(tmp_path / "in.txt", tmp_path / f"o.{kind}", *both, layers="all", **OPTIONS)
    assert max(longest) <= 22
    monkeypatch.undo()
    for kind in FORMATS:
        check_equal(read(tmp_path / f"o.{kind}"), embed([["cat"], WORDS * 9, ["mat"]], *both, layers="all"))


class Interrupted(Exception):
    pass


@pytest.mark.samples(1)
@pytest.mark.parametrize(
    ("kind", "writer"), [("hdf5", Hdf5Writer), ("parquet", ParquetWriter), ("safetensors", SafetensorsWriter)]
)
def test_the_same_command_continues(text, tmp_path, both, kind, writer, monkeypatch):
    whole, output = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    total = embed_corpus(text, whole, *both, **OPTIONS).shards
    original = writer.write
    for error in (Interrupted(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
        count = [0]

        def write(self, entry, parts, count=count, error=error):
            count[0] += 1
            if count[0] > 9:
                raise error
            original(self, entry, parts)

        monkeypatch.setattr(writer, "write", write)
        with pytest.raises(type(error)) as caught:
            embed_corpus(text, output, *both, **OPTIONS)
        if isinstance(error, OSError):
            assert "cannot be written: No space left on device" in str(caught.value)
            assert "An existing file there is unchanged" in str(caught.value)
        folder = output if kind != "hdf5" else tmp_path / "out.hdf5.parts"
        assert {path.name for path in folder.iterdir() if "embeddings" not in path.name} == {"_unfinished.json"}
        monkeypatch.undo()
    assert not output.is_file()
    done = [path for path in folder.iterdir() if path.name.startswith("embeddings-")]
    assert 0 < len(done) < total
    before = {path: path.stat().st_mtime_ns for path in done}
    (folder / ".embeddings-00001-of-00009.x.123.writing").write_text("of a process that was killed")
    summary = embed_corpus(text, output, *both, **OPTIONS)
    assert summary.new_shards == total - len(done)
    if kind == "hdf5":
        assert not folder.exists()
        assert all(np.array_equal(a, b) for a, b in zip(read(output), read(whole), strict=True))
    else:
        assert contents(output) == contents(whole)
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    again = embed_corpus(text, output, *both, **OPTIONS)
    assert again.new_shards == 0 and again.line().endswith("complete already, nothing was left to do")
    assert again.words == summary.words


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["mix", "all"])
@pytest.mark.parametrize(
    ("kind", "writer"), [("hdf5", Hdf5Writer), ("parquet", ParquetWriter), ("safetensors", SafetensorsWriter)]
)
def test_an_interruption_keeps_a_part_of_a_shard(text, tmp_path, both, kind, writer, layers, monkeypatch):
    options = {**OPTIONS, "shard_words": 1000, "batch_words": 4, "layers": layers}
    whole, output = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    embed_corpus(text, whole, *both, **options)
    original, embedded, written = writer.write, Embedder._embed, []

    def write(self, entry, parts):
        written.append(entry.number)
        if len(written) == 25:
            raise KeyboardInterrupt
        original(self, entry, parts)

    monkeypatch.setattr(writer, "write", write)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(text, output, *both, **options)
    folder = output if kind != "hdf5" else tmp_path / "out.hdf5.parts"
    name = f"_part-00000-of-00001.{kind}"
    assert {path.name for path in folder.iterdir()} == {name, f"{name}.json", "_unfinished.json"}
    kept = json.loads((folder / f"{name}.json").read_text())["sentences"]
    assert 10 < kept <= 24
    read_again = []
    monkeypatch.setattr(
        Embedder, "_embed", lambda self, batch, *a: read_again.extend(batch) or embedded(self, batch, *a)
    )
    embed_corpus(text, output, *both, **options)
    assert written[25:] == list(range(40))
    assert 40 - kept - 3 <= len(read_again) <= 40 - kept + 3  # long lines are read by chunks
    if kind == "hdf5":
        assert all(np.array_equal(a, b) for a, b in zip(read(output), read(whole), strict=True))
    else:
        assert contents(output) == contents(whole)
    if kind == "parquet":
        frame = pytest.importorskip("pandas").read_parquet(output)
        assert list(frame["index"]) == list(range(40))


def test_output_with_former_file_names(text, tmp_path, both):
    output = tmp_path / "out.parquet"
    embed_corpus(text, output, *both, **OPTIONS)
    (output / "_embeddings.index.json").rename(output / "embeddings.index.json")
    assert embed_corpus(text, output, *both, **OPTIONS).new_shards == 0
    assert (output / "_embeddings.index.json").exists() and not (output / "embeddings.index.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_summary_states_working_code_for_reading(text, tmp_path, both, kind):
    import h5py
    import pandas
    import safetensors.numpy

    summary = embed_corpus(text, tmp_path / f"out.{kind}", *both, **OPTIONS)
    names = {"h5py": h5py, "pandas": pandas, "safetensors": safetensors}
    first = np.stack(list(eval(summary.reading(), names)))
    np.testing.assert_array_equal(first, read(tmp_path / f"out.{kind}")[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hdf5", "safetensors"])
@pytest.mark.parametrize("complete", [True, False])
def test_conflicts(text, tmp_path, both, kind, complete, monkeypatch):
    output = tmp_path / f"out.{kind}"
    if not complete:
        monkeypatch.setattr(ShardEmbedder, "write", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            embed_corpus(text, output, *both, **OPTIONS)
        monkeypatch.undo()
    else:
        embed_corpus(text, output, *both, **OPTIONS)

    def refused(message, source=text, models=both, **changed):
        with pytest.raises(OutputConflictError, match=message):
            embed_corpus(source, output, *models, **{**OPTIONS, **changed})

    refused(r"was begun with layers='mix', not 'top'. Give the same settings", layers="top")
    refused(r"was begun with dtype='float32', not 'float16'", dtype="float16")
    refused(r"was begun with shard_words=40, not 41", shard_words=41)
    torch.manual_seed(5)
    refused(r"was begun with model='", models=(model_and_tokenizer()[0], both[1]))
    (tmp_path / "other").mkdir()
    changed = write_text(tmp_path / "other" / "text.txt", sentences()[:-1])
    refused(r"was begun with other input: file 1 was text.txt of .* bytes and is text.txt of", changed)
    given = text.read_text()
    changed.write_text(given.replace("cat", "tac", 1))
    refused(r"the files' names and sizes are the same, but not their sentences", changed)
    # Neither speed nor the location of the input matters.
    changed.write_text(given)
    embed_corpus(changed, output, *both, **{**OPTIONS, "batch_words": 100, "chunk_words": 10})
    check_equal(read(output), embed(sentences(), *both))
    embed_corpus(text, output, *both, layers="top", overwrite=True, **OPTIONS)
    check_equal(read(output), embed(sentences(), *both, layers="top"))


@pytest.mark.slow
def test_foreign_folder_is_refused(text, tmp_path, both):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "mine.h5").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputConflictError, match="mine holds thesis.txt"):
            embed_corpus(text, tmp_path / "mine", *both, format="parquet", overwrite=overwrite, **OPTIONS)
    with pytest.raises(OutputConflictError, match="mine exists and is a folder"):
        embed_corpus(text, tmp_path / "mine", *both, format="hdf5", overwrite=True, **OPTIONS)
    with pytest.raises(OutputConflictError, match=r"mine\.h5 exists and is a file"):
        embed_corpus(text, tmp_path / "mine.h5", *both, **OPTIONS)
    with pytest.raises(OutputConflictError, match=r"mine\.h5 is a file"):
        embed_corpus(text, tmp_path / "mine.h5", *both, format="parquet", **OPTIONS)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"mine"}
    assert (tmp_path / "mine.h5").read_text() == "mine"
    embed_corpus(text, tmp_path / "mine.h5", *both, overwrite=True, **OPTIONS)
    assert len(read(tmp_path / "mine.h5")) == 40


@pytest.mark.slow
def test_one_command_at_a_time(text, tmp_path, both, monkeypatch):
    original = ShardEmbedder.write

    def while_writing(*arguments):
        with pytest.raises(OutputConflictError, match=r"out\.parquet.*another command"):
            embed_corpus(text, tmp_path / "out.parquet", *both, **OPTIONS)
        return original(*arguments)

    monkeypatch.setattr(ShardEmbedder, "write", while_writing)
    embed_corpus(text, tmp_path / "out.parquet", *both, **OPTIONS)
    assert len(read(tmp_path / "out.parquet")) == 40


@pytest.mark.slow
def test_memory_does_not_depend_on_the_corpus(tmp_path, both):
    """Memory allocated by Python and NumPy."""

    def peak(count):
        path = tmp_path / f"{count}.txt"
        path.write_text("the cat sat on a mat\n" * count)
        tracemalloc.start()
        try:
            options = {**OPTIONS, "shard_words": 120, "batch_words": 40}
            embed_corpus(path, tmp_path / f"{count}.safetensors", *both, **options)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(60)  # caches fill
    assert peak(400) < 1.3 * peak(100)


class TestRefusals:
    def test_options(self, text, tmp_path, both):
        for name, value, message in (
            ("output", "out.txt", "output out.txt.*.hdf5, .h5, .parquet, .safetensors"),
            ("format", "npz", "format='npz'"),
            ("dtype", "int8", "dtype='int8'"),
            ("shard_words", 0, "shard_words=0"),
            ("chunk_words", 0, "chunk_words=0"),
            ("batch_words", 0, "batch_words=0"),
            ("layers", "last", "layers='last'"),
            ("pre_tokenization", "bert", "pre_tokenization.*'bert'"),
        ):
            options = {"output": tmp_path / "out.h5", **OPTIONS, name: value}
            with pytest.raises(ValueError, match=message):
                embed_corpus(text, options.pop("output"), *both, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

    def test_pos_tags(self, text, tmp_path, tagged):
        models, output = tagger_and_tokenizer(), tmp_path / "out.h5"
        (source, how), (lines, behind) = tagged
        for message, given, changed in (
            ("num_pos_tags=2.*pos_column or pos_separator", text, {}),
            ("pos_column='pos': ", text, how),
            ("pre_tokenization='ptb'", lines, {**behind, "pre_tokenization": "ptb"}),
            ("pos_column='pos' and pos_separator='_'", source, {**how, **behind}),
        ):
            with pytest.raises(ValueError, match=message):
                embed_corpus(given, output, *models, **changed, **OPTIONS)
        # The error comes before anything is embedded.
        with source.open("a") as file:
            file.write('{"text": ["cat"], "pos": ["Q"]}\n')
        with pytest.raises(ValueError, match="in.jsonl.*41.*'Q'.*pos_tag_set.*N.*D"):
            embed_corpus(source, output, *models, **how, **OPTIONS)
        assert not output.exists() and not output.with_name("out.h5.parts").exists()

    def test_undecodable_line_is_found_before_writing(self, text, tmp_path, both):
        text.write_bytes(text.read_bytes() + b"\xff\n")
        with pytest.raises(ValueError, match="text.txt.*41.*1"):
            embed_corpus(text, tmp_path / "out.h5", *both, **OPTIONS)
        assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

    def test_too_long_for_a_transformer(self, text, tmp_path):
        with pytest.raises(ValueError, match="text.txt.*8.*45.*16. Split"):
            embed_corpus(text, tmp_path / "out.h5", *model_and_tokenizer(**TRANSFORMER), **OPTIONS)

    def test_too_large_for_half_precision(self, text, tmp_path, both):
        model, tokenizer = model_and_tokenizer()
        model.scalar_mixes[0].gamma.data.fill_(1e6)
        with pytest.raises(ValueError, match=r"text.txt, line \d+: .*float16"):
            embed_corpus(text, tmp_path / "out.h5", model, tokenizer, dtype="float16", **OPTIONS)

    def test_a_row_too_large_for_parquet(self, text, tmp_path, both, monkeypatch):
        monkeypatch.setattr("elmo_hf.corpus_embedding.writers._LARGEST_ROW", 1000)
        with pytest.raises(ValueError, match="line 8: .*43 words.*1,376 bytes"):
            embed_corpus(text, tmp_path / "out.parquet", *both, **OPTIONS)

    def test_a_damaged_shard(self, text, tmp_path, both, monkeypatch):
        output = tmp_path / "out.safetensors"
        monkeypatch.setattr("elmo_hf.corpus_embedding.output.Output.finish", lambda *_: 1)
        embed_corpus(text, output, *both, **OPTIONS)
        monkeypatch.undo()
        next(output.glob("*.safetensors")).write_bytes(b"\0" * 8)
        with pytest.raises(ValueError, match=r"\.safetensors is damaged"):
            embed_corpus(text, output, *both, **OPTIONS)
        shutil.rmtree(output)


@pytest.mark.slow
def test_progress_bar(text, tmp_path, both, capsys):
    """The progress bar counts words, also of finished shards; without a terminal, it is shown on request only."""
    embed_corpus(text, tmp_path / "out.parquet", *both, **{**OPTIONS, "progress": True})
    words = sum(map(len, sentences()))
    shown = capsys.readouterr().err
    assert f"{words}/{words}" in shown and "words/s" in shown
    next((tmp_path / "out.parquet").glob("*00000-of*")).unlink()
    (tmp_path / "out.parquet" / "_embeddings.index.json").rename(tmp_path / "gone")
    settings = json.loads((tmp_path / "gone").read_text())
    (tmp_path / "out.parquet" / "_unfinished.json").write_text(json.dumps(settings))
    assert embed_corpus(text, tmp_path / "out.parquet", *both, **{**OPTIONS, "progress": None}).new_shards == 1
    assert not capsys.readouterr().err
