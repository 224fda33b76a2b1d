"""The generated corpus: well-formed tags, the same for the same seed, no name shared between splits."""

from itertools import pairwise
from pathlib import Path

import pytest

from elmo_hf.finetuning import Sentence, TagColumns, read_tagged, tag_set
from modeling_tests.examples.ner_corpus import PLAIN_SHARE, SPLITS, Names, generate, main


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Sentence]]:
    return {split: generate(split, 400) for split in SPLITS}


def entities(sentence: Sentence) -> list[tuple[str, str]]:
    """(words joined, type) of each entity of well-formed IOB2 tags."""
    found: list[tuple[list[str], str]] = []
    for word, tag in zip(*sentence, strict=True):
        if tag.startswith("B-"):
            found.append(([word], tag[2:]))
        elif tag.startswith("I-"):
            found[-1][0].append(word)
    return [(" ".join(words), entity_type) for words, entity_type in found]


def test_tags_are_well_formed(corpus: dict[str, list[Sentence]]) -> None:
    for sentences in corpus.values():
        assert tag_set(sentences) == ["O", *(f"{p}-{t}" for t in ("LOC", "MISC", "ORG", "PER") for p in "BI")]
        for words, tags in sentences:
            assert len(words) == len(tags) > 0
            assert all(words)
            for before, tag in pairwise(["O", *tags]):
                assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_same_seed_same_corpus(corpus: dict[str, list[Sentence]]) -> None:
    assert generate("train", 400) == corpus["train"]
    assert generate("train", 50) == corpus["train"][:50]
    assert generate("train", 50, seed=1) != corpus["train"][:50]


@pytest.mark.parametrize("seed", range(3))
def test_splits_share_no_name(seed: int) -> None:
    names = {split: Names(split, seed).lists for split in SPLITS}
    for key in names["train"]:
        parts = [set(names[split][key]) for split in SPLITS]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)), key
    # Names of different kinds do not overlap either: a surname of one split is not a place of another.
    people = ("first", "last")
    for one in SPLITS:
        for other in SPLITS:
            if one != other:
                mine = {name for key in people for name in names[one][key]}
                assert not mine & {name for key in (*people, "place") for name in names[other][key]}


def test_entities_of_the_test_split_are_unseen(corpus: dict[str, list[Sentence]]) -> None:
    seen = {split: {e for sentence in corpus[split] for e in entities(sentence)} for split in SPLITS}
    assert len(seen["test"]) > 400
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]


def test_some_names_have_two_entity_types(corpus: dict[str, list[Sentence]]) -> None:
    types: dict[str, set[str]] = {}
    for sentence in corpus["train"]:
        for name, entity_type in entities(sentence):
            types.setdefault(name, set()).add(entity_type)
    assert any({"PER", "LOC"} <= found for found in types.values())


def test_lowercase_uppercase_and_entity_free_sentences(corpus: dict[str, list[Sentence]]) -> None:
    train = corpus["train"]
    plain = sum(set(tags) == {"O"} for _, tags in train) / len(train)
    assert abs(plain - PLAIN_SHARE) < 0.05
    lower = [s for s in train if entities(s) and " ".join(s.words).islower()]
    upper = [s for s in train if entities(s) and " ".join(s.words).isupper()]
    assert lower
    assert upper


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="split 'dev'.*train, validation, test"):
        generate("dev", 1)


def test_written_files_read_back(tmp_path: Path) -> None:
    main(["--output_dir", str(tmp_path / "corpus"), "--train", "20", "--validation", "5", "--test", "6", "--seed", "3"])
    assert sorted(p.name for p in (tmp_path / "corpus").iterdir()) == ["test.conll", "train.conll", "validation.conll"]
    for split, count in (("train", 20), ("validation", 5), ("test", 6)):
        assert read_tagged(tmp_path / "corpus" / f"{split}.conll", TagColumns()) == generate(split, count, seed=3)
