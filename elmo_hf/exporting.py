"""Export of models as graphs: `torch.export` and ONNX, for any number of sentences and words.

The models' computation depends on the data: they pack the real words of a batch, encode every distinct word once, and
loop over a list of batch sizes. A graph cannot do that. `exportable` returns the same model, with the same weights
under the same names, in which data-dependent modules are replaced by dense ones: every position is computed, padding is
masked, and the recurrence is one `scan` over the words, an operator that ONNX has.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from elmo_hf.atomic import filling
from elmo_hf.inference.evaluation import in_evaluation
from elmo_hf.inference.loading import is_a
from elmo_hf.model.base_model import ElmoModel
from elmo_hf.model.bilstm import ElmoEncoder, ElmoLayer, ElmoLstm
from elmo_hf.model.character_embeddings import ElmoCharacterEmbeddings
from elmo_hf.model.encoders import ElmoTaskLayer, ElmoTaskLstm
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.model.sequence_classification import ElmoForSequenceClassification
from elmo_hf.model.state import ElmoState
from elmo_hf.model.task_layers import ElmoTaskLayers, ElmoWordVectors
from elmo_hf.model.token_classification import ElmoForTokenClassification
from elmo_hf.model.transformer import ElmoTransformerEncoder
from elmo_hf.model.word_embeddings import ElmoProjectedWordEmbeddings, ElmoWordEmbeddings
from elmo_hf.model.word_layer import ElmoJoinedEmbeddings, ElmoPosTagEmbeddings
from elmo_hf.model.word_parts import ElmoTable
from elmo_hf.version import __version__

# Relative to the largest value; onnxruntime's sums differ from PyTorch's in the last bits.
TOLERANCE = 1e-5
# Protocol Buffers files are limited to 2 GiB.
LARGEST_SINGLE_FILE = 1_900_000_000
OPSET_VERSION = 18


def _kept(vectors: Tensor, mask: Tensor) -> Tensor:
    """Vectors (batch, words, width), set to zero where `mask` (batch, words) is false."""
    return vectors.masked_fill(~mask.unsqueeze(-1), 0.0)


class _DenseCharacterEmbeddings(ElmoCharacterEmbeddings):
    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        rows = inputs[0].long().masked_fill(~mask.unsqueeze(-1), 0)
        return _kept(self.encode(rows.flatten(0, 1)).unflatten(0, mask.shape), mask)


class _DenseTable(ElmoTable):
    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        return _kept(self.encode_checked(inputs[0].long().masked_fill(~mask, 0)), mask)


class _DenseWordEmbeddings(_DenseTable, ElmoWordEmbeddings):
    pass


class _DenseProjectedWordEmbeddings(_DenseWordEmbeddings, ElmoProjectedWordEmbeddings):
    pass


class _DenseWordVectors(_DenseWordEmbeddings, ElmoWordVectors):
    pass


class _DensePosTagEmbeddings(_DenseTable, ElmoPosTagEmbeddings):
    pass


class _DenseJoinedEmbeddings(ElmoJoinedEmbeddings):
    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        vectors = [part(given, mask=mask) for part, given in zip(self._parts(), inputs, strict=True)]
        return _kept(self.projection(torch.cat(vectors, dim=-1)), mask)


def _scan(lstm: ElmoLstm | ElmoTaskLstm, inputs: Tensor, mask: Tensor, reverse: bool) -> Tensor:
    """Run `reference_lstm` over padded words: (batch, words, width) -> (batch, words, P), zero at padding.

    Padding does not change the state, so it may be on either side.
    """
    # Layers of a task have neither a projection nor clips.
    output_proj, cell_clip, projection_clip = (
        getattr(lstm, name, None) for name in ("output_proj", "cell_clip", "projection_clip")
    )
    size, forget_bias = lstm.hidden_proj.out_features // 4, lstm.forget_bias
    gates_of_all = lstm.input_proj(inputs).transpose(0, 1)  # [words, batch, 4H]
    first_hidden = inputs.new_zeros(inputs.shape[0], lstm.hidden_proj.in_features)
    first_cell = inputs.new_zeros(inputs.shape[0], size, dtype=torch.promote_types(inputs.dtype, torch.float32))

    def step(state: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        (hidden, cell), (gates, real) = state, given
        wide = (gates + lstm.hidden_proj(hidden)).to(cell.dtype)
        input_gate, forget_gate, candidate, output_gate = wide.chunk(4, dim=-1)
        new_cell = torch.sigmoid(forget_gate + forget_bias) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        if cell_clip is not None:
            new_cell = new_cell.clamp(-cell_clip, cell_clip)
        new_hidden = (torch.sigmoid(output_gate) * torch.tanh(new_cell)).to(hidden.dtype)
        if output_proj is not None:
            new_hidden = output_proj(new_hidden)
            if projection_clip is not None:
                new_hidden = new_hidden.clamp(-projection_clip, projection_clip)
        after = torch.where(real, new_hidden, hidden), torch.where(real, new_cell, cell)
        return after, new_hidden.masked_fill(~real, 0.0)

    real_of_all = mask.transpose(0, 1).unsqueeze(-1)  # [words, batch, 1]
    _, outputs = scan(step, (first_hidden, first_cell), (gates_of_all, real_of_all), reverse=reverse)
    return outputs.transpose(0, 1)


class _DenseEncoder(ElmoEncoder):
    def forward(
        self, words: Tensor, mask: Tensor, initial_state: Any = None, distinct: Any = None
    ) -> tuple[list[Tensor], Any]:
        forward = backward = words
        layers = [torch.cat([words, words], dim=-1)]
        for layer in cast("Iterable[ElmoLayer]", self.layers):
            lstms: Any = (layer.forward_lstm, layer.backward_lstm)
            outputs = [
                _scan(lstm, inputs, mask, reverse)
                for lstm, inputs, reverse in zip(lstms, (forward, backward), (False, True), strict=True)
            ]
            if layer.has_skip_connection:
                outputs = [outputs[0] + forward, outputs[1] + backward]
            forward, backward = outputs
            layers.append(torch.cat(outputs, dim=-1))
        if self.context_word_layer is not None:
            layers.append(_kept(torch.cat(self.context_word_layer(forward, backward, words, words), dim=-1), mask))
        return layers, None


class _DenseTransformerEncoder(ElmoTransformerEncoder):
    def forward(
        self, words: Tensor, mask: Tensor, initial_state: Any = None, output_attentions: bool = False
    ) -> tuple[list[Tensor], None]:
        lengths = mask.sum(dim=1, keepdim=True)
        inputs = words + self.positions((mask.cumsum(dim=1) - 1).clamp(min=0)).to(words.dtype)
        # As in the model, columns are put in reading order with padding last; ONNX has no stable sort.
        step = torch.arange(mask.shape[1], device=mask.device)
        place = torch.where(mask, mask.long().cumsum(dim=1), lengths + (~mask).long().cumsum(dim=1)) - 1
        forward = torch.zeros_like(place).scatter(1, place, step.expand(mask.shape))  # [batch, words]
        backward = forward.gather(1, torch.where(step < lengths, lengths - 1 - step, step))
        orders = [order.unsqueeze(-1).expand(-1, -1, words.shape[2]) for order in (forward, backward)]
        layers = [torch.cat([words, words], dim=-1)]
        for pair in self.run_layers(inputs.gather(1, orders[0]), inputs.gather(1, orders[1]), step < lengths):
            placed = [torch.zeros_like(part).scatter(1, order, part) for order, part in zip(orders, pair, strict=True)]
            layers.append(torch.cat(placed, dim=-1))
        return layers, None


class _DenseTaskLayers(ElmoTaskLayers):
    def _run_layers(
        self, layers: nn.ModuleList, words: Tensor, mask: Tensor, initial_state: ElmoState | None = None
    ) -> tuple[Tensor, None]:
        for layer in cast("Iterable[ElmoTaskLayer]", layers):
            lstms: Any = (layer.forward_lstm, layer.backward_lstm)
            words = torch.cat(
                [_scan(lstm, words, mask, reverse) for lstm, reverse in zip(lstms, (False, True), strict=True)], dim=-1
            )
        return words, None


# Data-dependent modules and their dense replacements.
DENSE: dict[type[nn.Module], type[nn.Module]] = {
    ElmoCharacterEmbeddings: _DenseCharacterEmbeddings,
    ElmoWordEmbeddings: _DenseWordEmbeddings,
    ElmoProjectedWordEmbeddings: _DenseProjectedWordEmbeddings,
    ElmoPosTagEmbeddings: _DensePosTagEmbeddings,
    ElmoJoinedEmbeddings: _DenseJoinedEmbeddings,
    ElmoWordVectors: _DenseWordVectors,
    ElmoEncoder: _DenseEncoder,
    ElmoTransformerEncoder: _DenseTransformerEncoder,
    ElmoTaskLayers: _DenseTaskLayers,
}


def _dense(module: nn.Module) -> nn.Module:
    """A copy of a module tree in evaluation mode that shares all tensors, with the modules of `DENSE` replaced."""
    kind = DENSE.get(type(module), type(module))
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    twin._modules = {name: None if child is None else _dense(child) for name, child in module._modules.items()}
    twin.training = False
    if kind is not type(module):
        # With an instance `forward`, the model calls the word layer instead of deduplicating its words.
        twin.__dict__["forward"] = MethodType(kind.forward, twin)
    return twin


class ExportableElmo(nn.Module):
    """Result of `exportable`.

    Attributes:
        config: the model's configuration.
        output_names: names of the outputs, in order.
    """

    def __init__(self, model: ElmoPreTrainedModel, output_hidden_states: bool) -> None:
        super().__init__()
        self.config = model.config
        self.model = _dense(model)
        self.output_names: list[str] = ["last_hidden_state"] if isinstance(model, ElmoModel) else ["logits"]
        if isinstance(model, ElmoModel) and model.config.num_representations > 1:
            self.output_names.append("representations")
        if output_hidden_states:
            self.output_names.append("hidden_states")
        self.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        character_ids: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the model's outputs; `hidden_states` is one tensor (batch, layers, words, 2 * projection_size)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            character_ids=character_ids,
            pos_tag_ids=pos_tag_ids,
            output_hidden_states="hidden_states" in self.output_names,
            return_dict=True,
        )
        return named_outputs(outputs, self.output_names)


def named_outputs(outputs: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Select the tensors of a model's output that an exported model returns."""
    return {name: torch.stack(outputs[name], dim=1) if name == "hidden_states" else outputs[name] for name in names}


