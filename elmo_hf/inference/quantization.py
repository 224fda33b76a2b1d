"""Quantization of a trained model to int8: a quarter of the size, and faster on CPUs."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from elmo_hf.model.modeling_elmo import ElmoPreTrainedModel
from elmo_hf.model.quantized_linear import LEVELS, SMALLEST_STEP, ElmoQuantizedLinear, replace_linear_layers

from .loading import check_copy, is_a

Model = TypeVar("Model", bound=ElmoPreTrainedModel)


def quantize(model: Model) -> Model:
    """Quantize the linear layers of a model's biLM to int8, in place, for inference.

    Quantized are the matmuls of the LSTM (or of the Transformer), the highways and the word projections. Character
    convolutions, cells, clipping, mixes, task layers and softmaxes stay as they are. Weights have one scale per output.
    Inputs have one scale per word, computed at every call, so no calibration data are needed; [`ElmoQuantizedLinear`]
    defines the numbers. The mix of the original's layers changes by about 2 percent of its largest value (cosine above
    0.9997), a single upper layer by up to 4 (0.9995).

    The model itself is modified, like by `model.half()`, layer by layer and without a second copy of its weights. The
    biLM is frozen; task layers on top can still be trained. `save_pretrained` and `from_pretrained` work as before
    (`config.weight_precision` records the change), with or without this package. To undo it, load the original again.

    Args:
        model: any ELMo model with a biLM, in any floating dtype, best loaded in float32.

    Returns:
        The same object.

    Raises:
        TypeError: not a model of this package.
        ValueError: a model without biLM, one that is already quantized, a layer wrapped by an adapter or another
            quantizer, or weights that are not finite or not loaded. The model is then unchanged.
    """
    if not is_a(model, ElmoPreTrainedModel):
        raise TypeError(f"quantize got {type(model).__name__}: expected a model of elmo_hf, e.g. an ElmoModel")
    check_copy(model)
    _check(model)
    bilm = model.bilm
    for part in (bilm.embeddings, bilm.encoder):
        replace_linear_layers(part, quantized)
    # The biLM inside a task model shares its configuration or has its own.
    for config in (model.config, bilm.config):
        config.weight_precision = "int8"
    model.freeze_bilm()
    return model


def integer_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a weight [out, in]: the nearest integers, int8 [out, in], and the scale of each output, float32 [out].

    Raises:
        ValueError: the weight has values that are not finite.
    """
    values = weight.detach().float()
    bound = values.abs().amax(dim=1)
    if not bool(torch.isfinite(bound).all()):
        raise ValueError("the weight holds values that are not finite: no 8-bit scale fits them")
    scale = (bound / LEVELS).clamp_(min=SMALLEST_STEP)
    return (values / scale[:, None]).round_().to(torch.int8), scale


def quantized(layer: nn.Linear) -> ElmoQuantizedLinear:
    """Quantize a linear layer, with one scale per output.

    Raises:
        ValueError: the weight has values that are not finite.
    """
    made = ElmoQuantizedLinear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    made.quantized_weight, made.weight_scale = integer_weights(layer.weight)
    if layer.bias is not None:
        made.bias = layer.bias.detach().float().clone()
    return made.train(layer.training)


def _check(model: ElmoPreTrainedModel) -> None:
    """Raise errors before anything is changed."""
    if model.bilm is None:
        raise ValueError("quantize got a model without biLM (elmo_at=[]): there is nothing to quantize in it")
    if model.config.weight_precision is not None or any(
        getattr(type(part), "is_int8_linear", False) for part in model.modules()
    ):
        raise ValueError(
            f"quantize got a model that is quantized already (weight_precision={model.config.weight_precision!r}): "
            "load the one in float again"
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            "quantize got a model that Transformers has quantized (quantization_config): load it without that"
        )
    if getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "peft_config", None):
        raise ValueError("quantize got a model with an adapter: merge it first (merge_and_unload())")
    for part in (model.bilm.embeddings, model.bilm.encoder):
        for name, layer in part.named_modules():
            if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
                raise ValueError(f"{name} is a {type(layer).__name__}: expected nn.Linear; merge adapters first")
            if type(layer) is not nn.Linear:
                continue
            if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
                raise ValueError(f"{name} has a hook or an offloaded weight: load the model whole on one device")
            if layer.weight.device.type == "meta":
                raise ValueError(f"{name}.weight is on the meta device: load the model whole first")
            if not bool(torch.isfinite(layer.weight).all()):
                raise ValueError(f"{name}.weight holds values that are not finite: no 8-bit scale fits them")
