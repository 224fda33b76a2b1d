"""Start of a run: its model and tokenizer, the streams of its text, and its held-out text."""

import hashlib
import math
import sys
from collections.abc import Container, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.tagged_text import Sentence, pos_tags_of, read_pos_tag_set
from elmo_hf.corpus.vocabulary_building import Vocabulary, check_vocabulary_file, counts_path
from elmo_hf.corpus.word_encoder import line_splitter, word_splitter
from elmo_hf.hub.names import resolve
from elmo_hf.inference.loading import check_mask, load_model
from elmo_hf.inference.perplexity import TextScore, score_sentences
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.softmax import ElmoSoftmax
from elmo_hf.model.word_layer import character_embeddings_of, word_table_of
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .settings import PretrainingSettings, default_cutoffs
from .streams import SentenceStreams
from .typography import typography_of
from .warm_starts import warm_start

# Sentences of the training text searched for words that are truncated.
SENTENCES_LOOKED_AT = 10_000


class Start(NamedTuple):
    """Model and tokenizer before the first step of this process; `note` describes their origin."""

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer
    note: str

    @classmethod
    def from_settings(cls, settings: PretrainingSettings, checkpoint: Path | None) -> "Start":
        """Load them from `checkpoint` to continue a run, or else from `initialize_from`, or make new ones.

        Raises:
            ValueError: an invalid vocabulary, or another one than that of `checkpoint`.
        """
        if checkpoint is not None:
            return cls._continued(settings, checkpoint)
        if settings.initialize_from is not None:
            return cls._warm(settings, resolve(settings.initialize_from))
        assert settings.vocabulary is not None  # checked by the settings
        config = settings.model_config()
        check_streams(settings, config)
        tokenizer = new_tokenizer(settings, config)
        fields = fields_of(tokenizer)
        settings.fitted(predictable_words(settings.model_config(**fields)), None)  # raises before a model is made
        model = ElmoForPreTraining(settings.model_config(**fields))
        clear_padding(model)
        note = f"new model of {model.num_parameters():,} parameters, {len(tokenizer):,} word ids"
        if tokenizer.pos_tag_set is not None:
            note += f", {len(tokenizer.pos_tag_set)} POS tags"
        return cls(model, tokenizer, note)

    @classmethod
    def _continued(cls, settings: PretrainingSettings, checkpoint: Path) -> "Start":
        model, tokenizer = load(checkpoint)
        tokenizer.corpus_pre_tokenization = settings.pre_tokenization  # which older checkpoints do not record
        if settings.vocabulary is not None and Path(settings.vocabulary).exists():
            given = ElmoTokenizer(settings.vocabulary)
            if vocabulary_digest(given) != vocabulary_digest(tokenizer):
                raise ValueError(
                    f"{checkpoint} was trained with other words ({len(tokenizer)}) than {settings.vocabulary} "
                    f"holds now ({len(given)}): restore the file, whose words the checkpoint's tokenizer has, or begin "
                    f"another output_dir with initialize_from={checkpoint}"
                )
        return cls(model, tokenizer, f"model of {checkpoint}")

    @classmethod
    def _warm(cls, settings: PretrainingSettings, folder: str) -> "Start":
        config, tokenizer = ElmoConfig.from_pretrained(folder), None
        check_streams(settings, config)
        if settings.vocabulary is not None:
            old = ElmoTokenizer.from_pretrained(folder)
            words = check_vocabulary_file(settings.vocabulary)
            tokenizer = ElmoTokenizer(
                vocab=words,
                pre_tokenization=old.pre_tokenization,
                max_characters_per_word=config.max_characters_per_word,
                character_vocabulary=old.character_vocabulary,
                pos_tag_set=old.pos_tag_set,
                character_replacements=typography_of(words) if settings.normalize_typography else None,
            )
        if settings.softmax_only_steps and config.tie_word_embeddings:
            raise ValueError(
                f"softmax_only_steps={settings.softmax_only_steps}: the softmax of {folder} is tied to the word "
                "embeddings (tie_word_embeddings), and cannot learn while these are frozen; set it to 0"
            )
        cutoffs = settings.softmax_cutoffs
        if settings.loss == "adaptive" and cutoffs is None and config.softmax_cutoffs is None:
            cutoffs = default_cutoffs(config.vocab_size if tokenizer is None else len(tokenizer))
        start = warm_start(
            folder,
            tokenizer,
            reuse_softmax=settings.reuse_softmax,
            new_rows=settings.new_rows,
            softmax_cutoffs=cutoffs,
        )
        start.tokenizer.corpus_pre_tokenization = settings.pre_tokenization
        start.tokenizer.pre_tokenization = settings.raw_text_pre_tokenization or start.tokenizer.pre_tokenization
        start.model.config.set_dropout(settings.dropout)
        own_memory(start.model)
        rows = f"softmax rows of {start.kept_words:,} words kept, {start.new_words:,} new"
        return cls(start.model, start.tokenizer, f"weights of {folder}, {rows}")


