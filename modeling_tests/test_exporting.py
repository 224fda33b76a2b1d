"""Exported models against the models: the dense modules, `torch.export`, and ONNX files under onnxruntime."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elmo_hf import (
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
    exporting,
)
from elmo_hf.cli import main
from elmo_hf.exporting import example_inputs, export_onnx, export_program, exportable, named_outputs

from .tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

# (rows, words, padding side); rows are of different lengths.
SIZES = [(3, 5, "right"), (2, 7, "left"), (1, 3, "right"), (4, 2, "left"), (1, 1, "right"), (5, 12, "left")]
TAGGER = {"num_labels": 3, "task_lstm_size": 3, "task_lstm_layers": 2, "word_vector_size": 5}
# The rows of the table in docs/compile_and_export.md.
ROWS = {
    "characters": (ElmoModel, {}),
    "words": (ElmoModel, WORD_INPUT),
    "both": (ElmoModel, BOTH_INPUTS),
    "Transformer": (ElmoModel, TRANSFORMER),
    "tagger": (ElmoForTokenClassification, TAGGER),
    "tagger without biLM": (ElmoForTokenClassification, {**TAGGER, "elmo_at": []}),
    "texts": (
        ElmoForSequenceClassification,
        {**WORD_INPUT, "num_labels": 3, "pooling": ["mean", "max", "min", "attention"], "maxout_sizes": [4]},
    ),
}


def model_of(kind: type[ElmoPreTrainedModel], **overrides: Any) -> Any:
    return with_large_weights(kind(tiny_config(**overrides)), scale=0.5).eval()


@torch.no_grad()
def compare(run: Callable[[dict[str, Tensor]], dict[str, Any]], model: ElmoPreTrainedModel, names: list[str]) -> None:
    """All outputs of every size of batch."""
    batches = [example_inputs(model, *size) for size in SIZES]
    holed = example_inputs(model, 2, 6)
    holed["attention_mask"][:, 2] = 0  # padding between words
    for inputs in [*batches, holed]:
        expected = named_outputs(model(**inputs, output_hidden_states="hidden_states" in names), names)
        found = run(inputs)
        assert list(found) == names
        for name in names:
            difference = (torch.as_tensor(found[name]) - expected[name]).abs().max()
            assert difference <= 4e-6 * expected[name].abs().max(), (name, inputs["attention_mask"].shape)


def short_words(model: ElmoPreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch of words of at most two letters; and the same with rows of characters as short as they may be."""
    batch = batch_of(["a bc", "d"])
    # A word's two ends, its letters, and as many columns as the widest filter has.
    cut = {**batch, "character_ids": batch["character_ids"][:, :, : 2 + 2 + model.config.character_filters[-1][0]]}
    assert cut["character_ids"].shape != batch["character_ids"].shape
    return batch, cut


def loop(step: Any, state: Any, given: tuple[Tensor, ...], reverse: bool) -> tuple[Any, Tensor]:
    """The definition of `scan`."""
    outputs = []
    for index in range(len(given[0]))[:: -1 if reverse else 1]:
        state, output = step(state, tuple(part[index] for part in given))
        outputs.append(output)
    return state, torch.stack(outputs[:: -1 if reverse else 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        (ElmoModel, {"num_representations": 2}),
        (ElmoModel, WORD_INPUT),
        (ElmoModel, {**WORD_INPUT, "word_embedding_size": 7, "pad_token_id": None}),
        (ElmoModel, {**BOTH_INPUTS, "num_pos_tags": 5}),
        (ElmoModel, {"cell_clip": None, "projection_clip": None, "use_skip_connections": False}),
        (ElmoModel, {"cell_projection": False, "cell_size": 4, "context_word_layer": True}),
        (ElmoModel, {"scalar_mix_layer_norm": "words", "character_activation": "tanh"}),
        (ElmoModel, TRANSFORMER),
        (ElmoModel, {**TRANSFORMER, "causal": False}),
        (ElmoForTokenClassification, TAGGER),
        (ElmoForTokenClassification, {**TAGGER, "elmo_at": []}),
        (ElmoForSequenceClassification, {"num_labels": 3, "pooling": ["mean", "max", "min", "attention"]}),
        (ElmoForSequenceClassification, {**TRANSFORMER, "num_labels": 2, "maxout_sizes": [4]}),
    ],
)
def test_dense_modules(
    kind: type[ElmoPreTrainedModel], overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers as the model, padding on either side or between words."""
    monkeypatch.setattr(exporting, "scan", loop)
    model = model_of(kind, **overrides)
    module = exportable(model, output_hidden_states=model.bilm is not None)
    compare(lambda inputs: module(**inputs), model, module.output_names)


def test_weights_are_shared() -> None:
    """Weights have the model's names; the model is unchanged."""
    model = model_of(ElmoModel).train()
    module = exportable(model)
    own, shared = dict(model.named_parameters()), dict(module.model.named_parameters())
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)
    assert not any(part.training for part in module.modules())
    assert all(part.training for part in model.modules())
    assert type(model.encoder).__name__ == "ElmoEncoder"


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_program(row: str, tmp_path: Path) -> None:
    """`torch.export` with dynamic sizes, saved and loaded; onto words of a Transformer up to its last position."""
    kind, overrides = ROWS[row]
    model = model_of(kind, **overrides)
    torch.export.save(export_program(model, output_hidden_states=kind is ElmoModel), tmp_path / "elmo.pt2")
    program = torch.export.load(tmp_path / "elmo.pt2").module()
    names = ["last_hidden_state", "hidden_states"] if kind is ElmoModel else ["logits"]
    compare(lambda inputs: program(**inputs), model, names)
    if model.config.character_filters and model.bilm is not None:
        batch, cut = short_words(model)
        torch.testing.assert_close(program(**cut)[names[0]], model(**batch)[0])


