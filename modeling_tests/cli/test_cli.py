"""The command line: text to vocabulary to model to perplexity, and errors in one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.cli import main
from elmo_hf.pretraining.checkpoint import newest_in
from modeling_tests.pretraining.conftest import corpus, fresh_accelerate  # noqa: F401 - fixtures
from modeling_tests.pretraining.runs import SHAPE
from modeling_tests.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.slow
def test_from_text_to_perplexity(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "elmo_hf")
    vocabulary, run = tmp_path / "vocab.txt", tmp_path / "run"
    assert main(["build-vocab", str(corpus / "train.txt"), "--output", str(vocabulary), "--min-count", "2"]) == 0
    assert "words cover" in capsys.readouterr().out
    assert vocabulary.read_text().startswith("<S>\n</S>\n<UNK>\n")

    arguments = ["pretrain", "--train_data", str(corpus / "train.txt"), "--vocabulary", str(vocabulary)]
    arguments += ["--output_dir", str(run), "--held-out-data", str(corpus / "held_out.txt"), "--preset", "small"]
    arguments += ["--config_overrides", json.dumps(SHAPE), "--rows", "4", "--unroll_steps", "6"]
    arguments += ["--num_samples", "12", "--max_steps", "5"]
    assert main([*arguments, "--stop_after", "2"]) == 0
    assert capsys.readouterr().out.startswith("left at step 2; the same command continues from ")
    assert main(arguments) == 0
    line = capsys.readouterr().out
    assert line.startswith("120 words seen | ")
    # A single process has no number.
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("elmo_hf.pretraining")]
    assert any("continued from" in message for message in messages)
    assert not [message for message in messages if "RANK" in message]

    scores = tmp_path / "scores.jsonl"
    arguments = ["perplexity", str(run / "model"), str(corpus / "held_out.txt"), "--device", "cpu"]
    assert main([*arguments, "--per_sentence", str(scores), "--per_word"]) == 0
    printed = capsys.readouterr().out
    reported = line.split("held-out perplexity ")[1].split(" ")[0]
    assert float(printed.split()[1]) == pytest.approx(float(reported), abs=0.006)  # two digits and three
    records = [json.loads(record) for record in scores.read_text().splitlines()]
    assert sorted(record["sentence"] for record in records) == list(range(12))
    for record in records:
        assert len(record["forward_log_probs"]) == record["words"] + 1
        assert sum(record["backward_log_probs"]) == pytest.approx(record["backward_log_prob"], abs=1e-4)


@pytest.mark.slow
def test_pos_tags_from_a_tagger_to_perplexity(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {0: "NOUN", 1: "VERB"}
    tagger = ElmoForTokenClassification(tiny_config(id2label=labels, label2id={"NOUN": 0, "VERB": 1}))
    tagger.save_pretrained(tmp_path / "tagger")
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path / "tagger")
    tagged = {}
    for name in ("train", "held_out"):
        tagged[name] = str(tmp_path / f"{name}.jsonl")
        text = str(corpus / f"{name}.txt")
        assert main(["tag", str(tmp_path / "tagger"), text, "--output", tagged[name], "--device", "cpu"]) == 0
        records = [json.loads(line) for line in Path(tagged[name]).read_text().splitlines()]
        assert [record["words"] for record in records] == [line.split() for line in Path(text).read_text().splitlines()]
        assert {tag for record in records for tag in record["tags"]} <= {"NOUN", "VERB"}
    columns = ["--text_column", "words", "--pos_column", "tags"]
    characters, vocabulary = tmp_path / "characters.json", tmp_path / "vocab.txt"
    assert main(["build-vocab", tagged["train"], *columns, "--output", str(vocabulary)]) == 0
    assert main(["build-characters", tagged["train"], *columns, "--output", str(characters), "--min-count", "2"]) == 0
    assert f"{characters}: " in capsys.readouterr().out
    (tmp_path / "tags.txt").write_text("NOUN\nVERB\n")

    arguments = ["pretrain", "--train_data", tagged["train"], "--vocabulary", str(vocabulary), *columns]
    arguments += ["--output_dir", str(tmp_path / "run"), "--held_out_data", tagged["held_out"], "--preset", "small"]
    arguments += ["--config_overrides", json.dumps({**SHAPE, "pos_tag_embedding_size": 3}), "--rows", "4"]
    arguments += ["--unroll_steps", "6", "--num_samples", "12", "--max_steps", "3"]
    arguments += ["--character_dictionary", str(characters), "--pos_tag_set", str(tmp_path / "tags.txt")]
    assert main(arguments) == 0
    reported = capsys.readouterr().out.split("held-out perplexity ")[1].split(" ")[0]
    arguments = ["perplexity", str(tmp_path / "run" / "model"), tagged["held_out"], "--device", "cpu"]
    assert main([*arguments, *columns]) == 0
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(float(reported), abs=0.006)
    assert main([*arguments, "--text_column", "words"]) == 1
    assert "elmo-hf perplexity: sentence 0, " in capsys.readouterr().err


def test_reads_other_encodings_and_blank_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, vocabulary = tmp_path / "text.txt", tmp_path / "vocab.txt"
    text.write_bytes("café\n\ncafé crème\n".encode("latin-1"))
    arguments = ["build-vocab", str(text), "--output", str(vocabulary)]
    assert main(arguments) == 1
    assert "name its true encoding" in capsys.readouterr().err
    assert main([*arguments, "--encoding", "latin-1", "--blank_lines", "keep"]) == 0
    assert capsys.readouterr().out.endswith("3 running words in 3 sentences\n")
    assert vocabulary.read_text(encoding="utf-8").splitlines()[3:] == ["café", "crème"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build-vocab", "missing.txt", "--output", "v.txt"], "no file matches missing.txt"),
        (["pretrain", "--train_data", "t.txt", "--output_dir", "run"], "vocabulary is missing"),
        (["perplexity", "no-such-folder", "t.txt"], "no-such-folder"),
        (["tag", "no-such-folder", __file__, "--output", "-"], "no-such-folder"),
        (["build-characters", "missing.txt", "--output", "c.json"], "no file matches missing.txt"),
        (["pretrain", "--train_data", "t", "--output_dir", "o", "--vocabulary", "v", "--rows", "0"], "rows=0: exp"),
        (
            ["pretrain", "--train_data", "t", "--output_dir", "o", "--vocabulary", "v", "--processes", "3"],
            "processes=3",
        ),
        (["save-model", "nowhere"], "nowhere/checkpoints holds no checkpoint"),
    ],
)
def test_errors_are_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"elmo-hf {arguments[0]}: " in error
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], ["perplexity", "--help"], ["--version"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0


def test_processes_share_cores_and_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Launcher:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append((command, env))

        def __enter__(self) -> "Launcher":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self) -> int:
            return 7

    monkeypatch.setattr("subprocess.Popen", Launcher)
    monkeypatch.setattr("elmo_hf.cli.pretrain.cores", lambda: 6)
    for name in ("WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):  # set by a command line; taken back after the test
        monkeypatch.setenv(name, "1")
    given = ["pretrain", "--train_data", "t", "--output_dir", "o", "--vocabulary", "v", "--processes", "2"]
    for more, rows in ([], 32), (["--rows", "5"], 5):
        monkeypatch.setattr("sys.argv", ["elmo-hf", *given, *more])
        assert main() == 7
        command, environment = started.pop()
        assert command[-2:] == ["--rows", str(rows)]
        assert command[command.index("elmo_hf.cli") + 1 :][: len(given)] == given
        assert environment["OMP_NUM_THREADS"] == "3"
        assert f"2 processes of 3 threads and {rows} rows" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_ends_all_processes_with_a_checkpoint(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    vocabulary, run = tmp_path / "vocab.txt", tmp_path / "run"
    assert main(["build-vocab", str(corpus / "train.txt"), "--output", str(vocabulary)]) == 0
    command = [sys.executable, "-m", "elmo_hf.cli", "pretrain", "--train_data", str(corpus / "train.txt")]
    command += ["--vocabulary", str(vocabulary), "--output", str(run), "--preset", "small", "--rows", "2"]
    command += ["--config_overrides", json.dumps(SHAPE), "--unroll_steps", "6", "--num_samples", "12"]
    command += ["--epochs", "10000", "--log_every", "1", "--processes", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as program:
        assert program.stderr is not None
        text = b""
        while b"words/s" not in text:
            part = os.read(program.stderr.fileno(), 1000)
            assert part, text.decode()
            text += part
        program.send_signal(signal.SIGTERM)
        while os.read(program.stderr.fileno(), 1000):  # until the last process that holds it has ended
            pass
        assert program.wait() == 128 + signal.SIGTERM
    assert newest_in(run / "checkpoints") is not None
