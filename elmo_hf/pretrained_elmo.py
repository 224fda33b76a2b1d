"""What all ELMo models share: initial values, saving, the word vocabulary, frozen biLMs."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from .adaptive_softmax_elmo import ElmoAdaptiveSoftmax
from .configuration_elmo import ElmoConfig
from .initialization_elmo import initialise
from .scalar_mix_elmo import ElmoScalarMix
from .softmax_elmo import ElmoSoftmax
from .word_embeddings_elmo import ElmoWordEmbeddings


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


class ElmoPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the word-vocabulary rules shared by all ELMo models."""

    config: ElmoConfig
    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ElmoCharacterEmbeddings", "ElmoWordEmbeddings", "ElmoLayer"]
    # Parts that one kind of model has and another can do without.
    _keys_to_ignore_on_load_unexpected = [r"^softmax\.", r"scalar_mixes\.\d+\.(weights|gamma)$"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ElmoScalarMix):
            module.reset_weights()
        elif not initialise(module):
            super()._init_weights(module)

    @property
    def bilm(self) -> Any:
        """The biLM and its mixes, an [`ElmoModel`]: this model or the one inside it."""
        return getattr(self, self.base_model_prefix, self)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of a word model's words, else that of characters.

        Rows of the latter are bytes, not words: `resize_token_embeddings` never touches it.
        """
        embeddings = self.bilm.embeddings
        if isinstance(embeddings, ElmoWordEmbeddings):
            return embeddings.word_embeddings
        return embeddings.character_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        embeddings = self.bilm.embeddings
        if isinstance(embeddings, ElmoWordEmbeddings):
            embeddings.word_embeddings = value
        else:
            embeddings.character_embeddings = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize the *word* vocabulary: `config.vocab_size`, a word model's table and the softmax, if there is one.

        A character model reads words of any spelling, so its character table stays as it is.

        Args:
            new_num_tokens: `len(tokenizer)`; `None` keeps the size.
            pad_to_multiple_of: rounds the size up.
            mean_resizing: new rows start as the mean of the old words', not at random.

        Returns:
            The input embeddings: the table of words, or the unchanged character table.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if size < 1:
            raise ValueError(f"new_num_tokens={new_num_tokens}: expected at least 1, usually len(tokenizer)")
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        embeddings, softmax = self.bilm.embeddings, self.get_output_embeddings()
        if isinstance(embeddings, ElmoWordEmbeddings):
            embeddings.resize(size, mean_resizing)
        if isinstance(softmax, ElmoSoftmax | ElmoAdaptiveSoftmax):
            softmax.resize(size, mean_resizing)
        self.config.vocab_size = size
        self.tie_weights()
        return self.get_input_embeddings()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model and the code that reads it; arguments as in `PreTrainedModel.save_pretrained`.

        Everything is written to a hidden folder inside `save_directory` first and moved into place when it is
        complete, so that a disk that fills up costs nothing. The configuration comes last, and goes first: a folder in
        which moving stopped half way has none and does not load.
        """
        if kwargs.get("push_to_hub") or kwargs.get("distributed_checkpoint"):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: expected a folder to save the model in")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Inside, not beside: the folder may be the only writable place of its file system.
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
                super().save_pretrained(staging, *args, **kwargs)
                _install(Path(staging), folder, kwargs.get("variant"))
        except BaseException:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise

    def freeze_bilm(self, frozen: bool = True) -> None:
        """Stop (or resume) training of the biLM's weights. The scalar mixes stay trainable, as in the paper."""
        for part in (self.bilm.embeddings, self.bilm.encoder):
            part.requires_grad_(not frozen)

    def scalar_mix_penalty(self) -> Tensor:
        """`config.scalar_mix_l2` times the sum of squares of all raw mixing weights: to add to a task's loss."""
        penalties: list[Tensor] = [mix.penalty() for mix in self.bilm.scalar_mixes]
        return self.config.scalar_mix_l2 * torch.stack(penalties).sum()

    def _penalised(self, loss: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Add the mixing weights' penalty to a loss, once an optimiser step also when gradients are accumulated."""
        if not self.config.scalar_mix_l2:
            return loss
        penalty = self.scalar_mix_penalty().to(loss.device)
        if num_items_in_batch is not None:
            penalty = penalty * (labels.ne(-100).sum() / num_items_in_batch).to(loss.device)
        return loss + penalty
