"""Configuration of an encoder-decoder model whose encoder is ELMo."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, EncoderDecoderConfig

from .configuration_elmo import ElmoConfig, ElmoTaskEncoderConfig

ENCODERS = {kind.model_type: kind for kind in (ElmoConfig, ElmoTaskEncoderConfig)}


@strict
class ElmoEncoderDecoderConfig(EncoderDecoderConfig):
    r"""`EncoderDecoderConfig` with an [`ElmoConfig`] encoder; usable where ELMo is not registered with Transformers.

    The model type is unchanged, so that Transformers' `EncoderDecoderModel` reads the same folder if `elmo_hf` is
    installed.

    Args:
        encoder: an [`ElmoConfig`] or [`ElmoTaskEncoderConfig`], or a dict of its fields; by default that of the
            original model.
        decoder: the configuration, or a dict, of a causal language model of Transformers with cross-attention.
    """

    model_type = "encoder-decoder"
    _auto_class = "AutoConfig"

    def __post_init__(self, **kwargs: Any) -> None:
        # Attributes of the class, or, in some versions of transformers, keyword arguments only.
        encoder: Any = kwargs.pop("encoder", None) or getattr(self, "encoder", None) or {}
        decoder: Any = kwargs.pop("decoder", None) or getattr(self, "decoder", None)
        # Recognized by content: each copy of a checkpoint's code has its own ElmoConfig class.
        if not isinstance(encoder, dict | ElmoConfig):
            encoder = encoder.to_dict()
        if isinstance(encoder, dict):
            kind = encoder.get("model_type", ElmoConfig.model_type)
            if kind not in ENCODERS:
                raise ValueError(
                    f"encoder has model_type={kind!r}: expected {' or '.join(map(repr, ENCODERS))}; for other encoders "
                    "use Transformers' EncoderDecoderModel"
                )
            encoder = ENCODERS[kind].from_dict(encoder)
        self.encoder = encoder
        self.decoder = AutoConfig.for_model(**decoder) if isinstance(decoder, dict) else decoder
        kwargs["auto_map"] = dict(AUTO_MAP)
        # Skips the parent class, which looks the encoder up among the registered models.
        super(EncoderDecoderConfig, self).__post_init__(**kwargs)


AUTO_MAP = {
    "AutoConfig": "configuration_encoder_decoder.ElmoEncoderDecoderConfig",
    "AutoModelForSeq2SeqLM": "encoder_decoder.ElmoEncoderDecoderModel",
}
