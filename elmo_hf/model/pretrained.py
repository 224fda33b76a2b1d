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
from .configuration_elmo import ElmoConfig, package_has
from .crf import ElmoCrf
from .initialization import initialize
from .labels import mean_loss
from .layer_alignment import ElmoAlignment
from .opaque_parts import opaque, register
from .operators import release
from .pooling import is_token
from .quantized_linear import ElmoQuantizedLinear
from .scalar_mix import ElmoScalarMix
from .softmax import ElmoSoftmax
from .state import ElmoState
from .task_layers import ElmoTaskLayers
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
    remove_old_code = package_has("remove_old_code")
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
    # Whether a row is a sentence: otherwise its boundaries tell more than where it begins and ends.
    _reads_sentences = False
    # Whether every row is a pair of sentences, also without `sentence_pairs`.
    _reads_pairs = False
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
                one model; the message names the file where the package is imported (`elmo_hf.reading_model`).
        """
        wants_info = kwargs.pop("output_loading_info", False)
        reading = package_has("reading_model")
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
        task_layers = getattr(self, "task_layers", None)
        return task_layers.word_vectors if isinstance(task_layers, ElmoTaskLayers) else None

    def word_tables(self) -> dict[Literal["bilm", "task"], ElmoWordEmbeddings]:
        """Every table of one row a word: the biLM's words and a task's own word vectors, as far as there are any."""
        bilm, task = word_table_of(getattr(self.bilm, "embeddings", None)), self._task_word_vectors
        tables: dict[Literal["bilm", "task"], ElmoWordEmbeddings] = {}
        if bilm is not None:
            tables["bilm"] = bilm
        if task is not None:
            tables["task"] = task
        return tables

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

    def _freeze_unread_mixes(self) -> None:
        """For a task model: mixes that no place of `elmo_at` reads have no gradient; they would hold up distributed
        training."""
        if self.bilm is not None:
            self.bilm.scalar_mixes[len(self.config.elmo_at) :].requires_grad_(False)

    def encode_words(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """What a task's classifier reads; arguments and results as of `read_words`, without the state of the layers."""
        return self.read_words(*args, **inputs)[:3]

    def read_words(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        initial_state: ElmoState | None = None,
        return_state: bool = False,
        output_attentions: bool | None = None,
        layers_state: ElmoState | None = None,
    ) -> tuple[Tensor, Tensor, Any, ElmoState | None]:
        """Run the biLM, its mixes, and the task's own layers over a batch.

        For a model with `elmo` (an [`ElmoModel`], or `None` for the baseline without biLM) and `task_layers`.
        Arguments as in [`ElmoModel`], `code_point_ids` as in [`ElmoTaskCharacters`], and `layers_state` as the
        `initial_state` of [`ElmoTaskLayers`]; without biLM only `input_ids`, `attention_mask` and these are read, and
        in absence of the mask the padding word is padding.

        Returns:
            features (batch, words, task_layers.output_size), zero at padding; the mask of real words and boundaries
            (batch, words), bool; the [`ElmoModelOutput`], `None` without biLM; the state of the task's layers after
            the batch, `None` without recurrent ones.

        Raises:
            ValueError: missing, contradicting or out-of-range inputs.
        """
        outputs, representations = None, None
        if self.bilm is None:
            mask = self._mask_of_words(input_ids, attention_mask)
        else:
            outputs = self.bilm(
                input_ids,
                attention_mask,
                character_ids,
                inputs_embeds,
                output_hidden_states=output_hidden_states,
                pos_tag_ids=pos_tag_ids,
                initial_state=initial_state,
                return_state=return_state,
                output_attentions=output_attentions,
                return_dict=True,
            )
            representations = outputs.representations
            mask = self.bilm.word_mask(input_ids, attention_mask, character_ids, inputs_embeds)
        words_only = self._words_only(mask, input_ids)
        state = (None, None) if layers_state is None else tuple(layers_state)
        features, *left = self._run_task_layers(mask, representations, input_ids, code_point_ids, words_only, *state)
        return features, mask, outputs, ElmoState(*left) if left else None

    def _shapes_of_task_layers(self, mask: Tensor, *given: Tensor | None) -> list[Any]:
        """What `_run_task_layers` returns."""
        task_layers, dtype = self.get_submodule("task_layers"), next(self.parameters()).dtype
        shapes: list[Any] = [((*mask.shape, task_layers.output_size), dtype)]
        if self.config.task_lstm_size:
            size = (self.config.task_lstm_layers, 2, len(mask), self.config.task_lstm_size)
            shapes += [(size, dtype), (size, torch.promote_types(dtype, torch.float32))]
        return shapes

    @opaque(("task_layers",), _shapes_of_task_layers)
    def _run_task_layers(self, mask: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Features and, with recurrent layers, their hidden and cell.

        Args:
            given: `representations`, `input_ids`, `code_point_ids`, `words_only`, and the hidden and cell before.
        """
        representations, input_ids, *others, hidden, cell = given
        before = None if hidden is None else ElmoState(hidden, cell)
        features, left = self.get_submodule("task_layers")(representations, input_ids, mask, *others, before)
        return (features, *(left or ()))

    def _words_only(self, mask: Tensor, input_ids: Tensor | None) -> Tensor | None:
        """(batch, words), bool: what a task's recurrent layers read, where that is not all of `mask`."""
        config = self.config
        if not (self._reads_sentences and config.words_only and config.task_lstm_size) or config.sentence_pairs:
            return None
        if input_ids is None:
            raise ValueError(
                "input_ids missing to tell words from sentence boundaries, which this model's biLSTM does not read "
                "(words_only=True). ElmoTokenizer returns it: pass all it returns, model(**encoding)"
            )
        return self.without_boundaries(mask, input_ids)

    def _mask_of_words(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """(batch, words), bool, for a model that reads nothing but word ids."""
        if input_ids is None or input_ids.dim() != 2:
            raise ValueError(
                f"input_ids {'missing' if input_ids is None else f'of shape {tuple(input_ids.shape)}'}: expected "
                "(batch, words), because a model without biLM (elmo_at=[]) looks up words by their id. ElmoTokenizer "
                "returns input_ids: pass all it returns, model(**encoding)"
            )
        if attention_mask is None:
            pad = self.config.pad_token_id
            return torch.ones_like(input_ids, dtype=torch.bool) if pad is None else input_ids.ne(pad)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: expected {tuple(input_ids.shape)}, the batch "
                "and words of input_ids"
            )
        return attention_mask.bool()

    def without_boundaries(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: the positions of `mask` that hold words and no sentence boundaries.

        Without `input_ids`, as beside `inputs_embeds` of a client's own making, all of `mask`.
        """
        if input_ids is None:
            return mask
        return mask & ~is_token(input_ids, self.config.bos_token_id, self.config.eos_token_id)

    def scalar_mix_penalty(self) -> Tensor:
        """`config.scalar_mix_l2` times the sum of squares of all raw mixing weights: to add to a task's loss."""
        if self.bilm is None:
            return next(self.parameters()).new_zeros(())
        penalties: list[Tensor] = [mix.penalty() for mix in self.bilm.scalar_mixes]
        return self.config.scalar_mix_l2 * torch.stack(penalties).sum()

    def _penalised(self, loss: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Add the mixing weights' penalty to a loss, once an optimizer step also when gradients are accumulated."""
        if not self.config.scalar_mix_l2:
            return loss
        count = labels.ne(-100).sum().to(loss.device)
        return loss + mean_loss(self.scalar_mix_penalty().to(loss.device) * count, count, num_items_in_batch)
