"""Checks of labels and averages of losses in task models. The label -100 stands for none."""

import torch
from torch import Tensor
from torch.nn import functional


def check_one_a_word(labels: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a `ValueError` unless labels are integers of shape (batch, words)."""
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
    """Raise a `ValueError` naming the first label that is neither in 0..`count` - 1 nor -100."""
    if torch.compiler.is_compiling():
        return  # would break the graph; cross-entropy refuses labels out of range
    wrong = labels[(labels < 0) & (labels != -100) | (labels >= count)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])}: expected 0 to {count - 1}, or -100 for none; {remedy}")


def mean_loss(total: Tensor, count: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Divide a summed loss by the number of labels of the batch, or of all batches of an optimizer step.

    Args:
        total: a scalar; 0 for a batch without labels, for which the result is 0 too.
        count: number of labels in this batch.
        num_items_in_batch: number of labels in the step, as the Trainer counts them; `None` without accumulation.
    """
    items = count if num_items_in_batch is None else num_items_in_batch
    return total / torch.as_tensor(items, device=total.device).clamp(min=1)


def mean_cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Mean cross-entropy over the labels that are not -100, in float32 or wider.

    Args:
        logits: (..., classes).
        labels: (...), int64, on the same device.
        num_items_in_batch: as in `mean_loss`.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = functional.cross_entropy(wide.flatten(0, -2), labels.flatten(), reduction="sum")
    return mean_loss(total, labels.ne(-100).sum(), num_items_in_batch)
