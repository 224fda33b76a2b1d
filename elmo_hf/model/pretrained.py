"""Base class of all ELMo models: initialization, loading, saving, word vocabulary, freezing."""

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
from .labels import mean_loss
from .layer_alignment import ElmoAlignment
from .operators import register, release
from .pooling import is_token
from .quantized_linear import ElmoQuantizedLinear
from .scalar_mix import ElmoScalarMix
from .softmax import ElmoSoftmax
from .transformer import ElmoPositions
from .word_embeddings import ElmoWordEmbeddings
from .word_layer import word_table_of

# Prefix of the temporary folders that models are written to before they are moved into place; the process id follows.
STAGING = ".saving-"
# Errors of a full disk. Libraries written in Rust and C++ raise other types, but with the same text.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders of processes that no longer run."""
    for path in folder.glob(f"{STAGING}*-*"):
        process = path.name.removeprefix(STAGING).split("-")[0]
        if process.isdecimal() and os.name == "posix":  # on Windows, os.kill would end the process
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True)
            except (OSError, OverflowError):  # another user's
                pass


def _install(staging: Path, folder: Path, variant: str | None) -> None:
    """Move a saved model into `folder` and remove the weights of the same variant that it replaces.

    Weights are only removed if new ones were saved: not by a rank that saves nothing, nor with an adapter alone.
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
    """Call a `save_pretrained` atomically: the folder gets all of the new files or none.

    Raises:
        NotADirectoryError: `save_directory` is a file.
        OSError: writing failed; for a full disk, the message says so.
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
        # Inside the folder, which may be the only writable place of its file system.
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
            f"the model cannot be saved in {folder}: {os.strerror(full)}. Files saved there before are intact; free "
            "disk space, or choose another folder",
        ) from error


