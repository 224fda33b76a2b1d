"""The table of README: what can be done with every member of the family. Each of its cells is a test.

A tick: it works, with the values that it should have. A dash: no original program has such models, and the attempt is
refused with a message that says so.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForPreTraining,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer, embed
from elmo_hf.alignment import set_alignment
from elmo_hf.pretraining import PretrainingSettings, pretrain
from hub_upload import CheckpointError, convert, export, verify
from modeling_tests.model.test_layer_alignment import random_maps

from .forking import run_python
from .hub_upload.checkpoints import bilm_arrays, options, read_hdf5, word_options, write_bilm
from .hub_upload.language_models import pack, read_archive, write_language_model
from .hub_upload.many_languages import classifier, dictionary, write_model
from .pretraining.conftest import fresh_accelerate  # noqa: F401 - a fixture
from .tiny import BOTH_INPUTS, tiny_config, with_large_weights

README = Path(__file__).resolve().parent.parent / "README.md"
COLUMNS = ("convert", "verify", "embed", "fine-tune", "pretrain", "export", "remote code")
WORDS = "the cat sat on a mat and ran .".split()
TAGS = ["DET", "NOUN", "VERB"]
SENTENCES = [["the", "cat", "sat", "."], ["Zoë", "ran"], ["a", "mat", "and", "the", "cat", "on", "it"]]

# Wide enough for a few steps of training to move the softmax's logits.
CLIPS = {"cell_clip": 3.0, "proj_clip": 3.0}

Arrays = dict[str, np.ndarray]


def as_arrays(state: dict[str, torch.Tensor]) -> Arrays:
    return {name: value.numpy() for name, value in state.items()}


def write_bilstm(folder: Path) -> Path:
    write_bilm(folder, options(**CLIPS), vocabulary=["<S>", "</S>", "<UNK>", *WORDS], separate_softmax=True)
    return folder


def write_word_level(folder: Path) -> Path:
    vocabulary = ["<S>", "</S>", "<UNK>", *WORDS]
    values = word_options(**CLIPS)
    write_bilm(folder, values, bilm_arrays(values, len(vocabulary)), vocabulary, separate_softmax=True)
    return folder


def read_bilm(folder: Path) -> Arrays:
    return read_hdf5(folder / "weights.hdf5") | read_hdf5(folder / "softmax_weights.hdf5")


def write_transformer(folder: Path) -> Path:
    write_language_model(folder, lines=["@@UNKNOWN@@", "<S>", "</S>", *WORDS])
    return pack(folder, folder.parent / "model.tar.gz")


def read_transformer(path: Path) -> Arrays:
    # A loss of the training program, which its reader requires and ignores.
    state = read_archive(path if path.is_file() else path / "model.tar.gz")[0]
    return {name: value for name, value in as_arrays(state).items() if name != "_last_average_loss"}


def write_many_languages(folder: Path) -> Path:
    words = ("<oov>", "<bos>", "<eos>", "<pad>", *WORDS, "!")[:10]
    write_model(folder, words=dictionary(words))
    torch.save(classifier(), folder / "classifier.pkl", _use_new_zipfile_serialization=False)
    return folder


def read_many_languages(folder: Path) -> Arrays:
    names = ("token_embedder.pkl", "encoder.pkl", "classifier.pkl")
    states = {name: torch.load(folder / name, weights_only=True) for name in names}
    # A column that the program creates and never reads.
    states["classifier.pkl"].pop("oov_column")
    return {f"{file}:{name}": value for file, state in states.items() for name, value in as_arrays(state).items()}


@dataclass(frozen=True)
class Member:
    """A row of the table.

    Attributes:
        write: makes an original checkpoint in a folder; `None` for a member that no original program has.
        read: the arrays of such a checkpoint, and of what `export` makes again.
        fields: of a configuration, where there is no original.
        refusal: what `export` says then.
    """

    write: Callable[[Path], Path] | None = None
    read: Callable[[Path], Arrays] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""

    @property
    def is_tagged(self) -> bool:
        return "num_pos_tags" in self.fields

    def impossible(self, column: str) -> bool:
        return self.write is None and column in ("convert", "verify", "export")


JOINS = "joins several parts of a word, of which bilm-tf reads one"
MEMBERS = {
    "biLSTM over characters": Member(write_bilstm, read_bilm),
    "Transformer ELMo": Member(write_transformer, read_transformer),
    "word-level ELMo": Member(write_word_level, read_bilm),
    "words and characters joined": Member(fields=BOTH_INPUTS, refusal=JOINS),
    "with POS tags": Member(fields={"num_pos_tags": 3, "pos_tag_embedding_size": 2}, refusal=JOINS),
    "ELMoForManyLangs": Member(write_many_languages, read_many_languages),
}


class Home:
    """The checkpoints of all members, created on request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.without_package: dict[str, Any] | None = None

    def of(self, name: str) -> tuple[Path | None, Path]:
        """The original checkpoint, if there is one, and the folder of its language model."""
        member, place = MEMBERS[name], self.folder / f"m{list(MEMBERS).index(name)}"
        source, model = (member.write and self._source(member, place)), place / "model"
        if not model.exists():
            torch.manual_seed(0)
            if source is not None:
                convert(source, model)
            else:
                self._make(member, model)
        return source, model

    def _source(self, member: Member, place: Path) -> Path:
        note = place / "source.txt"
        if not note.exists():
            place.mkdir(exist_ok=True)
            assert member.write is not None
            note.write_text(str(member.write(place / "original")))
        return Path(note.read_text())

    def _make(self, member: Member, folder: Path) -> None:
        tags = TAGS if member.is_tagged else None
        vocabulary = ["<S>", "</S>", "<UNK>", *WORDS]
        tokenizer = ElmoTokenizer(vocab=vocabulary, max_characters_per_word=9, pos_tag_set=tags)
        ids = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
        config = tiny_config(cell_clip=3.0, projection_clip=3.0, **ids, **member.fields)
        with_large_weights(ElmoForPreTraining(config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("family"))


def tags_of(sentence: Sequence[str]) -> list[str | None]:
    return [None if word == "." else TAGS[len(word) % 3] for word in sentence]


def encode(tokenizer: ElmoTokenizer, sentences: list[list[str]], member: Member, **more: Any) -> Any:
    tags = {"pos_tags": list(map(tags_of, sentences))} if member.is_tagged else {}
    return tokenizer(sentences, is_split_into_words=True, **tags, **more)


def does_convert(home: Home, member: Member, source: Path, folder: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "hf")
    assert report.architecture == "ElmoForPreTraining"
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    vocabulary = ElmoTokenizer.from_pretrained(tmp_path / "hf").get_vocab()
    assert {"the", "cat"} <= vocabulary.keys() and len(vocabulary) == report.vocab_size == model.config.vocab_size
    # Every number of the original is used.
    assert member.read is not None
    ours = np.sort(np.abs(np.concatenate([value.detach().flatten().numpy() for value in model.state_dict().values()])))
    for name, array in member.read(source).items():
        flat = np.abs(array.ravel())
        assert np.array_equal(ours[np.searchsorted(ours, flat).clip(max=len(ours) - 1)], flat), name


def does_verify(home: Home, member: Member, source: Path, folder: Path, tmp_path: Path) -> None:
    assert verify(folder, source, tolerance=5e-6).passed
    model = ElmoModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.encoder.layers.parameters()).add_(0.1)
    model.save_pretrained(tmp_path)
    ElmoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert not verify(tmp_path, source, tolerance=5e-6).passed