def exportable(model: ElmoPreTrainedModel, output_hidden_states: bool = False) -> ExportableElmo:
    """A version of the model without data-dependent Python, for `torch.export`, ONNX and other tracers.

    It shares the model's weights and gives the same numbers in evaluation mode, from zero states, with padding on
    either side. Ids are not checked, and a mask is required. It computes padding like words, and encodes repeated words
    repeatedly; in PyTorch the model itself is several times faster.

    Args:
        model: an [`ElmoModel`], an [`ElmoForTokenClassification`] without CRF, or an
            [`ElmoForSequenceClassification`] without `sentence_pairs`; an LSTM or a Transformer.
        output_hidden_states: also return all layers.

    Raises:
        TypeError: another model.
        ValueError: a CRF, sentence pairs, code points or highways of a task's own, or 8-bit weights.
    """
    kinds = ElmoModel, ElmoForTokenClassification, ElmoForSequenceClassification
    if not isinstance(model, kinds):
        if any(is_a(model, kind) for kind in kinds):
            raise TypeError(
                f"cannot export a {type(model).__name__} of {type(model).__module__}, a copy of the code that came "
                f"with its checkpoint: load the checkpoint without trust_remote_code, by elmo_hf {__version__}"
            )
        raise TypeError(
            f"cannot export {type(model).__name__}: expected ElmoModel, ElmoForTokenClassification or "
            "ElmoForSequenceClassification; of other models export the biLM, for instance model.elmo, and run the rest "
            "outside"
        )
    if isinstance(model, ElmoForTokenClassification) and model.crf is not None:
        raise ValueError(
            "cannot export a CRF (use_crf=True), whose decoding loops over words: export the model with "
            "config.use_crf=False for the logits that it reads, and decode outside"
        )
    if isinstance(model, ElmoForSequenceClassification) and model.config.sentence_pairs:
        raise ValueError("cannot export sentence_pairs=True, which checks every row of a batch to be a pair")
    for name, other in (("task_character_size", 0), ("task_encoder", "lstm")):
        if getattr(model.config, name) != other and not isinstance(model, ElmoModel):
            raise ValueError(
                f"cannot export {name}={getattr(model.config, name)!r} of a task model: expected {other!r}; export its "
                "biLM, model.elmo, and run the task's layers outside"
            )
    if not model.config.bidirectional:
        raise ValueError("cannot export bidirectional=False: an exported biLSTM has both directions")
    if model.config.weight_precision is not None:
        raise ValueError(
            f"cannot export weight_precision={model.config.weight_precision!r}, whose matmuls exist only in "
            "PyTorch: export the model that it was quantized from, and quantize the file with onnxruntime"
        )
    if output_hidden_states and model.bilm is None:
        raise ValueError("output_hidden_states=True for a model without biLM (elmo_at=[]), which has no layers")
    return ExportableElmo(model, output_hidden_states)


