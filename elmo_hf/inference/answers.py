"""Question answering: windows over long contexts as model inputs, and answers from the scores of spans.

Transformers 5 has no question-answering pipeline; these three functions take its place for
[`ElmoForQuestionAnswering`]. Positions count words from the start of a window, so windows are padded on the right. "No
answer" is the span of the first word alone, the boundary `<S>`, as in SQuAD 2.0 models.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerBase

from elmo_hf.checks import at_least_one
from elmo_hf.model.question_answering import ElmoForQuestionAnswering
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .batching import BatchSize, batches_of_similar_length
from .evaluation import in_evaluation
from .loading import Name, load_model, load_tokenizer

COLUMNS = ("id", "question", "context")
SPAN = "a dictionary of the lists 'text' and 'answer_start'"


class Answer(NamedTuple):
    """One answer to a question.

    Attributes:
        text: `context[start:end]`; empty for "no answer".
        score: its probability among all allowed spans: softmax of the sums of start and end logits.
        start, end: character offsets in the context; `None` for "no answer".
    """

    text: str
    score: float
    start: int | None
    end: int | None


# ---- texts to features


def question_answering_features(
    examples: Mapping[str, Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = 384,
    stride: int = 128,
) -> dict[str, list[Any]]:
    """Tokenize examples into windows `<S> question </S> <S> part of the context </S>` of at most `max_length` words.

    Use it as `dataset.map(partial(question_answering_features, tokenizer=tokenizer), batched=True,
    remove_columns=dataset.column_names)`. A long context gives several windows, so there may be more rows than
    examples.

    Args:
        examples: columns in SQuAD's form: `id`, `question`, `context` (texts), and optionally `answers`, each
            {"text": [...], "answer_start": [...]}, empty for a question without an answer. The first answer is the
            label.
        tokenizer: an [`ElmoTokenizer`].
        max_length: words per window, including question and boundaries; `None` for a single window.
        stride: context words shared by consecutive windows.

    Returns:
        The tokenizer's output, one row per window, and these columns:
        `example_id`: the example's `id`;
        `offset_mapping`: (start, end) character offsets of every context word, (0, 0) elsewhere;
        with `answers`, `start_positions` and `end_positions`: the answer's first and last word in the window. Both are
        0, the boundary `<S>`, in a window that does not hold the whole answer. An answer that begins or ends inside a
        word includes the whole word.

    Raises:
        ValueError: a missing column, an empty question or context, an answer that does not match its position in the
            context, or a question that leaves no room for a context; the message names the example and the remedy.
    """
    _check_columns(examples)
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"tokenizer.padding_side is {tokenizer.padding_side!r}: positions of answers count from a window's first "
            "word, so set tokenizer.padding_side='right'"
        )
    names = [str(name) for name in examples["id"]]
    for name, question, context in zip(names, examples["question"], examples["context"]):
        for column, text in (("question", question), ("context", context)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"example {name!r}: {column} is {text!r}: expected a text with words in it; leave it out"
                )
    encoding = _tokenize(names, list(examples["question"]), list(examples["context"]), tokenizer, max_length, stride)

    sample_of: list[int] = encoding.pop("overflow_to_sample_mapping")
    windows = [_context_words(names[sample], encoding, window, tokenizer) for window, sample in enumerate(sample_of)]
    features: dict[str, list[Any]] = {
        **encoding,
        "example_id": [names[sample] for sample in sample_of],
        "offset_mapping": [
            [span if word is not None else (0, 0) for word, span in zip(words, spans)]
            for words, spans in zip(windows, encoding["offset_mapping"])
        ],
    }
    # Character offsets of every context word, collected from all windows.
    places: list[dict[int, tuple[int, int]]] = [{} for _ in names]
    for sample, words, spans in zip(sample_of, windows, encoding["offset_mapping"]):
        places[sample].update((word, span) for word, span in zip(words, spans) if word is not None)
    for name, context, place in zip(names, examples["context"], places):
        if not place:
            raise ValueError(f"example {name!r}: the tokenizer finds no word in the context {context!r}; leave it out")
    if "answers" in examples:
        answers = [
            _answer_words(name, context, answer, place)
            for name, context, answer, place in zip(names, examples["context"], examples["answers"], places)
        ]
        positions = [_positions(words, answers[sample]) for sample, words in zip(sample_of, windows)]
        features["start_positions"] = [start for start, _ in positions]
        features["end_positions"] = [end for _, end in positions]
    return features


def _check_columns(examples: Mapping[str, Sequence[Any]]) -> None:
    for column in COLUMNS:
        if column not in examples:
            remedy = (
                "number the examples, as by dataset.add_column('id', [...])"
                if column == "id"
                else "rename the column that holds it"
            )
            raise ValueError(
                f"examples have no column {column!r} among {', '.join(map(repr, examples)) or 'none'}: expected "
                f"{', '.join(COLUMNS)} and optionally answers; {remedy}"
            )


def _tokenize(
    names: list[str],
    questions: list[str],
    contexts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    stride: int,
) -> BatchEncoding:
    try:
        return tokenizer(
            questions,
            contexts,
            truncation=False if max_length is None else "only_second",
            max_length=max_length,
            stride=0 if max_length is None else stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    except ValueError:
        if max_length is not None:
            # The tokenizer's error does not name the example.
            _check_room(names, questions, contexts, tokenizer, max_length, stride)
        raise


def _check_room(
    names: list[str],
    questions: list[str],
    contexts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
) -> None:
    """Raise an error that names the first example whose context cannot be split into windows."""
    boundaries = tokenizer.num_special_tokens_to_add(pair=True)
    for name, question, context in zip(names, questions, contexts):
        words, parts = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (question, context))
        room = max_length - boundaries - words
        if parts > room and room <= stride:
            raise ValueError(
                f"example {name!r}: in max_length={max_length} its question of {words} words leaves room for "
                f"{max(room, 0)} of the {parts} words of the context: expected more than stride={stride}; raise "
                "max_length, lower stride or shorten the question"
            )


def _context_words(
    name: str, encoding: BatchEncoding, window: int, tokenizer: PreTrainedTokenizerBase
) -> list[int | None]:
    """Index of the context word at each position of a window; `None` for question and boundaries."""
    sentences = encoding.sequence_ids(window)
    begin = tokenizer.bos_token_id
    begins = [sentence for token, sentence in zip(encoding["input_ids"][window], sentences) if token == begin]
    if begins[:1] != [None] or 0 in begins:
        raise ValueError(
            f"example {name!r}: expected {tokenizer.bos_token!r} before its question and not in it, since it tells a "
            "model where the context begins; remove it from the question, or set tokenizer.add_bos_token=True"
        )
    return [word if sentence == 1 else None for word, sentence in zip(encoding.word_ids(window), sentences)]


def _answer_words(name: str, context: str, answers: Any, places: dict[int, tuple[int, int]]) -> tuple[int, int] | None:
    """First and last word of the first answer, `None` for a question without one. Checks all answers."""
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
        raise ValueError(f"example {name!r}: answers is {answers!r}: expected {SPAN}, both empty for no answer")
    texts, starts = list(answers["text"]), list(answers["answer_start"])
    if len(texts) != len(starts):
        raise ValueError(
            f"example {name!r}: {len(texts)} answer texts with {len(starts)} starts: expected the same number"
        )
    for text, start in zip(texts, starts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"example {name!r}: answer {text!r} is empty: expected a text, or no answer at all")
        if not isinstance(start, (int, np.integer)) or start < 0 or context[start : start + len(text)] != text:
            raise ValueError(
                f"example {name!r}: answer {text!r} is not at character {start} of the context; "
                + (
                    f"it is at {context.index(text)}: set answer_start to that"
                    if text in context
                    else "correct its text, or leave the example out"
                )
            )
    if not texts:
        return None
    # Whitespace around an answer belongs to no word.
    start = starts[0] + len(texts[0]) - len(texts[0].lstrip())
    end = starts[0] + len(texts[0].rstrip())
    inside = [word for word, (first, last) in places.items() if first < end and last > start]
    if not inside:
        raise ValueError(
            f"example {name!r}: the tokenizer finds no word in the answer {texts[0]!r}; correct its text, or leave the "
            "example out"
        )
    return min(inside), max(inside)


def _positions(words: list[int | None], answer: tuple[int, int] | None) -> tuple[int, int]:
    """Positions of an answer's first and last word in a window; (0, 0) if the window does not hold both."""
    if answer is None or answer[0] not in words or answer[1] not in words:
        return 0, 0
    return words.index(answer[0]), words.index(answer[1])


