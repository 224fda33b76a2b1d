"""Splitting of text by commands: the rule of the model's corpus, the option, and the warnings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoTokenizer, embed, score
from elmo_hf.cli import main
from elmo_hf.pretraining import open_corpus, perplexity
from modeling_tests.corpus_embedding.corpora import check_equal, read
from modeling_tests.tiny import tiny_config, with_large_weights

LINES = ["the cat don't sat.", "a mat", "the “cat” —"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose corpus was split at whitespace and whose tokenizer splits raw text by `ptb`."""
    path = tmp_path_factory.mktemp("model")
    words = ["<S>", "</S>", "<UNK>", "the", "cat", "sat.", "sat", ".", '"', "--", "do", "n't", "a", "mat"]
    replacements = {"“": '"', "”": '"', "—": "--"}
    tokenizer = ElmoTokenizer(vocab=words, max_characters_per_word=9, character_replacements=replacements)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    with_large_weights(ElmoForPreTraining(config), 0.3).save_pretrained(path)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return tmp_path / "text.txt"


def reported_rules(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [
        record.getMessage() for record in caplog.records if "lines are split by the rule" in record.getMessage()
    ]
    caplog.clear()
    return [message.split("'")[1] for message in messages]


@pytest.mark.parametrize("asked", [None, "whitespace", "ptb"])
def test_perplexity(folder, text, asked, capsys, caplog):
    """The command and the Python function read the same words; strings are raw text."""
    caplog.set_level("INFO")
    how = [] if asked is None else ["--pre_tokenization", asked]
    assert main(["perplexity", str(folder), str(text), "--device", "cpu", "--sentence_independent", *how]) == 0
    printed = float(capsys.readouterr().out.split()[1])
    assert reported_rules(capsys, caplog) == [asked or "whitespace"]
    model, tokenizer = ElmoForPreTraining.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    of_corpus = perplexity(model, tokenizer, open_corpus(text), carry_state=False, pre_tokenization=asked)
    assert printed == pytest.approx(of_corpus.both, abs=1e-3)
    of_strings = score(LINES, model, tokenizer).total
    assert (of_strings.words == of_corpus.words) == (asked == "ptb")
    if asked == "ptb":
        assert of_strings.both == pytest.approx(of_corpus.both, rel=1e-5)


@pytest.mark.parametrize("asked", [None, "ptb"])
def test_embed(folder, text, asked, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    output = tmp_path / "out.h5"
    how = [] if asked is None else ["--pre_tokenization", asked]
    assert main(["embed", str(text), str(output), "--model", str(folder), "--device", "cpu", *how]) == 0
    assert reported_rules(capsys, caplog) == [asked or "whitespace"]
    given = [line.split() for line in LINES] if asked is None else LINES
    check_equal(read(output), embed(given, folder, device="cpu"))
    lengths = [len(array) for array in read(output)]
    assert lengths == ([4, 2, 3] if asked is None else [6, 2, 5])


def test_no_notice_if_both_pre_tokenization_rules_agree(folder, text, capsys, caplog):
    caplog.set_level("INFO")
    text.write_text("the cat\na mat\n")
    assert main(["perplexity", str(folder), str(text), "--device", "cpu"]) == 0
    assert reported_rules(capsys, caplog) == []


def test_tag_and_conllu(folder, tmp_path, capsys, caplog):
    """CoNLL-U files are read directly: words, also with spaces; no ranges, empty nodes or comments."""
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    tagger = ElmoForTokenClassification(tiny_config(vocab_size=len(tokenizer), id2label={0: "N", 1: "V"}))
    tagger.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    rest = "\t_\t_\t_\t_\t_\t_"
    rows = [("1", "The", "DET"), ("2-3", "don't", "_"), ("2", "do", "AUX"), ("3", "n't", "PART"), ("4", "go", "VERB")]
    rows += [("4.1", "going", "VERB"), ("5", ".", "PUNCT")]
    text = tmp_path / "a.conllu"
    body = "".join(f"{number}\t{form}\t_\t{tag}{rest}\n" for number, form, tag in rows)
    text.write_text(f"# newdoc\n# sent_id = a-1\n{body}\n1\t1 000\t_\tNUM{rest}\n")
    words = [["The", "do", "n't", "go", "."], ["1 000"]]
    output = tmp_path / "tagged.jsonl"
    assert main(["tag", str(tmp_path / "tagger"), str(text), "--output", str(output), "--device", "cpu"]) == 0
    assert [json.loads(line)["words"] for line in output.read_text().splitlines()] == words
    arguments = ["embed", str(text), str(tmp_path / "o.h5"), "--model", str(folder), "--device", "cpu"]
    assert main([*arguments, "--id_column", "sent_id"]) == 1
    assert "a.conllu, line 11: no comment '# sent_id = ...'" in capsys.readouterr().err
    assert main(arguments) == 0
    check_equal(read(tmp_path / "o.h5"), embed(words, folder, device="cpu"))
    assert main(["build-vocab", str(text), "--output", str(tmp_path / "v.txt"), "--pos_column", "upos"]) == 0
    assert (tmp_path / "v.txt").read_text().split("\n")[3:] == [".", "1 000", "The", "do", "go", "n't", ""]
    scores = tmp_path / "scores.jsonl"
    arguments = ["perplexity", str(folder), str(text), "--device", "cpu", "--per_sentence", str(scores)]
    assert main(arguments) == 0
    assert [json.loads(line)["words"] for line in scores.read_text().splitlines()] == [5, 1]


@pytest.mark.slow
def test_scores_keep_the_order_of_the_text(folder, tmp_path, capsys):
    """With and without carried state, for sentences of any length."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 40, 60).tolist()
    (tmp_path / "text.txt").write_text("".join(" ".join(["cat"] * length) + "\n" for length in lengths))
    for how in ([], ["--sentence_independent"]):
        output = tmp_path / "scores.jsonl"
        arguments = ["perplexity", str(folder), str(tmp_path / "text.txt"), "--device", "cpu", "--rows", "4", *how]
        assert main([*arguments, "--per_sentence", str(output)]) == 0
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [record["sentence"] for record in records] == list(range(60))
        assert [record["words"] for record in records] == lengths
