"""Batching by similar length; results keep their order."""

import itertools

import numpy as np
import pytest
import torch

from elmo_hf.inference.batching import BatchSize, batches_of_similar_length, read_in_batches

LENGTHS = np.random.default_rng(0).integers(1, 60, 300).tolist()


@pytest.mark.parametrize("size", [BatchSize(rows=7), BatchSize(words=100), BatchSize(rows=3, words=90), BatchSize()])
@pytest.mark.parametrize("window", [1, 4, None])
def test_results_in_order_batches_within_bounds(size: BatchSize, window: int | None) -> None:
    batches: list[list[int]] = []
    taken = 0

    def items():
        nonlocal taken
        for taken, length in enumerate(LENGTHS, 1):
            yield taken - 1, length

    def read(batch):
        lengths = [length for _, length in batch]
        assert lengths == sorted(lengths)
        batches.append(lengths)
        return [number for number, _ in batch]

    found = read_in_batches(items(), read, lambda item: item[1], size, window)
    first = list(itertools.islice(found, 1))
    if window is not None and (size.words or size.rows):
        # At most one window of items has been requested.
        assert taken <= window * (size.rows or size.words) + 1
    assert first + list(found) == list(range(len(LENGTHS)))
    for lengths in batches:
        assert len(lengths) == 1 or size.rows is None or len(lengths) <= size.rows
        assert len(lengths) == 1 or size.words is None or len(lengths) * max(lengths) <= size.words


def test_default_of_a_device() -> None:
    """On a GPU, a batch is limited by its rows and by its words."""
    assert BatchSize.of(None, torch.device("cpu")) == BatchSize(words=2048)
    on_gpu = BatchSize.of(None, torch.device("cuda", 1))
    lengths = [20] * 1500 + [100] * 200
    batches = [[lengths[place] for place in rows] for rows in batches_of_similar_length(lengths, on_gpu)]
    assert [(len(batch), max(batch)) for batch in batches] == [(512, 20), (512, 20), (476, 20), (163, 100), (37, 100)]
    assert [BatchSize.of(7, torch.device(kind)) for kind in ("cpu", "cuda")] == [BatchSize(words=7)] * 2


def test_padding_is_small() -> None:
    padded = sum(
        len(rows) * max(LENGTHS[row] for row in rows)
        for rows in batches_of_similar_length(LENGTHS, BatchSize(words=600))
    )
    assert padded < 1.1 * sum(LENGTHS)


def test_empty_input_and_a_row_over_the_limit() -> None:
    assert list(read_in_batches([], list, len, BatchSize(rows=2), 3)) == []
    assert list(batches_of_similar_length([5, 900, 5], BatchSize(words=100))) == [[0, 2], [1]]


def test_next_batch_starts_before_the_previous_one_is_awaited() -> None:
    events: list[str] = []

    def read(batch):
        events.append(f"begin {batch[0]}")

        def results():
            events.append(f"wait for {batch[0]}")
            yield from batch

        return results()

    assert list(read_in_batches([3, 1, 2], read, int, BatchSize(rows=1))) == [3, 1, 2]
    assert events == ["begin 1", "begin 2", "wait for 1", "begin 3", "wait for 2", "wait for 3"]
