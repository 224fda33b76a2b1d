"""CoNLL columns as JSON lines that pretraining reads."""

from pathlib import Path

import pytest

from elmo_hf.finetuning import CorpusError
from elmo_hf.pretraining import TaggedSentence, open_corpus
from examples.conll_to_json import main


def test_words_and_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.conll", tmp_path / "a.jsonl"
    source.write_text("1\tthe\tDET\t_\n2\tKatze\tNOUN\t_\n\n1\tGröße\tNOUN\t_\n", encoding="utf-8")
    main([str(source), str(target), "--word_column", "1", "--tag_column", "2"])
    assert capsys.readouterr().out == f"{target}: 2 sentences, 3 words\n"
    corpus = open_corpus(target, text_column="words", pos_column="tags")
    assert list(corpus) == [TaggedSentence(["the", "Katze"], ["DET", "NOUN"]), TaggedSentence(["Größe"], ["NOUN"])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conll", "a.jsonl"]


def test_errors_name_the_line(tmp_path: Path) -> None:
    source = tmp_path / "a.conll"
    source.write_text("the\tDET\nKatze\n")
    with pytest.raises(CorpusError, match="a.conll:2"):
        main([str(source), str(tmp_path / "a.jsonl")])
    assert not (tmp_path / "a.jsonl").exists()