def example_inputs(
    model: ElmoPreTrainedModel | ExportableElmo, rows: int = 3, words: int = 5, padding_side: str = "right"
) -> dict[str, Tensor]:
    """A batch of `rows` random sentences of up to `words` words, including boundaries, like the tokenizer's output.

    The first sentence is the longest; each following one is a word shorter, down to the two boundaries.
    """
    config = model.config
    draw = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, max(high, low + 1), shape, generator=draw)

    lengths = (words - torch.arange(rows)).clamp(min=min(words, 2))[:, None]
    step = torch.arange(words)
    place = step if padding_side == "right" else step - (words - lengths)
    mask = (place >= 0) & (place < lengths)
    ids = integers(0, config.vocab_size, rows, words)
    for token, where in ((config.bos_token_id, place == 0), (config.eos_token_id, place == lengths - 1)):
        if isinstance(token, int):
            ids = ids.masked_fill(where, token)
    inputs = {"input_ids": ids.masked_fill(~mask, config.pad_token_id or 0), "attention_mask": mask.long()}
    if config.character_filters:
        characters = integers(1, config.num_characters, rows, words, config.max_characters_per_word)
        inputs["character_ids"] = characters.masked_fill(~mask.unsqueeze(-1), 0)
    if config.num_pos_tags:
        inputs["pos_tag_ids"] = integers(0, config.num_pos_tags + 1, rows, words).masked_fill(~mask, 0)
    return inputs