# ---- spans to texts


def answers_from_spans(
    examples: Iterable[Mapping[str, Any]],
    features: Mapping[str, Sequence[Any]],
    start_logits: Any,
    end_logits: Any,
    n_best: int = 1,
    max_answer_words: int = 30,
    null_threshold: float | None = None,
) -> dict[str, list[Answer]]:
    """The best answers to every question, over all windows of its context.

    The score of a span is its start logit plus its end logit, in the best window that contains it. The score of "no
    answer" is the lowest of all windows, as in BERT's SQuAD program, because one window with an answer is enough.

    Args:
        examples: records with `id` and `context`: a dataset, a list of dictionaries.
        features: columns `example_id` and `offset_mapping` of [`question_answering_features`]: its result, a dataset.
        start_logits, end_logits: (windows, at least the words of a window), floating: arrays or tensors in the order of
            `features`, padded on the right, as a model or `Trainer.predict` returns them.
        n_best: maximum number of answers per question.
        max_answer_words: maximum length of an answer.
        null_threshold: margin by which the score of "no answer" must exceed that of the best span. Start with 0.0 and
            tune it on validation data. `None` if every question has an answer.

    Returns:
        The answers of each example, best first, by its `id` as text.

    Raises:
        ValueError: logits that do not match the features, features of other examples, or an option out of range.
    """
    at_least_one(n_best=n_best, max_answer_words=max_answer_words)
    windows_of: dict[str, list[int]] = {}
    for window, name in enumerate(features["example_id"]):
        windows_of.setdefault(str(name), []).append(window)
    offsets = features["offset_mapping"]
    starts, ends = (
        _check_logits(name, logits, sum(map(len, windows_of.values())))
        for name, logits in (("start_logits", start_logits), ("end_logits", end_logits))
    )
    answers: dict[str, list[Answer]] = {}
    for example in examples:
        name = str(example["id"])
        if name in answers:
            raise ValueError(f"two examples have the id {name!r}: expected each once; renumber them")
        if name not in windows_of:
            raise ValueError(
                f"features have no window of example {name!r}: expected those that question_answering_features made of "
                "these examples"
            )
        windows = [_Window(offsets[window], starts[window], ends[window], name) for window in windows_of[name]]
        answers[name] = _best_answers(example["context"], windows, n_best, max_answer_words, null_threshold)
    unknown = windows_of.keys() - answers.keys()
    if unknown:
        raise ValueError(f"features are of examples that are not given, among them {min(unknown)!r}; give all examples")
    return answers


