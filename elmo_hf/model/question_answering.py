"""Extractive question answering: answers as spans of a context.

The paper's model for SQuAD (Peters et al. 2018, section 4) is based on Clark and Gardner (2018), which extends the
bidirectional attention flow of Seo et al. (2017, section 2, layers 4 to 6) implemented here. Without this attention,
question and context would interact only through the biLM's recurrent state.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.utils import can_return_tuple

from .attention import masked_softmax
from .base_model import passed_on
from .configuration_elmo import ElmoConfig
from .encoders import ElmoTaskLayer
from .initialization import starting_with
from .labels import mean_cross_entropy
from .opaque_parts import opaque
from .packing import PackedBatch
from .pooling import is_token, segments_of
from .task_model import ElmoTaskModel


class ElmoBidirectionalAttention(nn.Module):
    """Attention between question and context in both directions (Seo et al. 2017, "attention flow layer").

    The similarity of context word c and question word q is w . [c; q; c * q], without a bias, which both softmaxes
    would cancel. The context's words attend to the question, a_i = sum_j softmax_j(S_ij) q_j, and the question to the
    context, b = sum_i softmax_i(max_j S_ij) c_i. The result is [c; a; c * a; c * b].

    Attributes:
        output_size: width of the result, 4 * `width`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.similarity = starting_with(nn.Linear(3 * width, 1, bias=False), "normal", (3 * width) ** -0.5)
        self.output_size = 4 * width

    def forward(self, words: Tensor, question: Tensor, context: Tensor) -> Tensor:
        """Attend.

        Args:
            words: (batch, words, width), question and context in one row.
            question, context: (batch, words), bool: masks of the question's and the context's words.

        Returns:
            (batch, words, 4 * width). All words, not only the context's, attend to the question; only the context's
            words are attended to. a and b are zero in a row without a question; b is zero in a row without a context.
        """
        if words.shape[1] == 0:  # `amax` refuses an empty axis
            return words.new_zeros(*words.shape[:2], self.output_size)
        asked, is_asked = self._gather(words, question)  # [batch, question words, width], [batch, question words]
        of_context, of_question, of_product = self.similarity.weight.view(3, -1)
        similarity = (
            (words @ of_context).unsqueeze(2)
            + (asked @ of_question).unsqueeze(1)
            + (words * of_product) @ asked.transpose(1, 2)
        )  # [batch, words, question words]
        is_asked = is_asked.unsqueeze(1)
        to_question = masked_softmax(similarity, is_asked).to(asked.dtype) @ asked  # [batch, words, width]
        closest = similarity.masked_fill(~is_asked, torch.finfo(similarity.dtype).min).amax(dim=-1)
        weights = masked_softmax(closest, context & is_asked.any(dim=-1))  # [batch, words]
        to_context = weights.to(words.dtype).unsqueeze(1) @ words  # [batch, 1, width]
        return torch.cat([words, to_question, words * to_question, words * to_context], dim=-1)

    @staticmethod
    def _gather(words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Move the words where `mask` is true to the front and cut the rest: vectors (batch, longest, width) and mask.

        Saves memory: questions are much shorter than rows.
        """
        counts = mask.sum(dim=1)
        # At least one column, masked if there are no words.
        longest = max(1, int(counts.max())) if len(counts) else 1
        columns = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)[:, :longest]
        vectors = words.gather(1, columns.unsqueeze(-1).expand(-1, -1, words.shape[-1]))
        return vectors, torch.arange(columns.shape[1], device=mask.device) < counts.unsqueeze(1)


class ElmoForQuestionAnswering(ElmoTaskModel):
    """Extractive question answering over rows of `<S> question </S> <S> context </S>`.

    Task layers over ELMo, the attention between question and context, a biLSTM over the context if `task_lstm_size` is
    not 0 (the "modeling layer"), and a linear layer from both, [attention; biLSTM], to start and end logits.

    An answer is a span of the context's words. "No answer" is the span of the row's first word, the boundary `<S>`, as
    in SQuAD 2.0 models; the modeling layer reads it before the context.
    """

    _auto_class = "AutoModelForQuestionAnswering"
    _reads_pairs = True

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.attention = ElmoBidirectionalAttention(self.task_layers.output_size)
        width, size = self.attention.output_size, config.task_lstm_size
        self.modelling_layer = ElmoTaskLayer(config, width, size) if size else None
        width += 2 * size
        self.qa_outputs = starting_with(nn.Linear(width, 2), "normal", width**-0.5)
        self.dropout = nn.Dropout(config.task_dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score every word as start and as end of the answer.

        Args:
            input_ids: (batch, words), required: its boundaries separate question and context.
            start_positions, end_positions: (batch,), int64, columns of the answer's first and last word; the column of
                the row's first word for no answer. Values outside the row, such as -100 or an answer that was
                truncated, are ignored.
            num_items_in_batch: divides the summed losses in place of this batch's number of positions.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            start_logits, end_logits (batch, words), the minimum of their dtype at question, boundaries and padding.
            With both positions, the mean of the two mean cross-entropies plus `scalar_mix_penalty()`.

        Raises:
            ValueError: no `input_ids`, a row that is not a pair, positions of a wrong shape, only one of them, or a
                position outside the context.
        """
        if input_ids is None:
            raise ValueError(
                "input_ids missing: only they tell the question from the context. Pass all that the tokenizer returns, "
                "model(**encoding), also together with inputs_embeds"
            )
        words, mask, outputs = self.encode_words(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids, code_point_ids, **kwargs
        )
        question, context = self._question_and_context(input_ids, mask)
        candidates = context | _first(mask)
        (features,) = self._features(words, question, context, candidates)
        logits = self.qa_outputs(self.dropout(features))  # [batch, words, 2]
        logits = logits.masked_fill(~candidates.unsqueeze(-1), torch.finfo(logits.dtype).min)
        start_logits, end_logits = (part.contiguous() for part in logits.unbind(dim=-1))
        loss = None
        if start_positions is not None or end_positions is not None:
            start_positions = _check_positions("start_positions", start_positions, candidates)
            end_positions = _check_positions("end_positions", end_positions, candidates)
            start_loss = mean_cross_entropy(start_logits, start_positions, num_items_in_batch)
            end_loss = mean_cross_entropy(end_logits, end_positions, num_items_in_batch)
            loss = self._penalized((start_loss + end_loss) / 2, start_positions, num_items_in_batch)
        layers = passed_on(outputs, "hidden_states", "attentions")
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits, **layers)

    @opaque(
        ("attention", "modelling_layer"),
        lambda self, words, *_: [((*words.shape[:2], self.qa_outputs.in_features), words.dtype)],
    )
    def _features(self, words: Tensor, question: Tensor, context: Tensor, candidates: Tensor) -> tuple[Tensor]:
        """Features of every word for the classifier, (batch, words, qa_outputs.in_features)."""
        features = self.attention(self.dropout(words), question, context)  # [batch, words, 4 * width]
        if self.modelling_layer is not None:
            features = torch.cat([features, self._model(self.dropout(features), candidates)], dim=-1)
        return (features,)

    def _question_and_context(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, words), bool: masks of question and context, without the boundaries around them."""
        segments = segments_of(input_ids, mask, self.config.bos_token_id)
        question, context = segments.eq(0), segments.gt(0)
        wrong = mask.any(dim=1) & ~context.any(dim=1)
        if not torch.compiler.is_compiling() and wrong.any():
            raise ValueError(
                f"row {int(wrong.nonzero()[0])} of the batch has no context: expected <S> question </S> <S> context "
                "</S>. Encode pairs, tokenizer(question, context)"
            )
        return self._between(question, input_ids), self._between(context, input_ids)

    def _between(self, part: Tensor, input_ids: Tensor) -> Tensor:
        """`part` without the boundary at either end; a boundary token inside the text counts as a word."""
        is_end = is_token(input_ids, self.config.eos_token_id)
        return part & ~_first(part) & ~(_first(part.flip(1)).flip(1) & is_end)

    def _model(self, features: Tensor, candidates: Tensor) -> Tensor:
        """(batch, words, width) -> (batch, words, 2 * task_lstm_size): biLSTM over the candidates; zeros elsewhere."""
        assert self.modelling_layer is not None
        packing = PackedBatch.from_mask(candidates)
        packed, _ = self.modelling_layer(packing.pack(features, packing.forward_index), packing)
        return packing.unpack(packed, packing.forward_index)


def _first(mask: Tensor) -> Tensor:
    """(batch, words), bool: only the first true position of each row."""
    return mask & mask.cumsum(dim=1).eq(1)


def _check_positions(name: str, positions: Tensor | None, candidates: Tensor) -> Tensor:
    """Check positions; returns (batch,), int64, -100 for those to ignore."""
    rows, words = candidates.shape
    if positions is None:
        raise ValueError(f"{name} missing: a loss needs both start_positions and end_positions")
    # Data parallelism gathers scalars as a column.
    if tuple(positions.shape) not in ((rows,), (rows, 1)) or positions.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(positions.shape)} and type {positions.dtype}: expected ({rows},) and integers, "
            "one column per row"
        )
    positions = positions.reshape(rows).to(device=candidates.device, dtype=torch.int64)
    positions = torch.where((positions >= 0) & (positions < words), positions, -100)
    given = positions.ne(-100)
    wrong = given & ~candidates.gather(1, positions.clamp(min=0).unsqueeze(1)).squeeze(1) if words else given
    if not torch.compiler.is_compiling() and wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} of row {row} is {int(positions[row])}: expected the column of a word of the context, that of the "
            f"row's first word, {int(candidates[row].int().argmax())}, for no answer, or -100 for no label. Columns "
            "count padding"
        )
    return positions
