"""What all ELMo models share: initial values, saving, the word vocabulary, frozen biLMs."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from .adaptive_softmax import ElmoAdaptiveSoftmax
from .configuration_elmo import ElmoConfig
from .crf import ElmoCrf
from .initialization import initialize
from .installed import package_part
from .layer_alignment import ElmoAlignment
from .operators import register, release
from .pooling import is_token
from .quantized_linear import ElmoQuantizedLinear
from .scalar_mix import ElmoScalarMix
from .softmax import ElmoSoftmax
from .transformer import ElmoPositions
from .word_embeddings import ElmoWordEmbeddings
from .word_layer import word_table_of

# Names of the folders that models are written to before they are moved into place; the process follows.
STAGING = ".saving-"
# What the system says of a full disk. Libraries that write in Rust and C++ raise errors of their own with its words.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that are gone have left half-written in a folder."""
    for path in folder.glob(f"{STAGING}*-*"):
        process = path.name.removeprefix(STAGING).split("-")[0]
        if process.isdecimal() and os.name == "posix":  # elsewhere asking ends a process
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True)
            except (OSError, OverflowError):  # another user's
                pass


def _install(staging: Path, folder: Path, variant: str | None) -> None:
    """Move a saved model into `folder`; weights of the same variant that it replaces are removed.

    A rank that saves nothing, or a model that saves only its adapter, replaces no weights.
    """
    suffix = f".{re.escape(variant)}" if variant else ""
    weights = re.compile(
        rf"model{suffix}(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(SAFE_WEIGHTS_NAME)}\.index{suffix}\.json"
    )
    written = sorted(path.name for path in staging.iterdir())
    if CONFIG_NAME in written:
        written.remove(CONFIG_NAME)
        written.append(CONFIG_NAME)
        (folder / CONFIG_NAME).unlink(missing_ok=True)
    if any(weights.fullmatch(name) for name in written):
        for path in folder.iterdir():
            if weights.fullmatch(path.name):
                path.unlink()
    for name in written:
        os.replace(staging / name, folder / name)
    remove_old_code = getattr(package_part("old_code"), "remove_old_code", None)
    if "modeling_elmo.py" in written and remove_old_code is not None:
        remove_old_code(folder, "model")


def save_in_one_piece(
    save: Callable[..., None], save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
) -> None:
    """Call a `save_pretrained` so that the folder has all of the new files or none.

    Raises:
        NotADirectoryError: the path of a file.
        OSError: the model cannot be written; of a full disk, the message says so and what is unharmed.
    """
    if kwargs.get("push_to_hub") or kwargs.get("distributed_checkpoint"):
        save(save_directory, *args, **kwargs)
        return
    folder = Path(save_directory)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: expected a folder to save the model in")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    try:
        # Inside, not beside: the folder may be the only writable place of its file system.
        with tempfile.TemporaryDirectory(prefix=f"{STAGING}{os.getpid()}-", dir=folder) as staging:
            save(staging, *args, **kwargs)
            _install(Path(staging), folder, kwargs.get("variant"))
    except BaseException as error:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        full = next((number for number in FULL_DISK if os.strerror(number) in str(error)), None)
        if full is None:
            raise
        raise OSError(
            full,
            f"the model cannot be saved in {folder}: {os.strerror(full)}. What was saved there before is unharmed; "
            "make room, or choose another folder",
        ) from error


