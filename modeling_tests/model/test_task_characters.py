"""The task's character CNN, one word and one window at a time."""

import pytest
import torch

from elmo_hf.model.task_characters import ElmoTaskCharacters
from modeling_tests.tiny import tiny_config, with_large_weights

FIELDS = {
    "task_character_size": 3,
    "num_task_characters": 7,
    "task_character_filters": [[1, 2], [3, 4]],
}
# Words of ids from 2 on, by row; the last sentence has none.
SENTENCES = [[[], [2, 3, 4, 5, 6, 7], [2], []], [[3, 3, 3]], [[2, 3], [7, 6, 5]], []]


def encoder(**fields):
    return with_large_weights(ElmoTaskCharacters(tiny_config(**{**FIELDS, **fields}))).double()


def batch_of(sentences, side="right"):
    rows = [[number for word in sentence for number in [*word, 1]] for sentence in sentences]
    width, words = max(map(len, rows)), max(map(len, sentences))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), words).bool()
    for row, (numbers, sentence) in enumerate(zip(rows, sentences, strict=True)):
        if side == "right":
            ids[row, : len(numbers)], mask[row, : len(sentence)] = torch.tensor(numbers, dtype=torch.int64), True
        else:
            ids[row, width - len(numbers) :] = torch.tensor(numbers, dtype=torch.int64)
            mask[row, words - len(sentence) :] = True
    return ids, mask


def by_definition(model, word, activation):
    parts = []
    for convolution in model.convolutions:
        width = convolution.kernel_size[0]
        vectors = model.character_embeddings.weight[torch.tensor(word, dtype=torch.int64) - 1]
        windows = [
            activation((convolution.weight * vectors[start : start + width].T).sum(dim=(1, 2)) + convolution.bias)
            for start in range(len(word) - width + 1)
        ]
        parts.append(torch.stack(windows).amax(0) if windows else torch.zeros(convolution.out_channels).double())
    return torch.cat(parts)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("name", "activation"), [("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)]
)
def test_windows_wholly_inside_the_word(side, name, activation):
    model = encoder(task_character_activation=name)
    ids, mask = batch_of(SENTENCES, side)
    found = model(ids, mask)
    assert found.shape == (4, 4, 6) and model.output_size == 6
    assert (found[~mask] == 0).all()
    for row, sentence in enumerate(SENTENCES):
        for vector, word in zip(found[row][mask[row]], sentence, strict=True):
            torch.testing.assert_close(vector, by_definition(model, word, activation), rtol=0, atol=1e-12)


def test_a_word_depends_on_no_other():
    """A word's vector depends neither on its neighbors nor on the longest word of the batch."""
    model = encoder()
    ids, mask = batch_of([[[2, 3, 4], [5]], [[6] * 50, [2, 3, 4]]])
    found = model(ids, mask)
    torch.testing.assert_close(found[0, 0], found[1, 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0, 0], model(*batch_of([[[2, 3, 4]]]))[0, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sentences", [[[]], [[[]]], [[[2]]], [[[], []], [[], []]]])
def test_words_without_a_window(sentences):
    model = encoder(task_character_filters=[[4, 2]])
    ids, mask = batch_of(sentences)
    found = model(ids, mask)
    assert found.shape == (*mask.shape, 2) and (found == 0).all()
    found.sum().backward()


def test_gradients_agree_with_finite_differences():
    model = encoder(task_character_activation="tanh")
    ids, mask = batch_of(SENTENCES)
    names, values = zip(
        *((name, value.detach().requires_grad_()) for name, value in model.named_parameters()), strict=True
    )

    def run(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (ids, mask))

    # The padding row is read only by windows that are masked.
    assert torch.autograd.gradcheck(run, values, eps=1e-6, atol=1e-7)


def test_a_very_long_word_needs_memory_for_its_own_length_only():
    model = encoder().float()
    long = [2 + number % 6 for number in range(200_000)]
    ids, mask = batch_of([[long], [[2]] * 1_000])
    with torch.no_grad():
        found = model(ids[:, :].to(torch.int32), mask)
    assert found.shape == (2, 1000, 6)


def test_inputs_that_do_not_fit_are_refused():
    model = encoder()
    ids, mask = batch_of(SENTENCES)
    with pytest.raises(ValueError, match=r"code_point_ids.*\(4, 11\).*\[4, 1, 2, 0\]"):
        model(ids, mask.fliplr() | mask)
    with pytest.raises(ValueError, match=r"code_point_ids has shape \(11,\)"):
        model(ids[0], mask)
    ids[0, 1] = 8
    with pytest.raises(ValueError, match="code_point_ids holds 8.* 0 to 7; num_task_characters=7"):
        model(ids, mask)
