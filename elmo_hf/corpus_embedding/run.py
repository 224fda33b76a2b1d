"""Whole corpora to files of contextual vectors: `embed_corpus`."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from elmo_hf.atomic import appearing
from elmo_hf.checks import at_least_one
from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.table_shards import import_pyarrow
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.corpus.word_encoder import RuleNotice, line_splitter
from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.inference.embedding import Embedder, Layers, open_embedder
from elmo_hf.inference.loading import Name, named
from elmo_hf.inference.quantization import quantize
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.pos_tags import PosTags
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .carried import ShardStates
from .output import Output, format_of_output
from .plan import Plan, Shard, ShardReader, plan_shards
from .processes import Processes
from .sentence_keys import SentenceKeys
from .shard_embedding import DTYPES, ShardEmbedder, cache_of, check_stored
from .writers import IDENTIFIERS, Format, text_of


@dataclass(frozen=True)
class CorpusEmbedding:
    """Summary of a call of `embed_corpus`.

    Attributes:
        output: path of the vectors.
        sentences, words: sentences and words of the corpus, without boundaries.
        shards: number of shards.
        new_shards: number of shards written by this call.
        seconds: time of the call, without loading the model.
        words_per_second: speed of all processes over the new shards; 0 without new shards.
        is_first_process: True in the process that should print the summary.
        format: format of the output.
        has_sentence_keys: True if the datasets of HDF5 are named by their sentences.
    """

    output: Path
    sentences: int
    words: int
    shards: int
    new_shards: int
    seconds: float
    words_per_second: float
    is_first_process: bool = True
    format: Format | None = None
    has_sentence_keys: bool = False

    def line(self) -> str:
        """Summary in one line."""
        counts = f"{self.output}: {self.sentences:,} sentences, {self.words:,} words"
        if not self.new_shards:
            return f"{counts}; complete already, nothing was left to do"
        return f"{counts}; {self.words_per_second:,.0f} words/s over {self.seconds:,.1f} s"

    def reading(self) -> str:
        """Line of Python that reads the vectors of a sentence, the first one if sentences are numbered."""
        kind = format_of_output(self.output, self.format)
        if kind == "hdf5":
            name = "the sentence's words" if self.has_sentence_keys else "0"
            return f'h5py.File({str(self.output)!r})["{name}"][...]'
        if kind == "parquet":
            return f"pandas.read_parquet({str(self.output)!r}).vectors[0]"
        first = next(iter(sorted(self.output.glob("embeddings-*.safetensors"))), self.output)
        return f'safetensors.numpy.load_file({str(first)!r})["0"]'


def embed_corpus(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    layers: Layers = "mix",
    boundaries: bool = False,
    format: Format | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    text_column: str = "text",
    id_column: str | None = None,
    pos_column: str | None = None,
    pos_separator: str | None = None,
    pre_tokenization: str | None = None,
    encoding: str = "utf-8",
    undecodable: Literal["refuse", "replace"] = "refuse",
    batch_words: int | None = None,
    shard_words: int = 100_000,
    chunk_words: int = 2048,
    carry_state: bool = False,
    rows: int = 1,
    warm_up: int = 0,
    sentence_index: bool = True,
    use_sentence_keys: bool = False,
    overwrite: bool = False,
    device: torch.device | str | None = None,
    model_dtype: torch.dtype | None = None,
    int8: bool = False,
    word_cache_megabytes: float | None = 256.0,
    progress: bool | None = None,
) -> CorpusEmbedding:
    """Write the contextual vectors of all sentences of some files.

    The input is read once to plan the shards, which finds all invalid lines, and then shard by shard. A shard appears
    only when complete, so the same call continues an interrupted one. Ctrl-C also keeps the finished sentences of the
    current shard. Sentences are read independently, as in `embed`, unless `carry_state` is set; sentences of similar
    length are batched, and written in order. A sentence of more than `chunk_words` words is read in chunks, as in
    `embed_document`; the result is exact.

    Several processes (torchrun, `accelerate launch`) share the shards; the vectors equal those of one process.
    `carry_state` connects each shard to the next and needs a single process.

    Memory does not depend on the number of sentences: it holds the model, the vectors of eight batches, and the text of
    a shard. Only `sentence_index` needs the whole text at once, at the end.

    Args:
        sources: paths or globs of text with one sentence per line or JSON lines, both also compressed, or of Parquet.
        output: HDF5: a file with one dataset per sentence, named by its number from 0, as in bilm-tf and AllenNLP:
            (words, 2P), or (layers, words, 2P) for all layers. Otherwise a folder: Parquet with one row per sentence
            (index, id, words, vectors), or safetensors with one tensor per sentence, named by its number.
        model, tokenizer, layers, boundaries: as in `embed`.
        format: `"hdf5"`, `"parquet"` or `"safetensors"`; by default from the suffix of the output's name.
        dtype: dtype of the vectors in the files.
        text_column: column of JSON lines and Parquet that holds a text, or a list of words, which stays as it is.
        id_column: column with names of the sentences: `id` in Parquet, the dataset `ids` in HDF5, and a JSON list `ids`
            in the metadata of safetensors.
        pos_column: column of the words' POS tags, for a model that reads them: lists, or texts of tags; null or
            an empty text for a word without one. A text in `text_column` is then split at whitespace. Other models
            ignore this column.
        pos_separator: instead of `pos_column`, the separator between each word and its POS tag in the text, for
            instance `_` in `the_DET`; a model without POS tags reads only the words.
        pre_tokenization: rule that splits texts into words: `"whitespace"`, or `"ptb"` for raw text; by default the
            rule for lines of the model's corpus. If the tokenizer's rule for raw text differs on this input, a log
            record tells once which rule was used.
        encoding, undecodable: encoding of text and JSON lines; invalid lines are refused, or their bytes replaced.
        batch_words: words per batch, including padding; by default as in `embed`.
        shard_words: approximate words of a shard: the most work that an interruption can lose.
        chunk_words: longer sentences are read in chunks of this many words.
        carry_state, rows, warm_up: as in `embed`. Sentences longer than `chunk_words` also carry their state.
        sentence_index: HDF5: also write AllenNLP's `sentence_to_index`.
        use_sentence_keys: HDF5: name each dataset by its sentence, like AllenNLP's option, instead of its number and
            `sentence_to_index`. All texts are then in memory, and no sentence may occur twice.
        overwrite: replace an existing output, unless the folder belongs to something else.
        device, model_dtype: device and dtype of a model given as a folder; by default the process's GPU if there is
            one, and the stored dtype.
        int8: quantize a model given as a folder to 8-bit integers (`quantize`).
        word_cache_megabytes: on a CPU, size of the cache of word vectors within a shard
            (`ElmoModel.cache_word_vectors`), for a character model given as a folder; `None` for none.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        OutputConflictError: a `ValueError`; the output was begun with other settings or input, or is something else.
        ValueError: an invalid option; a file, line or record that cannot be read, which the message names; parts of
            speech that do not fit the words or the model.
        FileNotFoundError: no such input.
        OSError: the output cannot be written, for instance because the disk is full. Complete shards stay.
        ImportError: pyarrow is missing and the output or an input is Parquet.
    """
    began = time.monotonic()
    model = named(model)
    kind = format_of_output(output, format)
    _check_options(dtype, pre_tokenization, shard_words, chunk_words, kind, use_sentence_keys)
    reading: dict[str, Any] = {
        "text_column": text_column,
        "id_column": id_column,
        "pos_column": pos_column,
        "pos_separator": pos_separator,
        "encoding": encoding,
        "undecodable": undecodable,
    }
    corpus = open_corpus(sources, numbered=True, **reading)
    if corpus.is_tagged and pre_tokenization == "ptb":
        raise ValueError(
            f"pre_tokenization={pre_tokenization!r} for text with POS tags, which is split into words: leave "
            "pre_tokenization out"
        )
    processes = Processes.from_environment()
    place = Output(Path(output), kind)
    try:
        is_given = not isinstance(model, str | os.PathLike)
        if device is None and torch.cuda.is_available() and not is_given:
            device = f"cuda:{processes.local_rank % torch.cuda.device_count()}"
        embedder = open_embedder(
            model, tokenizer, layers, boundaries, batch_words, 8, device, model_dtype, DTYPES[dtype]
        )
        if not corpus.is_tagged:
            embedder.refuse_without_pos_tags("pos_column or pos_separator, where the input has them")
        if int8 and is_given:
            raise ValueError(
                "int8=True needs a model given as a folder: this one is already loaded, call quantize(model)"
            )
        if int8:
            quantize(embedder.model)
        rule = pre_tokenization or embedder.tokenizer.corpus_pre_tokenization
        carried = CarriedState.on_request(embedder.model.config, carry_state, rows, warm_up)
        if carried is not None and processes.size > 1:
            raise ValueError(
                f"carry_state with {processes.size} processes: a sentence cannot be read before the previous one. "
                "Start one process; more rows read more sentences at a time"
            )
        # Settings that change the vectors by more than rounding.
        settings = {
            "format": kind,
            "layers": layers,
            "boundaries": boundaries,
            "dtype": dtype,
            **reading,
            "pre_tokenization": rule,
            "shard_words": shard_words,
        }
        # Left out if off, as in outputs of older versions.
        if carried is not None:
            settings |= {"carry_state": True, "rows": rows, "warm_up": warm_up}
        if use_sentence_keys:
            settings |= {"use_sentence_keys": True}
        cache = None if is_given else cache_of(embedder, word_cache_megabytes)
        shards = ShardEmbedder(embedder, rule, chunk_words, cache, carried)
        run = _Run(corpus, processes, place, shards, settings)
        work = run.begin(shard_words, overwrite)
        began_reading = time.monotonic()
        run.write(work, progress)
        seconds = time.monotonic() - began_reading
        words = run.finish(work, sentence_index, use_sentence_keys)
        return CorpusEmbedding(
            place.target,
            work.plan.sentences,
            words,
            len(work.plan.shards),
            len(work.missing),
            time.monotonic() - began,
            sum(shard.words for shard in work.missing) / seconds if work.missing else 0.0,
            processes.is_first,
            kind,
            use_sentence_keys,
        )
    finally:
        place.release()
        processes.leave()


def _check_options(
    dtype: str, pre_tokenization: str | None, shard_words: int, chunk_words: int, kind: Format, use_sentence_keys: bool
) -> None:
    check_stored(dtype, pre_tokenization)
    at_least_one(shard_words=shard_words, chunk_words=chunk_words)
    if use_sentence_keys and kind != "hdf5":
        raise ValueError(f"use_sentence_keys with format={kind!r}: it names the datasets of HDF5; leave it out")
    if kind == "parquet":
        import_pyarrow()  # now, and not when the first shard is written


@dataclass(frozen=True)
class _Work:
    """Work of a command, the same in all processes.

    Attributes:
        plan: plan of all shards.
        missing: shards that are not yet written.
        is_complete: True if the output is complete already.
        settings: settings recorded in the output.
    """

    plan: Plan
    missing: list[Shard]
    is_complete: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Run:
    """Steps of one command in one process, in order."""

    corpus: Corpus
    processes: Processes
    output: Output
    shard_embedder: ShardEmbedder
    settings: dict[str, Any]

    def begin(self, shard_words: int, overwrite: bool) -> _Work:
        """Plan the shards from the whole corpus, and find the missing ones."""
        return self.processes.from_first(lambda: self._planned(shard_words, overwrite))

    def _planned(self, shard_words: int, overwrite: bool) -> _Work:
        embedder = self.shard_embedder.embedder
        config = embedder.model.config
        identity = {
            "input_files": [shard.identity for shard in self.corpus.shards],
            "precision": config.weight_precision or str(embedder.model.dtype).removeprefix("torch."),
            "model": fingerprint(embedder),
        }
        notice = RuleNotice(embedder.tokenizer, self.settings["pre_tokenization"])
        checks = [*_checks_of_tags(embedder), lambda record: notice.look(record.sentence)]
        if self.settings.get("use_sentence_keys"):
            checks.append(_check_of_keys(self.settings["id_column"] is not None))
        cut, split = CutWords(embedder.tokenizer.spelling), line_splitter(embedder.tokenizer, notice.used)
        if config.character_filters:
            checks.append(lambda record: cut.look(split(record.sentence)))
        plan = plan_shards(self.corpus, shard_words, checks, self.settings.get("rows", 1))
        cut.tell()
        settings = json.loads(json.dumps({**self.settings, **identity}))
        is_complete = self.output.begin(settings, plan, overwrite)
        return _Work(plan, [] if is_complete else self.output.missing(plan), is_complete, settings)

    def write(self, work: _Work, progress: bool | None) -> None:
        """Write this process's share of the missing shards, and wait for all processes."""
        error: Exception | None = None
        reader = ShardReader(self.corpus)
        carried = self.shard_embedder.carried
        states = None if carried is None else ShardStates(carried, self.output, work.plan)
        with _Progress(work, self.output, self.processes, progress) as bar:
            try:
                for shard in work.missing[self.processes.rank :: self.processes.size]:
                    path = self.output.path(shard, work.plan)
                    if states is not None and shard.number > 0:
                        states.begin(shard)
                    elif states is not None:
                        first = itertools.islice(self.corpus.records(), self.settings["warm_up"])
                        self.shard_embedder.warm_up(record for _, record in first)
                    # Carried state is saved only after whole shards.
                    part = self.output.part(shard, work.plan) if states is None else None
                    with appearing(path) as aside:
                        writing = self.shard_embedder.write(
                            shard, reader.read(shard), aside, self.output.file_format, part
                        )
                        with closing(writing):
                            for words in writing:
                                bar.add(words)
                        if states is not None:
                            states.end(shard)
                    if part is not None:
                        part.remove()
                    bar.look_around()
            except Exception as raised:
                error = raised
            finally:
                reader.close()
            self.processes.check(error)

    def finish(self, work: _Work, sentence_index: bool, use_sentence_keys: bool) -> int:
        """Complete the output; return its number of words."""

        def complete() -> int:
            if work.is_complete:
                return self.output.words()
            return self.output.finish(work.settings, work.plan, sentence_index, use_sentence_keys)

        return self.processes.from_first(complete)


