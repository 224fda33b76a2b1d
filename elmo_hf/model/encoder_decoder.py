"""Encoder-decoder model with an ELMo encoder, for translation and summarization."""

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.models.encoder_decoder.modeling_encoder_decoder import shift_tokens_right
from transformers.utils import can_return_tuple

from .configuration_elmo import ElmoTaskEncoderConfig
from .configuration_encoder_decoder import ElmoEncoderDecoderConfig
from .installed import package_part
from .labels import mean_cross_entropy
from .modeling_elmo import ElmoModel
from .pretrained import save_in_one_piece
from .task_encoder import ElmoTaskEncoder


class ElmoEncoderDecoderModel(EncoderDecoderModel):
    """Transformers' `EncoderDecoderModel` with an ELMo encoder, saved together with its code.

    `forward` names the encoder's inputs, so that the Trainer passes them on. With gradient accumulation, the loss is
    the mean over all labels of an optimizer step.

    Args:
        config: configuration of both parts, of any copy of its class; by default taken from the parts.
        encoder: an [`ElmoModel`] or, with layers of the task between ELMo and decoder, an [`ElmoTaskEncoder`]; by
            default a new one.
        decoder: a causal language model of Transformers with cross-attention; by default a new one.
    """

    config: ElmoEncoderDecoderConfig
    config_class = ElmoEncoderDecoderConfig
    _auto_class = "AutoModelForSeq2SeqLM"

    def __init__(
        self,
        config: PreTrainedConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        if config is not None and not isinstance(config, ElmoEncoderDecoderConfig):
            attention = config._attn_implementation
            config = ElmoEncoderDecoderConfig.from_dict(config.to_dict())
            config._attn_implementation = attention
        if config is None and encoder is not None and decoder is not None:
            config = ElmoEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
        if encoder is None and config is not None:
            joins_layers = isinstance(config.encoder, ElmoTaskEncoderConfig)
            encoder = ElmoTaskEncoder(config.encoder) if joins_layers else ElmoModel(config.encoder)
        super().__init__(config, encoder, decoder)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; arguments as in `PreTrainedModel.from_pretrained`."""
        damage_named = getattr(package_part("folders"), "damage_named", nullcontext)
        name = args[0] if args else kwargs.get("pretrained_model_name_or_path", "")
        with damage_named(name):
            loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        encoder: Any = model.encoder
        encoder.freeze_untrained()
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model and its code atomically; arguments as in `PreTrainedModel.save_pretrained`."""
        save_in_one_piece(super().save_pretrained, save_directory, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Read a batch of sentences and predict the tokens of their targets.

        Args:
            input_ids, attention_mask, character_ids, pos_tag_ids, code_point_ids: inputs of the encoder, as in
                [`ElmoModel`] and [`ElmoTaskEncoder`].
            decoder_input_ids: (batch, tokens), int64; by default `labels` shifted right.
            labels: (batch, tokens), int64, the target tokens, -100 for none.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.
            kwargs: as in `EncoderDecoderModel`.

        Returns:
            As `EncoderDecoderModel`; with `labels`, the loss is the mean cross-entropy plus the encoder's
            `scalar_mix_penalty()`.

        Raises:
            ValueError: labels without `pad_token_id` or `decoder_start_token_id` in the configuration.
        """
        if attention_mask is None and kwargs.get("inputs_embeds") is None and input_ids is not None:
            encoder: Any = self.encoder
            reads_ids = encoder.bilm is None or encoder.bilm.embeddings.input_names[0] == "input_ids"
            if reads_ids or character_ids is not None:
                attention_mask = encoder.word_mask(input_ids, None, character_ids).long()
        if kwargs.get("encoder_outputs") is None:
            kwargs.update(character_ids=character_ids, pos_tag_ids=pos_tag_ids)
            if code_point_ids is not None:
                kwargs.update(code_point_ids=code_point_ids)
        if labels is not None and decoder_input_ids is None and kwargs.get("decoder_inputs_embeds") is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            if kwargs.get("decoder_attention_mask") is None:
                padding: Any = self.config.pad_token_id
                kwargs["decoder_attention_mask"] = decoder_input_ids.ne(padding).long()
        outputs = super().forward(input_ids, attention_mask, decoder_input_ids, **kwargs)
        if labels is not None:
            labels, encoder = labels.to(outputs.logits.device), self.encoder
            loss = mean_cross_entropy(outputs.logits, labels, num_items_in_batch)
            outputs.loss = encoder._penalized(loss, labels, num_items_in_batch)
        return outputs

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(batch, tokens) labels -> (batch, tokens) decoder inputs: the labels shifted right."""
        padding, start = self.config.pad_token_id, self.config.decoder_start_token_id
        if padding is None or start is None:
            name = "pad_token_id" if padding is None else "decoder_start_token_id"
            raise ValueError(f"{name}=None: set model.config.{name} to the target tokenizer's before training")
        return shift_tokens_right(labels, padding, start)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        # Each part initializes its own modules; the parent's rules would overwrite them.
        part = self.encoder if any(module is each for each in self.encoder.modules()) else self.decoder
        part._init_weights(module)
