"""Quantized models: differences from the float model, and lossless saving."""

import copy
import json
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification, dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from elmo_hf import (
    ElmoConfig,
    ElmoForMaskedLM,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
    quantize,
)
from elmo_hf.inference import quantization
from elmo_hf.model.modeling_elmo import MODELS
from elmo_hf.model.quantized_linear import ElmoQuantizedLinear
from hub_upload import CheckpointError, convert, export
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

SENTENCES = ["Ada met Grace in Paris .", "No", "They talked about machines"]
LINEAR = ("input_proj", "hidden_proj", "output_proj")


def vectors(model, batch=None, **keywords) -> torch.Tensor:
    """All layers of the biLM, real words only: (layers, n, 2P)."""
    batch = batch or batch_of(SENTENCES)
    with torch.no_grad():
        layers = model.bilm(**batch, output_hidden_states=True, **keywords).hidden_states
    return torch.stack([layer[batch["attention_mask"].bool()] for layer in layers])


def encoded(model) -> torch.Tensor:
    """All layers over given word vectors: what only integers and point-wise arithmetic compute, the same anywhere.

    The convolutions below are float products, whose last bits depend on where in memory their weights lie.
    """
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(3, 5, model.config.projection_size, generator=generator).to(model.dtype)
    with torch.no_grad():
        return torch.stack(model.bilm(inputs_embeds=words, output_hidden_states=True).hidden_states)


def assert_same(found, expected) -> None:
    """Two quantized models of one class."""
    values = expected.state_dict()
    assert {name: value.dtype for name, value in found.state_dict().items()} == {
        name: value.dtype for name, value in values.items()
    }
    assert all(torch.equal(value, values[name]) for name, value in found.state_dict().items())
    assert torch.equal(encoded(found), encoded(expected))
    assert errors(vectors(found), vectors(expected))[0] < 0.01


def errors(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Largest difference relative to the largest value, and smallest cosine of a word's mean vector over layers."""
    cosine = nn.functional.cosine_similarity(found.mean(0), expected.mean(0), dim=-1).min()
    return ((found - expected).abs().max() / expected.abs().max()).item(), cosine.item()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"cell_size": 4},
        {**WORD_INPUT, "word_embedding_size": 3},
        {**BOTH_INPUTS, "context_word_layer": True, "character_projection_location": "after_cnn"},
        {**TRANSFORMER, "character_layer_norm": True},
        {"num_representations": 2, "use_skip_connections": False, "character_activation": "tanh"},
    ],
    ids=["plain", "no projection", "words", "both", "transformer", "two mixes"],
)
def test_every_kind_of_bilm(overrides, tmp_path):
    model = with_large_weights(ElmoModel(tiny_config(**overrides))).eval()
    expected = vectors(model)
    assert quantize(model) is model
    assert not [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    found = vectors(model)
    relative, cosine = errors(found, expected)
    # Rows are short, so rounding averages out less than in a large model.
    assert 0 < relative < 0.08 and cosine > 0.995
    model.save_pretrained(tmp_path)
    assert_same(AutoModel.from_pretrained(tmp_path), model)


@pytest.mark.samples(2)
@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_every_task(cls, tmp_path):
    config = tiny_config(task_lstm_size=2, elmo_at=["input", "output"])
    model = with_large_weights(cls(config)).eval()
    own = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    expected = vectors(model)
    quantize(model)
    left = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    # The task's own layers stay in float.
    assert left == {name for name in own if cls is not ElmoModel and not name.startswith("elmo.")}
    assert errors(vectors(model), expected)[0] < 0.08
    model.save_pretrained(tmp_path)
    assert_same(cls.from_pretrained(tmp_path), model)
    # The biLM can be loaded from a task model's folder.
    assert_same(ElmoModel.from_pretrained(tmp_path), model.bilm)


def larger_config(**overrides) -> ElmoConfig:
    """The original's shape at an eighth of its width."""
    return tiny_config(
        **{
            "character_embedding_size": 16,
            "character_filters": [[1, 16], [2, 32], [3, 64], [4, 144]],
            "projection_size": 64,
            "cell_size": 512,
            "cell_clip": 3.0,
            "projection_clip": 3.0,
            **overrides,
        }
    )


def with_unit_gates(model):
    """Weights that keep the variance of what they read, as random checkpoints of the originals' size have them."""
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "scalar" not in name:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def test_error_of_a_wide_model():
    model = with_unit_gates(ElmoModel(larger_config())).eval()
    expected = vectors(model)
    relative, cosine = errors(vectors(quantize(model)), expected)
    assert relative < 0.05 and cosine > 0.9995


def test_error_on_the_originals_weights(reference, tmp_path):
    convert(reference / "bilm_tf", tmp_path / "model")
    model = ElmoModel.from_pretrained(tmp_path / "model").eval()
    sentences = json.loads((reference / "bilm_tf" / "lm_embeddings_sentences.json").read_text())
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "model")
    batch = tokenizer(sentences[0], is_split_into_words=True, padding=True, return_tensors="pt")
    expected = vectors(model, batch)
    relative, cosine = errors(vectors(quantize(model), batch), expected)
    assert relative < 0.03 and cosine > 0.9997