@torch.no_grad()
def does_embed(home: Home, member: Member, source: Path | None, folder: Path, tmp_path: Path) -> None:
    """Batches, compared with single sentences."""
    model, tokenizer = ElmoModel.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)
    tags = {"pos_tags": map(tags_of, SENTENCES)} if member.is_tagged else {}
    arrays = embed(SENTENCES, folder, layers="all", device="cpu", **tags)
    if member.is_tagged:
        with pytest.raises(ValueError, match="Expected pos_tags"):
            embed(SENTENCES, folder)
    for words, array in zip(SENTENCES, arrays, strict=True):
        one = model(**encode(tokenizer, [words], member, return_tensors="pt"), output_hidden_states=True)
        expected = torch.stack(one.hidden_states)[:, 0, 1:-1].numpy()
        assert array.shape == expected.shape == (model.config.num_mixed_layers, len(words), model.config.hidden_size)
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)
        assert np.abs(array[-1]).max() > 0


def does_finetune(home: Home, member: Member, source: Path | None, folder: Path, tmp_path: Path) -> None:
    """A step of an unmodified Trainer changes the biLM and the classifier; the saved model is the trained one."""
    model = ElmoForTokenClassification.from_pretrained(folder, num_labels=3)
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    encoding = encode(tokenizer, SENTENCES, member)
    rows = [
        {**{name: encoding[name][row] for name in encoding}, "labels": [-100, *(len(w) % 3 for w in words), -100]}
        for row, words in enumerate(SENTENCES)
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=3,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "classifier.weight" in moved and "elmo.scalar_mixes.0.weights" in moved
    assert any(name.startswith("elmo.encoder.layers.0.forward") for name in moved)
    assert any(name.startswith("elmo.embeddings.") for name in moved)
    trainer.save_model(str(tmp_path / "tagger"))
    again = ElmoForTokenClassification.from_pretrained(tmp_path / "tagger")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    batch = encode(
        ElmoTokenizer.from_pretrained(tmp_path / "tagger"), SENTENCES, member, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits, rtol=0, atol=1e-6)


def does_pretrain(home: Home, member: Member, source: Path | None, folder: Path, tmp_path: Path) -> None:
    """From the member's own checkpoint, on repetitive text, the loss falls by a fifth."""
    text = [[WORDS[(start + place) % 6] for place in range(4)] for start in range(6)] * 10
    path, separator = tmp_path / "text.txt", "_" if member.is_tagged else None
    tagged = [
        [f"{word}_{tag or 'NOUN'}" if separator else word for word, tag in zip(words, tags_of(words), strict=True)]
        for words in text
    ]
    path.write_text("".join(" ".join(words) + "\n" for words in tagged))
    config = ElmoModel.from_pretrained(folder).config
    run = PretrainingSettings(
        train_data=[str(path)],
        output_dir=str(tmp_path / "run"),
        initialize_from=str(folder),
        pos_separator=separator,
        loss="full",
        rows=6,
        unroll_steps=6,
        sentence_independent=config.encoder_type == "transformer",
        max_steps=32,
        log_every=1,
        dropout=0.0,
        initial_accumulator=0.02,
    )
    summary = pretrain(run)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["forward_loss"] + record["backward_loss"] for record in records if "words_per_second" in record]
    assert len(losses) == 32 and sum(losses[-3:]) < 0.8 * sum(losses[:3]), losses
    model = ElmoForPreTraining.from_pretrained(summary.model_folder)
    assert model.config.to_dict()["num_pos_tags"] == config.num_pos_tags
    assert ElmoTokenizer.from_pretrained(summary.model_folder).get_vocab() == (
        ElmoTokenizer.from_pretrained(folder).get_vocab()
    )


