"""`embed_corpus` on the machines of a Ray cluster, by Ray Data.

Each file of the input is a separate corpus. One worker cuts it into shards and stores the plan next to the output; then
the workers share the shards of all files. A shard's file is named by its place in the input and appears only when
complete. So a shard that is embedded again after the loss of its worker is there once, and a later call continues with
the missing shards.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.stored_files import StoredFile, matching_files
from elmo_hf.inference.loading import Name, named

from .output import INDEX, UNFINISHED, OutputConflictError, check_settings, foreign
from .plan import Plan, Shard, ShardReader, plan_shards
from .run import CorpusEmbedding, fingerprint
from .shard_embedding import ShardEmbedder, WorkerOptions
from .stores import Folder, LocalCopies

PLANS = "_plans"
# The options of [`open_corpus`] that `embed_by_ray` takes, and their defaults.
READING: dict[str, Any] = {
    **dict.fromkeys(("id_column", "pos_column", "pos_separator")),
    "text_column": "text",
    "encoding": "utf-8",
    "undecodable": "refuse",
}
# Retries of a shard whose worker is killed: by Ray's memory monitor or the kernel, or with its machine.
_RETRIES = 3
_MOST_BLOCKS = 10_000


class PartlyEmbeddedError(ValueError):
    """Some files or shards could not be embedded; the message names them, and the others are done."""


@dataclass(frozen=True)
class Job:
    """Job of every worker.

    Attributes:
        output: folder or address.
        vectors: the options of the vectors, and the model.
        reading: options of [`open_corpus`].
        shard_words: approximate words of a shard.
        fingerprint: digest of the model, from the first process.
    """

    output: str
    vectors: WorkerOptions
    reading: dict[str, Any]
    shard_words: int
    fingerprint: str = ""

    def open(self) -> ShardEmbedder:
        """Load the model."""
        is_tagged = self.reading.get("pos_column") or self.reading.get("pos_separator")
        return self.vectors.open(None if is_tagged else "pos_column or pos_separator, where the input has them")

    def settings(self) -> dict[str, Any]:
        """Settings that determine the vectors, up to rounding, and the shards of the output."""
        kept = ("layers", "boundaries", "dtype", "int8", "pre_tokenization")
        chosen = {name: getattr(self.vectors, name) for name in kept} | self.reading
        chosen |= {"shard_words": self.shard_words, "fingerprint": self.fingerprint}
        return json.loads(json.dumps({"engine": "ray", **chosen, "model_dtype": str(self.vectors.model_dtype)}))


def embed_by_ray(
    sources: Sequence[str],
    output: str | os.PathLike[str],
    model: Name | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0,
    shard_words: int = 100_000,
    overwrite: bool = False,
    device: str | None = None,
    progress: bool | None = None,
    **options: Any,
) -> CorpusEmbedding:
    """Run [`embed_corpus`], to Parquet, on the workers of a Ray cluster.

    The columns are `index`, the number of the sentence in its file; `id`, from the column or else `<file>:<index>`;
    `words`; `vectors`. A file that cannot be read, or a shard whose workers are killed repeatedly, is left out and
    named at the end; the same call tries the missing ones again. A killed worker loses only the work on its shard.

    Args:
        sources: paths, globs and addresses for fsspec, such as `s3://bucket/*.jsonl.gz`, available on every machine.
        output: folder or address, available on every machine.
        model: folder or name, available on every machine.
        address: address of the cluster; by default `$RAY_ADDRESS`, or a new cluster on this machine.
        workers: maximum number of workers; by default one for each CPU, or GPU, of the cluster at the beginning.
        gpus: GPUs of each worker, also a fraction; 0 for a CPU.
        shard_words, overwrite, device, progress: as in [`embed_corpus`].
        options: further options of [`embed_corpus`]: layers, boundaries, dtype, text_column, id_column, pos_column,
            pos_separator, pre_tokenization, encoding, undecodable, batch_words, chunk_words, model_dtype, int8,
            word_cache_megabytes.

    Raises:
        PartlyEmbeddedError: a `ValueError`; the message names the missing files and shards.
        OutputConflictError: a `ValueError`; the output was begun with other settings or input, or is something else.
        FileNotFoundError: no such input.
        ImportError: Ray is missing.
    """
    began = time.monotonic()
    ray = _import_ray()
    reading = {name: options.pop(name, default) for name, default in READING.items()}
    at_least_one(shard_words=shard_words, workers=workers)
    name = named(model)
    place_of_model = os.path.abspath(name) if os.path.isdir(name) else os.fspath(name)
    vectors = WorkerOptions(place_of_model, device=device or ("cuda" if gpus else "cpu"), **options)
    job = Job(
        os.fspath(output) if "://" in os.fspath(output) else os.path.abspath(output), vectors, reading, shard_words
    )
    files = matching_files([os.path.abspath(source) if "://" not in source else source for source in sources])
    opened = replace(job, vectors=replace(vectors, device="cpu")).open()
    vectors = replace(vectors, pre_tokenization=opened.pre_tokenization)
    job = replace(job, vectors=vectors, fingerprint=fingerprint(opened.embedder))
    del opened
    place = _Place(Folder(job.output), Folder(f"{job.output}/{PLANS}"))
    place.begin(job.settings(), files, overwrite)
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    try:
        cluster = _Cluster(ray, gpus, workers)
        errors = cluster.plan(job, place, files)
        plans = place.plans(files)
        missing = place.missing(plans)
        began_reading = time.monotonic()
        total = sum(shard.words for _, plan in plans for shard in plan.shards)
        left = sum(item.shard.words for item in missing)
        # `disable=None` is tqdm's word for "unless at a terminal".
        disable = None if progress is None else not progress
        with tqdm(total=total, initial=total - left, unit=" words", unit_scale=True, disable=disable) as bar:
            errors += cluster.embed(job, place, plans, bar.update)
        seconds = time.monotonic() - began_reading
    finally:
        if started:
            ray.shutdown()
    if errors:
        listed = "\n".join(sorted(error.split("\n")[0] for error in errors)[:20])
        raise PartlyEmbeddedError(
            f"{job.output}: {len(place.missing(plans))} shards and {len(files) - len(plans)} files are missing, all "
            f"others are done. The same command again tries these:\n{listed}"
        )
    sentences = sum(plan.sentences for _, plan in plans)
    place.finish(job.settings(), plans)
    return CorpusEmbedding(
        Path(job.output),
        sentences,
        total,
        sum(len(plan.shards) for _, plan in plans),
        len(missing),
        time.monotonic() - began,
        left / seconds if missing else 0.0,
        format="parquet",
    )


def _import_ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise ImportError(f"a Ray cluster needs Ray: pip install 'elmo-hf[ray]' ({error})") from error
    return ray


@dataclass(frozen=True)
class Item:
    """A shard of a file.

    Attributes:
        file, shard: the file and its shard.
    """

    file: StoredFile
    shard: Shard

    @property
    def name(self) -> str:
        """Path of the block's file in the output."""
        return f"embeddings-{_key(self.file)}-{self.shard.number:05}.parquet"

    def to_json(self) -> str:
        return json.dumps([asdict(self.file), asdict(self.shard)])

    @classmethod
    def from_json(cls, text: str) -> "Item":
        file, shard = json.loads(text)
        return cls(StoredFile(**file), Shard(**shard))


