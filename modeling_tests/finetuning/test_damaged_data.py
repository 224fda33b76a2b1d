"""A seeded fuzzer of labeled data: every file is read, or refused with the location."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elmo_hf.finetuning import (
    CorpusError,
    PairColumns,
    QuestionColumns,
    TagColumns,
    TextColumns,
    read_pairs,
    read_questions,
    read_tagged,
    read_texts,
)

HOSTILE: list[Any] = [
    None, True, -1, 0, 10**30, 0.5, float("nan"), float("inf"), "", " ", "\u0000", "\ud800", [], [[]], {}, {"a": 1},
    [None], "x" * 1000, [1, 0], ["O", 3], "[" * 5000, "[1, 2",
]  # fmt: skip
TEXT = [{"sentence": "a fine film", "label": "good"}, {"sentence": "dull", "label": "bad"}]
TAGS = [{"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}, {"tokens": ["Oslo"], "ner_tags": ["B-LOC"]}]
QUESTION = {
    "id": "1",
    "question": "Who ?",
    "context": "Alice said so .",
    "answers": {"text": ["Alice"], "answer_start": [0]},
}
SQUAD = {"data": [{"paragraphs": [{"context": "Alice said so .", "qas": [
    {"id": "1", "question": "Who ?", "answers": [{"text": "Alice", "answer_start": 0}]}]}]}]}  # fmt: skip
PAIRS = [{"source": "a b", "target": "c d"}, {"source": "e", "target": "f"}]
CONLLU = """# sent_id = 1
1\tThe\t_\tDET\t_\t_\t_\t_\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\t_\tAUX\t_\t_\t_\t_\t_\t_

"""


def several(path: Path) -> Any:
    return read_texts(path, TextColumns(problem="multi_label_classification"))


READERS: dict[str, tuple[Callable[[Path], Any], str, Any]] = {
    "texts": (lambda path: read_texts(path, TextColumns()), "a.json", TEXT),
    "labels": (several, "a.json", TEXT),
    "values": (lambda path: read_texts(path, TextColumns(problem="regression")), "a.json", TEXT),
    "tags": (lambda path: read_tagged(path, TagColumns()), "a.json", TAGS),
    "questions": (lambda path: read_questions(path, QuestionColumns()), "a.json", [QUESTION]),
    "SQuAD": (lambda path: read_questions(path, QuestionColumns()), "a.json", SQUAD),
    "pairs": (lambda path: read_pairs([path], PairColumns()), "a.json", PAIRS),
    "a table": (
        lambda path: read_texts(path, TextColumns()),
        "a.tsv",
        "sentence\tlabel\na fine film\tgood\ndull\tbad\n",
    ),
    "CSV": (lambda path: read_texts(path, TextColumns()), "a.csv", 'sentence,label\n"a, fine",good\ndull,bad\n'),
    "CoNLL": (lambda path: read_tagged(path, TagColumns()), "a.conll", "EU\tB-ORG\nrejects\tO\n\nOslo\tB-LOC\n"),
    "CoNLL-U": (lambda path: read_tagged(path, TagColumns(any_tag=True)), "a.conllu", CONLLU),
    "two columns": (lambda path: read_pairs([path], PairColumns()), "a.tsv", "a b\tc d\ne\tf\n"),
}


def changed_value(draw: random.Random, value: Any) -> Any:
    """The value with one part replaced or removed."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        made = dict(value) if isinstance(value, dict) else list(value)
        key = draw.choice(list(made) if isinstance(made, dict) else list(range(len(made))))
        if draw.random() < 0.1:
            del made[key]
        else:
            made[key] = changed_value(draw, made[key])
        return made
    return draw.choice(HOSTILE)


def changed_text(draw: random.Random, text: str) -> bytes:
    content = bytearray(text.encode())
    for _ in range(draw.choice((1, 2, 5))):
        place = draw.randrange(len(content))
        byte = draw.choice(b'\t\n\r "\\,#-.0_\xff\x00')
        draw.choice([content.insert, content.__setitem__])(place, byte)
    return bytes(content[: draw.randrange(len(content))] if draw.random() < 0.2 else content)


@pytest.mark.samples(5)
@pytest.mark.parametrize("kind", READERS)
def test_unreadable_data_is_refused_with_its_location(kind: str, tmp_path: Path) -> None:
    read, name, value = READERS[kind]
    draw, refused, path = random.Random(kind), 0, tmp_path / name
    for number in range(150):
        if isinstance(value, str):
            content = changed_text(draw, value)
        else:
            content = json.dumps(changed_value(draw, value)).encode()
            content = changed_text(draw, content.decode()) if draw.random() < 0.2 else content
        path.write_bytes(content)
        told = name
        try:
            read(path)
        except CorpusError as error:
            refused, told = refused + 1, str(error)
        except Exception as error:
            raise AssertionError(f"{kind}, number {number}: {content!r:.300}: {error!r}") from error
        assert name in told and len(told) < 2000, (number, content)
    assert refused > 20
