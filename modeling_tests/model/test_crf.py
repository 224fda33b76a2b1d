"""The CRF, compared with an enumeration of all sequences."""

import itertools

import numpy as np
import pytest
import torch

from elmo_hf.model.crf import (
    FORBIDDEN,
    CrfScores,
    ElmoCrf,
    best_paths,
    best_tags,
    label_scores,
    log_likelihood,
    log_partition,
    max_marginals,
    path_scores,
)
from elmo_hf.model.tag_schemes import forbidden_transitions
from modeling_tests.tiny import tiny_config

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC"]

# Padding on the right, on the left, on both sides and inside; no word at all, one, all of them.
MASKS = torch.tensor(
    [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1],
    ]
).bool()


def crf_of(labels: list[str], scheme: str | None, **fields) -> ElmoCrf:
    names = dict(enumerate(labels))
    config = tiny_config(
        use_crf=True,
        tag_scheme=scheme,
        id2label=names,
        label2id={label: index for index, label in names.items()},
        **fields,
    )
    field = ElmoCrf(config)
    field.reset_weights()
    return field


def scores_of(labels: list[str], scheme: str | None, dtype=torch.float64) -> CrfScores:
    field = crf_of(labels, scheme).to(dtype)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.normal_()
    return field()


def emissions_of(tags: int, mask=MASKS, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*mask.shape, tags, dtype=dtype) * 2


FIELDS = {"free": (["a", "b", "c"], None), "one tag": (["a"], None), "BIO": (BIO, "BIO"), "BIOES": (BIOES, "BIOES")}
any_field = pytest.mark.parametrize(("labels", "scheme"), FIELDS.values(), ids=FIELDS)


class EverySequence:
    """Scores of all sequences of one sentence, in NumPy; nothing is shared with the package."""

    def __init__(self, emissions, mask, scores):
        words = emissions[mask].detach().double().numpy()
        start, transitions, end = (part.detach().double().numpy() for part in scores)
        self.tags = list(itertools.product(range(words.shape[1]), repeat=len(words)))
        self.scores = []
        for tags in self.tags:
            score = sum(words[place, tag] for place, tag in enumerate(tags))
            score += sum(transitions[pair] for pair in itertools.pairwise(tags))
            self.scores.append(score + (start[tags[0]] + end[tags[-1]] if tags else 0))
        self.scores = np.array(self.scores)

    def log_sum(self, agrees=lambda tags: True):
        chosen = self.scores[[agrees(tags) for tags in self.tags]]
        return chosen.max() + np.log(np.exp(chosen - chosen.max()).sum())

    def best(self, agrees=lambda tags: True):
        return self.scores[[agrees(tags) for tags in self.tags]].max()


