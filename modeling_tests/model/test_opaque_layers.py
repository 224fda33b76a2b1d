"""`torch.compile` of whole models: one graph, also for other lengths, and the numbers of the model."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from elmo_hf import ElmoForSequenceClassification, ElmoForTokenClassification, ElmoModel, ElmoState
from modeling_tests.tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

KINDS = {"characters": {}, "words": WORD_INPUT, "both": BOTH_INPUTS, "Transformer": TRANSFORMER}
BATCHES = [
    batch_of(["a cat sat", "no"]),
    batch_of(["a", "b c d e f", "x y"], "left"),
    batch_of(["a b", "c", "d e f g"]),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled(model):
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, backend=counter, fullgraph=True), counter


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


@pytest.mark.parametrize("cls", [ElmoForTokenClassification, ElmoForSequenceClassification])
@pytest.mark.parametrize("kind", ["characters", "Transformer"])
def test_trains(kind, cls):
    model = with_large_weights(cls(tiny_config(**KINDS[kind], problem_type="single_label_classification"))).train()
    fast, counter = compiled(model)
    for batch in BATCHES:
        labels = batch["attention_mask"] - 1
        labels = labels.clamp(min=-100) * 100 if cls is ElmoForTokenClassification else labels[:, 0] * 0
        gradients = []
        for each in (fast, model):
            model.zero_grad()
            loss = each(**batch, labels=labels).loss
            loss.backward()
            gradients.append((loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}))
        torch.testing.assert_close(gradients[0][0], gradients[1][0])
        for name, gradient in gradients[1][1].items():
            if gradient is None:
                assert gradients[0][1][name] is None or not gradients[0][1][name].any(), name
            else:
                torch.testing.assert_close(gradients[0][1][name], gradient, msg=name)
    assert counter.frame_count <= 2


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


def test_dropout_is_the_same_in_both_passes():
    model = with_large_weights(ElmoModel(tiny_config(lstm_input_dropout=0.5))).train()
    fast, _ = compiled(model)
    gradients = []
    for each in (fast, model):
        model.zero_grad()
        torch.manual_seed(3)
        each(**BATCHES[0]).last_hidden_state.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, msg=name)


def test_copies_are_models_of_their_own():
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    other = with_large_weights(copy.deepcopy(model)).eval()
    run = torch.compile(lambda each, batch: each(**batch).last_hidden_state, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for each in (model, other, model):
            torch.testing.assert_close(run(each, BATCHES[0]), each(**BATCHES[0]).last_hidden_state)