def test_a_quarter_of_the_size(tmp_path):
    model = ElmoModel(larger_config())
    model.save_pretrained(tmp_path / "float")
    quantize(model).save_pretrained(tmp_path / "int8")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("float", "int8")]
    assert sizes[1] < 0.3 * sizes[0]
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["weight_precision"] == "int8"
    saved = load_file(tmp_path / "int8" / "model.safetensors")
    assert {value.dtype for name, value in saved.items() if name.endswith("quantized_weight")} == {torch.int8}
    assert not [name for name in saved if name.endswith(tuple(f"{part}.weight" for part in LINEAR))]


def test_no_second_copy_of_the_weights():
    """Each float layer is freed once it is quantized."""
    model = ElmoModel(tiny_config())
    layers = [weakref.ref(part.weight) for part in model.modules() if isinstance(part, nn.Linear)]
    alive = []
    original = quantization.quantized

    def watched(layer):
        alive.append(sum(reference() is not None for reference in layers))
        return original(layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "quantized", watched)
        quantize(model)
    assert all(reference() is None for reference in layers)
    assert alive[0] == len(layers) > 2
    assert alive == sorted(alive, reverse=True) and alive[-1] <= 2


def test_state_padding_and_batches():
    model = quantize(with_large_weights(ElmoModel(tiny_config())).eval())
    together = vectors(model)
    # Other rows, padding side and carried state give the same integers, so nearly the same sums.
    left = vectors(model, batch_of(SENTENCES, side="left", words=11))
    assert errors(left, together)[0] < 0.005
    alone = torch.cat([vectors(model, batch_of([sentence])) for sentence in SENTENCES], dim=1)
    assert errors(alone, together)[0] < 0.005
    with torch.no_grad():
        first = model(**batch_of(SENTENCES), return_state=True)
        second = model(**batch_of(SENTENCES), initial_state=first.state, return_state=True)
    assert not torch.allclose(first.last_hidden_state, second.last_hidden_state)
    assert second.state.cell.dtype == torch.float32


def test_fast_recurrence_equals_the_reference(monkeypatch):
    model = quantize(with_large_weights(ElmoModel(tiny_config())).eval())
    fast = vectors(model)
    monkeypatch.setattr(ElmoQuantizedLinear, "is_int8_linear", False)
    assert errors(vectors(model), fast)[0] < 0.005


def test_half_precision_around_int8_weights(tmp_path):
    model = quantize(with_large_weights(ElmoModel(tiny_config())).eval())
    expected = vectors(model)
    model.save_pretrained(tmp_path)
    half = ElmoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    saved = model.state_dict()
    for name, value in half.state_dict().items():
        part = half.get_submodule(name.rpartition(".")[0])
        if isinstance(part, ElmoQuantizedLinear):
            assert torch.equal(value, saved[name])
        else:
            assert value.dtype == torch.bfloat16
    found = vectors(half)
    assert found.dtype == torch.bfloat16
    assert errors(found.float(), expected)[0] < 0.05
    # The forget gate keeps its bias: without it, values would differ widely.
    assert_same(copy.deepcopy(model).to(torch.bfloat16), half)


def forget_modules_of_folders():
    """Forget imported remote code, so that the next import uses the current cache folder."""
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.mark.slow
def test_remote_code_of_the_folder(tmp_path, monkeypatch, request):
    """The classes of the checkpoint's copy, not the installed ones."""
    model = quantize(with_large_weights(ElmoForTokenClassification(tiny_config())).eval())
    model.save_pretrained(tmp_path / "model")
    modules = str(tmp_path / "modules")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [modules, *sys.path])
    forget_modules_of_folders()
    request.addfinalizer(forget_modules_of_folders)
    cls = get_class_from_dynamic_module("modeling_elmo.ElmoForTokenClassification", str(tmp_path / "model"))
    assert cls.__module__.startswith("transformers_modules") and cls is not ElmoForTokenClassification
    remote = cls.from_pretrained(tmp_path / "model", config=cls.config_class.from_pretrained(tmp_path / "model"))
    assert not any(isinstance(part, ElmoQuantizedLinear) for part in remote.modules())
    assert_same(remote, model)
    remote.save_pretrained(tmp_path / "again")
    assert_same(AutoModelForTokenClassification.from_pretrained(tmp_path / "again"), model)


