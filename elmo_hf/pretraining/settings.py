"""Every option of a pretraining run, in one flat and validated set: the one source of the command line's options.

What is learned, and how, comes from a recipe (`RECIPES`) where an option is left out: bilm-tf's
(`bin/train_elmo.py`), or one for a small corpus. Every other default is bilm-tf's way, but for `reset_states`.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from elmo_hf.model.configuration_elmo import ElmoConfig


# Fields that say where and how often something is written, not what is learnt: a resumed run may change them.
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "held_out_data",
        "held_out_split",
        "held_out_words",
        "evaluate_every",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "trackers",
        "run_name",
        "license",
        "language",
        "stop_after",
        "data_workers",
    }
)

# What a recipe decides, each an option of its own. The small corpus's was found on books of 0.6 to 5 million words
# (docs/pretraining.md).
RECIPES: dict[str, dict[str, Any]] = {
    "bilm-tf": {
        "rows": 128,
        "unroll_steps": 20,
        "num_samples": 8192,
        "dropout": 0.1,
        "optimizer": "adagrad",
        "learning_rate": 0.2,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_gradient_norm": 10.0,
    },
    "small-corpus": {
        "rows": 64,
        "unroll_steps": 40,
        "num_samples": 2048,
        "dropout": 0.0,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_steps": 200,
        "max_gradient_norm": 5.0,
    },
}
DEFAULT_PRESET = "mini"
# Shapes that are trained by another recipe than bilm-tf's, unless `recipe` says otherwise.
RECIPE_OF_PRESET = {"mini": "small-corpus"}
DEFAULT_LEARNING_RATE = {"adagrad": 0.2, "adamw": 1e-3}


def by_recipe(name: str, help: str) -> Any:
    """A dataclass field whose value, where it is left out, the recipe decides; its help says what each recipe does."""
    values = "; ".join(f"{recipe}: {values[name]}" for recipe, values in RECIPES.items())
    return field(default=None, metadata={"help": f"{help} (By recipe; {values}.)"})


def option(default: Any, help: str) -> Any:
    """A dataclass field with its line of help, which the command line shows."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class PretrainingSettings:
    """Options of a pretraining run; see each field's help.

    Raises:
        ValueError: a value that cannot be, or two that contradict each other; the message names the fields.
    """

    # Text
    train_data: list[str] = field(
        metadata={
            "help": "Training text: files or globs (plain text, .gz, .xz, JSON, Parquet), or the name of a data set."
        }
    )
    output_dir: str = field(metadata={"help": "Folder of the run: checkpoints, logs, curves and the final model."})
    vocabulary: str | None = option(
        None,
        "Vocabulary file, one word a line by falling frequency, from `elmo-hf build-vocab`. Optional with "
        "initialize_from, whose vocabulary is kept without it.",
    )
    held_out_data: list[str] | None = field(
        default=None, metadata={"help": "Held-out text, read as train_data, for its perplexity."}
    )
    held_out_words: int | None = option(
        None, "Words of held_out_data read by the evaluations during the run (default: all); the last one reads all."
    )
    text_column: str = option("text", "Column of JSON, Parquet or a data set that holds the sentences.")
    pos_column: str | None = option(
        None,
        "Column of the words' parts of speech, beside lists of words in text_column. A new model reads them with the "
        "words (num_pos_tags); one without them reads the words alone.",
    )
    pos_separator: str | None = option(
        None, "In place of pos_column: what stands in the text between each word and its part of speech: _ in the_DET."
    )
    pos_tag_set: str | None = option(
        None, "File of a new model's parts of speech, one a line (default: those of train_data, which is read for it)."
    )
    split: str = option("train", "Split of train_data when it names a data set.")
    held_out_split: str = option("validation", "Split of held_out_data when it names a data set.")
    streaming: bool = option(
        True, "Read a data set as it comes, also one larger than the disk; otherwise it is fetched first."
    )
    pre_tokenization: Literal["whitespace", "ptb"] = option(
        "whitespace", "How a line becomes words: it is tokenized already, or is raw text (Penn-Treebank-like rules)."
    )
    raw_text_pre_tokenization: Literal["ptb", "whitespace"] | None = option(
        None,
        "How the model's tokenizer splits raw text into words, as in pipelines (default: ptb, or the way of "
        "initialize_from). pre_tokenization, the rule of the lines of files, is recorded beside it.",
    )
    normalize_typography: bool = option(
        True,
        "Let the tokenizer spell typographic quotes, apostrophes and dashes of raw text as the vocabulary does, where "
        "it has no word for them.",
    )
    encoding: str = option("utf-8", "Encoding of text and JSON files.")
    undecodable: Literal["refuse", "skip", "replace"] = option(
        "refuse",
        "Lines that are not valid in the encoding: stop with their place, leave them out, or mark the bytes U+FFFD.",
    )
    blank_lines: Literal["skip", "keep"] = option("skip", "Blank lines: no sentences, or empty ones as in bilm-tf.")
    shuffle: bool = option(True, "Shuffle shards and sentences anew in each epoch and direction.")
    shuffle_window: int = option(2**16, "Sentences shuffled together and held in memory, after the shards.")

    # Model
    preset: str = option(
        None,
        "Shape of a new model: mini (3 million parameters, for a CPU; the default), small, medium, original, 5.5B, "
        "transformer or transformer-words.",
    )
    recipe: Literal["small-corpus", "bilm-tf"] = option(
        None,
        "How it is trained, wherever an option below leaves it open: small-corpus (AdamW; the default of mini) or "
        "bilm-tf (the original program's; the default of all others and of initialize_from).",
    )
    config_overrides: str | None = option(
        None,
        "Fields of the model's configuration that replace the preset's: JSON such as '{\"cell_size\": 512}', or "
        'the path of a JSON file. Words read by their id and not by their characters: \'{"character_filters": [], '
        '"word_embedding_size": 512}\'; with "tie_word_embeddings": true the softmax shares their table, which is then '
        "as wide as projection_size. Without the empty list of filters, ids are joined to characters.",
    )
    initialize_from: str | None = option(
        None, "Start from the weights of this checkpoint folder instead of random ones."
    )
    character_dictionary: str | None = option(
        None,
        "File of characters for a new model that reads Unicode code points by a dictionary of its own, from `elmo-hf "
        "build-characters`; by default it reads bytes.",
    )
    reuse_softmax: bool = option(
        True, "With initialize_from: keep the softmax rows of the words that both vocabularies know."
    )
    new_rows: Literal["mean", "random"] = option(
        "mean", "With initialize_from: softmax rows of new words start as the mean of the known ones, or at random."
    )
    softmax_only_steps: int = option(
        0, "With initialize_from: first learn the softmax alone, for this many steps, the biLM frozen."
    )
    dropout: float = by_recipe(
        "dropout",
        "Dropout of LSTM inputs and of the top layer; of a Transformer at all its places, and of its top layer.",
    )

    # Batches
    rows: int = by_recipe("rows", "Rows of a batch in each process; every row is a running stream of sentences.")
    unroll_steps: int = by_recipe(
        "unroll_steps", "Words of a row in one batch: the length of back-propagation through time."
    )
    sentence_independent: bool = option(
        False,
        "One sentence a row and no carried state, in batches of similar length, instead of running streams. A "
        "Transformer needs it, and unroll_steps is then the longest sentence that is read uncut.",
    )
    reset_states: bool = option(
        True,
        "Forget the carried state of a row whose batch begins with a sentence (about one in fifteen): so the model "
        "learns to begin at zero, as it is later given sentences. bilm-tf never forgets (no_reset_states).",
    )
    gradient_accumulation_steps: int = option(1, "Batches whose gradients make one step.")
    epochs: int = option(10, "Passes over train_data.")
    max_steps: int | None = option(None, "Stop after this many steps, whatever the epochs.")
    max_hours: float | None = option(
        None,
        "Stop after so much time, whatever the epochs, and let the schedule reach its end then. Evaluations along the "
        "way and checkpoints count; the last evaluation comes after. What is learned then depends on the machine's "
        "speed.",
    )
    stop_after: int | None = option(
        None, "Write a checkpoint and leave after this step, to be resumed later; the run stays unfinished."
    )

    # Loss
    loss: Literal["sampled", "full", "adaptive"] = option("sampled", "Softmax that is trained.")
    softmax_cutoffs: list[int] | None = field(
        default=None,
        metadata={
            "help": "Adaptive softmax: the numbers of words, by falling frequency, after which clusters begin "
            "(default: about 1, 5 and 25 hundredths of the vocabulary)."
        },
    )
    num_samples: int = by_recipe(
        "num_samples",
        "Words sampled by the sampled softmax, shared by a batch's direction. Left out, at most half the vocabulary.",
    )

    # Optimizer
    optimizer: Literal["adagrad", "adamw"] = by_recipe("optimizer", "bilm-tf's Adagrad, or AdamW.")
    learning_rate: float = by_recipe(
        "learning_rate", "Learning rate; with another optimizer than the recipe's, 0.2 for Adagrad and 0.001 for AdamW."
    )
    initial_accumulator: float = option(1.0, "Adagrad: first value of the squared gradients' sum.")
    weight_decay: float = option(0.01, "AdamW: decoupled weight decay, of matrices only.")
    adam_beta1: float = option(0.9, "AdamW: decay of the first moment.")
    adam_beta2: float = option(0.999, "AdamW: decay of the second moment.")
    adam_epsilon: float = option(1e-8, "AdamW: epsilon.")
    schedule: Literal["constant", "linear", "cosine", "constant-then-linear", "noam"] = by_recipe(
        "schedule",
        "Learning rate after the warm-up; linear and cosine fall to zero at the run's end, constant-then-linear over "
        "its last fifth; noam falls with the root of the steps. The end is max_hours, max_steps, or that of the "
        "epochs, for which train_data is counted first.",
    )
    warmup_steps: int = by_recipe(
        "warmup_steps",
        "Steps over which the learning rate rises from zero. Left out, at most a tenth of the run where the schedule "
        "knows its end.",
    )
    max_gradient_norm: float = by_recipe("max_gradient_norm", "Bound of the gradients' global norm; 0 for none.")

    # Engine
    precision: Literal["no", "bf16"] = option(
        "no",
        "bf16: autocast matrix products; weights and state stay fp32. The same as no on a processor without "
        "instructions for bfloat16.",
    )
    data_workers: int | None = option(
        None,
        "Processes, beside each that trains, that prepare its batches ahead of time; the batches are the same "
        "(default: 4 for a GPU, none on a CPU).",
    )
    seed: int = option(0, "Seed of the initial weights, the order of the text, the samples and the dropout.")

    # Written along the way
    log_every: int = option(100, "Steps between two records of the loss.")
    evaluate_every: int | None = option(None, "Steps between two held-out evaluations (default: only at the end).")
    checkpoint_every: int = option(1000, "Steps between two checkpoints.")
    keep_checkpoints: int = option(2, "Newest checkpoints kept, beside the one of the best held-out perplexity.")
    trackers: list[str] | None = field(
        default=None, metadata={"help": "Accelerate trackers, for instance tensorboard."}
    )
    run_name: str = option("elmo", "Name of the run for the trackers and the model card.")
    license: str | None = option(None, "Of the model, for its card: an identifier of the Hub, such as apache-2.0.")
    language: list[str] | None = field(
        default=None, metadata={"help": "Of the model, for its card: codes such as en or de."}
    )

    def __post_init__(self) -> None:
        self._left_out = self._fill_in()
        self._check_ranges()
        self._check_agreement()

    def _fill_in(self) -> frozenset[str]:
        """Give the options that were left out their values; which ones may follow the run that is continued."""
        left_out = {name for name in ("preset", "recipe", *RECIPES["bilm-tf"]) if getattr(self, name) is None}
        if "preset" in left_out:
            self.preset = DEFAULT_PRESET
        if "recipe" in left_out:
            by_shape = RECIPE_OF_PRESET.get(self.preset, "bilm-tf") if self.initialize_from is None else "bilm-tf"
            self.recipe = by_shape  # type: ignore[assignment]  # one of the names
        recipe = RECIPES.get(self.recipe, RECIPES["bilm-tf"])  # an unknown name is refused below
        for name in left_out & recipe.keys() - {"learning_rate"}:
            setattr(self, name, recipe[name])
        if "learning_rate" in left_out:
            own = self.optimizer == recipe["optimizer"]
            self.learning_rate = recipe["learning_rate"] if own else DEFAULT_LEARNING_RATE.get(self.optimizer, 1e-3)
        # Whoever names a recipe means its values; two of them follow the vocabulary and the length of the run.
        return frozenset(left_out if "recipe" in left_out else left_out & {"preset", "num_samples", "warmup_steps"})

    def _check_ranges(self) -> None:
        for name in (
            "rows unroll_steps gradient_accumulation_steps epochs num_samples shuffle_window log_every "
            "checkpoint_every keep_checkpoints max_steps stop_after evaluate_every held_out_words"
        ).split():
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        for name in "softmax_only_steps warmup_steps weight_decay max_gradient_norm seed data_workers".split():
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in "learning_rate initial_accumulator adam_epsilon max_hours".split():
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in "dropout adam_beta1 adam_beta2".split():
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")
        # Not the types of the fields, which the command line's parser changes.
        for name, hint in get_type_hints(PretrainingSettings).items():
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and getattr(self, name) not in (*choices, *((None,) if NoneType in kinds else ())):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, choices))}")
        from elmo_hf.model.configuration_elmo import PRESETS

        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: expected one of {', '.join(map(repr, PRESETS))}")

    def _check_agreement(self) -> None:
        for name in ("train_data", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: expected {'files' if name == 'train_data' else 'a folder'}")
        if self.vocabulary is None and self.initialize_from is None:
            raise ValueError("vocabulary is missing: make one with `elmo-hf build-vocab`, or name initialize_from")
        if self.initialize_from is None:
            if self.softmax_only_steps:
                raise ValueError(
                    f"softmax_only_steps={self.softmax_only_steps} needs initialize_from: a biLM with random weights "
                    "has nothing a softmax could learn from"
                )
        elif self.config_overrides is not None:
            raise ValueError(
                "config_overrides and initialize_from contradict each other: a checkpoint has its own shape"
            )
        if self.pos_column is not None and self.pos_separator is not None:
            raise ValueError(
                f"pos_column={self.pos_column!r} and pos_separator={self.pos_separator!r} contradict each other: parts "
                "of speech stand in a column of their own or behind each word"
            )
        if self.is_tagged and self.pre_tokenization != "whitespace":
            raise ValueError(
                f"pre_tokenization={self.pre_tokenization!r} with parts of speech beside the words: these are words "
                "already, leave it out"
            )
        if self.pos_tag_set is not None and not self.is_tagged:
            raise ValueError(f"pos_tag_set={self.pos_tag_set!r} needs text with tags: name pos_column or pos_separator")
        if self.initialize_from is not None:
            for name in ("pos_tag_set", "character_dictionary"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} and initialize_from contradict each other: a checkpoint has its own")
        if self.softmax_cutoffs is not None and self.loss != "adaptive":
            raise ValueError(f"softmax_cutoffs={self.softmax_cutoffs} needs loss='adaptive', not {self.loss!r}")
        if self.evaluate_every is not None and not self.held_out_data:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs held_out_data")
        if self.schedule == "noam" and not self.warmup_steps:
            raise ValueError("schedule='noam' needs warmup_steps of 1 or more: the rate peaks there")
        fixed = "warmup_steps" not in self._left_out
        if self.max_steps is not None and self.warmup_steps >= self.max_steps and fixed:
            raise ValueError(f"warmup_steps={self.warmup_steps}: expected fewer than max_steps={self.max_steps}")

    @property
    def schedule_ends(self) -> bool:
        """Whether the schedule is laid out over the length of the run."""
        return self.schedule not in ("constant", "noam")

    def fitted(self, words: int, steps: int | None) -> "PretrainingSettings":
        """The same settings, where `num_samples` and `warmup_steps` were left out made small enough.

        Args:
            words: that a vocabulary has a probability for.
            steps: of the run, as far as they are known.

        Raises:
            ValueError: `num_samples` was given and is more than the words.
        """
        changed: dict[str, Any] = {}
        if "num_samples" in self._left_out:
            changed["num_samples"] = max(1, min(self.num_samples, words // 2))
        elif self.loss == "sampled" and self.num_samples > words:
            raise ValueError(
                f"num_samples={self.num_samples}: expected 1 to {words}, the words of the vocabulary; lower it, leave "
                "it out, or use --loss full"
            )
        if "warmup_steps" in self._left_out and self.schedule_ends and steps is not None:
            changed["warmup_steps"] = min(self.warmup_steps, steps // 10)
        return dataclasses.replace(self, **changed)

    @property
    def is_tagged(self) -> bool:
        """Whether the text has parts of speech beside its words."""
        return self.pos_column is not None or self.pos_separator is not None

    def model_config(self, **fields: Any) -> "ElmoConfig":
        """Configuration of a new model: the preset, then `config_overrides`, then `fields`.

        Raises:
            ValueError: `config_overrides` is no JSON object, or names what [`ElmoConfig`] refuses.
        """
        from huggingface_hub.errors import StrictDataclassError

        from elmo_hf.corpus.records import parse_json, read_object
        from elmo_hf.model.configuration_elmo import ElmoConfig

        overrides: dict[str, Any] = {}
        if self.config_overrides is not None:
            text = self.config_overrides
            if not text.lstrip().startswith("{"):
                path = Path(text)
                if not path.is_file():
                    raise ValueError(
                        f'config_overrides={text!r}: expected a JSON object such as {{"cell_size": 512}}, or the '
                        "path of a JSON file"
                    )
                overrides = read_object(path, "a JSON object of fields of ElmoConfig")
            else:
                place = f"config_overrides={self.config_overrides!r:.200}"
                overrides = parse_json(text, lambda: place, 'a JSON object such as {"cell_size": 512}')
            known = {spec.name for spec in dataclasses.fields(ElmoConfig)}
            for name in overrides:
                if name not in known:
                    raise ValueError(f"config_overrides names {name!r}, which is no field of ElmoConfig")
        # Sizes that follow from others are derived again unless they are named.
        if self.softmax_cutoffs is not None:
            fields["softmax_cutoffs"] = self.softmax_cutoffs
        elif self.loss == "adaptive" and "vocab_size" in fields and overrides.get("softmax_cutoffs") is None:
            fields["softmax_cutoffs"] = default_cutoffs(fields["vocab_size"])
        try:
            config = ElmoConfig.from_preset(self.preset, **{**overrides, **fields})
            config.set_dropout(self.dropout)
            return config
        except StrictDataclassError as error:
            raise ValueError(f"no such model: {error.__cause__ or error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return dataclasses.asdict(self)

    def continuing(self, stored: dict[str, Any], checkpoint: Path) -> "PretrainingSettings":
        """The settings of a run that is continued: what was left out is as it was then.

        Args:
            stored: `to_dict()` of the run that wrote `checkpoint`, which may be of a version with fewer options.

        Raises:
            ValueError: settings that would have made another run of it; names each, its two values and the remedy.
        """
        # Before there were recipes, all was bilm-tf's where it was left out.
        known = {"recipe": "bilm-tf", **stored}
        settings = dataclasses.replace(self, **{name: known[name] for name in self._left_out if name in known})
        settings.check_resumes(stored, checkpoint)
        return settings

    def check_resumes(self, stored: dict[str, Any], checkpoint: Path) -> None:
        """Refuse to continue a run under settings that would have made another run of it.

        Args:
            stored: `to_dict()` of the run that wrote `checkpoint`.

        Raises:
            ValueError: names each setting that differs, its two values and the remedy.
        """
        # A run may be prolonged as long as no schedule was laid out over its length.
        free = FREE_ON_RESUME | (set() if self.schedule_ends else {"epochs", "max_steps", "max_hours"})
        differing = [
            f"{name}={value!r} (was {stored[name]!r})"
            for name, value in self.to_dict().items()
            if name not in free and name in stored and stored[name] != value
        ]
        if differing:
            raise ValueError(
                f"{checkpoint} was written by a run with other settings: {'; '.join(differing)}. Give the old values "
                "to continue it, or another output_dir to begin a new run (initialize_from can start from its weights)"
            )


def default_cutoffs(vocab_size: int) -> list[int]:
    """Cutoffs for a vocabulary of that size: about the 1st, 5th and 25th per cent, the proportions of Grave et al.

    Raises:
        ValueError: a vocabulary too small for clusters.
    """
    cutoffs = sorted({max(1, vocab_size * share // 100) for share in (1, 5, 25)})
    if vocab_size < 100:
        raise ValueError(
            f"vocab_size={vocab_size}: an adaptive softmax pays from tens of thousands of words on and is refused "
            "below 100; use the full softmax"
        )
    return cutoffs