def new_tokenizer(settings: PretrainingSettings, config: ElmoConfig) -> ElmoTokenizer:
    """Make the tokenizer of a new model, with its words, characters and POS tags.

    Raises:
        ValueError: a vocabulary, dictionary or set of tags is invalid, or does not fit the configuration.
    """
    tags: list[str] | None = None
    if settings.is_tagged:
        if settings.pos_tag_set is not None:
            tags = read_pos_tag_set(settings.pos_tag_set)
        else:
            tags = pos_tags_of(open_text(settings, settings.train_data, settings.split))
    if config.num_pos_tags not in (0, len(tags or ())):
        raise ValueError(
            f"num_pos_tags={config.num_pos_tags} in config_overrides and {len(tags or ())} POS tags in the "
            "text: leave it out, and name the text's pos_column or pos_separator"
        )
    if settings.character_dictionary is not None and not config.character_filters:
        raise ValueError(
            f"character_dictionary={settings.character_dictionary!r}: the model reads no characters (character_filters "
            "is empty); leave the dictionary out"
        )
    assert settings.vocabulary is not None  # checked by the settings
    words = check_vocabulary_file(settings.vocabulary)
    return ElmoTokenizer(
        vocab=words,
        pre_tokenization=settings.raw_text_pre_tokenization or "ptb",
        max_characters_per_word=config.max_characters_per_word,
        character_vocabulary_file=settings.character_dictionary,
        pos_tag_set=tags,
        model_max_length=config.max_position_embeddings if config.encoder_type == "transformer" else None,
        corpus_pre_tokenization=settings.pre_tokenization,
        character_replacements=typography_of(words) if settings.normalize_typography else None,
    )


def check_streams(settings: PretrainingSettings, config: ElmoConfig) -> None:
    """Raise `ValueError` if a model of this configuration cannot be trained on streams of these settings."""
    if config.encoder_type != "transformer":
        return
    if not settings.sentence_independent:
        raise ValueError(
            "encoder_type='transformer' reads each sentence whole and carries no state from one batch to the next: add "
            "--sentence_independent, with unroll_steps as the longest sentence that is not cut"
        )
    # Both boundaries need a position.
    if settings.unroll_steps >= config.max_position_embeddings:
        raise ValueError(
            f"unroll_steps={settings.unroll_steps}: expected less than the model's max_position_embeddings="
            f"{config.max_position_embeddings}"
        )


def load(folder: str | Path) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    """Load the language model, in float32, and the tokenizer from a checkpoint folder.

    Raises:
        OSError: the folder or one of its files is missing.
        ValueError: the model has no softmax, or the tokenizer does not belong to the model.
    """
    folder = resolve(folder)
    model = load_model(folder, ElmoForPreTraining, device="cpu", dtype=torch.float32)
    try:
        tokenizer = ElmoTokenizer.from_pretrained(folder)
    except OSError as error:
        raise OSError(f"{folder} has a model and no tokenizer: {error}") from error
    own_memory(model)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"{folder} has a tokenizer of {len(tokenizer)} words and a model of vocab_size={model.config.vocab_size}: "
            "the vocabulary belongs to another checkpoint"
        )
    check_mask(model.config, tokenizer)
    return model, tokenizer


def own_memory(model: ElmoForPreTraining) -> None:
    """Copy loaded weights from the mapped file into memory allocated by torch.

    Mapped tensors may be misaligned, and matmuls of misaligned operands round differently: a resumed run would then
    differ from an uninterrupted one in the last bits.
    """
    for weight in model.parameters():
        weight.data = weight.data.clone()


@torch.no_grad()
def clear_padding(model: ElmoForPreTraining) -> None:
    """Set the rows of no word and no character to zero, as in the originals; they are not trained."""
    words, characters = word_table_of(model.elmo.embeddings), character_embeddings_of(model.elmo.embeddings)
    if words is not None:
        words.word_embeddings.weight[0] = 0.0
    if characters is not None:
        characters.character_embeddings.weight[0] = 0.0
    if isinstance(model.softmax, ElmoSoftmax):
        model.softmax.weight[model.softmax.excluded_ids] = 0.0