def dynamic_shapes(model: ElmoPreTrainedModel | ExportableElmo) -> dict[str, Any]:
    """The `dynamic_shapes` of `torch.export.export`: any number of sentences, of words, and of characters.

    A Transformer reads at most `max_position_embeddings` words. Rows of characters may be truncated after the longest
    word plus the width of the widest filter, which gives the same numbers; they need more columns than the widest
    filter is wide.
    """
    config = model.config
    batch = torch.export.Dim("batch")
    longest = config.max_position_embeddings if config.encoder_type == "transformer" else None
    words = torch.export.Dim("words", max=longest)
    shapes = {name: {0: batch, 1: words} for name in example_inputs(model)}
    if "character_ids" in shapes:
        # The widest filter has two places at least: tracing takes a size of one for a constant.
        least, most = 1 + max(width for width, _ in config.character_filters), config.max_characters_per_word
        if least < most:
            shapes["character_ids"][2] = torch.export.Dim("characters", min=least, max=most)
    return shapes


def export_program(model: ElmoPreTrainedModel, output_hidden_states: bool = False) -> torch.export.ExportedProgram:
    """Run `torch.export.export` on a model, with dynamic numbers of sentences and words.

    `export_program(model).module()(**tokenizer(texts, padding=True, return_tensors="pt"))` returns a dict of tensors.

    Args:
        model: as in `exportable`.
        output_hidden_states: also return all layers.

    Raises:
        TypeError, ValueError: as in `exportable`.
    """
    module = exportable(model, output_hidden_states)
    inputs = {name: value.to(model.device) for name, value in example_inputs(model).items()}
    with torch.no_grad():
        return torch.export.export(module, (), inputs, dynamic_shapes=dynamic_shapes(model), strict=False)