def _key(file: StoredFile) -> str:
    """Key of an input file in the names of the output's files."""
    return hashlib.sha256(file.url.encode()).hexdigest()[:12]


Plans = list[tuple[StoredFile, Plan]]


@dataclass(frozen=True)
class _Place:
    """The output and its files."""

    folder: Folder
    plan_folder: Folder

    def begin(self, settings: dict[str, Any], files: list[StoredFile], overwrite: bool) -> None:
        """Prepare the output, or check that it can be continued."""
        names = self.folder.names()
        ours = names & {INDEX, UNFINISHED}
        others = {name for name in names if not name.startswith(".") and name != PLANS} - ours
        if others and not ours:
            raise foreign(self.folder.url, others)
        for name in names:
            if name.endswith(".writing") or (overwrite and (name in ours or name.startswith("embeddings-"))):
                self.folder.remove(name)
        for name in self.plan_folder.names():
            if overwrite or name.endswith(".writing"):
                self.plan_folder.remove(name)
        if not overwrite:
            for name in ours:
                check_settings(self.folder.url, self.folder.json(name)["settings"], settings)
            known = {f"{_key(file)}.json" for file in files}
            for name in self.plan_folder.names() - known:
                url = self.plan_folder.json(name)["file"]["url"]
                raise OutputConflictError(
                    f"{self.folder.url} was begun with {url}, which is not in the input. Give the same input and more, "
                    "choose another output, or ask to overwrite it"
                )
        if overwrite or not ours:
            self.folder.put_json(UNFINISHED, {"settings": settings})

    def plans(self, files: list[StoredFile]) -> Plans:
        """Stored plans, in the order of the files.

        Raises:
            OutputConflictError: the size of a file has changed.
        """
        names, found = self.plan_folder.names(), []
        for file in files:
            if (name := f"{_key(file)}.json") not in names:
                continue
            stored = self.plan_folder.json(name)
            if stored["file"] != asdict(file):
                raise OutputConflictError(
                    f"{self.folder.url} was begun with {file.url} of {stored['file']['size']:,} bytes, and it has "
                    f"{file.size:,}. Give the same input, choose another output, or ask to overwrite it"
                )
            found.append((file, Plan.from_json(stored["shards"])))
        return found

    def missing(self, plans: Plans) -> list[Item]:
        """Shards that are not in the output."""
        names = self.folder.names()
        items = [Item(file, shard) for file, plan in plans for shard in plan.shards]
        return [item for item in items if item.name not in names]

    def finish(self, settings: dict[str, Any], plans: Plans) -> None:
        """Write the index of a complete output."""
        shards = [
            {"file": Item(file, shard).name, "source": file.url, "first": shard.first, "sentences": shard.sentences}
            for file, plan in plans
            for shard in plan.shards
        ]
        self.folder.put_json(INDEX, {"settings": settings, "shards": shards})
        if UNFINISHED in self.folder.names():
            self.folder.remove(UNFINISHED)


