"""Packing, compared with its definition: the real words of each row forwards and backwards."""

import pytest
import torch

from elmo_hf.model.packing import PackedBatch, PaddedSizes


@pytest.mark.parametrize("kind", ["right", "left", "holes", "full", "some empty"])
def test_reads_every_row_in_both_directions(kind):
    lengths = [3, 7, 1, 7, 4] if kind != "some empty" else [0, 7, 0, 2, 7]
    mask = torch.zeros(5, 7, dtype=torch.bool)
    for row, length in enumerate(lengths):
        columns = {
            "right": range(length),
            "left": range(7 - length, 7),
            "holes": torch.randperm(7)[:length].sort().values.tolist(),
            "full": range(7),
            "some empty": range(length),
        }[kind]
        mask[row, list(columns)] = True
    packed = PackedBatch.from_mask(mask)
    order = packed.row_order.tolist()
    real = [mask[row].nonzero().flatten().tolist() for row in range(5)]
    assert order == sorted(range(5), key=lambda row: -len(real[row]))
    expected_forward, expected_backward, sizes = [], [], []
    for step in range(7):
        running = [row for row in order if len(real[row]) > step]
        sizes += [len(running)] if running else []
        expected_forward += [row * 7 + real[row][step] for row in running]
        expected_backward += [row * 7 + real[row][-1 - step] for row in running]
    assert packed.batch_sizes == sizes
    assert packed.forward_index.tolist() == expected_forward
    assert packed.backward_index.tolist() == expected_backward
    assert torch.equal(packed.forward_index[packed.mirrored], packed.backward_index)
    assert torch.equal(packed.backward_index[packed.mirrored], packed.forward_index)


def test_unpacking_restores_and_pads_with_zeros():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    packed = PackedBatch.from_mask(mask)
    values = torch.randn(3, 3, 2)
    for index in (packed.forward_index, packed.backward_index):
        assert torch.equal(packed.unpack(packed.pack(values, index), index), values * mask.unsqueeze(-1))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 3)])
def test_nothing_to_pack(shape):
    packed = PackedBatch.from_mask(torch.zeros(shape, dtype=torch.bool))
    assert packed.batch_sizes == [] and len(packed.forward_index) == len(packed.mirrored) == 0
    assert packed.unpack(torch.zeros(0, 5), packed.forward_index).shape == (*shape, 5)


def test_padded_sizes_have_every_row_in_every_step():
    lengths = torch.tensor([3, 1])
    sizes = PaddedSizes(4, lengths)
    assert sizes == [2, 2, 2, 2] and sizes.lengths is lengths
