"""Configuration of a model that reads with ELMo and writes with another model's decoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, EncoderDecoderConfig

from .configuration_elmo import ElmoConfig


@strict
class ElmoEncoderDecoderConfig(EncoderDecoderConfig):
    r"""As `EncoderDecoderConfig`, whose encoder is an [`ElmoConfig`] also where Transformers does not know ELMo.

    It keeps the model type, so that Transformers' own class reads the same folder where this package is installed.

    Args:
        encoder: an [`ElmoConfig`], or a dict of its fields; by default that of the original model.
        decoder: the configuration, or a dict, of a causal language model of Transformers with cross-attention.
    """

    model_type = "encoder-decoder"
    _auto_class = "AutoConfig"

    def __post_init__(self, **kwargs: Any) -> None:
        # Fields of the class, or up to transformers 5.17 and some later ones only given.
        encoder: Any = kwargs.pop("encoder", None) or getattr(self, "encoder", None) or {}
        decoder: Any = kwargs.pop("decoder", None) or getattr(self, "decoder", None)
        # A checkpoint's code has classes of its own, several copies of them where it lies in a folder: by content.
        if not isinstance(encoder, dict | ElmoConfig):
            encoder = encoder.to_dict()
        if isinstance(encoder, dict):
            kind = encoder.get("model_type", ElmoConfig.model_type)
            if kind != ElmoConfig.model_type:
                raise ValueError(
                    f"encoder has model_type={kind!r}: expected {ElmoConfig.model_type!r}; for other encoders use "
                    "Transformers' EncoderDecoderModel"
                )
            encoder = ElmoConfig.from_dict(encoder)
        self.encoder = encoder
        self.decoder = AutoConfig.for_model(**decoder) if isinstance(decoder, dict) else decoder
        kwargs["auto_map"] = dict(AUTO_MAP)
        # Past the stock class, which looks the encoder up among the models that Transformers knows.
        super(EncoderDecoderConfig, self).__post_init__(**kwargs)


AUTO_MAP = {
    "AutoConfig": "configuration_encoder_decoder.ElmoEncoderDecoderConfig",
    "AutoModelForSeq2SeqLM": "encoder_decoder.ElmoEncoderDecoderModel",
}