def _check_logits(name: str, logits: Any, windows: int) -> NDArray[np.floating[Any]]:
    values = logits.detach().float().cpu().numpy() if isinstance(logits, torch.Tensor) else np.asarray(logits)
    if values.ndim != 2 or len(values) != windows:
        raise ValueError(
            f"{name} has shape {values.shape}: expected ({windows}, words), one row per window of the features"
        )
    return values


class _Window:
    """Scores of one window.

    Attributes:
        offsets: (words, 2), character offsets of each context word.
        start, end: (words,) float64.
        null: start plus end logit of the first word.
    """

    def __init__(self, offsets: Any, start: NDArray[Any], end: NDArray[Any], name: str) -> None:
        spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        if len(start) < len(spans) or len(end) < len(spans):
            raise ValueError(
                f"example {name!r}: logits of {min(len(start), len(end))} words for a window of {len(spans)}: expected "
                "logits and features of the same windows in the same order"
            )
        inside = np.flatnonzero(spans[:, 1] > spans[:, 0])
        self.offsets = spans[inside]
        # A masked logit is the smallest number of its dtype; the sum of two must not overflow.
        self.start, self.end = start[inside].astype(np.float64), end[inside].astype(np.float64)
        self.null = float(start[0]) + float(end[0])
        if not (np.isfinite(self.start).all() and np.isfinite(self.end).all() and np.isfinite(self.null)):
            raise ValueError(f"example {name!r}: logits hold NaN or infinity; expected finite numbers")


def _best_answers(
    context: str, windows: list[_Window], n_best: int, max_words: int, null_threshold: float | None
) -> list[Answer]:
    spans = np.unique(np.concatenate([window.offsets for window in windows]), axis=0)  # [words of the context, 2]
    scores = _span_scores(spans, windows, max_words)  # [words, lengths]
    null = min(window.null for window in windows)
    top = float(scores.max())
    total = top + np.log(np.exp(scores - top).sum())
    if null_threshold is not None:
        total = np.logaddexp(total, null)

    best = _largest(scores.ravel(), n_best)
    answers = []
    for index in best:
        first, more = divmod(int(index), scores.shape[1])
        start, end = int(spans[first, 0]), int(spans[first + more, 1])
        answers.append(Answer(context[start:end], float(np.exp(scores.flat[index] - total)), start, end))
    if null_threshold is not None:
        better = int((scores.flat[best] >= null - null_threshold).sum())
        answers.insert(better, Answer("", float(np.exp(null - total)), None, None))
    return answers[:n_best]