def export_onnx(
    model: ElmoPreTrainedModel,
    path: str | os.PathLike[str],
    *,
    output_hidden_states: bool = False,
    opset_version: int = OPSET_VERSION,
    tolerance: float = TOLERANCE,
) -> Path:
    """Write a model as an ONNX file, for any number of sentences and words, and check it with onnxruntime.

    Inputs are the tokenizer's outputs, int64 and under the same names, including `attention_mask`. Outputs are
    `last_hidden_state` (and `representations` for several mixes) or `logits`, and optionally `hidden_states` (batch,
    layers, words, 2 * projection_size). A model of more than 2 GB stores its weights in a second file, `path` +
    ".data".

    Args:
        model: as in `exportable`; float32, on any device.
        path: the file to write; it appears when it is complete and checked.
        output_hidden_states: also return all layers.
        opset_version: version of ONNX's operators.
        tolerance: maximum difference between onnxruntime and the model, relative to the largest value.

    Returns:
        The path.

    Raises:
        ImportError: the extra `onnx` is not installed, or PyTorch's exporter does not support `scan`.
        TypeError, ValueError: as in `exportable`, or weights of another dtype.
        RuntimeError: the file gives other results than the model.
    """
    _check_exporter()
    if model.dtype != torch.float32:
        raise ValueError(
            f"the model is {model.dtype}: expected torch.float32, which onnxruntime computes; model.float()"
        )
    path = Path(path)
    module = exportable(model, output_hidden_states)
    inputs = {name: value.to(model.device) for name, value in example_inputs(model).items()}
    with torch.no_grad(), warnings.catch_warnings():
        # Warnings about the exporter's own internals.
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(
            module,
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=module.output_names,
            dynamic_shapes=dynamic_shapes(model),
            opset_version=opset_version,
            dynamo=True,
            verbose=False,
        )
    assert onnx_program is not None
    bytes_of_weights = sum(weight.nbytes for weight in [*model.parameters(), *model.buffers()])
    with filling(path.parent) as staging:  # the weights appear before the file that refers to them
        onnx_program.save(staging / path.name, external_data=bytes_of_weights > LARGEST_SINGLE_FILE)
        _check_file(model, staging / path.name, module.output_names, tolerance)
    return path


def _check_exporter() -> None:
    """Raise `ImportError` if ONNX files cannot be written."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        from torch.onnx._internal.exporter._torchlib.ops import hop
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs onnx, onnxscript and onnxruntime: pip install 'elmo-hf[onnx]' ({error})"
        ) from error
    if not hasattr(hop, "higher_order_scan"):
        raise ImportError(f"the ONNX exporter of torch {torch.__version__} knows no scan: pip install 'torch>=2.11'")


@torch.no_grad()
def _check_file(model: ElmoPreTrainedModel, path: Path, names: Sequence[str], tolerance: float) -> None:
    """Compare a file with the model on batches of sizes other than the traced one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = in_evaluation(model)
    for rows, words, side in ((1, 2, "right"), (2, 9, "left")):
        inputs = example_inputs(model, rows, words, side)
        found = session.run(list(names), {name: value.numpy() for name, value in inputs.items()})
        given = {name: value.to(model.device) for name, value in inputs.items()}
        outputs = model(**given, output_hidden_states="hidden_states" in names, return_dict=True)
        for (name, expected), value in zip(named_outputs(outputs, names).items(), found, strict=True):
            difference = (expected.cpu() - torch.from_numpy(value)).abs().max()
            if not difference <= tolerance * expected.abs().max().cpu():
                raise RuntimeError(
                    f"onnxruntime {onnxruntime.__version__} computes another {name} than the model on {rows} x "
                    f"{words} words: they differ by {float(difference):.1e}, expected at most {tolerance} of the "
                    f"largest value, {float(expected.abs().max()):.1e}"
                )
