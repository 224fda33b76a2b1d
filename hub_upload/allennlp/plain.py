"""The plain implementation of AllenNLP's `Elmo`, based on `common.plain`."""

from collections.abc import Mapping
from typing import Any

from ..bilm_tf.plain import characters_per_word, lstm_options
from ..common.plain import Characters, PlainElmo, Read, allennlp_cells, allennlp_cnn, torch_linear


def from_allennlp(names: set[str], read: Read, options: Mapping[str, Any]) -> PlainElmo:
    """Build the plain model from the module's parameters, whose shapes determine the sizes."""
    words, stack = "_elmo_lstm._token_embedder.", "_elmo_lstm._elmo_lstm."

    def count(beginning: str, end: str) -> int:
        return sum(name.startswith(beginning) and name.endswith(end) for name in names)

    cnn = allennlp_cnn(
        read,
        f"{words}_char_embedding_weights",
        f"{words}char_conv_",
        f"{words}_highways._layers.",
        count(f"{words}char_conv_", ".weight"),
        count(f"{words}_highways.", ".weight"),
        options["char_cnn"]["activation"],
    )
    cnn.layers.append(torch_linear(read, f"{words}_projection"))
    return PlainElmo(
        Characters(cnn, characters_per_word(options)),
        cells=allennlp_cells(read, stack, count(f"{stack}forward_layer_", ".bias")),
        **lstm_options(options),
    )
