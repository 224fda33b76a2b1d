"""Character dictionaries of corpora, for models that read Unicode code points as ELMoForManyLangs does."""

from collections import Counter

from tqdm.auto import tqdm

from elmo_hf.tokenizer.character_dictionary import IDEOGRAPHIC_SPACE, MARKS, CharacterDictionary

from .sentences import Corpus
from .vocabulary_building import counted_parts


def build_character_dictionary(
    corpus: Corpus,
    *,
    pre_tokenization: str = "whitespace",
    min_count: int = 1,
    max_size: int | None = None,
    num_processes: int = 1,
    progress: bool = True,
) -> tuple[CharacterDictionary, float]:
    """Count the code points of a corpus's words.

    Args:
        corpus, pre_tokenization, num_processes, progress: as in `build_vocabulary`.
        min_count: leave out rarer code points, which are then unknown characters.
        max_size: maximum number of symbols, including the six marks; `None` for all.

    Returns:
        The dictionary: the marks, then code points by decreasing count, with ties in code point order; and the share of
        running characters that it covers.

    Raises:
        ValueError: an argument out of range, no word in the corpus, or no character that is frequent enough.
    """
    for name, value, least in (("min_count", min_count, 1), ("max_size", max_size, len(MARKS) + 1)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: expected at least {least}")
    counts: Counter[str] = Counter()
    with tqdm(desc="words", unit=" words", unit_scale=True, disable=not progress) as bar:
        for words, _ in counted_parts(corpus, pre_tokenization, num_processes):
            for word, count in words.items():
                for character in word:
                    counts[character] += count
            bar.update(sum(words.values()))
    if not counts:
        raise ValueError(f"{corpus.name} holds no word: expected text with one sentence per line")
    known = [
        (each, count)
        for each, count in counts.items()
        if count >= min_count and (each == IDEOGRAPHIC_SPACE or not each.isspace())
    ]
    if not known:
        raise ValueError(
            f"no character of {corpus.name} occurs {min_count} times: expected a min_count of at most "
            f"{max(counts.values())}"
        )
    known.sort(key=lambda item: (-item[1], item[0]))
    if max_size is not None:
        del known[max_size - len(MARKS) :]
    coverage = sum(count for _, count in known) / sum(counts.values())
    return CharacterDictionary([*MARKS, *(each for each, _ in known)]), coverage