@dataclass(frozen=True)
class _Cluster:
    """The workers of one call."""

    ray: Any
    gpus: float
    workers: int | None

    def plan(self, job: Job, place: _Place, files: list[StoredFile]) -> list[str]:
        """Store the plans of all files without one; return the errors of files that cannot be read."""

        def missing() -> list[str]:
            names = place.plan_folder.names()
            return [json.dumps(asdict(file)) for file in files if f"{_key(file)}.json" not in names]

        return self._until_done(missing, _Planner, job, 0, lambda _: None)

    def embed(self, job: Job, place: _Place, plans: Plans, tell: Callable[[int], Any]) -> list[str]:
        """Embed the missing shards; return the errors of those that failed."""

        def missing() -> list[str]:
            return [item.to_json() for item in place.missing(plans)]

        return self._until_done(missing, _Worker, job, self.gpus, tell)

    def _until_done(
        self,
        missing: Callable[[], list[str]],
        worker: "type[_Work]",
        job: Job,
        gpus: float,
        tell: Callable[[int], Any],
    ) -> list[str]:
        """Process the missing items, and repeat those of lost workers; return the errors.

        Ray would retry a lost worker's item on the same worker, which may wait for a machine that never comes back.
        """
        errors: dict[str, str] = {}
        for _ in range(1 + _RETRIES):
            if not (items := [item for item in missing() if item not in errors]):
                return list(errors.values())
            errors |= self._run(items, worker, job, gpus, tell)
        for item in missing():
            errors.setdefault(
                item,
                f"{worker.about(item)}: its worker was killed {_RETRIES + 1} times, probably for lack of memory. Give "
                "fewer workers, smaller --shard_words or more memory",
            )
        return list(errors.values())

    def _run(
        self, items: list[str], worker: "type[_Work]", job: Job, gpus: float, tell: Callable[[int], Any]
    ) -> dict[str, str]:
        """Process each item once; return the errors of failed items, except those of lost workers."""
        data, there = self.ray.data, self.ray.cluster_resources()
        slots = int(there.get("GPU", 0) / gpus) if gpus else int(there.get("CPU", 1))
        size = max(1, min(self.workers or slots, len(items)))
        # The item of a lost worker is left out, and the other workers continue.
        context = data.DataContext.get_current()
        context.max_errored_blocks, context.enable_progress_bars = -1, False
        rows = data.from_items([{"item": item} for item in items], override_num_blocks=min(len(items), _MOST_BLOCKS))
        done = rows.map_batches(
            worker,
            fn_constructor_args=(job,),
            batch_size=1,
            # Fixed size: Ray would not add workers while each one has only a single item.
            compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_gpus=gpus or None,
            max_restarts=-1,
            max_task_retries=0,
        )
        errors = {}
        for row in done.iter_rows():
            tell(row["words"])
            if row["error"]:
                errors[row["item"]] = row["error"]
        return errors


