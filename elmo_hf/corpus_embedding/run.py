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
from elmo_hf.tokenizer.pretokenization import check_pre_tokenization
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .carried import ShardStates
from .column_batches import DTYPES
from .output import Output, format_of_output
from .plan import Plan, Shard, ShardReader, plan_shards
from .processes import Processes
from .sentence_keys import SentenceKeys
from .shard_embedding import ShardEmbedder
from .writers import IDENTIFIERS, Format, text_of


@dataclass(frozen=True)
class CorpusEmbedding:
    """What `embed_corpus` has done.

    Attributes:
        output: where the vectors are.
        sentences, words: of the corpus, boundaries left out.
        shards: how many there are.
        new_shards: how many of them this call has written; the others were there.
        seconds: that it took, loading left out.
        words_per_second: of the new shards, of all processes; 0 if there are none.
        is_first_process: whether this is the process that should tell.
        format: of the output.
        has_sentence_keys: whether each dataset of HDF5 is named by its sentence.
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
        """For people."""
        counts = f"{self.output}: {self.sentences:,} sentences, {self.words:,} words"
        if not self.new_shards:
            return f"{counts}; complete already, nothing was left to do"
        return f"{counts}; {self.words_per_second:,.0f} words/s over {self.seconds:,.1f} s"

    def reading(self) -> str:
        """A line of Python that reads the vectors of a sentence back, the first where they are numbered."""
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

    The input is read once to plan the shards, which finds every line that cannot be read, and then shard by shard.
    Every shard appears complete or not at all, so the same call again continues where one was interrupted; Ctrl-C keeps
    what a shard has so far, but for the sentences that are being read together. Each sentence is read by itself, as by
    `embed`, unless `carry_state` asks for another way; sentences of similar length are read together, and written in
    their order. A sentence of more than `chunk_words` words is read by chunks, as by `embed_document`, which is exact.

    Several processes (torchrun, `accelerate launch`) share the shards out; the vectors are those of one process.
    Carried state leads from each shard to the next, and needs a single process.

    Memory does not depend on the number of sentences: it is that of the model, of a window of eight batches' vectors,
    and of a shard's text. Only `sentence_index` needs all text at once, in the end.

    Args:
        sources: paths or globs of text, one sentence a line, JSON lines, both also compressed, and Parquet.
        output: HDF5: a file with a dataset for each sentence, named by its number from 0, as bilm-tf and AllenNLP write
            it: (words, 2P), or (layers, words, 2P) for all layers. Otherwise a folder: Parquet with a row for each
            sentence (index, id, words, vectors), or safetensors with a tensor for each, named by its number.
        model, tokenizer, layers, boundaries: as of `embed`.
        format: `"hdf5"`, `"parquet"` or `"safetensors"`; by default what the output's name ends in.
        dtype: of the vectors in the files.
        text_column: column of JSON lines and Parquet that holds a text, or a list of words, which stays as it is.
        id_column: column with names of the sentences: `id` in Parquet, the dataset `ids` in HDF5, and a JSON list `ids`
            in the metadata of safetensors.
        pos_column: for a model that reads parts of speech, the column of those of each word: lists, or texts of them;
            null or an empty text for a word without one. A text in `text_column` is split at whitespace then. Other
            models ignore them.
        pos_separator: in place of `pos_column`, what stands between each word and its part of speech in the text, as
            `_` in `the_DET`; a model that reads none reads the words without them.
        pre_tokenization: how texts become words: at `"whitespace"`, or by rules for raw text, `"ptb"`; by default as
            the lines of the model's corpus did. Where the tokenizer's rule for raw text would have read other words, a
            log record says once which one was used.
        encoding, undecodable: of text and JSON lines; lines that are not valid are refused, or their bytes replaced.
        batch_words: words read at a time, padding included; by default as of `embed`.
        shard_words: words of a shard, about; what an interruption costs at most.
        chunk_words: longer sentences are read by chunks of so many words.
        carry_state, rows, warm_up: as of `embed`. Longer sentences than `chunk_words` carry their state too.
        sentence_index: HDF5: also write AllenNLP's `sentence_to_index`.
        use_sentence_keys: HDF5: name each dataset by its sentence, as AllenNLP's option of that name, in place of its
            number and `sentence_to_index`. The sentences' texts are in memory then, and none may stand twice.
        overwrite: start anew whatever is there, unless it is the folder of something else.
        device, model_dtype: of a model that is given as a folder; by default the process's GPU if there is one, and as
            stored.
        int8: compute in 8-bit integers, as `quantize` makes them of a model that is given as a folder.
        word_cache_megabytes: on a processor, of words' vectors kept within a shard (`ElmoModel.cache_word_vectors`),
            by a model that is given as a folder and reads characters; `None` for none.
        progress: show a progress bar; by default where the output is a terminal.

    Raises:
        OutputConflictError: a `ValueError`; the output was begun with other settings or input, or is something else.
        ValueError: an impossible option; a file, line or record that cannot be read, which the message names; parts of
            speech that do not fit the words or the model.
        FileNotFoundError: no such input.
        OSError: the output cannot be written, as on a full disk. Complete shards stay.
        ImportError: Parquet, and pyarrow is missing.
    """
    began = time.monotonic()
    model = named(model)
    kind = format_of_output(output, format)
    _check_options(dtype, pre_tokenization, shard_words, chunk_words, kind, use_sentence_keys)
    corpus = open_corpus(
        sources,
        text_column=text_column,
        id_column=id_column,
        pos_column=pos_column,
        pos_separator=pos_separator,
        encoding=encoding,
        undecodable=undecodable,
        numbered=True,
    )
    if corpus.is_tagged and pre_tokenization == "ptb":
        raise ValueError(
            f"pre_tokenization={pre_tokenization!r} with parts of speech beside the words: these are words already, "
            "leave it out"
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
            raise ValueError("int8=True is for a model given as a folder: this one is loaded, call quantize(model)")
        if int8:
            quantize(embedder.model)
        rule = pre_tokenization or embedder.tokenizer.corpus_pre_tokenization
        carried = CarriedState.on_request(embedder.model.config, carry_state, rows, warm_up)
        if carried is not None and processes.size > 1:
            raise ValueError(
                f"carry_state with {processes.size} processes: a sentence cannot be read before the one in front of "
                "it. Start one process; more rows read more sentences at a time"
            )
        # What the vectors depend on beyond rounding; not how they are computed.
        settings = {
            "format": kind,
            "layers": layers,
            "boundaries": boundaries,
            "dtype": dtype,
            "text_column": text_column,
            "id_column": id_column,
            "pos_column": pos_column,
            "pos_separator": pos_separator,
            "pre_tokenization": rule,
            "encoding": encoding,
            "undecodable": undecodable,
            "shard_words": shard_words,
        }
        # Left out where it is off, as in outputs of before there was any.
        if carried is not None:
            settings |= {"carry_state": True, "rows": rows, "warm_up": warm_up}
        if use_sentence_keys:
            settings |= {"use_sentence_keys": True}
        keeps_words = embedder.model.device.type == "cpu" and bool(embedder.model.config.character_filters)
        cache = word_cache_megabytes if keeps_words and not is_given else None
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
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected 'float32' or 'float16'")
    if pre_tokenization is not None:
        check_pre_tokenization(pre_tokenization)
    for name, value in (("shard_words", shard_words), ("chunk_words", chunk_words)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    if use_sentence_keys and kind != "hdf5":
        raise ValueError(f"use_sentence_keys with format={kind!r}: it names the datasets of HDF5; leave it out")
    if kind == "parquet":
        import_pyarrow()  # now, and not when the first shard is written


@dataclass(frozen=True)
class _Work:
    """What there is to do, the same in all processes.

    Attributes:
        plan: all shards.
        missing: those that are not written yet.
        is_complete: whether the output is complete already.
        settings: what the output tells of itself.
    """

    plan: Plan
    missing: list[Shard]
    is_complete: bool
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Run:
    """One command in one process: its steps, in their order."""

    corpus: Corpus
    processes: Processes
    output: Output
    shard_embedder: ShardEmbedder
    settings: dict[str, Any]

    def begin(self, shard_words: int, overwrite: bool) -> _Work:
        """Read the corpus through, and find what an earlier command has left to do."""
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
                    # Carried state is kept behind whole shards alone.
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
        """Complete the output; the number of its words."""

        def complete() -> int:
            if work.is_complete:
                return self.output.words()
            return self.output.finish(work.settings, work.plan, sentence_index, use_sentence_keys)

        return self.processes.from_first(complete)


def fingerprint(embedder: Embedder) -> str:
    """Of all that a model's vectors depend on: configuration, weights, and how the tokenizer spells."""
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
    """What refuses a record with a part of speech that the model does not know; nothing for one that reads none."""
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
    """What refuses a sentence that cannot be the name of its dataset."""
    keys = SentenceKeys((IDENTIFIERS,) if has_identifiers else ())

    def check(record: Record) -> None:
        keys.add(text_of(record.sentence), record.where)

    return check


class _Progress:
    """A bar of words in the first process, which also sees the shards that others complete."""

    def __init__(self, work: _Work, output: Output, processes: Processes, show: bool | None) -> None:
        self._work, self._output = work, output
        # `disable=None` is tqdm's word for "unless at a terminal".
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
        """Count what other processes have completed."""
        if self._is_alone or self._bar.disable:
            return
        written = (shard for shard in self._work.missing if self._output.path(shard, self._work.plan).exists())
        there = sum(shard.words for shard in written)
        self._bar.update(max(0, self._initial + there - self._bar.n))
