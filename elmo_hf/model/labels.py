"""Labels of task models: which are allowed, and how a loss over them is averaged. -100 stands for no label."""

import torch
from torch import Tensor
from torch.nn import functional


def check_one_a_word(labels: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse labels that are not integers of the shape (batch, words), with a `ValueError`."""
    if tuple(labels.shape) != tuple(shape) or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}: expected {tuple(shape)} integers, one "
            "for each position of the input, -100 for none, as at padding"
        )


def check_class_numbers(
    labels: Tensor,
    count: int,
    remedy: str = "set num_labels (or id2label) of the configuration to the data's labels",
) -> None:
    """Refuse integer labels that are neither from 0 to `count` - 1 nor -100; a `ValueError` names the first one."""
    if torch.compiler.is_compiling():
        return  # a compiled graph cannot ask; cross-entropy refuses what is out of range
    wrong = labels[(labels < 0) & (labels != -100) | (labels >= count)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])}: expected 0 to {count - 1}, or -100 for none; {remedy}")


def mean_loss(total: Tensor, count: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """A summed loss, divided by the batch's own number of labels, or by that of all batches of an optimizer step.

    Args:
        total: a scalar; 0 for a batch without labels, and so is then the result.
        count: labels of this batch.
        num_items_in_batch: labels of the step, as the Trainer counts them; `None` for a batch by itself.
    """
    items = count if num_items_in_batch is None else num_items_in_batch
    return total / torch.as_tensor(items, device=total.device).clamp(min=1)


def mean_cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Mean cross-entropy over the labels that are not -100, as `mean_loss` averages; float32 or wider.

    Args:
        logits: (..., classes).
        labels: (...), int64, on the same device.
        num_items_in_batch: as there.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = functional.cross_entropy(wide.flatten(0, -2), labels.flatten(), reduction="sum")
    return mean_loss(total, labels.ne(-100).sum(), num_items_in_batch)