def does_export(home: Home, member: Member, source: Path, folder: Path, tmp_path: Path) -> None:
    """Bit for bit the original that was converted."""
    assert member.read is not None
    assert export(folder, tmp_path / "back").reversible
    theirs, ours = member.read(source), member.read(tmp_path / "back")
    assert {name: array.tobytes() for name, array in ours.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


WITHOUT_PACKAGE = """
import json, sys
sys.modules["elmo_hf"] = None  # as if it were not installed: importing it fails
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
answers = {}
for name, folder, encoding in json.load(sys.stdin):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    batch = tokenizer(**encoding, is_split_into_words=True, padding=True, return_tensors="pt")
    values = []
    for auto in (AutoModel, AutoModelForPreTraining)[: 1 if name == "aligned" else 2]:
        model = auto.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.no_grad():
            values.append(model(**batch)[0].tolist())
    answers[name] = {"module": type(model).__module__.split(".")[0], "values": values}
print(json.dumps(answers))
"""


def ask_without_package(home: Home) -> dict[str, Any]:
    """All members in one process without the package, and an aligned model."""
    if home.without_package is None:
        jobs = []
        for name, member in MEMBERS.items():
            folder = home.of(name)[1]
            tags = {"pos_tags": list(map(tags_of, SENTENCES))} if member.is_tagged else {}
            jobs.append((name, str(folder), {"text": SENTENCES, **tags}))
        aligned = ElmoModel.from_pretrained(home.of("biLSTM over characters")[1])
        set_alignment(aligned, random_maps(aligned.config))
        aligned.save_pretrained(home.folder / "aligned_model")
        ElmoTokenizer.from_pretrained(jobs[0][1]).save_pretrained(home.folder / "aligned_model")
        jobs.append(("aligned", str(home.folder / "aligned_model"), {"text": SENTENCES}))
        empty = home.folder / "empty"
        empty.mkdir()
        environment = {**os.environ, "HF_HOME": str(home.folder / "hub"), "PYTHONPATH": ""}
        run = run_python("-c", WITHOUT_PACKAGE, cwd=empty, env=environment, stdin=json.dumps(jobs))
        assert run.returncode == 0, run.stderr
        home.without_package = json.loads(run.stdout.strip().splitlines()[-1])
    return home.without_package


@torch.no_grad()
def does_travel(home: Home, member: Member, source: Path | None, folder: Path, tmp_path: Path, name: str) -> None:
    """The same values where the package is not installed."""
    answer = ask_without_package(home)[name]
    assert answer["module"] == "transformers_modules"
    batch = encode(ElmoTokenizer.from_pretrained(folder), SENTENCES, member, padding=True, return_tensors="pt")
    for cls, found in zip((ElmoModel, ElmoForPreTraining), answer["values"], strict=False):
        expected = cls.from_pretrained(folder).eval()(**batch)[0]
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-5)


