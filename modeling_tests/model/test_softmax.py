"""Log-probabilities by blocks of columns against their definition, which holds all logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elmo_hf.model import softmax
from elmo_hf.model.softmax import ElmoSoftmax
from modeling_tests.tiny import tiny_config, with_large_weights

# Padding is 0 and the mask the last id, so that a block of 4 or 12 of the 13 columns leaves the mask alone in the last.
WORDS = torch.arange(1, 12)


@pytest.fixture(params=[(2, 4), (3, 5), (100, 12), (1024, 512)], ids=str)
def blocks(request, monkeypatch):
    words, columns = request.param
    monkeypatch.setattr(softmax, "WORDS_AT_A_TIME", words)
    monkeypatch.setattr(softmax, "COLUMNS_AT_A_TIME", columns)


def small_softmax(scale=2.0, **overrides):
    return with_large_weights(ElmoSoftmax(tiny_config(**{"vocab_size": 13, "mask_token_id": 12, **overrides})), scale)


def contexts_of(words, width=4, dtype=torch.float32):
    """Every second context is that of two words."""
    return torch.randn((len(words) + 1) // 2, width, dtype=dtype).repeat(2, 1)[: len(words)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@torch.no_grad()
def test_equals_its_definition(blocks, dtype):
    layer, hidden = small_softmax().to(dtype), contexts_of(WORDS, dtype=dtype)
    found, expected = layer.log_probabilities(hidden, WORDS), layer.reference_log_probabilities(hidden, WORDS)
    error = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=error)
    wide = layer.double().logits(hidden.double())[:, WORDS].log_softmax(dim=1).diagonal()
    torch.testing.assert_close(found.double(), wide, rtol=0, atol=0.1 if dtype == torch.bfloat16 else error)


@torch.no_grad()
def test_words_do_not_depend_on_their_batch(blocks):
    layer, hidden = small_softmax(), contexts_of(WORDS)
    alone = [layer.log_probabilities(hidden[[n]], WORDS[[n]]) for n in range(len(WORDS))]
    torch.testing.assert_close(torch.cat(alone), layer.log_probabilities(hidden, WORDS), rtol=0, atol=1e-6)
    assert layer.log_probabilities(hidden[:0], WORDS[:0]).shape == (0,)


@torch.no_grad()
def test_certain_and_impossible_words(blocks):
    """A certain word has exactly 0, as sums above 0 are refused as log-probabilities elsewhere."""
    layer, hidden = small_softmax(), contexts_of(WORDS)
    layer.bias[5] = 1e4
    found = layer.log_probabilities(hidden, WORDS)
    assert found[WORDS == 5] == 0 and (found[WORDS != 5] < -9e3).all()
    assert layer.log_probabilities(hidden[:2], torch.tensor([0, 12])).isneginf().all()


@torch.no_grad()
def test_nan_stays_in_its_row(blocks):
    layer, hidden = small_softmax(), torch.randn(len(WORDS), 4)
    expected = layer.log_probabilities(hidden, WORDS)
    hidden[3, 0], hidden[7, 3] = float("nan"), float("inf")
    found = layer.log_probabilities(hidden, WORDS)
    broken = torch.isin(torch.arange(len(WORDS)), torch.tensor([3, 7]))
    assert found[broken].isnan().all()
    torch.testing.assert_close(found[~broken], expected[~broken], rtol=0, atol=1e-6)


@torch.no_grad()
def test_autocast(blocks):
    layer, hidden = small_softmax(), contexts_of(WORDS)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = layer.log_probabilities(hidden, WORDS), layer.reference_log_probabilities(hidden, WORDS)
    assert found.dtype == torch.float32 and not torch.equal(found, layer.log_probabilities(hidden, WORDS))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any result."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_and_error_of_a_real_size():
    layer, words = small_softmax(0.1, vocab_size=30_000, mask_token_id=29_999, projection_size=128), 1100
    hidden, ids = contexts_of(range(words), 128), torch.randint(1, 29_999, (words,))
    with torch.no_grad(), LargestTensor() as largest:
        found = layer.log_probabilities(hidden, ids)
    assert largest.elements <= softmax.WORDS_AT_A_TIME * softmax.COLUMNS_AT_A_TIME
    some = slice(640, 700)
    wide = layer.double().reference_log_probabilities(hidden[some].double(), ids[some])
    torch.testing.assert_close(found[some].double(), wide, rtol=0, atol=1e-5)


def test_gradients_and_attached_layers(monkeypatch):
    layer, hidden = small_softmax(), contexts_of(WORDS).requires_grad_()
    found = torch.autograd.grad(layer.log_probabilities(hidden, WORDS).sum(), [hidden, *layer.parameters()])
    expected = layer.logits(hidden).log_softmax(dim=1).gather(1, WORDS[:, None]).sum()
    for one, other in zip(found, torch.autograd.grad(expected, [hidden, *layer.parameters()]), strict=True):
        torch.testing.assert_close(one, other)
    layer.register_forward_hook(lambda _, __, logits: 2 * logits)
    with torch.no_grad():
        doubled = (2 * (hidden @ layer.weight.T + layer.bias))[:, WORDS].log_softmax(dim=1).diagonal()
        torch.testing.assert_close(layer.log_probabilities(hidden, WORDS), doubled)