def test_a_task_on_top_is_trained(tmp_path):
    model = quantize(with_large_weights(ElmoForSequenceClassification(tiny_config(num_labels=2))))
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad} >= {"classifier"}
    model.save_pretrained(tmp_path)
    for trained in (model, ElmoForSequenceClassification.from_pretrained(tmp_path).train()):
        loss = trained(**batch_of(SENTENCES), labels=torch.tensor([0, 1, 0])).loss
        loss.backward()
        moved = {name for name, weight in trained.named_parameters() if weight.grad is not None}
        assert any("scalar_mixes" in name for name in moved) and any("classifier" in name for name in moved)
        assert not any("embeddings" in name or "encoder" in name for name in moved)


def test_the_bilm_is_not_trained():
    model = quantize(with_large_weights(ElmoModel(tiny_config())))
    model.freeze_bilm(False)
    with pytest.raises(RuntimeError, match=r"8-bit.*freeze_bilm\(\)"):
        model(**batch_of(SENTENCES))
    with pytest.raises(RuntimeError, match=r"8-bit.*freeze_bilm\(\)"):
        model(inputs_embeds=torch.randn(1, 3, 4, requires_grad=True))


@pytest.mark.parametrize("cls", [ElmoForPreTraining, ElmoForMaskedLM, ElmoForQuestionAnswering])
def test_quantized_bilm_has_no_trainable_parameters(cls):
    model = quantize(cls(tiny_config()))
    assert not any(
        weight.requires_grad for part in (model.elmo.embeddings, model.elmo.encoder) for weight in part.parameters()
    )


def test_cached_word_vectors_are_invalidated():
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    model.cache_word_vectors(1.0)
    before = vectors(model)
    quantize(model)
    found = vectors(model)
    assert not torch.equal(found[0], before[0])
    assert torch.equal(vectors(model), found)
    other = quantize(with_large_weights(ElmoModel(tiny_config()))).state_dict()
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in other.items() if "highways" in k}})
    assert not torch.equal(vectors(model)[0], found[0])


def test_refusals(tmp_path):
    with pytest.raises(TypeError, match="Linear.*ElmoModel"):
        quantize(nn.Linear(2, 2))
    baseline = ElmoForTokenClassification(tiny_config(elmo_at=[], word_vector_size=3))
    with pytest.raises(ValueError, match="without biLM"):
        quantize(baseline)
    model = quantize(ElmoModel(tiny_config()))
    with pytest.raises(ValueError, match=r"quantized already \(weight_precision='int8'\)"):
        quantize(model)
    model.save_pretrained(tmp_path / "int8")
    with pytest.raises(ValueError, match="weight_precision=None"):
        ElmoModel.from_pretrained(tmp_path / "int8", weight_precision=None)
    ElmoModel(tiny_config()).save_pretrained(tmp_path / "float")
    with pytest.raises(ValueError, match=r"float: weight_precision='int8'.*elmo_hf\.quantize"):
        ElmoModel.from_pretrained(tmp_path / "float", weight_precision="int8")
    with pytest.raises(CheckpointError, match=r"int8: .*\(weight_precision='int8'\)"):
        export(tmp_path / "int8", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_refused_model_is_unchanged():
    model = ElmoModel(tiny_config())
    with torch.no_grad():
        model.encoder.layers[1].backward_lstm.output_proj.weight[0, 0] = float("nan")
    names = set(model.state_dict())
    with pytest.raises(ValueError, match=r"layers\.1\.backward_lstm\.output_proj\.weight"):
        quantize(model)
    assert set(model.state_dict()) == names and model.config.weight_precision is None
    model = ElmoModel(tiny_config())
    model.encoder.layers[0].forward_lstm.input_proj.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"layers\.0\.forward_lstm\.input_proj has a hook"):
        quantize(model)
    with pytest.raises(ValueError, match=r"\.weight is on the meta device"):
        quantize(ElmoModel(tiny_config()).to("meta"))


def test_an_empty_quantized_model(tmp_path):
    """A model made from a configuration only has zero weights."""
    model = ElmoModel(tiny_config(weight_precision="int8")).eval()
    assert np.isfinite(vectors(model).numpy()).all()
    parts = [part for part in model.modules() if isinstance(part, ElmoQuantizedLinear)]
    assert parts and not any(part.quantized_weight.any() for part in parts)