def fields_of(tokenizer: ElmoTokenizer) -> dict[str, int]:
    """Fields of [`ElmoConfig`] that follow from a tokenizer."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "mask_token_id")
    fields = {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}
    if tokenizer.pos_tag_set is not None:
        fields["num_pos_tags"] = len(tokenizer.pos_tag_set)
    if tokenizer.character_vocabulary is not None:
        fields["num_characters"] = tokenizer.num_characters
    return fields


def predictable_words(config: ElmoConfig) -> int:
    """Number of words with a probability: all but padding and mask."""
    return config.vocab_size - len({config.pad_token_id, config.mask_token_id} - {None})


def vocabulary_digest(tokenizer: ElmoTokenizer) -> str:
    """SHA-256 of the words in the order of their ids."""
    words = sorted(tokenizer.get_vocab().items(), key=itemgetter(1))
    return hashlib.sha256("\n".join(word for word, _ in words).encode()).hexdigest()


def open_text(settings: PretrainingSettings, sources: list[str], split: str) -> Corpus:
    """Open the corpus in `sources` with the reading options of the run; errors as in `open_corpus`."""
    return open_corpus(
        sources,
        text_column=settings.text_column,
        split=split,
        streaming=settings.streaming,
        encoding=settings.encoding,
        undecodable=settings.undecodable,
        blank_lines=settings.blank_lines,
        pos_column=settings.pos_column,
        pos_separator=settings.pos_separator,
    )


def open_streams(
    settings: PretrainingSettings,
    tokenizer: ElmoTokenizer,
    process_index: int,
    num_processes: int,
    *,
    input_names: Container[str] = ("input_ids", "character_ids"),
) -> SentenceStreams:
    """Open the batches of one process, with the inputs of a word layer (`input_names`)."""
    return SentenceStreams(
        open_text(settings, settings.train_data, settings.split),
        tokenizer,
        settings.rows,
        settings.unroll_steps,
        seed=settings.seed,
        process_index=process_index,
        num_processes=num_processes,
        epochs=settings.epochs,
        shuffle=settings.shuffle,
        shuffle_window=settings.shuffle_window,
        pre_tokenization=settings.pre_tokenization,
        sentence_independent=settings.sentence_independent,
        character_ids="character_ids" in input_names,
        pos_tag_ids="pos_tag_ids" in input_names,
    )


def tell_of_cut_words(settings: PretrainingSettings, tokenizer: ElmoTokenizer) -> None:
    """Warn of words in the first sentences of the training text that are too long for the model and are truncated."""
    cut, words_of = CutWords(tokenizer.spelling), line_splitter(tokenizer, settings.pre_tokenization)
    for sentence in islice(open_text(settings, settings.train_data, settings.split), SENTENCES_LOOKED_AT):
        cut.look(words_of(sentence))
    cut.tell(f" of the first {SENTENCES_LOOKED_AT:,} sentences")


def expected_steps(settings: PretrainingSettings, num_processes: int) -> int | None:
    """Expected steps of the run, from `max_steps` and the counts next to the vocabulary; `None` if neither is known."""
    expected = None
    if settings.vocabulary is not None and counts_path(settings.vocabulary).exists():
        counted = Vocabulary.load(settings.vocabulary)
        expected = steps_of(settings, counted.running_words, counted.sentences, num_processes)
    return min((steps for steps in (settings.max_steps, expected) if steps is not None), default=None)


def steps_of(settings: PretrainingSettings, words: int, sentences: int, num_processes: int) -> int:
    """Expected steps of all epochs of a text.

    A row of a batch is a full unroll of a running stream, or one sentence with `sentence_independent`. Sentences longer
    than an unroll add a few steps.
    """
    rows = (words + sentences) / settings.unroll_steps
    if settings.sentence_independent:
        rows = max(rows, sentences)
    return math.ceil(settings.epochs * rows / (num_processes * settings.rows * settings.gradient_accumulation_steps))


def counted_steps(settings: PretrainingSettings, tokenizer: ElmoTokenizer, num_processes: int) -> int:
    """Count the steps of the run by reading its whole text, with a progress bar.

    Raises:
        ValueError: the text cannot be read; the message names the place.
    """
    split = line_splitter(tokenizer, settings.pre_tokenization)
    words = sentences = 0
    corpus = open_text(settings, settings.train_data, settings.split)
    for sentence in tqdm(corpus, desc="counting train_data", unit=" sentences", leave=False, file=sys.stderr):
        words += len(split(sentence))
        sentences += 1
    return steps_of(settings, words, sentences, num_processes)


def held_out_perplexity(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    settings: PretrainingSettings,
    *,
    words: int | None,
    process_index: int,
    num_processes: int,
    bar: bool = False,
) -> TextScore:
    """Score one process's share of the held-out text: every n-th sentence. The shares of all processes add up.

    With one process the result equals that of `elmo-hf perplexity`.

    Args:
        words: read about this many words of the text, whole sentences from its beginning; `None` for all.
        bar: show a progress bar.
    """
    assert settings.held_out_data is not None  # checked by the settings
    corpus = open_text(settings, settings.held_out_data, settings.held_out_split)

    def share() -> Iterator[Sentence]:
        return islice(limited(corpus, words), process_index, None, num_processes)

    sentences = share()
    if bar:
        known = sum(1 for _ in share())
        sentences = iter(tqdm(sentences, desc="held_out_data", total=known, unit=" sentences", file=sys.stderr))
    carry_state, rule = not settings.sentence_independent, settings.pre_tokenization
    scores = score_sentences(model, tokenizer, sentences, carry_state=carry_state, pre_tokenization=rule)
    return TextScore.of(scores)


def limited(sentences: Corpus, words: int | None) -> Iterator[Sentence]:
    """Yield sentences up to `words` words in total, counted by whitespace for texts."""
    words_of = word_splitter("whitespace")
    seen = 0
    for sentence in sentences:
        if words is not None and seen >= words:
            return
        seen += len(words_of(sentence))
        yield sentence
