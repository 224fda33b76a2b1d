"""Vocabularies of corpora: words by decreasing frequency, as the log-uniform sampler requires.

A vocabulary file has one word per line and begins with `<S>`, `</S>` and `<UNK>` (bilm-tf `data.Vocabulary`). A second
file holds the counts. `ElmoTokenizer(vocab_file)` reads the first.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

from tqdm.auto import tqdm

from elmo_hf.atomic import appearing
from elmo_hf.checks import at_least_one
from elmo_hf.tokenizer.characters import ByteSpelling
from elmo_hf.tokenizer.vocabulary import MAXIMUM_TERM, is_vocabulary_word, read_vocabulary, write_vocabulary

from .cut_words import CutWords
from .sentences import Corpus
from .shards import Shard
from .word_encoder import word_splitter

BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<S>", "</S>", "<UNK>")
# Words that a vocabulary file must not contain: the tokenizer's special tokens, and a line that bilm-tf skips.
RESERVED = frozenset({*SPECIAL_TOKENS, "<pad>", "<mask>", MAXIMUM_TERM})
COUNTS_SUFFIX = ".counts.tsv"
# Maximum characters per word in the published models, and the default for new ones.
CHARACTERS_OF_A_WORD = 50


@dataclass(frozen=True)
class Vocabulary:
    """Words with their counts, as found by `build_vocabulary`.

    Attributes:
        words: `<S>`, `</S>`, `<UNK>`, then words by decreasing count, with ties in character order.
        counts: count of each word. For the boundaries, the number of sentences; for `<UNK>`, the number of running
            words outside the vocabulary.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def sentences(self) -> int:
        """Number of sentences in the corpus."""
        return self.counts[0]

    @property
    def running_words(self) -> int:
        """Number of words in the corpus, known or not, without boundaries."""
        return sum(self.counts) - 2 * self.sentences

    @property
    def coverage(self) -> float:
        """Share of the running words that are in the vocabulary."""
        return 1 - self.counts[2] / max(1, self.running_words)

    def save(self, path: str | os.PathLike[str], *, counts: bool = True) -> None:
        """Write the vocabulary file and `<its name without suffix>.counts.tsv`, which has `word<TAB>count` lines.

        Each file appears only when it is complete.
        """
        lines = "".join(f"{word}\t{count}\n" for word, count in zip(self.words, self.counts, strict=True))
        # Neither appears without the other.
        with ExitStack() as stack:
            if counts:
                stack.enter_context(appearing(counts_path(path))).write_bytes(lines.encode("utf-8", "surrogatepass"))
            write_vocabulary(self.words, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: an invalid vocabulary (see `check_vocabulary_file`), or counts of other words.
        """
        words = check_vocabulary_file(path)
        target = counts_path(path)
        with open(target, encoding="utf-8", newline="\n") as file:
            rows = [line.rstrip("\n").rsplit("\t", 1) for line in file]
        if [row[0] for row in rows] != words or not all(len(row) == 2 and row[1].isdecimal() for row in rows):
            raise ValueError(f"{target} does not count the words of {path}: expected the same words, each with a count")
        return cls(tuple(words), tuple(int(row[1]) for row in rows))


def counts_path(path: str | os.PathLike[str]) -> Path:
    """Path of the file of counts that belongs to a vocabulary file."""
    return Path(path).with_suffix(COUNTS_SUFFIX)


def check_vocabulary_file(path: str | os.PathLike[str]) -> list[str]:
    """Read the words of a vocabulary file, checked for training a language model.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text, a repeated word, or no `<S>`, `</S>` or `<UNK>`; the message names file, line and remedy.
    """
    words = read_vocabulary(path)
    missing = [token for token in SPECIAL_TOKENS if token not in words]
    if missing:
        raise ValueError(
            f"{path}: no line for {', '.join(missing)}, expected <S>, </S>, <UNK> as the first three. Add them (to a "
            "vocabulary without weights), or build the vocabulary with `elmo-hf build-vocab`"
        )
    if not set(words) - RESERVED:
        raise ValueError(
            f"{path}: no word besides {', '.join(SPECIAL_TOKENS)}: a model of it would have nothing to predict. Build "
            "the vocabulary of the training text with `elmo-hf build-vocab`"
        )
    return words


def build_vocabulary(
    corpus: Corpus,
    *,
    pre_tokenization: str = "whitespace",
    min_count: int = 1,
    max_size: int | None = None,
    num_processes: int = 1,
    progress: bool = True,
) -> Vocabulary:
    """Count the words of a corpus.

    Memory grows with the number of distinct words, not with the corpus. The result does not depend on `num_processes`.
    Words spelled like a special token are left out.

    Args:
        corpus: the corpus, read once, shard by shard.
        pre_tokenization: `"whitespace"` for tokenized text, `"ptb"` for raw text; no effect on lists of words.
        min_count: leave out rarer words.
        max_size: maximum number of words, including `<S>`, `</S>` and `<UNK>`; `None` for all.
        num_processes: number of counting processes. Work is divided by shards, so a single compressed file keeps only
            one busy. A script that uses more than one needs `if __name__ == "__main__":`.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: an argument out of range, no word in the corpus, or no word that is frequent enough.
    """
    at_least_one(min_count=min_count)
    if max_size is not None and max_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"max_size={max_size}: expected more than {len(SPECIAL_TOKENS)}, room for <S>, </S>, <UNK>")
    total: Counter[str] = Counter()
    sentences = 0
    with tqdm(desc="words", unit=" words", unit_scale=True, disable=not progress) as bar:
        for part, part_sentences in counted_parts(corpus, pre_tokenization, num_processes):
            total.update(part)
            sentences += part_sentences
            bar.update(sum(part.values()))
    if not total:
        raise ValueError(f"{corpus.name} holds no word: expected text with one sentence per line")
    kept = [
        (word, count)
        for word, count in total.items()
        if count >= min_count and word and word not in RESERVED and is_vocabulary_word(word)
    ]
    if not kept:
        raise ValueError(
            f"no word of {corpus.name} occurs {min_count} times: expected a min_count of at most {max(total.values())}"
        )
    kept.sort(key=lambda item: (-item[1], item[0]))
    if max_size is not None:
        del kept[max_size - len(SPECIAL_TOKENS) :]
    left_out = sum(total.values()) - sum(count for _, count in kept)
    _tell_of_unfit_words(total)
    return Vocabulary(
        (*SPECIAL_TOKENS, *(word for word, _ in kept)),
        (sentences, sentences, left_out, *(count for _, count in kept)),
    )


def _tell_of_unfit_words(counts: Counter[str]) -> None:
    """Warn of words that cannot be stored in a vocabulary file, and of words that character models truncate."""
    unfit = Counter({word: count for word, count in counts.items() if not word or not is_vocabulary_word(word)})
    if unfit:
        warnings.warn(
            f"{unfit.total():,} of {counts.total():,} words contain what a vocabulary file cannot, such as NUL, a "
            f"line break or a lone surrogate, and are counted as {UNK_TOKEN}: {next(iter(unfit))!r:.60}",
            stacklevel=3,
        )
    cut = CutWords(ByteSpelling(CHARACTERS_OF_A_WORD))
    for word, count in counts.items():
        cut.look((word,), count)
    cut.tell()


def counted_parts(corpus: Corpus, pre_tokenization: str, num_processes: int) -> Iterator[tuple[Counter[str], int]]:
    """Yield word counts and numbers of sentences of parts of the corpus; arguments as in `build_vocabulary`.

    Raises:
        ValueError: fewer than one process, or an unknown rule.
    """
    at_least_one(num_processes=num_processes)
    word_splitter(pre_tokenization)  # refuses an unknown name before anything is read
    num_processes = min(num_processes, len(corpus.shards))
    if num_processes == 1:
        for shard in corpus.shards:
            yield from _count_parts(shard, pre_tokenization)
        return
    with ProcessPoolExecutor(num_processes, mp_context=_process_context()) as pool:
        waiting = iter(corpus.shards)
        running: set[Future[tuple[Counter[str], int]]] = set()
        try:
            # At most two pending shards per process, so that finished counts do not pile up.
            while running or (running := _submit(pool, waiting, pre_tokenization, 2 * num_processes)):
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= _submit(pool, waiting, pre_tokenization, len(done))
                for task in done:
                    yield task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _process_context() -> BaseContext:
    # Forking this process may hang, because torch runs threads in it. A fork server that has only imported the package
    # can be forked safely, and saves every process the seconds of the import.
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _submit(
    pool: ProcessPoolExecutor, waiting: Iterator[Shard], pre_tokenization: str, count: int
) -> "set[Future[tuple[Counter[str], int]]]":
    return {pool.submit(count_shard, shard, pre_tokenization) for shard in islice(waiting, count)}


def _count_parts(shard: Shard, pre_tokenization: str) -> Iterator[tuple[Counter[str], int]]:
    split = word_splitter(pre_tokenization)
    with closing(shard.open()) as reader:
        for block in reader.blocks():
            yield Counter(chain.from_iterable(map(split, block.sentences))), len(block.sentences)


def count_shard(shard: Shard, pre_tokenization: str) -> tuple[Counter[str], int]:
    """Count the words and sentences of one shard; runs in a worker process."""
    total: Counter[str] = Counter()
    sentences = 0
    for part, part_sentences in _count_parts(shard, pre_tokenization):
        total.update(part)
        sentences += part_sentences
    return total, sentences
