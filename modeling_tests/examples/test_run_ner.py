"""`examples/run_ner.py` end to end on a tiny model: files, resuming, freezing, learning rates, pipelines."""

import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.finetuning import (
    IGNORED_LABEL,
    CorpusError,
    Sentence,
    TagColumns,
    encode_tagged,
    is_well_formed,
    read_tagged,
    tag_set,
)
from elmo_hf.metrics import Seqeval
from examples import run_ner
from modeling_tests.examples.ner_corpus import generate, write_conll

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16], [3, 16]],
    "max_characters_per_word": 20,
    "projection_size": 16,
    "cell_size": 24,
    "representation_dropout": 0.1,
}
SIZES = {"train": 200, "validation": 20, "test": 20}


class Run(NamedTuple):
    output: Path
    metrics: dict[str, float]
    argv: list[str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in SIZES.items():
        write_conll(generate(split, count), folder / f"{split}.conll")
    return folder


def options(corpus: Path, output: Path, *more: str, start: Sequence[str] = ("--preset", "small")) -> list[str]:
    """A complete run: training, evaluation in every epoch, prediction."""
    files = [part for split in SIZES for part in (f"--{split}_file", str(corpus / f"{split}.conll"))]
    if start[0] == "--preset":
        start = (*start, "--config_overrides", json.dumps(TINY))
    fixed = "--do_train --do_eval --do_predict --disable_tqdm true --use_cpu --learning_rate 2e-2"
    batches = "--per_device_train_batch_size 8 --num_train_epochs 6"
    return [*start, *files, "--output_dir", str(output), *fixed.split(), *batches.split(), *more]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("run")
    argv = options(corpus, output, "--save_total_limit", "9")
    return Run(output, run_ner.main(argv), argv)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def is_bilm(name: str) -> bool:
    return name.startswith(("elmo.embeddings.", "elmo.encoder."))


def predictions_of(output: Path) -> list[list[tuple[str, ...]]]:
    """(word, gold tag, predicted tag) of each word of each sentence."""
    blocks = (output / "predictions.conll").read_text(encoding="utf-8").strip().split("\n\n")
    return [[tuple(line.split("\t")) for line in block.split("\n")] for block in blocks]


def test_output_folder(run: Run) -> None:
    names = {path.name for path in run.output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {"train_results.json", "eval_results.json", "test_results.json", "all_results.json"} <= names
    assert (run.output / "training_curve.png").is_file()
    assert not [name for name in names if name.endswith(".part")]
    results = json.loads((run.output / "all_results.json").read_text())
    assert results["test_f1"] == run.metrics["test_f1"]


def test_predictions_cover_the_test_file_and_give_the_score(run: Run, corpus: Path) -> None:
    sentences = read_tagged(corpus / "test.conll", TagColumns())
    rows = predictions_of(run.output)
    assert [Sentence([word for word, _, _ in s], [gold for _, gold, _ in s]) for s in rows] == sentences
    scores = Seqeval().compute(
        predictions=[[tag for _, _, tag in s] for s in rows], references=[gold for _, gold in sentences]
    )
    for name in ("precision", "recall", "f1", "accuracy"):
        assert run.metrics[f"test_{name}"] == scores[f"overall_{name}"]


def test_it_learns_and_ends_with_the_best_epoch(run: Run) -> None:
    history = json.loads((run.output / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    f1 = [row["eval_f1"] for row in history if "eval_f1" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert run.metrics["eval_f1"] == max(f1[:6]) > 0.3


def test_saved_tagger_evaluates_alike(run: Run, corpus: Path, tmp_path: Path) -> None:
    argv = ["--model_name_or_path", str(run.output), "--output_dir", str(tmp_path), "--disable_tqdm", "true"]
    argv += ["--validation_file", str(corpus / "validation.conll"), "--test_file", str(corpus / "test.conll")]
    metrics = run_ner.main([*argv, "--do_eval", "--do_predict", "--use_cpu"])
    for name in ("eval_f1", "test_f1", "test_accuracy"):
        assert metrics[name] == run.metrics[name]
    for name in ("eval_loss", "test_loss"):
        assert metrics[name] == pytest.approx(run.metrics[name], rel=1e-6)  # kernels may choose by memory alignment
    assert predictions_of(tmp_path) == predictions_of(run.output)


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(run: Run, corpus: Path, tmp_path: Path) -> None:
    # As after a kill in the third epoch: only the first two checkpoints exist.
    steps = sorted((int(path.name.split("-")[1]), path) for path in run.output.glob("checkpoint-*"))
    for _, path in steps[:2]:
        shutil.copytree(path, tmp_path / path.name)
    metrics = run_ner.main(options(corpus, tmp_path, "--save_total_limit", "9"))
    expected, resumed = weights(run.output), weights(tmp_path)
    assert expected.keys() == resumed.keys()
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), name  # bit for bit
    assert metrics["test_f1"] == run.metrics["test_f1"]
    assert metrics["train_loss"] != run.metrics["train_loss"], "the first two epochs ran again"


@pytest.mark.slow
def test_other_data_labels_or_settings_do_not_continue(run: Run, corpus: Path, tmp_path: Path) -> None:
    newest = max(run.output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(newest, tmp_path / newest.name)
    other = tmp_path / "other.conll"
    other.write_text((corpus / "train.conll").read_text().replace("LOC", "CITY"))
    same = ["--validation_file", str(other), "--test_file", str(other)]
    for more, named in (
        (["--train_file", str(corpus / "validation.conll")], "train data of 20 examples"),
        (["--train_file", str(other), *same], "labels O B-CITY I-CITY"),
        (["--learning_rate", "1e-3"], "learning_rate=0.001 (was 0.02)"),
        (["--freeze_bilm"], "freeze_bilm=True (was False)"),
    ):
        with pytest.raises(ValueError) as caught:
            run_ner.main(options(corpus, tmp_path, *more))
        assert named in str(caught.value) and newest.name in str(caught.value)
        assert "another --output_dir or --resume_from_checkpoint false" in str(caught.value)
    # The location of the data and the number of epochs may change.
    moved = tmp_path / "moved.conll"
    moved.write_bytes((corpus / "train.conll").read_bytes().replace(b"\n", b"\r\n"))
    metrics = run_ner.main(options(corpus, tmp_path, "--train_file", str(moved), "--num_train_epochs", "7"))
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 7 * 25
    assert metrics["train_samples"] == 200


@pytest.fixture(scope="module")
def bilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a biLM without a classifier."""
    folder = tmp_path_factory.mktemp("bilm")
    torch.manual_seed(5)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(folder)
    ElmoTokenizer(max_characters_per_word=TINY["max_characters_per_word"]).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "cached", "rate 0", "rate 1e-4"])
def test_bilm_of_a_checkpoint(how: str, bilm: Path, corpus: Path, tmp_path: Path) -> None:
    more = {
        "frozen": ["--freeze_bilm"],
        "cached": ["--freeze_bilm", "--cache_layers", "1"],
        "rate 0": ["--bilm_learning_rate", "0", "--weight_decay", "0.1"],
        "rate 1e-4": ["--bilm_learning_rate", "1e-4"],
    }[how]
    start = ("--model_name_or_path", str(bilm))
    run_ner.main(options(corpus, tmp_path, "--max_steps", "3", "--eval_strategy", "no", *more, start=start) + NO_BEST)
    before, after = weights(bilm), weights(tmp_path)
    assert {name for name in after if is_bilm(name)} == {f"elmo.{name}" for name in before if "mixes" not in name}
    for name in after:
        if is_bilm(name):
            same = torch.equal(after[name], before[name.removeprefix("elmo.")])
            assert same == (how != "rate 1e-4"), name
    # Three steps at 2e-2 with Adam move every trained value by about 2e-2 a step.
    mix = [name for name in after if "scalar_mixes" in name]
    assert mix
    assert all(not torch.equal(after[name], before[name.removeprefix("elmo.")]) for name in mix)


NO_BEST = ["--load_best_model_at_end", "false", "--save_strategy", "no"]


@pytest.mark.slow
def test_early_stopping(corpus: Path, tmp_path: Path) -> None:
    more = ["--learning_rate", "0", "--early_stopping_patience", "2", "--num_train_epochs", "9"]
    metrics = run_ner.main(options(corpus, tmp_path, *more))
    assert metrics["epoch"] == 3.0  # the first evaluation is the best, the next two are not better


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "json", "dataset", "dataset of numbers"])
def test_other_forms_of_the_same_data(form: str, run: Run, corpus: Path, tmp_path: Path) -> None:
    labels = tag_set(read_tagged(corpus / "train.conll", TagColumns()))
    feature = datasets.ClassLabel(names=labels) if form == "dataset of numbers" else datasets.Value("string")
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(feature)}
    )
    data = tmp_path / "data"
    data.mkdir()
    for split in SIZES:
        records = [
            {"tokens": s.words, "ner_tags": s.tags} for s in read_tagged(corpus / f"{split}.conll", TagColumns())
        ]
        if form == "jsonl":
            (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
        elif form == "json":
            (data / f"{split}.json").write_text(json.dumps(records))
        else:
            columns = {name: [record[name] for record in records] for name in features}
            datasets.Dataset.from_dict(columns, features=features).to_parquet(data / f"{split}.parquet")
    start = [
        "--model_name_or_path",
        str(run.output),
        "--output_dir",
        str(tmp_path / "out"),
        "--do_predict",
        "--use_cpu",
    ]
    source = ["--dataset_name", str(data)] if "dataset" in form else ["--test_file", str(data / f"test.{form}")]
    metrics = run_ner.main([*start, *source, "--disable_tqdm", "true"])
    assert metrics["test_f1"] == run.metrics["test_f1"]
    assert metrics["test_loss"] == pytest.approx(run.metrics["test_loss"], rel=1e-6)


def test_options_from_a_json_file(run: Run, corpus: Path, tmp_path: Path) -> None:
    given = {
        "model_name_or_path": str(run.output),
        "validation_file": str(corpus / "validation.conll"),
        "output_dir": str(tmp_path / "out"),
        "do_eval": True,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    (tmp_path / "options.json").write_text(json.dumps(given))
    assert run_ner.main([str(tmp_path / "options.json")])["eval_f1"] == run.metrics["eval_f1"]


@pytest.mark.slow
def test_long_sentences_train_in_windows(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = ["--max_words", "6", "--stride", "2", "--max_steps", "2", "--eval_strategy", "no"]
    run_ner.main(options(corpus, tmp_path, *more) + NO_BEST)
    assert "sentences are longer than 6 words and were cut into" in caplog.text
    # Evaluation still reads whole sentences.
    assert [len(s) for s in predictions_of(tmp_path)] == [
        len(s.words) for s in read_tagged(corpus / "test.conll", TagColumns())
    ]


def test_encoded_labels_align_with_their_words() -> None:
    sentence = Sentence(
        ["Ada", "Lovelace", "n't", "(Oslo)", "<UNK>", "</S>"], ["B-PER", "I-PER", "O", "B-LOC", "O", "O"]
    )
    label2id = {tag: index for index, tag in enumerate(tag_set([sentence]))}
    tokenizer = ElmoTokenizer()
    whole = encode_tagged([sentence], tokenizer, label2id)[0]
    assert whole["labels"] == [IGNORED_LABEL, *(label2id[tag] for tag in sentence.tags), IGNORED_LABEL]
    assert len(whole["input_ids"]) == len(whole["character_ids"]) == len(whole["labels"])
    reports: list[str] = []
    parts = encode_tagged([sentence, sentence], tokenizer, label2id, max_words=4, stride=1, report=reports.append)
    kept = [[label for label in row if label != IGNORED_LABEL] for row in parts["labels"]]
    assert kept[0] + kept[1] == kept[2] + kept[3] == [label2id[tag] for tag in sentence.tags]
    assert reports == [
        "2 of 2 sentences are longer than 4 words and were cut into 4 windows with 1 words of overlap; every label is "
        "kept once"
    ]


# ---- the task's own layers


@pytest.mark.slow
def test_crf_over_a_bilstm_without_elmo(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    start = "--without_elmo --word_vector_size 12 --task_lstm_size 8 --use_crf --min_count 1".split()
    metrics = run_ner.main(options(corpus, tmp_path, start=start))
    assert "The tags' scheme: BIO" in caplog.text
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["elmo_at"], config["tag_scheme"], config["use_crf"]) == ([], "BIO", True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    words = {word for s in read_tagged(corpus / "train.conll", TagColumns()) for word in s.words}
    assert words <= set(tokenizer.get_vocab()) and config["vocab_size"] == len(tokenizer)
    # Decoded by Viterbi: every predicted sequence is well formed.
    rows = predictions_of(tmp_path)
    assert all(is_well_formed([tag for _, _, tag in sentence], "BIO") for sentence in rows)
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < 0.5 * losses[0] and metrics["test_f1"] > 0
    # Another run starts from the saved tagger, with its words and tags.
    again = ["--model_name_or_path", str(tmp_path), "--test_file", str(corpus / "test.conll"), "--do_predict"]
    again += ["--output_dir", str(tmp_path / "again"), "--use_cpu", "--disable_tqdm", "true"]
    assert run_ner.main(again)["test_f1"] == metrics["test_f1"]
    assert predictions_of(tmp_path / "again") == rows


@pytest.mark.slow
def test_crf_and_impossible_sequences(corpus: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.conll"
    odd.write_text("Oslo\tI-LOC\nsleeps\tO\n")
    more = ["--use_crf", "--validation_file", str(odd), "--max_steps", "1"]
    with pytest.raises(CorpusError, match="'Oslo/I-LOC sleeps/O'.*BIO"):
        run_ner.main(options(corpus, tmp_path / "out", *more))
    overrides = json.dumps({**TINY, "tag_scheme": None})
    run_ner.main(options(corpus, tmp_path / "out", *more, "--config_overrides", overrides))
    # Windows that begin inside an entity are allowed too.
    run_ner.main(options(corpus, tmp_path / "windows", "--use_crf", "--max_words", "2", "--max_steps", "1"))
    assert json.loads((tmp_path / "windows/config.json").read_text())["tag_scheme"] is None


@pytest.mark.slow
def test_conllu_files_are_read_directly(corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["# sent_id = 1", "1-2\tdon't" + "\t_" * 8, "1\tdo\tdo\tAUX" + "\t_" * 6, "2\tn't\tnot\tPART" + "\t_" * 6]
    path = tmp_path / "train.conllu"
    path.write_text(("\n".join(rows) + "\n\n") * 20)
    files = [part for split in SIZES for part in (f"--{split}_file", str(path))]
    argv = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--task", "pos", *files, "--use_cpu"]
    argv += ["--output_dir", str(tmp_path / "out"), *"--do_train --do_eval --do_predict --train_share 0.5".split()]
    metrics = run_ner.main([*argv, *"--num_train_epochs 2 --learning_rate 0 --disable_tqdm true".split()])
    assert (metrics["train_samples"], metrics["test_samples"]) == (10, 20)
    assert [(word, tag) for word, tag, _ in predictions_of(tmp_path / "out")[0]] == [("do", "AUX"), ("n't", "PART")]


@pytest.mark.slow
def test_pos_tagging_with_held_out_validation(corpus: Path, tmp_path: Path) -> None:
    tagged = tmp_path / "train.conll"
    with tagged.open("w") as file:
        for words, _ in read_tagged(corpus / "train.conll", TagColumns()):
            for word in words:
                tag = "NAME" if word[0].isupper() else "WORD" if word[0].isalpha() else "-PUNCT-"
                file.write(f"{word}\t{tag}\n")
            file.write("\n")
    argv = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--task", "pos", "--use_cpu"]
    argv += ["--train_file", str(tagged), "--validation_share", "0.2", "--test_file", str(tagged)]
    argv += [
        "--output_dir",
        str(tmp_path / "out"),
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--learning_rate",
        "2e-2",
    ]
    metrics = run_ner.main([*argv, "--num_train_epochs", "2", "--disable_tqdm", "true"])
    assert (metrics["train_samples"], metrics["eval_samples"], metrics["test_samples"]) == (160, 40, 200)
    rows = [row for sentence in predictions_of(tmp_path / "out") for row in sentence]
    assert metrics["test_accuracy"] == sum(gold == predicted for _, gold, predicted in rows) / len(rows) > 0.8
    assert "test_f1" not in metrics
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["best_metric"] == metrics["eval_accuracy"]
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == {
        "0": "-PUNCT-",
        "1": "NAME",
        "2": "WORD",
    }


BAD_OPTIONS = {
    "two models": (["--preset", "small", "--model_name_or_path", "x"], "--model_name_or_path.*--preset"),
    "nothing to do": (["--preset", "small"], "--do_train, --do_eval or --do_predict"),
    "no training data": (["--preset", "small", "--do_train"], "no train data.*--train_file"),
    "no test data": (["--preset", "small", "--do_predict"], "no test data.*--test_file"),
    "unknown field": (
        ["--preset", "small", "--do_predict", "--config_overrides", '{"cell": 3}'],
        "--config_overrides: .*'cell'",
    ),
    "overrides are not JSON": (
        ["--preset", "small", "--do_predict", "--config_overrides", "cell_size=3"],
        r"--config_overrides 'cell_size=3': expected a JSON object",
    ),
    "unknown preset": (["--preset", "huge", "--do_predict"], "preset 'huge'"),
    "files and a dataset": (
        ["--preset", "small", "--dataset_name", "x", "--test_file", "y"],
        "either --dataset_name",
    ),
    "stride": (
        ["--preset", "small", "--max_words", "4", "--stride", "4"],
        "--stride 4.*--max_words 4",
    ),
}


@pytest.mark.parametrize(("argv", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(argv: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_ner.main([*argv, "--output_dir", str(tmp_path), "--use_cpu"])


def test_no_validation_data(corpus: Path, tmp_path: Path) -> None:
    argv = [
        "--preset",
        "small",
        "--do_train",
        "--train_file",
        str(corpus / "train.conll"),
        "--output_dir",
        str(tmp_path),
    ]
    with pytest.raises(CorpusError, match="--validation_file.*--eval_strategy"):
        run_ner.main([*argv, "--use_cpu"])


@pytest.mark.slow
def test_tags_unknown_to_the_checkpoint(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.conll"
    other.write_text("Oslo\tB-CITY\nis\tO\n\nnice\tO\n")
    argv = options(tmp_path, tmp_path / "out", start=("--model_name_or_path", str(run.output)))
    argv = [str(other) if value.endswith(".conll") else value for value in argv]
    with pytest.raises(CorpusError, match=r"other\.conll:1.*'B-CITY'.*O.*B-LOC"):
        run_ner.main(argv)
    with pytest.raises(ValueError, match="--labels O B-CITY.*O B-LOC .*--new_classifier"):
        run_ner.main([*argv, "--labels", "O", "B-CITY"])
    run_ner.main([*argv, "--new_classifier", "--max_steps", "1", "--eval_strategy", "no", *NO_BEST])
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "O", 1: "B-CITY"}


def command_line(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Exit status and stderr of `python run_ner.py ...`."""
    script = ROOT / "examples" / "run_ner.py"
    monkeypatch.setattr(sys, "argv", [str(script), *argv])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    told, code = capsys.readouterr().err, left.value.code
    return (1, f"{told}{code}") if isinstance(code, str) else (code, told)  # as Python ends


@pytest.mark.parametrize("more", [["--preset", "huge"], ["--preset", "small", "--max_words", "2", "--stride", "5"]])
def test_command_line_reports_bad_options_in_one_line(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*more, "--train_file", "none", "--do_train", "--output_dir", str(tmp_path / "out")]
    status, told = command_line([*argv, "--use_cpu", "--eval_strategy", "no", *NO_BEST], monkeypatch, capsys)
    assert status == 1 and "Traceback" not in told
    assert told.splitlines()[-1].startswith("error: ")


def test_command_line_reports_a_bad_file_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.conll"
    bad.write_text("Oslo\tB-LOC\nsleeps\n")
    argv = ["--preset", "small", "--train_file", str(bad), "--output_dir", str(tmp_path / "out"), "--do_train"]
    status, told = command_line([*argv, "--use_cpu", "--eval_strategy", "no", *NO_BEST], monkeypatch, capsys)
    assert status == 1
    assert told.splitlines()[-1].startswith(f"error: {bad}:2: 'sleeps' has no tag; expected a word and a tag")
    assert "Traceback" not in told


# ---- pipelines over the trained tagger

TEXTS = [
    "Thank you, Keiko!",
    '"We are happy," said Dr. Kenneth Morales (of Voxeltel Inc.), who did n\'t fly to Kent.',
    "  RT @user3:\tMiriam Eriksson\u2019s at\n\nNorth Beirut \U0001f600 right now !!  ",
    "O'Brien-Novak visited S\u00e3o Paulo\u2014and Z\u00fcrich...",
    "",
    "word",
]


class Group(NamedTuple):
    entity: str
    start: int
    end: int


def tagged_words(model: Any, tokenizer: Any, text: str) -> list[tuple[str, int, int]]:
    """(tag, start, end) of every word, straight from the model."""
    encoding = tokenizer(text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True)
    offsets = encoding.pop("offset_mapping")[0].tolist()
    special = encoding.pop("special_tokens_mask")[0].tolist()
    with torch.no_grad():
        tags = model(**encoding).logits[0].argmax(-1).tolist()
    rows = zip(tags, offsets, special, strict=True)
    return [(model.config.id2label[tag], *offset) for tag, offset, is_special in rows if not is_special]


def grouped(words: list[tuple[str, int, int]]) -> list[Group]:
    """Entities: adjacent words of one type, split at `B-`; an `I-` may begin one."""
    groups: list[Group] = []
    before = "O"
    for tag, start, end in words:
        if tag != "O":
            if before[2:] == tag[2:] and not tag.startswith("B-"):
                groups[-1] = groups[-1]._replace(end=end)
            else:
                groups.append(Group(tag[2:], start, end))
        before = tag
    return groups


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tagger that predicts many entities, right or wrong, trained briefly and loaded from its folder."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("tagger")
    config = ElmoConfig(**TINY)
    labels = tag_set(generate("train", 50))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    model = ElmoForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(100)  # random tags that change from word to word
    model.save_pretrained(folder)
    ElmoTokenizer(max_characters_per_word=TINY["max_characters_per_word"]).save_pretrained(folder)
    return AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.samples(2)
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_pipeline_gives_right_offsets_on_raw_text(strategy: str, tagger: tuple[Any, Any], run: Run) -> None:
    trained = AutoModelForTokenClassification.from_pretrained(run.output)
    found = 0
    for model, tokenizer in (tagger, (trained, AutoTokenizer.from_pretrained(run.output))):
        tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
        for text in TEXTS:
            words = tagged_words(model, tokenizer, text)
            entities = tag(text)
            if strategy == "none":
                expected = [Group(*word) for word in words if word[0] != "O"]
                got = [Group(e["entity"], int(e["start"]), int(e["end"])) for e in entities]
            else:
                expected = grouped(words)
                got = [Group(e["entity_group"], int(e["start"]), int(e["end"])) for e in entities]
            assert got == expected
            for entity in got:
                assert text[entity.start : entity.end] == text[entity.start : entity.end].strip() != ""
            found += len(got)
    assert found > 20


def test_pipeline_offsets_by_hand(tagger: tuple[Any, Any]) -> None:
    model, tokenizer = tagger
    text = "Dr. Keiko (Oslo) didn't..."
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    spans = [(int(e["start"]), int(e["end"])) for e in tag(text)]
    assert [text[start:end] for start, end in spans] == ["Dr.", "Keiko", "(", "Oslo", ")", "did", "n't", "..."]
    assert spans == [(0, 3), (4, 9), (10, 11), (11, 15), (15, 16), (17, 20), (20, 23), (23, 26)]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_pipeline_batches_equal_single_texts(padding_side: str, tagger: tuple[Any, Any]) -> None:
    model, tokenizer = tagger
    texts = [text for text in TEXTS if text]
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    tag.tokenizer.padding_side = padding_side
    for single, batched in zip([tag(text) for text in texts], tag(texts, batch_size=len(texts)), strict=True):
        assert len(single) == len(batched)
        for one, other in zip(single, batched, strict=True):
            assert {**one, "score": 0} == {**other, "score": 0}
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_pipeline_on_pre_split_words(tagger: tuple[Any, Any]) -> None:
    model, tokenizer = tagger
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    words = ["Hello,", "(Mary)", "of", "New York"]
    (entities,) = tag(words, is_split_into_words=True, delimiter=" ")
    text = " ".join(words)
    assert [text[e["start"] : e["end"]] for e in entities] == words