def _largest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest finite values, largest first; equal values keep their order."""
    kept = np.flatnonzero(np.isfinite(scores))
    if count < len(kept):
        # Sorting all spans of a long context would dominate the run time.
        kept = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return kept[np.argsort(-scores[kept], kind="stable")][:count]


def _span_scores(spans: NDArray[np.int64], windows: list[_Window], max_words: int) -> NDArray[np.float64]:
    """Scores (words, lengths) of the spans that begin at a word and have 1 + column words; -inf if there is none."""
    lengths = min(max_words, max(len(window.offsets) for window in windows))
    scores = np.full((len(spans), lengths), -np.inf)
    for window in windows:
        words = len(window.offsets)
        first = int(np.searchsorted(spans[:, 0], window.offsets[0, 0]))
        ends = np.concatenate([window.end, np.full(lengths - 1, -np.inf)])
        ends = np.lib.stride_tricks.sliding_window_view(ends, lengths)  # [words, lengths]
        part = scores[first : first + words]
        np.maximum(part, window.start[:, None] + ends, out=part)
    return scores


# ---- all at once


@overload
def answer_question(
    model: ElmoForQuestionAnswering | Name,
    tokenizer: ElmoTokenizer | Name | None,
    question: str,
    context: str,
    *,
    max_length: int | None = ...,
    stride: int = ...,
    batch_size: int = ...,
    n_best: int = ...,
    max_answer_words: int = ...,
    null_threshold: float | None = ...,
) -> list[Answer]: ...
@overload
def answer_question(
    model: ElmoForQuestionAnswering | Name,
    tokenizer: ElmoTokenizer | Name | None,
    question: str | Sequence[str],
    context: str | Sequence[str],
    *,
    max_length: int | None = ...,
    stride: int = ...,
    batch_size: int = ...,
    n_best: int = ...,
    max_answer_words: int = ...,
    null_threshold: float | None = ...,
) -> list[Answer] | list[list[Answer]]: ...
def answer_question(
    model: ElmoForQuestionAnswering | Name,
    tokenizer: ElmoTokenizer | Name | None,
    question: str | Sequence[str],
    context: str | Sequence[str],
    *,
    max_length: int | None = 384,
    stride: int = 128,
    batch_size: int = 16,
    n_best: int = 1,
    max_answer_words: int = 30,
    null_threshold: float | None = None,
) -> list[Answer] | list[list[Answer]]:
    """Answer one or many questions: several about one text, one about several texts, or pairs.

    Args:
        model: the model, run in evaluation mode whatever its own mode; or the folder of its checkpoint.
        tokenizer: the model's tokenizer; `None` for the one in its checkpoint's folder.
        question, context: a text or a sequence of texts, of equal lengths if both are sequences.
        max_length, stride: as in [`question_answering_features`].
        batch_size: windows per batch; windows of similar length are batched together.
        n_best, max_answer_words, null_threshold: as in [`answers_from_spans`].

    Returns:
        The answers, best first; a list of such lists if `question` or `context` is a sequence.

    Raises:
        ValueError: as in the other two functions, with examples named by their number, from 0; sequences of different
            lengths; a checkpoint of another kind of model.
    """
    is_single = isinstance(question, str) and isinstance(context, str)
    count = next((len(texts) for texts in (question, context) if not isinstance(texts, str)), 1)
    questions, contexts = ([texts] * count if isinstance(texts, str) else list(texts) for texts in (question, context))
    if len(questions) != len(contexts):
        raise ValueError(
            f"{len(questions)} questions and {len(contexts)} contexts: expected equal numbers, or one text for all"
        )
    at_least_one(batch_size=batch_size)
    if not questions:
        return []
    tokenizer = load_tokenizer(tokenizer, model)
    model = load_model(model, ElmoForQuestionAnswering)
    names = [str(number) for number in range(len(questions))]
    columns = {"id": names, "question": questions, "context": contexts}
    features = question_answering_features(columns, tokenizer, max_length, stride)
    inputs = {name: features[name] for name in tokenizer.model_input_names}
    start, end = _logits(in_evaluation(model), tokenizer, inputs, batch_size)
    answers = answers_from_spans(
        [{"id": name, "context": text} for name, text in zip(names, contexts)],
        features,
        start,
        end,
        n_best,
        max_answer_words,
        null_threshold,
    )
    found = [answers[name] for name in names]
    return found[0] if is_single else found


def _logits(
    model: ElmoForQuestionAnswering, tokenizer: ElmoTokenizer, inputs: dict[str, list[Any]], batch_size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and end logits (windows, words of the longest window), in the order of the windows."""
    lengths = [len(row) for row in inputs["input_ids"]]
    start, end = (np.zeros((len(lengths), max(lengths)), dtype=np.float32) for _ in range(2))
    for rows in batches_of_similar_length(lengths, BatchSize(rows=batch_size)):
        batch = tokenizer.pad(
            {name: [values[row] for row in rows] for name, values in inputs.items()}, return_tensors="pt"
        )
        with torch.no_grad():
            outputs = model(**batch.to(model.device))
        words = outputs.start_logits.shape[1]
        start[rows, :words] = outputs.start_logits.float().cpu().numpy()
        end[rows, :words] = outputs.end_logits.float().cpu().numpy()
    return start, end
