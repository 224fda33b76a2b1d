"""`torch.compile` of complete models: one graph for all lengths, with the same numbers."""

import copy
import logging

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from elmo_hf import (
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoState,
)
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

KINDS = {"characters": {}, "words": WORD_INPUT, "both": BOTH_INPUTS, "Transformer": TRANSFORMER}
BATCHES = [
    batch_of(["a cat sat", "no"]),
    batch_of(["a", "b c d e f", "x y"], "left"),
    batch_of(["a b", "c", "d e f g"]),
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    torch._dynamo.reset()
    # PyTorch formats each compiled graph for this log while a handler such as pytest's captures it.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


def compiled(model, backend="aot_eager", dynamic=None):
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True, dynamic=dynamic), counter


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_for_all_lengths(kind):
    model = with_large_weights(ElmoModel(tiny_config(**KINDS[kind]))).eval()
    fast, counter = compiled(model)
    with torch.no_grad():
        for batch in BATCHES * 2:
            found, expected = (each(**batch, output_hidden_states=True) for each in (fast, model))
            torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
            for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
                torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2  # the first shape, then any


@pytest.mark.slow
def test_without_the_package_fullgraph_is_refused():
    model = ElmoModel(tiny_config()).eval()
    model._number = None
    with pytest.raises(torch._dynamo.exc.Unsupported, match="elmo_hf is not installed, or of another version"):
        compiled(model)[0](**BATCHES[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["characters", "Transformer"])
def test_without_the_package_parts_are_in_no_graph(kind):
    model = with_large_weights(ElmoModel(tiny_config(**KINDS[kind]))).eval()
    model._number = None
    fast = torch.compile(model, backend="eager")
    with torch.no_grad():
        for batch in BATCHES:
            torch.testing.assert_close(fast(**batch).last_hidden_state, model(**batch).last_hidden_state)


FIELD = {"use_crf": True, "tag_scheme": "BIO", "id2label": dict(enumerate(["O", "B-P", "I-P"]))}
HEADS = {
    "pretraining": (ElmoForPreTraining, {}),
    "causal": (ElmoForCausalLM, {}),
    "causal backward": (ElmoForCausalLM, {"direction": "backward"}),
    "masked": (ElmoForMaskedLM, {}),
    "tags": (
        ElmoForTokenClassification,
        {"task_lstm_size": 3, "task_lstm_layers": 2, "word_vector_size": 5, "elmo_at": ["input", "output"]},
    ),
    "tags by a field": (ElmoForTokenClassification, {**FIELD, "task_lstm_size": 2, "words_only": True}),
    "tags without biLM": (ElmoForTokenClassification, {"elmo_at": [], "word_vector_size": 3}),
    "texts": (
        ElmoForSequenceClassification,
        {"problem_type": "regression", "pooling": ["mean", "attention"], "task_lstm_size": 2, "integrator_size": 2},
    ),
    "pairs": (ElmoForSequenceClassification, {"problem_type": "single_label_classification", "sentence_pairs": True}),
    "choices": (ElmoForMultipleChoice, {}),
    "answers": (ElmoForQuestionAnswering, {"task_lstm_size": 2}),
}
# The table of docs/compile_and_export.md. These two are compiled as by default. The others are compiled for all sizes
# at once, with a backward graph and in evaluation too where the model reads characters.
AS_BY_DEFAULT = {("characters", "tags by a field"), ("Transformer", "causal")}
CELLS = [(kind, head) for kind in KINDS for head in HEADS]


def for_head(head, batch):
    """A batch as the head reads it, with labels."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if head in ("pretraining", "masked") or head.startswith("causal"):
        return {**batch, "labels": ids.masked_fill(ids.eq(0), -100)}
    if head.startswith("tags"):
        return {**batch, "labels": torch.where(ids > 2, 0, -100)}
    if head == "texts":
        return {**batch, "labels": torch.randn(len(ids), 2)}
    first = torch.zeros(len(ids), dtype=torch.int64)
    if head == "choices":
        both = {name: torch.stack([value, value.flip(0)], dim=1) for name, value in batch.items()}
        return {**both, "labels": first}
    both = {name: torch.cat([value, value], dim=1) for name, value in batch.items()}  # <S> a </S> <S> a </S>
    if head == "pairs":
        return {**both, "labels": first}
    return {**both, "start_positions": mask.argmax(1), "end_positions": mask.argmax(1)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head"), CELLS)
def test_heads(kind, head):
    """Each head compiles to one graph for all lengths: its loss, every gradient, and its outputs in evaluation."""
    cls, overrides = HEADS[head]
    model = with_large_weights(cls(tiny_config(**KINDS[kind], **overrides))).train()
    whole = kind == "characters" or (kind, head) in AS_BY_DEFAULT
    if (kind, head) in AS_BY_DEFAULT:
        fast, counter = compiled(model)
    else:
        fast, counter = compiled(model, "aot_eager" if whole else "eager", dynamic=True)
        fast = torch._dynamo.config.patch(specialize_float=True)(fast)
    batches = [for_head(head, batch) for batch in BATCHES]
    for batch in batches:
        gradients = []
        for each in (fast, model):
            model.zero_grad()
            loss = each(**batch).loss
            loss.backward()
            gradients.append((loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}))
        torch.testing.assert_close(gradients[0][0], gradients[1][0])
        for name, gradient in gradients[1][1].items():
            if gradient is None:
                assert gradients[0][1][name] is None or not gradients[0][1][name].any(), name
            else:
                torch.testing.assert_close(gradients[0][1][name], gradient, msg=name)
    assert counter.frame_count <= 2  # the first shape, then any
    if not whole:
        return
    model.eval()
    with torch.no_grad():
        for batch in batches:
            given = {name: value for name, value in batch.items() if "label" not in name and "position" not in name}
            found, expected = fast(**given), model(**given)
            assert found.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], msg=name)
    assert counter.frame_count <= 4


@pytest.mark.slow
def test_unsupported_arguments_are_named():
    """With `fullgraph=True` errors name the unsupported argument; otherwise the part runs uncompiled."""
    model = with_large_weights(ElmoForCausalLM(tiny_config(**TRANSFORMER))).eval()
    for options in ({"use_cache": True}, {"output_attentions": True}):
        with pytest.raises(torch._dynamo.exc.Unsupported, match="output_attentions=True"):
            compiled(model)[0](**BATCHES[0], **options)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="output_attentions=True"):
        compiled(model.elmo)[0](**BATCHES[0], output_attentions=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="input_ids alone"):
        compiled(model)[0](BATCHES[0]["input_ids"])
    masked = ElmoForMaskedLM(tiny_config(sparse_prediction=True))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="sparse_prediction=True"):
        compiled(masked)[0](**for_head("masked", BATCHES[0]))


@pytest.mark.slow
def test_state_and_vectors():
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    fast, _ = compiled(model)
    state = model(**BATCHES[1], return_state=True).state
    found, expected = (each(**BATCHES[0], initial_state=state, return_state=True) for each in (fast, model))
    assert isinstance(found.state, ElmoState)
    torch.testing.assert_close(found.state, expected.state)
    vectors = torch.randn(2, 5, 4, requires_grad=True)
    gradients = []
    for each in (fast, model):
        output = each(inputs_embeds=vectors, attention_mask=BATCHES[0]["attention_mask"]).last_hidden_state
        gradients.append(torch.autograd.grad(output.square().sum(), vectors)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_dropout_is_the_same_in_both_passes():
    model = with_large_weights(ElmoModel(tiny_config(lstm_input_dropout=0.5))).train()
    fast, _ = compiled(model)
    gradients = []
    for each in (fast, model):
        model.zero_grad()
        torch.manual_seed(3)
        each(**BATCHES[0]).last_hidden_state.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[1]) > 10
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, msg=name)


@pytest.mark.slow
def test_copies_are_models_of_their_own():
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    other = with_large_weights(copy.deepcopy(model)).eval()
    run = torch.compile(lambda each, batch: each(**batch).last_hidden_state, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for each in (model, other, model):
            torch.testing.assert_close(run(each, BATCHES[0]), each(**BATCHES[0]).last_hidden_state)