class _Work:
    """Callable for Ray Data that processes one item per row, and returns errors instead of raising them."""

    def __init__(self, job: Job) -> None:
        self.job, self.copies = job, LocalCopies()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        words, errors = [], []
        for text in batch["item"]:
            try:
                words.append(self.do(str(text)))
                errors.append("")
            except Exception as error:  # from a file, a disk, a store, or memory: the other items continue
                words.append(0)
                errors.append(f"{self.about(str(text))}: {type(error).__name__}: {error}")
        return {"item": list(batch["item"]), "words": words, "error": errors}

    def do(self, text: str) -> int:
        raise NotImplementedError

    @staticmethod
    def about(text: str) -> str:
        raise NotImplementedError

    def corpus(self, file: StoredFile) -> Corpus:
        return open_corpus(self.copies.path(file.url), numbered=True, **self.job.reading)


class _Planner(_Work):
    """Worker that reads a file and stores the plan of its shards."""

    def do(self, text: str) -> int:
        file = StoredFile(**json.loads(text))
        plan = plan_shards(self.corpus(file), self.job.shard_words)
        stored = {"file": asdict(file), "shards": plan.to_json()}
        Folder(f"{self.job.output}/{PLANS}").put_json(f"{_key(file)}.json", stored)
        return plan.words

    @staticmethod
    def about(text: str) -> str:
        return json.loads(text)["url"]


class _Worker(_Work):
    """Worker that embeds a shard and stores its file."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._embedder: ShardEmbedder | None = None
        self._reading: tuple[StoredFile, ShardReader] | None = None

    def do(self, text: str) -> int:
        item, folder = Item.from_json(text), Folder(self.job.output)
        records = [
            replace(record, identifier=record.identifier or f"{item.file.url}:{item.shard.first + number}")
            for number, record in enumerate(self._records(item))
        ]
        with tempfile.TemporaryDirectory(prefix="elmo_hf_") as temporary:
            path = Path(temporary) / item.name
            for _ in self._opened().write(item.shard, records, path, "parquet"):
                pass
            folder.put(path, item.name)
        return item.shard.words

    @staticmethod
    def about(text: str) -> str:
        item = Item.from_json(text)
        return f"{item.file.url}, from sentence {item.shard.first} on ({item.name})"

    def _records(self, item: Item) -> list[Record]:
        """Sentences of a shard; the file stays open for its next shard."""
        if self._reading is None or self._reading[0] != item.file:
            if self._reading is not None:
                self._reading[1].close()
            self._reading = None
            self._reading = item.file, ShardReader(self.corpus(item.file))
        return self._reading[1].read(item.shard)

    def _opened(self) -> ShardEmbedder:
        if self._embedder is None:
            opened = self.job.open()
            if fingerprint(opened.embedder) != self.job.fingerprint:
                raise ValueError(
                    f"{self.job.vectors.model} on this machine is another model than where the command was given: put "
                    "the same folder on every machine"
                )
            self._embedder = opened
        return self._embedder
