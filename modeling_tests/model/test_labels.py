"""Labels of task models: refusals, and means over one batch or over several."""

import math

import pytest
import torch

from elmo_hf import ElmoForMaskedLM, ElmoForPreTraining, ElmoForTokenClassification
from elmo_hf.model.labels import check_class_numbers, check_one_a_word, mean_cross_entropy, mean_loss
from modeling_tests.tiny import batch_of, tiny_config


def test_one_label_per_word():
    check_one_a_word(torch.zeros(2, 3, dtype=torch.int32), (2, 3))
    with pytest.raises(ValueError, match=r"labels.*\(2, 2\).*\(2, 3\) integers"):
        check_one_a_word(torch.zeros(2, 2, dtype=torch.int64), (2, 3))
    with pytest.raises(ValueError, match="labels.*torch.float32"):
        check_one_a_word(torch.zeros(2, 3), (2, 3))


@pytest.mark.parametrize("cls", [ElmoForMaskedLM, ElmoForPreTraining, ElmoForTokenClassification])
def test_models_with_one_label_per_word_check_their_labels(cls):
    model, batch = cls(tiny_config()), batch_of(["a cat sat", "why"])
    for labels in (batch["input_ids"][:, 1:], batch["input_ids"][0], batch["input_ids"].float()):
        with pytest.raises(ValueError, match=r"labels.*\(2, 5\) integers"):
            model(**batch, labels=labels)


def test_class_numbers():
    check_class_numbers(torch.tensor([[0, 2], [-100, 1]]), 3)
    check_class_numbers(torch.zeros(0, dtype=torch.int64), 0)
    for wrong in (3, -1, -101):
        with pytest.raises(ValueError, match=f"{wrong}.*0.*2.*-100.*num_labels"):
            check_class_numbers(torch.tensor([0, wrong, 7]), 3)
    with pytest.raises(ValueError, match="-100.*count again"):
        check_class_numbers(torch.tensor([5]), 3, "count again")


@pytest.mark.parametrize("as_number", [int, torch.tensor], ids=["number", "tensor"])
def test_means(as_number):
    total = torch.tensor(12.0, requires_grad=True)
    assert mean_loss(total, as_number(4), None) == 3
    assert mean_loss(total, as_number(4), as_number(24)) == 0.5
    # Without labels, the loss is zero, not 0 / 0.
    nothing = total * 0
    for found in (mean_loss(nothing, as_number(0), None), mean_loss(nothing, as_number(0), as_number(0))):
        assert found == 0
        found.backward(retain_graph=True)
    assert total.grad == 0
    assert mean_loss(total.bfloat16(), as_number(4), None).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_mean_cross_entropy_counted_by_hand(dtype):
    logits = torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[0.5, 0.5], [9.0, 9.0]]], dtype=dtype)
    labels = torch.tensor([[1, 1], [0, -100]])
    total = math.log1p(math.exp(-1)) + math.log1p(math.exp(3)) + math.log(2)
    loss = mean_cross_entropy(logits, labels, None)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(total / 3, rel=1e-6)
    assert mean_cross_entropy(logits, labels, 6).item() == pytest.approx(total / 6, rel=1e-6)
    # Rows of classes, as of whole texts; without any label the loss is zero.
    assert mean_cross_entropy(logits[:, 0], labels[:, 0], None).item() == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log(2)) / 2, rel=1e-6
    )
    assert mean_cross_entropy(logits, torch.full_like(labels, -100), None) == 0