class TestScores:
    @any_field
    def test_sums_agree_with_all_sequences(self, labels, scheme):
        scores, emissions = scores_of(labels, scheme), emissions_of(len(labels))
        found = log_partition(emissions, MASKS, scores)
        assert found.dtype == torch.float64
        for row, mask in enumerate(MASKS):
            expected = EverySequence(emissions[row], mask, scores).log_sum()
            np.testing.assert_allclose(found[row].item(), expected, rtol=0, atol=1e-10)

    @any_field
    def test_scores_of_labels_agree_with_all_sequences(self, labels, scheme):
        scores, emissions = scores_of(labels, scheme), emissions_of(len(labels))
        for unknown in (0.0, 0.5, 1.0):
            gold = torch.randint(len(labels), MASKS.shape)
            gold[torch.rand(MASKS.shape) < unknown] = -100
            # Positions outside the mask are not read.
            gold[~MASKS] = torch.tensor([-100, 0, 10**6])[torch.randint(3, ((~MASKS).sum(),))]
            found = label_scores(emissions, gold, MASKS, scores)
            for row, mask in enumerate(MASKS):
                every = EverySequence(emissions[row], mask, scores)
                wanted = gold[row][mask].tolist()
                expected = every.log_sum(
                    lambda tags, wanted=wanted: all(w in (-100, t) for w, t in zip(wanted, tags, strict=True))
                )
                if expected > FORBIDDEN / 2:
                    np.testing.assert_allclose(found[row].item(), expected, rtol=0, atol=1e-9)
                else:
                    assert found[row] < FORBIDDEN / 2
            if unknown == 0:
                assert torch.equal(found, path_scores(emissions, gold, MASKS, scores))

    def test_probabilities_of_all_sequences_sum_to_one(self):
        scores, emissions = scores_of(BIO, "BIO"), emissions_of(len(BIO), MASKS[:1, :3])
        total = 0.0
        for tags in itertools.product(range(len(BIO)), repeat=3):
            total += log_likelihood(emissions, torch.tensor([tags]), MASKS[:1, :3], scores).exp().item()
        assert total == pytest.approx(1, abs=1e-12)

    def test_rows_without_labels_count_nothing(self):
        scores = scores_of(BIO, "BIO")
        emissions = emissions_of(len(BIO)).requires_grad_()
        gold = torch.full(MASKS.shape, -100)
        gold[0, 2] = 0
        found = log_likelihood(emissions, gold, MASKS, scores)
        assert found[0] < 0 and (found[1:] == 0).all()
        found.sum().backward()
        assert (emissions.grad[0] != 0).any() and (emissions.grad[1:] == 0).all()

    @pytest.mark.slow
    @any_field
    def test_gradients_agree_with_finite_differences(self, labels, scheme):
        field = crf_of(labels, scheme).double()
        values = [torch.randn_like(parameter).requires_grad_() for parameter in field.parameters()]
        names = [name for name, _ in field.named_parameters()]
        mask = MASKS[1:7]
        emissions = emissions_of(len(labels), mask).requires_grad_()
        gold = best_tags(emissions, mask, field())  # a possible sequence of any scheme
        gold[3, 3], gold[0] = -100, -100

        def run(emissions, *values):
            scores = torch.func.functional_call(field, dict(zip(names, values, strict=True)), ())
            return log_likelihood(emissions, gold, mask, scores)

        assert torch.autograd.gradcheck(run, (emissions, *values), eps=1e-6, atol=1e-7)

    def test_gradients_of_a_strict_scheme_are_finite(self):
        field = crf_of(BIOES, "BIOES")
        emissions = (emissions_of(len(BIOES), dtype=torch.float32) * 100).requires_grad_()
        gold = best_tags(emissions, MASKS, field())
        log_likelihood(emissions, gold, MASKS, field()).sum().backward()
        assert emissions.grad.isfinite().all()
        # Forbidden transitions have no gradient.
        assert (field.transitions.grad[field.forbidden[:-1, :-1]] == 0).all()
        assert all(parameter.grad.isfinite().all() for parameter in field.parameters())

    def test_long_sentences(self):
        """Log sums stay exact where products of probabilities would underflow."""
        scores = scores_of(BIO, "BIO", torch.float32)
        mask = torch.ones(2, 700).bool()
        mask[1, 500:] = False
        emissions = emissions_of(len(BIO), mask, torch.float32) * 10
        wide = CrfScores(*(part.double() for part in scores))
        found, expected = log_partition(emissions, mask, scores), log_partition(emissions.double(), mask, wide)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
        assert torch.equal(best_tags(emissions, mask, scores), best_tags(emissions.double(), mask, wide))


class TestConstraints:
    LABELS = ["O", "B-X", "I-X"]

    def test_labels_unreachable_in_decoding_are_allowed(self):
        """Archives may have such transitions: their training data was not checked against the scheme."""
        field = crf_of(["O", "B-PER", "I-LOC"], "BIO", crf_constraints="decoding")
        emissions = torch.tensor([[[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]]])
        assert best_tags(emissions, torch.ones(1, 2).bool(), field()).tolist() == [[1, 1]]

    def test_constraints_in_decoding_only(self):
        free, field = crf_of(self.LABELS, None), crf_of(self.LABELS, "BIO", crf_constraints="decoding")
        strict, never = crf_of(self.LABELS, "BIO"), crf_of(self.LABELS, "BIO", crf_constraints="never")
        emissions, mask = torch.tensor([[[0.0, 1.0, 5.0], [0.0, 1.0, 5.0]]]), torch.ones(1, 2).bool()
        gold = torch.tensor([[2, 2]])
        for other in (field, never):
            assert other.log_likelihood(emissions, gold, mask) == free.log_likelihood(emissions, gold, mask)
        with pytest.raises(ValueError, match="'I-X' at word 0"):
            strict.log_likelihood(emissions, gold, mask)
        assert best_tags(emissions, mask, field()).tolist() == best_tags(emissions, mask, strict()).tolist() == [[1, 2]]
        assert best_tags(emissions, mask, never()).tolist() == [[2, 2]]

    def test_without_start_and_end_transitions(self):
        field = crf_of(self.LABELS, None, crf_start_end_transitions=False)
        assert [name for name, _ in field.named_parameters()] == ["transitions"]
        assert field().start.tolist() == field().end.tolist() == [0, 0, 0]


