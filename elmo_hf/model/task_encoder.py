"""Encoder of a translator that combines ELMo with layers of the task's own (paper, section 3.2)."""

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .base_model import passed_on
from .configuration_elmo import ElmoTaskEncoderConfig
from .task_model import ElmoTaskModel


class ElmoTaskEncoder(ElmoTaskModel):
    """Task model without a classifier, whose features are the output of an encoder.

    Its layers are those of taggers and classifiers: word vectors, characters and a biLSTM, with ELMo at their input,
    output or both, or, with `elmo_at=[]`, without ELMo. It is saved as a part of an [`ElmoEncoderDecoderModel`]. The
    sentence boundaries are read like words, because the decoder attends to them (`words_only` has no effect).
    """

    config: ElmoTaskEncoderConfig
    config_class = ElmoTaskEncoderConfig

    def __init__(self, config: ElmoTaskEncoderConfig) -> None:
        super().__init__(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode a batch of sentences.

        Args:
            code_point_ids: (batch, characters), integers, for a model with `task_character_size`.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            last_hidden_state (batch, words, config.hidden_size), the features, zero at padding; on request, the
            biLM's `hidden_states`.
        """
        features, _, outputs = self.encode_words(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids, code_point_ids, **kwargs
        )
        return BaseModelOutput(last_hidden_state=features, **passed_on(outputs, "hidden_states", "attentions"))
