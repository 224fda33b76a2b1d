"""Feed-forward and max-out layers against their formulas."""

import pytest
import torch
from torch.nn import functional

from elmo_hf.model.configuration_elmo import ACTIVATION_NAMES
from elmo_hf.model.feed_forward import ACTIVATIONS, ElmoFeedForward, ElmoMaxout
from modeling_tests.tiny import with_large_weights


def test_every_activation_by_name():
    values = torch.linspace(-3, 3, 13)
    for name in ACTIVATION_NAMES:
        expected = values if name == "linear" else getattr(functional, name)(values)
        torch.testing.assert_close(ACTIVATIONS[name](values), expected)


def test_layers_in_turn():
    layers = with_large_weights(ElmoFeedForward(3, [[4, "tanh"], [2, "relu"]], 0.5)).eval()
    values = torch.randn(2, 5, 3)
    first, second = layers.layers
    expected = torch.relu(torch.tanh(values @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(layers(values), expected)
    assert layers.output_size == 2


def test_without_layers_nothing_happens():
    layers, values = ElmoFeedForward(3, [], 0.5), torch.randn(2, 3)
    assert layers.train()(values) is values
    assert layers.output_size == 3


def test_dropout_acts_on_the_input_of_every_layer():
    layers = ElmoFeedForward(400, [[400, "linear"]] * 2, 0.5).train()
    with torch.no_grad():
        for layer in layers.layers:
            layer.weight.copy_(torch.eye(400))
            layer.bias.zero_()
        kept = layers(torch.ones(400)) != 0
        # Two random decisions per component.
        assert 0.15 < kept.float().mean() < 0.35


@pytest.mark.parametrize("pieces", [1, 3])
def test_maxout_takes_the_largest_of_neighbors(pieces):
    layer = with_large_weights(ElmoMaxout(4, 2, pieces))
    values = torch.randn(5, 4)
    products = values @ layer.linear.weight.T + layer.linear.bias
    expected = torch.stack([products[:, :pieces].amax(1), products[:, pieces:].amax(1)], dim=1)
    torch.testing.assert_close(layer(values), expected)
