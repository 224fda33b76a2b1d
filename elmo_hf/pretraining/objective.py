"""What a biLM is trained on: the loss of one batch of running streams.

Source: bilm-tf `LanguageModel._build` and `_build_loss`; paper, section 3.1.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf.model.adaptive_softmax import ElmoAdaptiveSoftmax
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.softmax import ElmoSoftmax, frequency_ranks, ids_of_ranks
from elmo_hf.model.state import ElmoState
from elmo_hf.model.transformer import ElmoTransformerEncoder
from elmo_hf.model.word_layer import word_table_of

from .chunked_softmax import chunked_sampled_loss, chunked_softmax_loss
from .sampled_softmax import LogUniformSampler, accidental_hits, gather_rows, log_expected_count

if TYPE_CHECKING:
    from .streams import StreamBatch

# The label of a position without target, as everywhere in torch.
NO_TARGET = -100


class PretrainingLoss(NamedTuple):
    """Loss of one batch.

    Attributes:
        loss: mean of the two directions' losses, differentiable, in nats a word.
        forward_loss, backward_loss: mean negative log-likelihood of each direction's targets, detached.
        forward_words, backward_words: how many targets each direction had: int64 scalars on the loss's device.
        state: to carry to the next batch, detached; `None` for a Transformer, which has none.
    """

    loss: Tensor
    forward_loss: Tensor
    backward_loss: Tensor
    forward_words: Tensor
    backward_words: Tensor
    state: ElmoState | None

    @property
    def words(self) -> Tensor:
        """Targets of the forward direction: every word of the text once."""
        return self.forward_words


class StreamingObjective(nn.Module):
    """Truncated back-propagation through running streams: the loss of a batch given the state before it.

    In evaluation mode the sampled softmax gives way to the full one, as in bilm-tf.

    Args:
        model: the biLM to train.
        loss: `"full"` softmax; `"sampled"`, with log-uniform candidates drawn anew for each batch and direction and
            shared by its words; `"adaptive"`, for a model whose configuration has `softmax_cutoffs`.
        num_samples: candidates of the sampled softmax.
        seed: of the candidates. Processes that share a batch must share it: the same candidates for all rows make
            two processes equal to one with twice the rows.
        sparse_gradients: with the sampled softmax, the gradients of `softmax.weight`, `softmax.bias` and a word model's
            table of words hold the touched rows only. For `optimiser.Adagrad`, whose update of an untouched row is
            none; AdamW and FSDP cannot read them. Distributed data parallelism leaves them to
            `optimiser.reduce_row_gradients`.
        reset_states: forget the carried state of the rows whose batch begins with a sentence (one in about fifteen), so
            that the model learns to begin where it has read nothing. bilm-tf never does.

    Raises:
        ValueError: a loss that the model's softmax does not have, or more samples than words.
    """

    def __init__(
        self,
        model: ElmoForPreTraining,
        *,
        loss: Literal["full", "sampled", "adaptive"] = "sampled",
        num_samples: int = 8192,
        seed: int = 0,
        sparse_gradients: bool = False,
        reset_states: bool = False,
    ) -> None:
        super().__init__()
        adaptive = isinstance(model.softmax, ElmoAdaptiveSoftmax)
        if loss not in ("full", "sampled", "adaptive"):
            raise ValueError(f"loss={loss!r}: expected 'full', 'sampled' or 'adaptive'")
        if adaptive != (loss == "adaptive"):
            raise ValueError(
                f"loss={loss!r} does not fit a model with softmax_cutoffs={model.config.softmax_cutoffs}: an adaptive "
                "softmax has the loss 'adaptive', any other 'full' or 'sampled'"
            )
        self.model = model
        self.loss = loss
        self.sampler: LogUniformSampler | None = None
        if loss == "sampled":
            words = model.config.vocab_size - len(model.softmax.excluded_ids)
            self.sampler = LogUniformSampler(words, num_samples, seed)
        self.reset_states = reset_states
        self.sparse_gradients = sparse_gradients and loss == "sampled"
        sparse: list[Tensor] = list(model.softmax.parameters()) if self.sparse_gradients else []
        table_of_words = word_table_of(model.elmo.embeddings)
        if table_of_words is not None:
            table = table_of_words.word_embeddings
            table.sparse = self.sparse_gradients
            sparse += [table.weight] if self.sparse_gradients else []
        if sparse:
            # DistributedDataParallel's own name for parameters that it does not reduce; NCCL has no sparse sum.
            # Tied weights have two names.
            self._ddp_params_and_buffers_to_ignore = {
                name
                for name, weight in self.named_parameters(remove_duplicate=False)
                if any(weight is each for each in sparse)
            }

    def sampler_state(self) -> dict[str, int] | None:
        """What `load_sampler_state` needs to draw the candidates of the next batch; JSON; `None` if none are drawn."""
        return None if self.sampler is None else self.sampler.state_dict()

    def load_sampler_state(self, state: dict[str, Any] | None) -> None:
        """Continue where `sampler_state` was taken.

        Raises:
            ValueError: the state of another kind of loss, vocabulary or number of samples.
        """
        if (state is None) != (self.sampler is None):
            raise ValueError(
                f"a sampler state {'is missing' if state is None else 'was given'} for loss={self.loss!r}: resume with "
                "the loss that the state was saved with"
            )
        if self.sampler is not None and state is not None:
            self.sampler.load_state_dict(state)

    def forward(
        self, batch: "StreamBatch", state: ElmoState | None = None, target_counts: tuple[Tensor, Tensor] | None = None
    ) -> PretrainingLoss:
        """Read one unroll of every row and predict its targets.

        Args:
            batch: of the model's device; with all that the model reads. Rows whose text has ended are
                padded with zeros and targets of -100; no word of another row depends on them.
            state: after the batch before; `None` for zeros. Nothing is propagated back into it.
            target_counts: divide the summed losses of the two directions in place of this batch's own numbers of
                targets; for batches that are one part of a step and have ended rows.

        Raises:
            ValueError: labels that are no words of the model, or an impossible shape.
        """
        contexts, state = self.contexts(batch, state)
        labels = torch.cat([self._targets(batch.forward_labels), self._targets(batch.backward_labels)])  # [2n]
        real = labels.ne(NO_TARGET)
        self._check(labels, real)
        counts = real.view(2, -1).sum(dim=1)
        if target_counts is None:
            divisors = counts.clamp(min=1)
        else:
            divisors = torch.stack([torch.as_tensor(count, device=real.device) for count in target_counts])
        # The weight of each word in the mean of the two directions' means.
        wide = torch.promote_types(contexts.dtype, torch.float32)
        shares = (real.view(2, -1).to(wide) / (2 * divisors[:, None].to(wide))).flatten()
        # Where nothing is predicted some word with a probability stands in, with no share in the loss.
        stand_in = ids_of_ranks(torch.zeros_like(labels[:1]), self.model.softmax.excluded_ids)
        loss, nll = self._loss(contexts, torch.where(real, labels, stand_in), shares)
        sums = 2 * (nll.detach() * shares).view(2, -1).sum(dim=1)
        carried = None if state is None else state.detach()
        return PretrainingLoss(loss, sums[0], sums[1], counts[0], counts[1], carried)

    def contexts(self, batch: "StreamBatch", state: ElmoState | None = None) -> tuple[Tensor, ElmoState | None]:
        """What each target is predicted from.

        Returns:
            [2 * steps * rows, P]: the top layer of the forward direction, step by step, then of the backward one; and
            the state after the batch.
        """
        model = self.model.elmo
        encoder = model.encoder
        if not encoder.carries_state:
            return self._contexts_of_sentences(encoder, batch), None
        if batch.starts_fresh:
            state = None
        # Both directions' words at once and time-major: words that they share are encoded once.
        inputs = self._inputs(batch)
        rows, steps = inputs[0].shape[1:3]
        words = self._word_vectors([each.transpose(1, 2) for each in inputs])  # [2 * steps, rows, P]
        forward, backward = words.view(2, steps * rows, -1)
        if state is not None and state.hidden.shape[2] != rows:
            raise ValueError(
                f"the state has {state.hidden.shape[2]} rows and the batch {rows}: a row of the state belongs to the "
                "same row of the batch; start from state=None when the number of rows changes"
            )
        if state is not None and self.reset_states:
            if batch.forward_starts is None or batch.backward_starts is None:
                raise ValueError("reset_states=True needs batches that say which rows begin with a sentence")
            state = state.reset(torch.stack([batch.forward_starts, batch.backward_starts]))
        initial = encoder.state_for(rows, words, state)
        outputs, final = encoder.run_layers(forward, backward, [rows] * steps, initial.detach())
        top = torch.cat(outputs[-1])
        return functional.dropout(top, self.model.config.top_layer_dropout, self.training), final

    def _contexts_of_sentences(self, encoder: ElmoTransformerEncoder, batch: "StreamBatch") -> Tensor:
        """The same for a model that reads whole sentences."""
        if not batch.starts_fresh:
            raise ValueError(
                "this model is a Transformer, which reads whole sentences and carries no state, and the batch holds "
                "parts of running text: make the streams with sentence_independent=True (--sentence_independent)"
            )
        forward, backward = self._word_vectors(self._inputs(batch)).chunk(2)  # [rows, steps, P]
        # Both directions read the same sentences: their rows are equally long.
        top = encoder.read_streams(forward, backward, batch.forward_labels.ne(NO_TARGET))
        contexts = torch.stack(top).transpose(1, 2).flatten(0, 2)
        return functional.dropout(contexts, self.model.config.top_layer_dropout, self.training)

    def _inputs(self, batch: "StreamBatch") -> list[Tensor]:
        """What the model reads of both directions' words: ids and tags (2, rows, steps), characters (2, ..., L)."""
        inputs = []
        for name in self.model.elmo.embeddings.input_names:
            pair = getattr(batch, f"forward_{name}"), getattr(batch, f"backward_{name}")
            if pair[0] is None or pair[1] is None:
                raise ValueError(f"this model reads {name} and the batch has none: make the streams with {name}=True")
            inputs.append(torch.stack(pair))
        return inputs

    def _word_vectors(self, inputs: list[Tensor]) -> Tensor:
        """Both directions' inputs (2, a, b, ...) to their vectors (2 * a, b, P)."""
        layer = self.model.elmo.embeddings
        flat = [each.flatten(0, 1) for each in inputs]
        return layer(*flat, mask=layer.real_words(flat[0]))

    @staticmethod
    def _targets(labels: Tensor) -> Tensor:
        """(rows, steps) -> [steps * rows], in the order of the contexts."""
        return labels.T.reshape(-1)

    def _check(self, labels: Tensor, real: Tensor) -> None:
        known = self.model.softmax.has_probability(labels) & (labels < self.model.config.vocab_size)
        wrong = labels[real & ~known]
        if len(wrong):
            raise ValueError(
                f"label {int(wrong[0])}: expected the id of a word, below vocab_size={self.model.config.vocab_size} "
                f"and none of {self.model.softmax.excluded_ids} (padding, mask), or {NO_TARGET} for no target; the "
                "batch was made with another tokenizer than the model's"
            )

    def _loss(self, contexts: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and each word's negative log-likelihood [2n]."""
        softmax = self.model.softmax
        if isinstance(softmax, ElmoAdaptiveSoftmax):
            nll = -softmax.log_probabilities(contexts, labels)
            return (nll * shares).sum(), nll
        if self.sampler is None or not self.training:
            bias = softmax.bias.index_fill(
                0, torch.tensor(softmax.excluded_ids, dtype=torch.int64, device=softmax.bias.device), float("-inf")
            )
            return chunked_softmax_loss(contexts, softmax.weight, bias, labels, shares)
        return self._sampled_loss(softmax, self.sampler, contexts, labels, shares)

    def _sampled_loss(
        self, softmax: ElmoSoftmax, sampler: LogUniformSampler, contexts: Tensor, labels: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        half = len(labels) // 2
        drawn = [sampler.draw() for _ in range(2)]
        ranks = [candidates.ranks.to(labels.device, non_blocking=True) for candidates in drawn]
        sampled_ids = [ids_of_ranks(each, softmax.excluded_ids) for each in ranks]
        # Every row that either direction needs, fetched once.
        needed, places = torch.cat([*sampled_ids, labels]).unique(return_inverse=True)
        weight = gather_rows(softmax.weight, needed, sparse_gradient=self.sparse_gradients)
        bias = gather_rows(softmax.bias, needed, sparse_gradient=self.sparse_gradients)
        sampled_places = places[: 2 * sampler.num_samples].view(2, -1)
        true_places = places[2 * sampler.num_samples :].view(2, -1)
        label_ranks = frequency_ranks(labels, softmax.excluded_ids)
        losses, nlls = [], []
        for direction, candidates in enumerate(drawn):
            part = slice(direction * half, (direction + 1) * half)
            hidden, true_place, place = contexts[part], true_places[direction], sampled_places[direction]

            def log_count(of: Tensor, tries: int = candidates.tries) -> Tensor:
                return log_expected_count(of, tries, sampler.num_samples, sampler.num_words)

            # Logits of few columns stay in float32 whatever autocast does to the matrix products.
            with torch.autocast(hidden.device.type, enabled=False):
                true_logits = (hidden.float() * weight.index_select(0, true_place)).sum(dim=1) + bias[true_place]
                true_logits = true_logits - log_count(label_ranks[part]).to(bias.dtype)
                candidate_bias = bias.index_select(0, place) - log_count(ranks[direction]).to(bias.dtype)
            loss, nll = chunked_sampled_loss(
                hidden,
                true_logits,
                weight.index_select(0, place),
                candidate_bias,
                accidental_hits(labels[part], sampled_ids[direction]),
                shares[part],
            )
            losses.append(loss)
            nlls.append(nll)
        return losses[0] + losses[1], torch.cat(nlls)
