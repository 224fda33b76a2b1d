"""Labels of words: named entities, parts of speech."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_elmo import ElmoConfig
from .initialization_elmo import starting_with
from .model_elmo import ElmoModel
from .pretrained_elmo import ElmoPreTrainedModel


class ElmoForTokenClassification(ElmoPreTrainedModel):
    """A linear classifier of every word over the first mix of layers: named entities, parts of speech."""

    _auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 0
        self.elmo = ElmoModel(config)
        # Only the first mix is read; see `ElmoForPreTraining` for the others.
        self.elmo.scalar_mixes[1:].requires_grad_(False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        starting_with(self.classifier, "normal", config.hidden_size**-0.5)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Classify every word.

        Args:
            labels: (batch, words), class numbers, -100 where there is none (boundaries, padding).
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, num_labels); with `labels`, the mean cross-entropy, plus `scalar_mix_penalty()`.

        Raises:
            ValueError: a label outside 0..num_labels - 1.
        """
        outputs = self.elmo(
            input_ids,
            attention_mask,
            character_ids,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            wrong = labels[(labels < 0) & (labels != -100) | (labels >= self.num_labels)]
            if len(wrong):
                raise ValueError(
                    f"label {int(wrong[0])}: expected 0 to {self.num_labels - 1}, or -100 for none; set num_labels "
                    "(or id2label) of the configuration to the data's labels"
                )
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
            loss = self._penalised(loss, labels, num_items_in_batch)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
