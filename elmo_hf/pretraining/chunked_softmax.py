"""Cross-entropy of a softmax layer, computed in chunks of words without holding all logits.

`softmax.ElmoSoftmax` and `sampled_softmax.sampled_softmax_reference` define the losses. In training, their logits
need the most memory: 2560 words x 50,000 are half a gigabyte, read and written about ten times between the matmuls.
Here a few hundred words at a time go through logits, loss and gradients while the logits are in the cache; only the
gradients are kept. This is possible because the loss is a sum over words with known weights.
"""

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmo_hf.kernels.cpu.native_softmax import native_softmax_loss

# Logits held at a time. On a CPU they fit the caches of one core; a GPU needs larger matmuls.
LOGITS_AT_A_TIME = {"cpu": 2**21, "other": 2**25}
SMALLEST_CHUNK = 128


class _Gradients(NamedTuple):
    """Gradients of the loss by the arguments of `chunked_softmax_loss`.

    The weight's gradient is transposed, [P, columns]: matmuls are faster with many columns on the right. `true_logits`
    is empty without true logits.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    true_logits: Tensor

    @classmethod
    def allocate(cls, hidden: Tensor, weight: Tensor, true_logits: Tensor | None, dtype: torch.dtype) -> "_Gradients":
        return cls(
            hidden.new_empty(hidden.shape, dtype=dtype),
            weight.new_zeros(weight.shape[::-1], dtype=dtype),
            weight.new_zeros(len(weight), dtype=dtype),
            hidden.new_empty(0 if true_logits is None else len(hidden), dtype=dtype),
        )


class _ChunkedSoftmax(torch.autograd.Function):
    """Autograd function of both losses; `targets` are labels, or accidental hits if `true_logits` are given."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        true_logits: Tensor | None,
        targets: Tensor,
        shares: Tensor,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        matmul_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wide = torch.promote_types(matmul_dtype, torch.float32)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias, true_logits)]
        if matmul_dtype == torch.float32 and os.environ.get("ELMO_HF_KERNELS", "") in ("", "native"):
            found = native_softmax_loss(
                hidden, weight, bias, true_logits, targets, shares, gradients=any(ctx.needs_input_grad)
            )
            if found is not None:
                if found.hidden is not None and found.weight is not None:
                    ctx.save_for_backward(found.hidden, found.weight.T, found.bias, found.true_logits)
                ctx.mark_non_differentiable(found.nll)
                return (found.nll * shares).sum(), found.nll
        words, columns = len(hidden), len(weight)
        # Each chunk reads and writes the whole gradient of the weights, so chunks must not be small.
        step = min(words, max(SMALLEST_CHUNK, LOGITS_AT_A_TIME.get(device, LOGITS_AT_A_TIME["other"]) // columns))
        with torch.autocast(device, enabled=False):
            small_hidden, small_weight = hidden.to(matmul_dtype), weight.to(matmul_dtype)
            wide_bias, wide_shares = bias.to(wide), shares.to(wide)
            nll = hidden.new_empty(words, dtype=wide)
            # Allocated once: fresh pages for every chunk would cost as much as the exponentials.
            logit_buffer = hidden.new_empty(step, columns, dtype=wide)
            chance_buffer = hidden.new_empty(step, columns, dtype=wide)
            gradients = _Gradients.allocate(hidden, weight, true_logits, wide) if any(ctx.needs_input_grad) else None
            for start in range(0, words, step):
                part = slice(start, min(start + step, words))
                contexts, target = small_hidden[part], targets[part, None]
                logits, chances = logit_buffer[: len(contexts)], chance_buffer[: len(contexts)]
                if matmul_dtype == wide:
                    torch.addmm(wide_bias, contexts, small_weight.T, out=logits)
                else:
                    torch.add(torch.mm(contexts, small_weight.T), wide_bias, out=logits)
                if true_logits is None:
                    truth = logits.gather(1, target).squeeze(1)
                else:
                    truth = true_logits[part].to(wide)
                    # An accidental hit gets no probability; words without one write back the value read.
                    place = target.clamp(min=0)
                    logits.scatter_(1, place, logits.gather(1, place).masked_fill_(target >= 0, float("-inf")))
                torch.softmax(logits, dim=1, out=chances)
                # The largest of c probabilities is at least 1 / c, so this logarithm is always exact.
                normalizer = logits.amax(dim=1) - chances.amax(dim=1).log_()
                if true_logits is not None:
                    if columns == 1:
                        # If the only candidate is a hit, the chance is 0 / 0: only the true word is left.
                        chances.masked_fill_(target >= 0, 0.0)
                        normalizer.masked_fill_(target.squeeze(1) >= 0, float("-inf"))
                    among_candidates, normalizer = normalizer, torch.logaddexp(normalizer, truth)
                nll[part] = normalizer - truth
                if gradients is None:
                    continue
                weights = wide_shares[part]
                if true_logits is None:
                    # d loss / d logits = weight * (chance - [column is the true one]); the weight is applied to the
                    # thin operands of the matmuls.
                    chances.scatter_add_(1, target, chances.new_full((len(contexts), 1), -1.0))
                else:
                    gradients.true_logits[part] = weights * torch.expm1(-nll[part])
                    weights = weights * torch.exp(among_candidates - normalizer)
                weighted = (contexts.to(wide) * weights[:, None]).to(matmul_dtype)
                factors = chances.to(matmul_dtype)
                if matmul_dtype == wide:
                    torch.mm(factors, small_weight, out=gradients.hidden[part])
                    gradients.weight.addmm_(weighted.T, factors)
                else:
                    gradients.hidden[part] = torch.mm(factors, small_weight)
                    gradients.weight.add_(torch.mm(weighted.T, factors))
                gradients.hidden[part].mul_(weights[:, None])
                gradients.bias.addmv_(chances.T, weights)
            loss = (nll * wide_shares).sum()
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = _Gradients(*ctx.saved_tensors)
        in_order = (saved.hidden, saved.weight.T, saved.bias, saved.true_logits)
        found = (
            (tensor * gradient).to(dtype) if needed else None
            for tensor, needed, dtype in zip(in_order, ctx.needs_input_grad, ctx.dtypes, strict=False)
        )
        return *found, None, None


def chunked_softmax_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the weighted sum of the negative log-likelihoods of words under a full softmax.

    Args:
        hidden: [n, P], the contexts.
        weight: [columns, P]; bias: [columns], minus infinity for a column without probability.
        labels: [n], int64, the true columns.
        shares: [n], the weight of each word in the loss; 0 leaves a word out.

    Returns:
        The loss, sum(shares * nll), differentiable by hidden, weight and bias; and nll [n], float32 or wider, not
        differentiable. Matmuls run in autocast's dtype if it is enabled, everything else in float32 or wider.
    """
    return _ChunkedSoftmax.apply(hidden, weight, bias, None, labels, shares)


def chunked_sampled_loss(
    hidden: Tensor, true_logits: Tensor, weight: Tensor, bias: Tensor, hits: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `sampled_softmax_reference` in chunks, with results as in `chunked_softmax_loss`."""
    return _ChunkedSoftmax.apply(hidden, weight, bias, true_logits, hits, shares)