@pytest.mark.slow
def test_onnx_of_characters(tmp_path: Path) -> None:
    """One session for all sizes, with the tokenizer's outputs and names."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_of(ElmoModel)
    path = export_onnx(model, tmp_path / "new" / "elmo.onnx", output_hidden_states=True)
    assert [file.name for file in path.parent.iterdir()] == ["elmo.onnx"]
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert names == ["last_hidden_state", "hidden_states"]
    assert [given.shape[:2] for given in session.get_inputs()] == [["batch", "words"]] * 3
    assert session.get_inputs()[2].shape[2] == "characters"

    def run(inputs: dict[str, Tensor]) -> dict[str, Any]:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return dict(zip(names, session.run(None, arrays), strict=True))

    compare(run, model, names)
    batch, cut = short_words(model)
    torch.testing.assert_close(torch.from_numpy(run(cut)["last_hidden_state"]), model(**batch).last_hidden_state)
    for side in ("right", "left"):
        tokenizer = ElmoTokenizer(max_characters_per_word=9, padding_side=side)
        texts = ["The cat sat .", "Élan vital", ""]
        found = session.run(None, dict(tokenizer(texts, padding=True, return_tensors="np")))[0]
        with torch.no_grad():
            expected = model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state
        assert (torch.from_numpy(found) - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row != "characters"])
def test_onnx_by_the_command_line(row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved model is loaded as its saved class."""
    onnxruntime = pytest.importorskip("onnxruntime")
    kind, overrides = ROWS[row]
    model = model_of(kind, **overrides)
    model.save_pretrained(tmp_path / "model")
    assert main(["export-onnx", str(tmp_path / "model"), str(tmp_path / "model.onnx")]) == 0
    assert capsys.readouterr().out.startswith("wrote ")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == ["last_hidden_state" if kind is ElmoModel else "logits"]

    def run(inputs: dict[str, Tensor]) -> dict[str, Any]:
        known = {given.name for given in session.get_inputs()}
        arrays = {name: value.numpy() for name, value in inputs.items() if name in known}
        return dict(zip(names, session.run(None, arrays), strict=True))

    compare(run, model, names)


def test_wrong_onnx_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export is refused, and no file is left."""

    class Session:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            words = torch.as_tensor(inputs["input_ids"])
            return [torch.zeros(*words.shape, 8).numpy()]

    class Program:
        def save(self, path: Path, external_data: bool) -> None:
            assert not external_data
            path.write_bytes(b"onnx")

    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: Program())
    with pytest.raises(RuntimeError, match="last_hidden_state.*1.*2"):
        export_onnx(model_of(ElmoModel), tmp_path / "elmo.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"elmo-hf\[onnx\]"):
        export_onnx(model_of(ElmoModel), tmp_path / "elmo.onnx")


@pytest.mark.parametrize(
    ("kind", "overrides", "error", "message"),
    [
        (ElmoForPreTraining, {}, TypeError, "ElmoForPreTraining.*ElmoModel"),
        (ElmoForCausalLM, {}, TypeError, "ElmoForCausalLM.*ElmoModel"),
        (ElmoForMaskedLM, {"mask_token_id": 4}, TypeError, "ElmoForMaskedLM.*ElmoModel"),
        (ElmoForMultipleChoice, {}, TypeError, "ElmoForMultipleChoice.*ElmoModel"),
        (ElmoForQuestionAnswering, {}, TypeError, "ElmoForQuestionAnswering.*ElmoModel"),
        (ElmoModel, {"bidirectional": False}, ValueError, "bidirectional=False"),
        (ElmoModel, {"weight_precision": "int8"}, ValueError, "weight_precision='int8'"),
        (
            ElmoForTokenClassification,
            {"task_lstm_size": 2, "task_encoder": "highway_lstm"},
            ValueError,
            "task_encoder='highway_lstm'",
        ),
        (ElmoForSequenceClassification, {"task_character_size": 2}, ValueError, "task_character_size=2"),
        (ElmoForTokenClassification, {"num_labels": 3, "use_crf": True}, ValueError, "use_crf=True"),
        (ElmoForSequenceClassification, {"num_labels": 3, "sentence_pairs": True}, ValueError, "sentence_pairs=True"),
    ],
)
def test_refusals(
    kind: type[ElmoPreTrainedModel], overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        exportable(kind(tiny_config(**overrides)))


def test_other_refusals(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*torch\.float32"):
        export_onnx(model_of(ElmoModel).bfloat16(), tmp_path / "elmo.onnx")
    with pytest.raises(ValueError, match="without biLM"):
        exportable(model_of(ElmoForTokenClassification, **TAGGER, elmo_at=[]), output_hidden_states=True)


@pytest.mark.parametrize("side", ["right", "left"])
def test_example_inputs(side: str) -> None:
    """Batches like the tokenizer's: boundaries at both ends, padding on one side, rows of decreasing length."""
    model = model_of(ElmoModel)
    inputs = example_inputs(model, 3, 6, side)
    real = batch_of(["a b c d", "a b c", "a b"], side)
    assert {name: value.dtype for name, value in inputs.items()} == {name: value.dtype for name, value in real.items()}
    assert inputs["attention_mask"].equal(real["attention_mask"])
    boundaries = real["input_ids"].eq(1) | real["input_ids"].eq(2)
    assert inputs["input_ids"][boundaries].equal(real["input_ids"][boundaries])
    assert not inputs["character_ids"][~real["attention_mask"].bool()].any()
