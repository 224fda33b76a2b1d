"""`elmo-hf embed`: options, bilm-tf's own vectors, and errors in one line."""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import elmo_hf
from elmo_hf import embed
from elmo_hf.cli import main
from hub_upload.cli import main as hub
from modeling_tests.corpus_embedding.corpora import (
    check_equal,
    model_and_tokenizer,
    read,
    sentences,
    tagger_and_tokenizer,
    tags_of,
    write_text,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    for part in model_and_tokenizer():
        part.save_pretrained(path)
    return path


def test_from_text_to_vectors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_text(tmp_path / "text.txt", sentences())
    more = tmp_path / "more.txt.gz"
    more.write_bytes(gzip.compress(b"the cat\n"))
    output = tmp_path / "out.safetensors"
    arguments = ["embed", str(text), str(more), str(output), "--model", str(folder), "--layers", "all"]
    arguments += ["--shard-words", "40", "--batch_words", "30", "--chunk-words", "20", "--device", "cpu"]
    given = [*sentences(), ["the", "cat"]]
    for ending in ("words/s over ", "complete already, nothing was left to do"):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{output}: 41 sentences, {sum(map(len, given))} words; ") and ending in printed
    check_equal(read(output), embed(given, folder, layers="all", device="cpu"))
    assert main([*arguments, "--boundaries"]) == 1
    assert "was begun with boundaries=False, not True" in capsys.readouterr().err
    assert main([*arguments, "--boundaries", "--dtype", "float16", "--precision", "bfloat16", "--overwrite"]) == 0
    found = read(output)
    assert found[0].dtype == np.float16
    check_equal(found, embed(given, folder, layers="all", boundaries=True, dtype=torch.bfloat16, device="cpu"), 1e-2)


def test_carry_state_with_one_layer_and_sentence_keys(folder: Path, tmp_path: Path) -> None:
    given = [["the", "cat"], ["on", "a", "mat"], ["sat"]]
    text = write_text(tmp_path / "text.txt", given)
    arguments = ["embed", str(text), str(tmp_path / "out.h5"), "--model", str(folder), "--device", "cpu"]
    arguments += ["--carry_state", "--rows", "2", "--warm_up", "1", "--layers", "1", "--use-sentence-keys"]
    assert main(arguments) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        found = [file[" ".join(words)][...] for words in given]
    check_equal(found, embed(given, folder, layers=1, carry_state=True, rows=2, warm_up=1, device="cpu"))
    assert main([*arguments, "--layers", "last"]) == 1


def test_int8_precision(folder: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", sentences())
    arguments = ["embed", str(text), str(tmp_path / "out.h5"), "--model", str(folder), "--device", "cpu"]
    assert main([*arguments, "--precision", "int8", "--word_cache_mb", "0"]) == 0
    expected = embed(sentences(), elmo_hf.quantize(elmo_hf.ElmoModel.from_pretrained(folder)), str(folder))
    check_equal(read(tmp_path / "out.h5"), expected)
    # As an error, the vectors of floats.
    assert main([*arguments, "--precision", "float32"]) == 1


def test_columns_and_raw_text(folder: Path, tmp_path: Path) -> None:
    records = [{"body": "The cat (a cat) sat.", "key": "a"}, {"body": ["on", "a b"], "key": 2}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    arguments = ["embed", str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--model", str(folder), "--format", "hdf5"]
    arguments += ["--text-column", "body", "--id-column", "key", "--pre-tokenization", "ptb", "--forget-sentences"]
    assert main(arguments) == 0
    check_equal(read(tmp_path / "out"), embed([record["body"] for record in records], folder))
    with h5py.File(tmp_path / "out") as file:
        assert set(file) == {"0", "1", "ids"} and file["ids"].asstr()[...].tolist() == ["a", "2"]


def test_pos_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in tagger_and_tokenizer():
        part.save_pretrained(tmp_path / "model")
    given, tags = sentences(), tags_of(sentences())
    rows = [{"text": words, "tags": beside} for words, beside in zip(given, tags, strict=True)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = (zip(words, beside, strict=True) for words, beside in zip(given, tags, strict=True))
    joined = [[f"{word}_{tag or ''}" for word, tag in pair] for pair in pairs]
    lines = write_text(tmp_path / "in.txt", joined)
    options = ["--model", str(tmp_path / "model"), "--device", "cpu"]
    expected = embed(given, tmp_path / "model", pos_tags=tags, device="cpu")
    for source, how in ((tmp_path / "in.jsonl", ["--pos_column", "tags"]), (lines, ["--pos-separator", "_"])):
        output = tmp_path / f"{source.stem}{source.suffix[1:]}.h5"
        assert main(["embed", str(source), str(output), *options, *how]) == 0
        check_equal(read(output), expected)
    assert main(["embed", str(lines), str(tmp_path / "out.h5"), *options]) == 1
    assert "Expected pos_column or pos_separator" in capsys.readouterr().err


def test_vectors_equal_bilm_tf(reference: Path, tmp_path: Path) -> None:
    """The first batch of the original's own output starts from zero states, as every sentence does here."""
    originals = reference / "bilm_tf"
    given = json.loads((originals / "lm_embeddings_sentences.json").read_text())
    arguments = [str(originals / "lm_weights.hdf5"), "--options", str(originals / "options.json")]
    assert hub(["convert", *arguments, str(tmp_path / "model")]) == 0
    (tmp_path / "text.txt").write_text("".join(of_list[0].strip() + "\n" for of_list in given), encoding="utf-8")
    # The long ones by chunks.
    options = ["--model", str(tmp_path / "model"), "--layers", "top", "--chunk_words", "20", "--device", "cpu"]
    assert main(["embed", str(tmp_path / "text.txt"), str(tmp_path / "out.hdf5"), *options]) == 0
    found = read(tmp_path / "out.hdf5")
    assert min(map(len, found)) <= 20 < max(map(len, found))
    for number in range(3):
        with h5py.File(originals / f"lm_embeddings_{number}.hdf5") as file:
            forward, backward = file["0"][...]
        np.testing.assert_allclose(found[number], np.concatenate([forward, backward], 1), rtol=0, atol=1e-6)


def test_keyboard_interrupt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(elmo_hf, "embed_corpus", stop)
    assert main(["embed", "t.txt", "out.h5", "--model", str(folder)]) == 130
    assert "stopped; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt", "out.h5"], "no file matches missing.txt"),
        (["{text}", "out.txt"], "output out.txt: expected a name that ends in .hdf5"),
        (["{text}", "out.h5", "--id_column", "id"], "is plain text, which has no columns"),
        (["{text}", "out.h5", "--chunk_words", "0"], "chunk_words=0: expected at least 1"),
        (["{text}", "out.h5", "--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_errors_are_one_message(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a\n")
    given = [argument.format(text=text) for argument in arguments]
    assert main(["embed", "--model", str(folder), *given]) == 1
    error = capsys.readouterr().err
    assert "elmo-hf embed: " in error and message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "ray", "--carry_state"], "--carry_state"),
        (["--engine", "ray", "--rows", "4"], "--rows"),
        (["--engine", "ray", "--format", "hdf5"], "hdf5"),
        (["--address", "host:6379"], "--address needs --engine ray"),
        (["--gpus_per_worker", "1"], "--gpus_per_worker needs --engine ray"),
    ],
)
def test_an_engine_refuses_the_options_of_the_other(folder, tmp_path, options, told, capsys) -> None:
    text = write_text(tmp_path / "text.txt", sentences(3))
    arguments = ["embed", str(text), "--output", str(tmp_path / "out.parquet"), "--model", str(folder)]
    assert main([*arguments, *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
