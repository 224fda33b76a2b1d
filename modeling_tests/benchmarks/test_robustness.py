"""Typing errors: one per word, of the requested kind, reproducible."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # its scripts import each other

from robustness import KINDS, neighbors, with_typos, write_typos


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_one_place(kind: str) -> None:
    draw = random.Random(0)
    for word in ("Bank", "letter", "aab", "OSLO", "größer") * 20:
        (found,) = with_typos([word], kind, 1.0, draw)
        same = [one == other for one, other in zip(word, found)]
        if kind == "upper":
            assert found == word.upper()
        elif kind == "dropped":
            assert any(word[:n] + word[n + 1 :] == found for n in range(len(word)))
        elif kind == "doubled":
            assert any(word[: n + 1] + word[n:] == found for n in range(len(word)))
        elif kind == "swapped":
            assert len(found) == len(word) and Counter(found) == Counter(word)
            (first, second) = [n for n, equal in enumerate(same) if not equal]
            assert second == first + 1
        else:
            (place,) = [n for n, equal in enumerate(same) if not equal]
            assert found[place].lower() in neighbors(word[place].lower())
            assert found[place].isupper() == word[place].isupper()


def test_neighbors_are_adjacent_keys() -> None:
    assert sorted(neighbors("s")) == sorted("adwezx")
    assert sorted(neighbors("q")) == sorted("wa")
    assert sorted(neighbors("m")) == sorted("njk")
    assert neighbors("é") == neighbors("1") == ""
    letters = "qwertyuiopasdfghjklzxcvbnm"
    assert all(one in neighbors(other) for one in letters for other in neighbors(one))


def test_unchanged_words_and_share_of_typos(tmp_path: Path) -> None:
    words = ["of", "don't", "3.5", "@user", "", "aaa"]
    for kind in KINDS:
        kept = list(with_typos(words, kind, 1.0, random.Random(0)))
        assert kept[:5] == words[:5]
    assert list(with_typos(["aaa"], "swapped", 1.0, random.Random(0))) == ["aaa"]
    many = ["letter"] * 2000
    changed = sum(one != "letter" for one in with_typos(many, "upper", 0.3, random.Random(0)))
    assert 500 < changed < 700
    for kind, share in (("spelled", 0.3), ("upper", 1.5)):
        with pytest.raises(ValueError, match=f"kind='{kind}', share={share}"):
            list(with_typos(words, kind, share, random.Random(0)))


def test_files_keep_their_labels(tmp_path: Path) -> None:
    source, target = tmp_path / "test.conll", tmp_path / "out" / "noisy.conll"
    source.write_text("Oslo\tB-LOC\nsleeps\tO\n\nAda\tB-PER\n\n", encoding="utf-8")
    write_typos(source, target, "upper", 1.0)
    assert target.read_text(encoding="utf-8") == "OSLO\tB-LOC\nSLEEPS\tO\n\nADA\tB-PER\n\n"
    source = tmp_path / "test.tsv"
    source.write_text("4\tIt 's lovely .\n", encoding="utf-8")
    write_typos(source, target, "upper", 1.0, column=1)
    assert target.read_text(encoding="utf-8") == "4\tIt 's LOVELY .\n"
    conllu = tmp_path / "test.conllu"
    conllu.write_text("# text = alma fa\n1\talma\talma\tNOUN\n2\tfa\tfa\tNOUN\n\n", encoding="utf-8")
    write_typos(conllu, target, "upper", 1.0, column=1)
    assert target.read_text(encoding="utf-8") == "# text = alma fa\n1\tALMA\talma\tNOUN\n2\tfa\tfa\tNOUN\n\n"
    results = []
    for seed in (0, 0, 1):
        write_typos(source, target, "dropped", 1.0, seed=seed, column=1)
        results.append(target.read_text(encoding="utf-8"))
    assert results[0] == results[1]