# Trainings of the two encoders are quick enough; the others' are slow tests, as are processes without the package.
TRAINING, TRAINED_SLOWLY = ("fine-tune", "pretrain"), list(MEMBERS)[2:]

CHECKS: dict[str, Callable[..., None]] = {
    "convert": does_convert,
    "verify": does_verify,
    "embed": does_embed,
    "fine-tune": does_finetune,
    "pretrain": does_pretrain,
    "export": does_export,
}


def is_slow(name: str, column: str) -> bool:
    return column == "remote code" or (name in TRAINED_SLOWLY and column in TRAINING)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(name, column, marks=pytest.mark.slow if is_slow(name, column) else ())
        for name in MEMBERS
        for column in COLUMNS
    ],
)
def test_cell(name: str, column: str, home: Home, tmp_path: Path) -> None:
    member = MEMBERS[name]
    source, folder = home.of(name)
    if member.impossible(column):
        refuse(member, column, folder, tmp_path)
        return
    check = partial(does_travel, name=name) if column == "remote code" else CHECKS[column]
    check(home, member, source, folder, tmp_path)


def refuse(member: Member, column: str, folder: Path, tmp_path: Path) -> None:
    """Without an original format, there is nothing to convert, verify or export."""
    if column == "export":
        with pytest.raises(CheckpointError, match=member.refusal):
            export(folder, tmp_path / "back")
        assert not (tmp_path / "back").exists()
        return
    with pytest.raises(CheckpointError, match=r"config\.json.*model_type|Transformers model already"):
        convert(folder, tmp_path / "hf") if column == "convert" else verify(folder, folder)


@pytest.mark.slow
@torch.no_grad()
def test_an_aligned_model_travels_with_its_map(home: Home) -> None:
    answer = ask_without_package(home)["aligned"]
    folder = home.folder / "aligned_model"
    batch = ElmoTokenizer.from_pretrained(folder)(
        SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt"
    )
    aligned, plain = (
        ElmoModel.from_pretrained(folder, **options).eval()(**batch)[0] for options in ({}, {"aligned": False})
    )
    found = torch.tensor(answer["values"][0])
    torch.testing.assert_close(found, aligned, rtol=0, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_the_readme_has_this_table() -> None:
    header = f"| family member | {' | '.join(COLUMNS)} |"
    lines = README.read_text(encoding="utf-8").splitlines()
    assert header in lines, f"README.md has no table with the line {header!r}"
    start = lines.index(header) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    expected = [
        [name, *("–" if member.impossible(column) else "✓" for column in COLUMNS)] for name, member in MEMBERS.items()
    ]
    assert rows == expected
