"""The layer over contexts and words: its formula, and that no prediction reads its own word.

Whole models with it are compared with brute force in `test_modeling_elmo`.
"""

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoModel
from elmo_hf.model.context_word_layer import ElmoContextWordLayer
from modeling_tests.tiny import BOTH_INPUTS, batch_of, tiny_config, with_large_weights


def test_the_formula():
    layer = with_large_weights(ElmoContextWordLayer(tiny_config())).double()
    forward, backward, first, second = torch.randn(4, 5, 4, dtype=torch.float64)
    found = layer(forward, backward, first, second)
    for name, context, words, values in (
        ("forward", forward, first, found[0]),
        ("backward", backward, second, found[1]),
    ):
        weight, bias = (layer.get_parameter(f"{name}_layer.{part}") for part in ("weight", "bias"))
        for row in range(5):
            expected = torch.tanh(weight[:, :4] @ context[row] + weight[:, 4:] @ words[row] + bias)
            torch.testing.assert_close(values[row], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("reads", [{}, BOTH_INPUTS], ids=["characters", "joined"])
def test_no_prediction_reads_its_own_word(reads):
    """Changing the input w_t does not change log P(w_t) in either direction, but changes the others."""
    # Clips would hide changes.
    config = tiny_config(context_word_layer=True, cell_clip=None, projection_clip=None, **reads)
    model = with_large_weights(ElmoForPreTraining(config)).double().eval()
    batch = batch_of(["a cat sat on it"])
    labels = batch["input_ids"].clone()
    before = model(**batch, labels=labels)
    for place in range(1, 6):
        changed = {name: value.clone() for name, value in batch.items()}
        changed["input_ids"][0, place] = 3
        changed["character_ids"][0, place, 1:4] = 70
        after = model(**changed, labels=labels)
        for name in ("forward_log_probs", "backward_log_probs"):
            old, new = getattr(before, name)[0], getattr(after, name)[0]
            torch.testing.assert_close(new[place], old[place], rtol=0, atol=1e-13)
        forward_moved = (after.forward_log_probs - before.forward_log_probs)[0].abs().gt(1e-10).tolist()
        backward_moved = (after.backward_log_probs - before.backward_log_probs)[0].abs().gt(1e-10).tolist()
        assert forward_moved == [here > place for here in range(7)]
        assert backward_moved == [here < place for here in range(7)]


def test_the_softmax_reads_the_layer():
    model = with_large_weights(ElmoForPreTraining(tiny_config(context_word_layer=True))).double().eval()
    batch = batch_of(["a cat sat"])
    output = model(**batch, output_hidden_states=True)
    top = output.hidden_states[-1][0]
    assert len(output.hidden_states) == 4
    words = [token for token in range(12) if token not in (0, 4)]
    for place in range(1, 5):
        scores = model.softmax.weight @ top[place - 1, :4] + model.softmax.bias
        expected = scores[batch["input_ids"][0, place]] - torch.logsumexp(scores[words], 0)
        torch.testing.assert_close(output.forward_log_probs[0, place], expected, rtol=0, atol=1e-12)


def test_no_carried_state_and_one_more_layer_in_the_mix():
    model = with_large_weights(ElmoModel(tiny_config(context_word_layer=True, scalar_mix_parameters=[0.0] * 4))).eval()
    batch = batch_of(["a cat sat", "why"])
    output = model(**batch, return_state=True, output_hidden_states=True)
    assert output.state.hidden.shape == (2, 2, 2, 4)
    assert model.scalar_mixes[0].weights.shape == (4,)
    plain = with_large_weights(ElmoModel(tiny_config())).eval()
    for name, value in plain.state_dict().items():
        if not name.startswith("scalar_mixes"):
            value.copy_(model.state_dict()[name])
    for layer, without in zip(output.hidden_states, plain(**batch, output_hidden_states=True).hidden_states):
        assert torch.equal(layer, without)


def test_transformer_is_refused():
    with pytest.raises(Exception, match='context_word_layer=True needs encoder_type="lstm"'):
        tiny_config(context_word_layer=True, encoder_type="transformer", num_attention_heads=2)
