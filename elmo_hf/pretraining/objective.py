"""The training objective of a biLM: the loss of one batch of running streams.

Source: bilm-tf `LanguageModel._build` and `_build_loss`; paper, section 3.1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf.inference.sentence_streams import read_streams
from elmo_hf.model.adaptive_softmax import ElmoAdaptiveSoftmax
from elmo_hf.model.conditions import has_nothing_attached
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.softmax import ElmoSoftmax
from elmo_hf.model.state import ElmoState
from elmo_hf.model.transformer import ElmoTransformerEncoder
from elmo_hf.model.word_layer import WordLayer, word_table_of

from .chunked_softmax import chunked_sampled_loss, chunked_softmax_loss
from .preparation import BatchPreparation, PreparedBatch, PreparedCandidates
from .sampled_softmax import LogUniformSampler, gather_rows

if TYPE_CHECKING:
    from .streams import StreamBatch


class PretrainingLoss(NamedTuple):
    """Loss of one batch.

    Attributes:
        loss: mean of the two directions' losses, differentiable, in nats per word.
        forward_loss, backward_loss: mean negative log-likelihood of each direction's targets, detached.
        forward_words, backward_words: number of targets of each direction: int64 scalars on the loss's device.
        state: state for the next batch, detached; `None` for a Transformer, which has no state.
    """

    loss: Tensor
    forward_loss: Tensor
    backward_loss: Tensor
    forward_words: Tensor
    backward_words: Tensor
    state: ElmoState | None

    @property
    def words(self) -> Tensor:
        """Number of targets of the forward direction, which has every word of the text once."""
        return self.forward_words


class StreamingObjective(nn.Module):
    """Truncated backpropagation through running streams: the loss of a batch given the state before it.

    In evaluation mode the full softmax replaces the sampled one, as in bilm-tf.

    Args:
        model: the biLM to train.
        loss: `"full"` softmax; `"sampled"`, with log-uniform candidates for each batch and direction, shared by its
            words; `"adaptive"`, for a model whose configuration has `softmax_cutoffs`.
        num_samples: number of candidates of the sampled softmax.
        seed: seed of the candidates. Processes that share a batch need the same seed: with the same candidates for all
            rows, two processes equal one with twice the rows.
        sparse_gradients: with the sampled softmax, the gradients of `softmax.weight`, `softmax.bias` and tied word
            embeddings are sparse. `optimizer.Adagrad` needs no gradient of other rows; AdamW and FSDP do not support
            sparse gradients. `optimizer.reduce_row_gradients` averages them over processes, instead of DDP.
        reset_states: reset the carried state of rows whose batch begins with a sentence (about one in fifteen), so that
            the model learns to start from zeros. bilm-tf never does.

    Raises:
        ValueError: a loss that the model's softmax does not have, more samples than words, or a model of one direction.
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
        model.check_words()
        adaptive = isinstance(model.softmax, ElmoAdaptiveSoftmax)
        if not model.config.bidirectional:
            raise ValueError(
                "bidirectional=False: pretraining reads both directions, and this model has the forward one alone; "
                "fine-tune it on a task, or train a new model"
            )
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
            # DistributedDataParallel reads this attribute and does not reduce these parameters; NCCL has no sparse sum.
            # Tied weights have two names.
            self._ddp_params_and_buffers_to_ignore = {
                name
                for name, weight in self.named_parameters(remove_duplicate=False)
                if any(weight is each for each in sparse)
            }

    def sampler_state(self) -> dict[str, int] | None:
        """State of the sampler before the next batch, for JSON and `load_sampler_state`; `None` without a sampler."""
        return None if self.sampler is None else self.sampler.state_dict()

    def load_sampler_state(self, state: dict[str, Any] | None) -> None:
        """Continue from a `sampler_state`.

        Raises:
            ValueError: the state is of another kind of loss, vocabulary or number of samples.
        """
        if (state is None) != (self.sampler is None):
            raise ValueError(
                f"a sampler state {'is missing' if state is None else 'was given'} for loss={self.loss!r}: resume with "
                "the loss that the state was saved with"
            )
        if self.sampler is not None and state is not None:
            self.sampler.load_state_dict(state)

    def forward(
        self,
        batch: "StreamBatch | PreparedBatch",
        state: ElmoState | None = None,
        target_counts: Sequence[Tensor | float] | None = None,
    ) -> PretrainingLoss:
        """Read one unroll of every row and predict its targets.

        Args:
            batch: a batch with all inputs of the model, prepared or not. Rows without more text are padded with zeros
                and targets of -100; no word of another row depends on them.
            state: state after the previous batch; `None` for zeros. No gradient flows back into it.
            target_counts: divisors of the summed losses of the two directions, instead of this batch's numbers of
                targets; for batches that are part of a step or have ended rows. Numbers, or scalars on any device.

        Raises:
            ValueError: labels that are not words of the model, or an impossible shape.
        """
        prepared = self.prepared(batch)
        contexts, state = self.contexts(prepared, state)
        real = prepared.real.view(2, -1)
        divisors = prepared.counts.clamp(min=1) if target_counts is None else target_counts
        # Weight of each word in the mean of the two directions' means.
        wide = torch.promote_types(contexts.dtype, torch.float32)
        shares = torch.cat([one.to(wide) / (2 * count) for one, count in zip(real, divisors, strict=True)])
        loss, nll = self._loss(contexts, prepared, shares)
        sums = 2 * (nll.detach() * shares).view(2, -1).sum(dim=1)
        carried = None if state is None else state.detach()
        return PretrainingLoss(loss, sums[0], sums[1], prepared.counts[0], prepared.counts[1], carried)

    @property
    def preparation(self) -> BatchPreparation:
        """Preparation of batches for this model, with this objective's sampler."""
        softmax = self.model.softmax
        dtype = next(softmax.parameters()).dtype
        excluded = tuple(softmax.excluded_ids)
        return BatchPreparation(self.model.elmo.embeddings, self.model.config.vocab_size, excluded, dtype, self.sampler)

    def prepared(self, batch: "StreamBatch | PreparedBatch") -> PreparedBatch:
        """The batch in the form that `forward` needs, on the model's device; errors as in `forward`."""
        if not isinstance(batch, PreparedBatch):
            batch = self.preparation(batch, samples=self.training)
        return batch.to(self.model.device, non_blocking=True)

    def contexts(
        self, batch: "StreamBatch | PreparedBatch", state: ElmoState | None = None
    ) -> tuple[Tensor, ElmoState | None]:
        """The vectors from which the targets are predicted.

        Returns:
            [2 * steps * rows, P]: the top layer of the forward direction, step by step, then of the backward one; and
            the state after the batch.
        """
        prepared = self.prepared(batch)
        encoder = self.model.elmo.encoder
        if not encoder.carries_state:
            return self._contexts_of_sentences(encoder, prepared), None
        if prepared.source.starts_fresh:
            state = None
        _, rows, steps = prepared.places.shape
        words = self._word_vectors(prepared).transpose(1, 2)  # (2, steps, rows, P)
        forward, backward = words.flatten(1, 2)
        if state is not None and state.hidden.shape[2] != rows:
            raise ValueError(
                f"the state has {state.hidden.shape[2]} rows and the batch {rows}: a row of the state belongs to the "
                "same row of the batch; start from state=None when the number of rows changes"
            )
        if state is not None and self.reset_states:
            if prepared.starts is None:
                raise ValueError("reset_states=True needs batches that say which rows begin with a sentence")
            state = state.reset(prepared.starts)
        initial = encoder.state_for(rows, words, state)
        outputs, final = encoder.run_layers(forward, backward, [rows] * steps, initial.detach())
        top = torch.cat(outputs[-1])
        return functional.dropout(top, self.model.config.top_layer_dropout, self.training), final

    def _contexts_of_sentences(self, encoder: ElmoTransformerEncoder, prepared: PreparedBatch) -> Tensor:
        """Contexts of a model that reads whole sentences."""
        if not prepared.source.starts_fresh:
            raise ValueError(
                "this model is a Transformer, which reads whole sentences and carries no state, and the batch holds "
                "parts of running text: make the streams with sentence_independent=True (--sentence_independent)"
            )
        forward, backward = self._word_vectors(prepared)  # (rows, steps, P)
        # Both directions read the same sentences, so their rows have equal lengths.
        rows, steps = prepared.places.shape[1:]
        top = read_streams(encoder, forward, backward, prepared.real[: rows * steps].view(steps, rows).T)
        contexts = torch.stack(top).transpose(1, 2).flatten(0, 2)
        return functional.dropout(contexts, self.model.config.top_layer_dropout, self.training)

    def _word_vectors(self, prepared: PreparedBatch) -> Tensor:
        """Word vectors (2, rows, steps, P), zero at padding; repeated words are encoded once."""
        layer = self.model.elmo.embeddings
        if not all(map(has_nothing_attached, (layer, *layer.children()))):
            return self._called(layer, prepared.source)
        vectors = layer.encode_checked(*prepared.words)
        if prepared.has_padding:
            vectors = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
        return vectors.index_select(0, prepared.places.flatten()).view(*prepared.places.shape, -1)

    def _called(self, layer: WordLayer, batch: "StreamBatch") -> Tensor:
        """Word vectors by a call of the word layer, for layers with hooks or an adapter."""
        inputs = [
            torch.cat([getattr(batch, f"forward_{name}"), getattr(batch, f"backward_{name}")]).to(self.model.device)
            for name in layer.input_names
        ]
        return layer(*inputs, mask=layer.real_words(inputs[0])).unflatten(0, (2, -1))

    def _loss(self, contexts: Tensor, prepared: PreparedBatch, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and each word's negative log-likelihood [2n]."""
        softmax, labels = self.model.softmax, prepared.labels
        if isinstance(softmax, ElmoAdaptiveSoftmax):
            nll = -softmax.log_probabilities(contexts, labels)
            return (nll * shares).sum(), nll
        if prepared.candidates is None or not self.training:
            bias = softmax.bias.index_fill(
                0, torch.tensor(softmax.excluded_ids, dtype=torch.int64, device=softmax.bias.device), float("-inf")
            )
            return chunked_softmax_loss(contexts, softmax.weight, bias, labels, shares)
        return self._sampled_loss(softmax, prepared.candidates, contexts, shares)

    def _sampled_loss(
        self, softmax: ElmoSoftmax, candidates: PreparedCandidates, contexts: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        half = len(shares) // 2
        # All rows of both directions are gathered once.
        weight = gather_rows(softmax.weight, candidates.rows, sparse_gradient=self.sparse_gradients)
        bias = gather_rows(softmax.bias, candidates.rows, sparse_gradient=self.sparse_gradients)
        losses, nlls = [], []
        for direction in range(2):
            part = slice(direction * half, (direction + 1) * half)
            hidden, true_place, place = contexts[part], candidates.true[direction], candidates.sampled[direction]
            # The logits of single columns stay in float32, unlike the matmuls under autocast.
            with torch.autocast(hidden.device.type, enabled=False):
                true_logits = (hidden.float() * weight.index_select(0, true_place)).sum(dim=1) + bias[true_place]
                true_logits = true_logits - candidates.true_log_counts[direction]
                candidate_bias = bias.index_select(0, place) - candidates.sampled_log_counts[direction]
            loss, nll = chunked_sampled_loss(
                hidden,
                true_logits,
                weight.index_select(0, place),
                candidate_bias,
                candidates.hits[direction],
                shares[part],
            )
            losses.append(loss)
            nlls.append(nll)
        return losses[0] + losses[1], torch.cat(nlls)