class ElmoSpelledWords(nn.Embedding):
    """Input embeddings of a character model: a placeholder with the shape of a word table and no values.

    Transformers and its clients read the size of the vocabulary from the input embeddings and register forward hooks on
    them. A character model computes word vectors from characters, so the hooks are registered on its word layer.

    Args:
        layer: the word layer.
        words: size of the vocabulary.
    """

    def __init__(self, layer: nn.Module, words: int) -> None:
        width: Any = layer.output_size
        super().__init__(words, width, device="meta")
        self.requires_grad_(False)
        self._layer = (layer,)  # a tuple, so that it is not registered as a submodule

    def stands_for(self, layer: nn.Module, words: int) -> bool:
        """True if it was made for this word layer and vocabulary size."""
        return self._layer[0] is layer and self.num_embeddings == words

    @property
    def training(self) -> bool:
        """The word layer's mode."""
        layers = self.__dict__.get("_layer")
        return layers is not None and layers[0].training

    @training.setter
    def training(self, value: bool) -> None:
        pass

    def register_forward_hook(self, hook: Any, **kwargs: Any) -> Any:
        """Register the hook on the word layer, whose outputs are the word vectors."""
        return self._layer[0].register_forward_hook(lambda _, inputs, outputs: hook(self, inputs, outputs), **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        """Raise a `ValueError`: word ids have no vectors of their own."""
        raise ValueError(
            "this model reads words by their characters and has no vectors for word ids. Pass character_ids, as "
            "returned by ElmoTokenizer: model(**encoding)"
        )


# Arguments that mark several sentences concatenated to one row.
_FLATTENING_ARGUMENTS = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")


class ElmoPreTrainedModel(PreTrainedModel):
    """Base class of all ELMo models: initialization, loading, saving and the word vocabulary."""

    config: ElmoConfig
    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # Has no effect on a biLSTM, which has no attention.
    _supports_sdpa = True
    _no_split_modules = [
        "ElmoCharacterEmbeddings", "ElmoWordEmbeddings", "ElmoProjectedWordEmbeddings", "ElmoJoinedEmbeddings",
        "ElmoContextWordLayer", "ElmoLayer", "ElmoTransformerLayer", "ElmoTaskLayers",
    ]  # fmt: skip
    # True if every row is a pair of sentences, whatever `sentence_pairs` says.
    _reads_pairs = False
    # Number of the model in the registry of the custom operator (`opaque_parts`).
    _number: int | None = None
    # Optional parts, which a checkpoint of one model class may have and another class does not need.
    _keys_to_ignore_on_load_unexpected = [r"^softmax\.", r"scalar_mixes\.\d+\.(weights|gamma)$", r"alignment\.maps$"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            ValueError: several sentences concatenated to one row, as by `DataCollatorWithFlattening`.
        """
        joined = [name for name in _FLATTENING_ARGUMENTS if kwargs.get(name) is not None]
        if joined:
            raise ValueError(
                f"{', '.join(joined)} given: expected one sentence per row. ELMo would read the sentences that "
                "DataCollatorWithFlattening concatenates as one; use DataCollatorWithPadding, or the collator of the "
                "task"
            )
        return super().__call__(*args, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A minimal batch for clients that trace a model: two sentences, or pairs, of unknown words."""
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
        self._number = register(self)  # a copy is registered separately

    def _note_untrained(self) -> None:
        """Record the weights that the constructor froze: unused mixes, fixed word vectors."""
        self._not_loaded: frozenset[str] = frozenset()  # weights that the checkpoint lacked
        self._untrained = {name for name, weight in self.named_parameters() if not weight.requires_grad}

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; arguments as in `PreTrainedModel.from_pretrained`.

        Weights that the constructor froze are frozen again, because Transformers makes all loaded weights trainable.

        Raises:
            OSError, ValueError, RuntimeError: the folder is missing or damaged, or its weights do not fit its
                configuration. With `elmo_hf` installed, the message names the file (`elmo_hf.reading_model`).
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
        if mode:  # weights that were missing are about to be trained
            self._not_loaded = frozenset()
        return super().train(mode)

    def freeze_untrained(self) -> None:
        """Freeze the weights that the constructor froze."""
        for name, weight in self.named_parameters():
            if name in self._untrained:
                weight.requires_grad_(False)

    @property
    def bilm(self) -> Any:
        """The biLM and its mixes, an [`ElmoModel`]: this model or its submodule; `None` for a model without a biLM."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def base_model(self) -> nn.Module:
        """The biLM, or this model if it has no biLM."""
        return self if self.bilm is None else self.bilm

    @property
    def _task_word_vectors(self) -> ElmoWordEmbeddings | None:
        """Word vectors of the task layers, if any."""
        return getattr(getattr(self, "task_layers", None), "word_vectors", None)

    def word_tables(self) -> dict[Literal["bilm", "task"], ElmoWordEmbeddings]:
        """All tables with a row per word: the biLM's word embeddings and a task's own word vectors, if any."""
        bilm, task = word_table_of(getattr(self.bilm, "embeddings", None)), self._task_word_vectors
        found: dict[Literal["bilm", "task"], ElmoWordEmbeddings | None] = {"bilm": bilm, "task": task}
        return {name: table for name, table in found.items() if table is not None}

    def _table_of_words(self) -> ElmoWordEmbeddings | None:
        """The table that embeds `input_ids`; `None` for a character model."""
        return self._task_word_vectors if self.bilm is None else word_table_of(self.bilm.embeddings)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings of a word model; without a biLM, the task's own word vectors.

        For a character model, a placeholder of the same shape ([`ElmoSpelledWords`]), from which clients read the size
        of the vocabulary. Its character embeddings are in `model.bilm.embeddings`.
        """
        table = self._table_of_words()
        if table is not None:
            return table.word_embeddings
        words = self.__dict__.get("_spelled_words")
        layer = self.bilm.embeddings
        if words is None or not words.stands_for(layer, self.config.vocab_size):
            # Not registered as a submodule: it has nothing to save.
            words = self.__dict__["_spelled_words"] = ElmoSpelledWords(layer, self.config.vocab_size)
        return words

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Replace the word embeddings.

        Raises:
            ValueError: a character model.
        """
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
        """Resize the *word* vocabulary: `config.vocab_size`, all word tables, and the softmax if there is one.

        The character embeddings are not resized: a character model reads words of any spelling.

        Args:
            new_num_tokens: `len(tokenizer)`; `None` keeps the size.
            pad_to_multiple_of: round the size up to a multiple of this.
            mean_resizing: initialize new rows with the mean of the old words' rows instead of random values.

        Returns:
            The input embeddings, as `get_input_embeddings`.

        Raises:
            ValueError: a size below 1, or a multiple that is not a positive integer.
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
        if self.bilm is not None:
            self.bilm.config.vocab_size = size
        self.tie_weights()
        return self.get_input_embeddings()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model and the code that reads it; arguments as in `PreTrainedModel.save_pretrained`.

        Files are written to a hidden folder inside `save_directory` and moved into place when all are complete, so that
        a full disk leaves the old files intact. The old configuration is removed first and the new one moved last: a
        folder in which moving was interrupted has no configuration and does not load. Temporary folders of killed
        processes are removed.

        Raises:
            NotADirectoryError: `save_directory` is a file.
            OSError: writing failed; for a full disk, the message says so.
        """
        save_in_one_piece(super().save_pretrained, save_directory, *args, **kwargs)

    def refresh(self) -> None:
        """Drop all prepared weights and cached word vectors.

        Only needed after writing to a small part of a large weight through `weight.data`; all other changes are
        detected (see the table in `docs/speed.md`).
        """
        release(self)

    def freeze_bilm(self, frozen: bool = True) -> None:
        """Freeze (or unfreeze) the biLM's weights. The scalar mixes remain trainable, as in the paper."""
        if self.bilm is None:
            return
        for part in (self.bilm.embeddings, self.bilm.encoder):
            part.requires_grad_(not frozen)

    def scalar_mix_penalty(self) -> Tensor:
        """Penalty to add to a task's loss: `config.scalar_mix_l2` times the sum of squares of all raw mix weights."""
        if self.bilm is None:
            return next(self.parameters()).new_zeros(())
        penalties: list[Tensor] = [mix.penalty() for mix in self.bilm.scalar_mixes]
        return self.config.scalar_mix_l2 * torch.stack(penalties).sum()

    def _penalized(self, loss: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Add the penalty of the mix weights to a loss, once per optimizer step, also with gradient accumulation."""
        if not self.config.scalar_mix_l2:
            return loss
        count = labels.ne(-100).sum().to(loss.device)
        return loss + mean_loss(self.scalar_mix_penalty().to(loss.device) * count, count, num_items_in_batch)

    def without_boundaries(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: `mask` without the sentence boundaries.

        Equal to `mask` without `input_ids`, for instance if a client passes `inputs_embeds`.
        """
        if input_ids is None:
            return mask
        return mask & ~is_token(input_ids, self.config.bos_token_id, self.config.eos_token_id)