class ElmoSpelledWords(nn.Embedding):
    """What a character model has in place of a table of words: its shape, and no values.

    Such a model computes a word's vector from its characters. Transformers and its clients read the number of words
    from the rows of the input embeddings, and attach hooks to them, which here go to the word layer.

    Args:
        layer: the word layer.
        words: the size of the vocabulary.
    """

    def __init__(self, layer: nn.Module, words: int) -> None:
        width: Any = layer.output_size
        super().__init__(words, width, device="meta")
        self.requires_grad_(False)
        self._layer = (layer,)  # in a tuple: no submodule

    def stands_for(self, layer: nn.Module, words: int) -> bool:
        """Whether it was made of these."""
        return self._layer[0] is layer and self.num_embeddings == words

    @property
    def training(self) -> bool:
        """As the word layer's."""
        layers = self.__dict__.get("_layer")
        return layers is not None and layers[0].training

    @training.setter
    def training(self, value: bool) -> None:
        pass

    def register_forward_hook(self, hook: Any, **kwargs: Any) -> Any:
        """Attach a hook to the word layer, whose outputs are the words' vectors."""
        return self._layer[0].register_forward_hook(lambda _, inputs, outputs: hook(self, inputs, outputs), **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        """Refused, with a `ValueError`."""
        raise ValueError(
            "this model reads words by their characters: their ids have no vectors. Pass character_ids, all that "
            "ElmoTokenizer returns"
        )


# What says that a row of a batch is several sentences, one after the other.
_OF_JOINED_ROWS = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")


class ElmoPreTrainedModel(PreTrainedModel):
    """Initialization, loading and the word-vocabulary rules shared by all ELMo models."""

    config: ElmoConfig
    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # Only a Transformer has attention to choose an implementation of.
    _supports_sdpa = True
    _no_split_modules = [
        "ElmoCharacterEmbeddings",
        "ElmoWordEmbeddings",
        "ElmoProjectedWordEmbeddings",
        "ElmoJoinedEmbeddings",
        "ElmoContextWordLayer",
        "ElmoLayer",
        "ElmoTransformerLayer",
        "ElmoTaskLayers",
    ]
    # Whether every row is a pair of sentences, also without `sentence_pairs`.
    _reads_pairs = False
    # By which the operator for compilers finds the model.
    _number: int | None = None
    # Parts that one kind of model has and another can do without.
    _keys_to_ignore_on_load_unexpected = [
        r"^softmax\.",
        r"scalar_mixes\.\d+\.(weights|gamma)$",
        r"alignment\.maps$",
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Sentences joined to one row, as `DataCollatorWithFlattening` does it, are refused."""
        joined = [name for name in _OF_JOINED_ROWS if kwargs.get(name) is not None]
        if joined:
            raise ValueError(
                f"{', '.join(joined)} given: expected a row for each sentence. ELMo reads a row from end to end, also "
                "where DataCollatorWithFlattening has joined several sentences to one row, without characters; use "
                "DataCollatorWithPadding, or the collator of the task"
            )
        return super().__call__(*args, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A smallest batch, for clients that look at a model by running it: two sentences or pairs of unknown words."""
        word = min(self.config.unk_token_id or 0, self.config.vocab_size - 1)
        rows, mask = torch.full((2, 3), word), torch.tensor([[1, 1, 1], [1, 1, 0]])
        if self._reads_pairs or self.config.sentence_pairs:
            rows = torch.tensor([[self.config.bos_token_id or 0, word] * 2] * 2)
            mask = torch.ones_like(rows)
        inputs = {"input_ids": rows, "attention_mask": mask}
        if self.bilm is not None and "character_ids" in self.bilm.embeddings.input_names:
            inputs["character_ids"] = mask[:, :, None].repeat(1, 1, self.config.max_characters_per_word)
        if self.config.num_pos_tags:
            inputs["pos_tag_ids"] = mask
        return {name: value.to(self.device) for name, value in inputs.items()}

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ElmoScalarMix | ElmoPositions | ElmoCrf | ElmoAlignment | ElmoQuantizedLinear):
            module.reset_weights()
        elif not initialize(module):
            super()._init_weights(module)

    def post_init(self) -> None:
        super().post_init()
        self._note_untrained()
        self._number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self)  # a copy is another model

    def _note_untrained(self) -> None:
        """Remember what a constructor froze: mixes that a model does not read, fixed word vectors."""
        self._not_loaded: frozenset[str] = frozenset()  # weights that the checkpoint lacked
        self._untrained = {name for name, weight in self.named_parameters() if not weight.requires_grad}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; arguments as in `PreTrainedModel.from_pretrained`.

        What the constructor froze is frozen here too: Transformers makes every weight that it loads trainable.

        Raises:
            OSError, ValueError, RuntimeError: a folder that is missing or damaged, whose sizes and weights are not of
                one model; the message names the file where the package is installed (`elmo_hf.reading_model`).
        """
        wants_info = kwargs.pop("output_loading_info", False)
        reading = getattr(package_part("folders"), "reading_model", None)
        with nullcontext() if reading is None else reading(cls, *args, **kwargs):
            loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        model.freeze_untrained()
        model._not_loaded = frozenset(info["missing_keys"])
        return (model, info) if wants_info else model

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._not_loaded = frozenset()
        return super().load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        if mode:  # what was missing is about to be learned
            self._not_loaded = frozenset()
        return super().train(mode)

    def freeze_untrained(self) -> None:
        """Freeze again what the constructor froze."""
        for name, weight in self.named_parameters():
            if name in self._untrained:
                weight.requires_grad_(False)

    @property
    def bilm(self) -> Any:
        """The biLM and its mixes, an [`ElmoModel`]: this model or the one inside it; `None` for one without biLM."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def base_model(self) -> nn.Module:
        """The biLM, or this model if it has none."""
        return self if self.bilm is None else self.bilm

    @property
    def _task_word_vectors(self) -> ElmoWordEmbeddings | None:
        """A task's own word vectors."""
        return getattr(getattr(self, "task_layers", None), "word_vectors", None)

    def word_tables(self) -> dict[Literal["bilm", "task"], ElmoWordEmbeddings]:
        """Every table of one row a word: the biLM's words and a task's own word vectors, as far as there are any."""
        bilm, task = word_table_of(getattr(self.bilm, "embeddings", None)), self._task_word_vectors
        found: dict[Literal["bilm", "task"], ElmoWordEmbeddings | None] = {"bilm": bilm, "task": task}
        return {name: table for name, table in found.items() if table is not None}

    def _table_of_words(self) -> ElmoWordEmbeddings | None:
        """The table that the model reads words from; `None` for one that reads their characters."""
        return self._task_word_vectors if self.bilm is None else word_table_of(self.bilm.embeddings)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of a word model's words; without a biLM, that of the task's own word vectors.

        A character model has none. It gets a stand-in ([`ElmoSpelledWords`]) of the right shape, because clients ask
        how many words a model knows by the rows of its input embeddings. Its table of characters is in
        `model.bilm.embeddings`.
        """
        table = self._table_of_words()
        if table is not None:
            return table.word_embeddings
        words = self.__dict__.get("_spelled_words")
        layer = self.bilm.embeddings
        if words is None or not words.stands_for(layer, self.config.vocab_size):
            # Not as a submodule: it holds nothing to save.
            words = self.__dict__["_spelled_words"] = ElmoSpelledWords(layer, self.config.vocab_size)
        return words

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Replace the table of words; refused with a `ValueError` for a model that reads their characters."""
        table = self._table_of_words()
        if table is not None:
            table.word_embeddings = value
        elif value is not self.get_input_embeddings():
            raise ValueError(
                "this model reads words by their characters and has no table of words to replace; its table of "
                "characters is model.bilm.embeddings.character_embeddings"
            )

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize the *word* vocabulary: `config.vocab_size`, every table of words, and the softmax, if there is one.

        A character model reads words of any spelling, so its character table stays as it is.

        Args:
            new_num_tokens: `len(tokenizer)`; `None` keeps the size.
            pad_to_multiple_of: rounds the size up.
            mean_resizing: new rows start as the mean of the old words', not at random.

        Returns:
            The input embeddings: a table of words, or what stands for one.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if size < 1:
            raise ValueError(f"new_num_tokens={new_num_tokens}: expected at least 1, usually len(tokenizer)")
        if pad_to_multiple_of is not None:
            if not isinstance(pad_to_multiple_of, int) or pad_to_multiple_of < 1:
                raise ValueError(
                    f"Asking to pad the embeddings to a multiple of `{pad_to_multiple_of}`, which is not and integer. "
                    "Please make sure to pass an integer of at least 1"
                )
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        softmax = self.get_output_embeddings()
        for table in self.word_tables().values():
            table.resize(size, mean_resizing)
        if isinstance(softmax, ElmoSoftmax | ElmoAdaptiveSoftmax):
            softmax.resize(size, mean_resizing)
        self.config.vocab_size = size
        self.tie_weights()
        return self.get_input_embeddings()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model and the code that reads it; arguments as in `PreTrainedModel.save_pretrained`.

        Everything is written to a hidden folder inside `save_directory` first and moved into place when it is
        complete, so that a disk that fills up costs nothing. The configuration comes last, and goes first: a folder in
        which moving stopped half way has none and does not load. What processes that were killed have left there is
        removed.

        Raises:
            OSError: the model cannot be written; of a full disk, the message says so and what is unharmed.
        """
        save_in_one_piece(super().save_pretrained, save_directory, *args, **kwargs)

    def refresh(self) -> None:
        """Forget all that kernels have prepared of the weights, and words' vectors.

        Needed after a write through `weight.data` to a small part of a large weight only: every other change is seen
        (the table in `kernels/prepared_weights.py`).
        """
        release(self)

    def freeze_bilm(self, frozen: bool = True) -> None:
        """Stop (or resume) training of the biLM's weights. The scalar mixes stay trainable, as in the paper."""
        if self.bilm is None:
            return
        for part in (self.bilm.embeddings, self.bilm.encoder):
            part.requires_grad_(not frozen)

    def scalar_mix_penalty(self) -> Tensor:
        """`config.scalar_mix_l2` times the sum of squares of all raw mixing weights: to add to a task's loss."""
        if self.bilm is None:
            return next(self.parameters()).new_zeros(())
        penalties: list[Tensor] = [mix.penalty() for mix in self.bilm.scalar_mixes]
        return self.config.scalar_mix_l2 * torch.stack(penalties).sum()

    def without_boundaries(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: the positions of `mask` that hold words and no sentence boundaries.

        Without `input_ids`, as beside `inputs_embeds` of a client's own making, all of `mask`.
        """
        if input_ids is None:
            return mask
        return mask & ~is_token(input_ids, self.config.bos_token_id, self.config.eos_token_id)