class TestLabelWeights:
    """Against AllenNLP's definitions, over all sequences or step by step, in NumPy."""

    WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.5]

    def field(self, strategy, weights=None, scheme=None, **fields):
        field = crf_of(
            BIO, scheme, crf_label_weights=self.WEIGHTS if weights is None else weights, crf_weight_strategy=strategy,
            **fields,
        ).double()  # fmt: skip
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.normal_()
        return field

    @pytest.mark.parametrize("strategy", ["emission", "transition"])
    def test_scaled_scores(self, strategy):
        field, emissions = self.field(strategy), emissions_of(len(BIO))
        gold = torch.randint(len(BIO), MASKS.shape)
        found = field.log_likelihood(emissions, gold, MASKS)
        weights = np.array(self.WEIGHTS)
        for row, mask in enumerate(MASKS):
            words = emissions[row][mask].numpy() * weights
            start, transitions, end = (part.detach().numpy() for part in field(is_constrained=False))
            if strategy == "transition":
                transitions = transitions * weights[:, None]
            every = EverySequence(
                torch.tensor(words),
                torch.ones(len(words)).bool(),
                CrfScores(torch.tensor(start), torch.tensor(transitions), torch.tensor(end)),
            )
            tags = tuple(gold[row][mask].tolist())
            expected = every.scores[every.tags.index(tags)] - every.log_sum() if tags else 0
            np.testing.assert_allclose(found[row].item(), expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("has_ends", [True, False])
    def test_lannoy_weighting(self, has_ends):
        field = self.field("lannoy", crf_start_end_transitions=has_ends)
        emissions, gold = emissions_of(len(BIO)), torch.randint(len(BIO), MASKS.shape)
        found = field.log_likelihood(emissions, gold, MASKS)
        start, transitions, end = (part.detach().numpy() for part in field(is_constrained=False))
        for row, mask in enumerate(MASKS):
            words, tags = emissions[row][mask].numpy(), gold[row][mask].tolist()
            expected, alpha = 0.0, None
            for place, tag in enumerate(tags):
                before = np.exp(start) if alpha is None else alpha @ np.exp(transitions)
                alpha = before * np.exp(words[place])
                expected += self.WEIGHTS[tag] * (words[place, tag] - np.log(alpha.sum()))
                alpha /= alpha.sum()
                if place:
                    expected += self.WEIGHTS[tags[place - 1]] * transitions[tags[place - 1], tag]
            if tags:
                expected += start[tags[0]] + end[tags[-1]] - np.log((alpha * np.exp(end)).sum())
            np.testing.assert_allclose(found[row].item(), expected, rtol=0, atol=1e-9)
        with pytest.raises(ValueError, match="-100 inside a sentence"):
            field.log_likelihood(emissions, gold.masked_fill(torch.eye(9, 5).bool(), -100), MASKS)
        gold[0] = -100
        assert field.log_likelihood(emissions, gold, MASKS)[0] == 0

    @pytest.mark.parametrize("strategy", ["emission", "transition", "lannoy"])
    def test_weights_of_one_change_nothing(self, strategy):
        field, emissions = self.field(strategy, [1.0] * len(BIO), "BIO"), emissions_of(len(BIO))
        gold = best_tags(emissions, MASKS, field())
        found = field.log_likelihood(emissions, gold, MASKS)
        torch.testing.assert_close(found, log_likelihood(emissions, gold, MASKS, field()), rtol=0, atol=1e-8)

    def test_weights_keep_the_constraints_of_the_scheme(self):
        field = self.field("transition", [0.0] * len(BIO), "BIO")
        gold = torch.tensor([[0, 2]])
        with pytest.raises(ValueError, match="'I-PER' at word 1"):
            field.log_likelihood(emissions_of(len(BIO), torch.ones(1, 2).bool()), gold, torch.ones(1, 2).bool())

    def test_one_weight_for_each_label(self):
        with pytest.raises(ValueError, match="crf_label_weights.*2.*5"):
            self.field("emission", [1.0, 2.0])


class TestDecoding:
    @any_field
    @pytest.mark.parametrize("count", [1, 3, 40])
    def test_best_paths_agree_with_all_sequences(self, labels, scheme, count):
        scores, emissions = scores_of(labels, scheme), emissions_of(len(labels))
        tags, values = best_paths(emissions, MASKS, scores, count)
        assert tags.shape == (len(MASKS), count, MASKS.shape[1]) and values.shape == (len(MASKS), count)
        for row, mask in enumerate(MASKS):
            every = EverySequence(emissions[row], mask, scores)
            order = np.argsort(-every.scores, kind="stable")[:count]
            found = values[row, : len(order)].numpy()
            np.testing.assert_allclose(found, every.scores[order], rtol=1e-12, atol=1e-9)
            possible = sum(every.scores[order] > FORBIDDEN / 2)
            paths = [tuple(path[mask].tolist()) for path in tags[row, : len(order)]]
            assert paths[:possible] == [every.tags[place] for place in order[:possible]]
            assert len(set(paths)) == len(order)
            assert values[row, len(order) :].isneginf().all() and (tags[row, len(order) :] == -100).all()
            assert (tags[row][:, ~mask] == -100).all()

    @any_field
    def test_the_best_of_all_sequences(self, labels, scheme):
        scores, emissions = scores_of(labels, scheme), emissions_of(len(labels))
        found = best_tags(emissions, MASKS, scores)
        assert (found[~MASKS] == -100).all()
        for row, mask in enumerate(MASKS):
            every = EverySequence(emissions[row], mask, scores)
            assert tuple(found[row][mask].tolist()) == every.tags[every.scores.argmax()]

    @any_field
    def test_max_marginals_agree_with_all_sequences(self, labels, scheme):
        scores, emissions = scores_of(labels, scheme), emissions_of(len(labels))
        found = max_marginals(emissions, MASKS, scores)
        assert (found[~MASKS] == 0).all()
        for row, mask in enumerate(MASKS):
            every = EverySequence(emissions[row], mask, scores)
            for place, values in enumerate(found[row][mask]):
                for tag, value in enumerate(values.tolist()):
                    expected = every.best(lambda tags, place=place, tag=tag: tags[place] == tag) - every.best()
                    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-8)

    @any_field
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_largest_max_marginals_are_the_best_sequence(self, labels, scheme, dtype):
        """Also if some or all sequences tie, as is common with integer scores."""
        mask = torch.rand(64, 9) < 0.8
        for emissions in (
            emissions_of(len(labels), mask, dtype),
            emissions_of(len(labels), mask, dtype).round(),
            torch.zeros(*mask.shape, len(labels), dtype=dtype),
        ):
            scores = scores_of(labels, scheme, torch.float32)
            scores = CrfScores(*(part.round() for part in scores))
            tags, marginals = best_tags(emissions, mask, scores), max_marginals(emissions, mask, scores)
            assert marginals.dtype == torch.float32
            for values in (marginals, marginals.to(torch.bfloat16), marginals.softmax(-1)):
                assert torch.equal(values.argmax(-1)[mask], tags[mask])
            forbidden = forbidden_transitions(labels, scheme)
            for row, kept in zip(tags, mask, strict=True):
                steps = itertools.pairwise([len(labels), *row[kept].tolist(), len(labels)])
                assert not kept.any() or not any(forbidden[before, after] for before, after in steps)

    def test_a_sentence_does_not_depend_on_its_batch(self):
        scores, emissions = scores_of(BIO, "BIO", torch.float32), emissions_of(len(BIO), dtype=torch.float32)
        together = max_marginals(emissions, MASKS, scores), log_partition(emissions, MASKS, scores)
        for row, mask in enumerate(MASKS):
            words = emissions[row][mask][None]
            real = torch.ones(words.shape[:2]).bool()
            torch.testing.assert_close(together[0][row][mask], max_marginals(words, real, scores)[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together[1][row], log_partition(words, real, scores)[0], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
    def test_nothing_to_tag(self, shape):
        scores, mask = scores_of(BIO, "BIO"), torch.zeros(shape).bool()
        emissions, gold = torch.zeros(*shape, len(BIO)), torch.zeros(shape, dtype=torch.int64)
        assert best_tags(emissions, mask, scores).shape == shape
        assert best_paths(emissions, mask, scores, 2)[0].shape == (shape[0], 2, shape[1])
        assert max_marginals(emissions, mask, scores).shape == (*shape, len(BIO))
        assert log_likelihood(emissions, gold, mask, scores).tolist() == [0.0] * shape[0]

    def test_half_precision_is_computed_in_single(self):
        scores = scores_of(BIO, "BIO", torch.float32)
        emissions = emissions_of(len(BIO), dtype=torch.bfloat16)
        assert torch.equal(log_partition(emissions, MASKS, scores), log_partition(emissions.float(), MASKS, scores))
        assert crf_of(BIO, "BIO").to(torch.bfloat16)().transitions.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = log_partition(emissions.float(), MASKS, scores)
        assert torch.equal(found, log_partition(emissions.float(), MASKS, scores))


class TestImpossibleLabels:
    @pytest.mark.parametrize(
        ("labels", "scheme", "gold", "message"),
        [
            (BIO, "BIO", "I-PER O O", "'I-PER' at word 0, at the beginning.*BIO"),
            (BIO, "BIO", "B-LOC I-PER O", "'I-PER' at word 1, after 'B-LOC' at word 0"),
            (BIO, "BIO", "O ? O I-PER", "'I-PER' at word 3, after 'O' at word 2"),
            (BIO, "BIO", "? I-PER O", None),
            (BIOES, "BIOES", "O B-PER O", "'O' at word 2, after 'B-PER' at word 1"),
            (BIOES, "BIOES", "O B-PER I-PER", "the end of the sentence, after 'I-PER' at word 2"),
            (BIOES, "BIOES", "B-PER ? ? S-LOC", None),
            (BIOES, "BIOES", "O ? S-LOC", None),
            (["O", "B", "E"], "BIOES", "B ? O", None),
            (["O", "B", "E"], "BIOES", "B ? ? O", None),
            (["O", "B", "E"], "BIOES", "B ? ? E", None),
            (["B", "E"], "BIOES", "B ? E", "'E' at word 2, after 'B' at word 0"),
            (["B", "E"], "BIOES", "B ? ?", "the end of the sentence, after 'B' at word 0"),
        ],
    )
    def test_are_refused_and_named(self, labels, scheme, gold, message):
        field = crf_of(labels, scheme)
        tags = [-100 if tag == "?" else labels.index(tag) for tag in gold.split()]
        # A possible row before it, boundaries and padding around it.
        rows = torch.full((2, len(tags) + 3), -100)
        rows[1, 2 : 2 + len(tags)] = torch.tensor(tags)
        mask = torch.zeros_like(rows).bool()
        mask[:, 2 : 2 + len(tags)] = True
        if message is None:
            field.check_labels(rows, mask)
        else:
            with pytest.raises(ValueError, match=f"1.*{message}.*tag_scheme=None"):
                field.check_labels(rows, mask)
        scores = label_scores(torch.zeros(*mask.shape, len(labels)), rows, mask, field())
        assert (scores[1] < FORBIDDEN / 2) == (message is not None)

    def test_are_allowed_without_a_scheme(self):
        crf_of(BIO, None).check_labels(torch.tensor([[2, 4]]), torch.ones(1, 2).bool())