def fingerprint(embedder: Embedder) -> str:
    """Digest of everything that determines a model's vectors: configuration, weights and tokenizer."""
    model, tokenizer = embedder.model, embedder.tokenizer
    digest = hashlib.sha256()
    config = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype"):
        config.pop(name, None)
    spelling: list[Any] = [
        tokenizer.max_characters_per_word,
        tokenizer.special_boundary_words,
        embedder.before,
        embedder.after,
        tokenizer.character_vocabulary,
        sorted(tokenizer.get_vocab().items()) if model.config.word_embedding_size else None,
    ]
    if model.config.num_pos_tags:
        spelling.append(tokenizer.pos_tag_set)
    if tokenizer.tokens_to_add:
        spelling.append(tokenizer.tokens_to_add)
    digest.update(json.dumps([config, spelling], sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _checks_of_tags(embedder: Embedder) -> list[Callable[[Record], None]]:
    """Checks of the POS tags of a record; none for a model without POS tags."""
    if not embedder.model.config.num_pos_tags or not embedder.tokenizer.pos_tag_set:
        return []
    known = PosTags(embedder.tokenizer.pos_tag_set)

    def check(record: Record) -> None:
        sentence = record.sentence
        assert isinstance(sentence, TaggedSentence)
        try:
            known.ids_of(sentence.tags, sentence.words)
        except ValueError as error:
            raise ValueError(f"{record.where}: {error}") from None

    return [check]


def _check_of_keys(has_identifiers: bool) -> Callable[[Record], None]:
    """Check that a sentence can be the name of its dataset."""
    keys = SentenceKeys((IDENTIFIERS,) if has_identifiers else ())

    def check(record: Record) -> None:
        keys.add(text_of(record.sentence), record.where)

    return check


class _Progress:
    """Progress bar of words in the first process, which also counts the shards of other processes."""

    def __init__(self, work: _Work, output: Output, processes: Processes, show: bool | None) -> None:
        self._work, self._output = work, output
        # `disable=None` means for tqdm: only at a terminal.
        disable = True if not processes.is_first else (None if show is None else not show)
        self._is_alone = processes.size == 1
        self._initial = work.plan.words - sum(shard.words for shard in work.missing)
        self._bar = tqdm(total=work.plan.words, initial=self._initial, unit=" words", unit_scale=True, disable=disable)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, words: int) -> None:
        self._bar.update(words)

    def look_around(self) -> None:
        """Count the shards completed by other processes."""
        if self._is_alone or self._bar.disable:
            return
        written = (shard for shard in self._work.missing if self._output.path(shard, self._work.plan).exists())
        there = sum(shard.words for shard in written)
        self._bar.update(max(0, self._initial + there - self._bar.n))
