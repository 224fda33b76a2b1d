"""README.md and the pages of `docs` run: Python and commands in their order, over tiny models and the shipped one.

What needs hours, a network or a GPU is checked without being run (`modeling_tests/documents.py`). `docs/moving` has
tests of its own.
"""

import gzip
import itertools
import re
import shutil
from pathlib import Path

import pytest
import torch

from elmo_hf import (
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from modeling_tests.documents import (
    FENCE,
    ROOT,
    blocks,
    check_command,
    check_python,
    commands,
    inline_commands,
    run_commands,
    run_python,
)
from modeling_tests.hub_upload.checkpoints import write_bilm
from modeling_tests.tiny import tiny_config, with_large_weights

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages outside of these folders, or tested elsewhere: their commands are parsed.
PARSED = [*PAGES, *sorted((ROOT / "docs" / "moving").glob("*.md"))]
ENGLISH = "the cell is small and the bank of the river is near . the dog sat on the bank ."
GERMAN = "die zelle ist klein und die bank am fluss ist nah . der hund sa\u00df auf der bank ."
PAIRS = "die the\nzelle cell\nist is\nbank bank\nhund dog\nund and\nnah near\nklein small\n"
TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}
MODELS = {
    "elmo-folder": (ElmoModel, {}),
    "elmo-german": (ElmoModel, {}),
    "elmo-english": (ElmoModel, {}),
    "lm-folder": (ElmoForPreTraining, {}),
    "tagger": (ElmoForTokenClassification, {"id2label": TAGS, "label2id": {name: i for i, name in TAGS.items()}}),
    "classifier": (ElmoForSequenceClassification, {"num_labels": 2}),
    "answerer": (ElmoForQuestionAnswering, {}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all files that the pages name."""
    root = tmp_path_factory.mktemp("documents")
    tokenizer = ElmoTokenizer(
        vocab=["<S>", "</S>", "<UNK>", *dict.fromkeys(ENGLISH.split())], max_characters_per_word=9
    )
    known = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    for name, (kind, overrides) in MODELS.items():
        torch.manual_seed(0)
        with_large_weights(kind(tiny_config(**known, **overrides))).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    write_bilm(root / "elmo_2x1024_128_2048cnn_1xhighway")
    lines = "".join(f"{line.strip()} .\n" for line in (ENGLISH * 40).split(".") if line.strip())
    for name in ("text.txt", "heldout.txt", "corpus.txt", "1900.txt", "2000.txt", "en.txt"):
        (root / name).write_text(lines)
    for folder in ("text", "corpus"):
        (root / folder).mkdir()
        (root / folder / "part.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (root / "de.txt").write_text(GERMAN + "\n", encoding="utf-8")
    (root / "vocab.txt").write_text("<S>\n</S>\n<UNK>\nthe\ndog\n")
    (root / "bell.txt").write_text("The bell was cast in 1782 .\n")
    for name in ("de-en.txt", "de-en.test.txt"):
        (root / name).write_text(PAIRS)
    (root / "examples").symlink_to(ROOT / "examples")
    return root


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def run_page(page: Path, slow: bool) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.test == "no_run" or (block.test and not slow):
            if block.language == "python":
                check_python(block.text)
        elif block.language == "sh":
            run_commands(block.text)
        else:
            run_python(block, page.name, names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_blocks(page, place):
    run_page(page, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [page for page in PAGES if any(each.test == "slow" for each in blocks(page))])
def test_slow_blocks(page, place):
    for block in blocks(page):
        for words in commands(block.text) if block.test == "slow" and block.language == "sh" else []:
            for option, value in itertools.pairwise(words):
                if option in ("--output", "--output_dir") and (place / value).exists():
                    shutil.rmtree(place / value) if (place / value).is_dir() else (place / value).unlink()
    run_page(page, slow=True)


@pytest.mark.parametrize("page", PARSED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_accepted(page):
    for block in blocks(page):
        assert block.language in ("python", "sh", "diff"), f"line {block.line}: a block without its language"
        assert block.test in ("", "slow", "no_run"), f"line {block.line}: {block.test}"
        for words in commands(block.text) if block.language == "sh" else []:
            check_command(words)
    for words in inline_commands(page):
        check_command(words)


@pytest.mark.parametrize("page", PARSED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "README.md" and f"({page.name})" not in index] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 1500


@pytest.mark.parametrize(
    "line",
    [
        "elmo-hf embed text.txt --output vectors.hdf5 --layer all",
        "elmo-hf embed text.txt vectors.hdf5",
        "elmo-hf pretrain --train_data text.txt --vocabulary vocab.txt --output_dir run",
        "elmo-hf pretrain ... --optimiser adamw",
        "elmo-hub convert weights.hdf5 --output folder --force",
        "elmo-hub verify folder --against weights.hdf5",
        "elmo-hf forget text.txt",
        "torchrun --nproc_per_node 2 -m elmo_hf.cli embed text.txt --output o.hdf5 --colour red",
        "python examples/run_ner.py --output_dir tagger --do_train --output_directory tagger",
        "python examples/no_such_script.py",
        "make nothing",
        "pip install '.[nothing]'",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises(AssertionError):
        check_command(commands(line)[0])
