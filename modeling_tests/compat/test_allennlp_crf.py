"""AllenNLP's conditional random fields against its own taggers' outputs and against every path written out."""

import io
import itertools
import json
import math
import tarfile

import numpy as np
import pytest
import torch

from elmo_hf.compat.allennlp import (
    ConditionalRandomField,
    ConditionalRandomFieldWeightEmission,
    ConditionalRandomFieldWeightLannoy,
    ConditionalRandomFieldWeightTrans,
    ConfigurationError,
    allowed_transitions,
)

WEIGHTS = [0.5, 2.0, 1.3]
MASK = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
WEIGHTED = [ConditionalRandomFieldWeightEmission, ConditionalRandomFieldWeightTrans, ConditionalRandomFieldWeightLannoy]


def field(cls=ConditionalRandomField, constraints=None, ends=True):
    torch.manual_seed(0)
    given = () if cls is ConditionalRandomField else (WEIGHTS,)
    return cls(3, *given, constraints, ends)


def score(crf, logits, path, transitions=None):
    """Score of one path over (words, tags): emissions, transitions and both ends."""
    transitions = crf.transitions if transitions is None else transitions
    total = sum(logits[word, tag] for word, tag in enumerate(path))
    total = total + sum(transitions[a, b] for a, b in itertools.pairwise(path))
    if crf.include_start_end_transitions:
        total = total + crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
    return total


def log_sum(crf, logits, words, transitions=None, is_whole=True):
    """Log-sum of the scores of all paths of the first words; end scores count for whole sentences only."""
    values = []
    for path in itertools.product(range(3), repeat=words):
        value = score(crf, logits, path, transitions)
        if not is_whole and crf.include_start_end_transitions:
            value = value - crf.end_transitions[path[-1]]
        values.append(value)
    return torch.logsumexp(torch.stack(values), 0)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("cls", [ConditionalRandomField, *WEIGHTED])
def test_log_likelihood(cls, ends):
    """The log-likelihood ignores constraints."""
    crf = field(cls, [(0, 0)], ends)
    logits, tags = torch.randn(3, 4, 3), torch.randint(0, 3, (3, 4))
    expected = torch.zeros(())
    weights = torch.tensor(WEIGHTS)
    for row, words in enumerate(MASK.sum(1).tolist()):
        path = tags[row, :words].tolist()
        values, transitions = logits[row], crf.transitions
        if cls in WEIGHTED:
            scaled = values * weights
        if cls is ConditionalRandomField:
            expected = expected + score(crf, values, path) - log_sum(crf, values, words)
        elif cls is not ConditionalRandomFieldWeightLannoy:
            if cls is ConditionalRandomFieldWeightTrans:
                transitions = transitions * weights[:, None]
            expected = expected + score(crf, scaled, path, transitions) - log_sum(crf, scaled, words, transitions)
        else:
            # Each word's normalizer to the power of its label's weight; ends are not weighed.
            sums = [log_sum(crf, values, count, is_whole=False) for count in range(1, words + 1)]
            steps = [sums[0], *(after - before for before, after in itertools.pairwise(sums))]
            partition = sum(weights[tag] * step for tag, step in zip(path, steps, strict=True))
            partition = partition + log_sum(crf, values, words) - sums[-1]
            expected = expected + score(crf, scaled, path, transitions * weights[:, None]) - partition
    found = crf(logits, tags, MASK)
    assert found.shape == ()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.backward()
    assert all(weight.grad is not None for weight in crf.parameters() if weight.requires_grad)
    torch.testing.assert_close(crf(logits[:1], tags[:1]), crf(logits[:1], tags[:1], MASK[:1]))
    torch.testing.assert_close(crf(logits, tags, MASK.long()), found)


@pytest.mark.parametrize("constraints", [None, [(3, 0), (0, 1), (1, 2), (2, 1), (1, 1), (1, 4), (2, 4), (0, 4)]])
def test_paths(constraints):
    crf, logits = field(constraints=constraints), torch.randn(3, 4, 3)
    allowed = None if constraints is None else set(constraints)
    found = crf.viterbi_tags(logits, MASK, top_k=4)
    for row, words in enumerate(MASK.sum(1).tolist()):
        paths = {}
        for path in itertools.product(range(3), repeat=words):
            steps = [(3, path[0]), *itertools.pairwise(path), (path[-1], 4)]
            if allowed is None or set(steps) <= allowed:
                paths[path] = score(crf, logits[row], path).item()
        best = sorted(paths, key=paths.get, reverse=True)[:4]
        # Forbidden paths come last, since AllenNLP scores their transitions by -10000.
        real = [(tags, value) for tags, value in found[row] if value > -5000]
        assert [tags for tags, _ in real] == [list(path) for path in best]
        np.testing.assert_allclose([value for _, value in real], [paths[path] for path in best], rtol=1e-5, atol=1e-5)
        assert len(found[row]) == min(4, 3**words)
    flat = crf.viterbi_tags(logits, MASK)
    assert [tags for tags, _ in flat] == [row[0][0] for row in found]
    assert [len(tags) for tags, _ in flat] == [4, 2, 1]
    whole = crf.viterbi_tags(logits)
    assert [len(tags) for tags, _ in whole] == [4, 4, 4]


@pytest.mark.parametrize(
    ("scheme", "labels", "good", "bad"),
    [
        ("BIO", "O B-X I-X B-Y I-Y", ["O B-X I-X I-X", "B-X B-X I-X O", "B-Y"], ["I-X", "O I-X", "B-X I-Y"]),
        ("IOB1", "O B-X I-X B-Y I-Y", ["I-X B-X I-X O", "I-X I-Y", "O I-X"], ["B-X", "O B-X", "I-X B-Y"]),
        ("BIOUL", "O B-X I-X L-X U-X L-Y", ["B-X I-X L-X U-X O", "U-X U-X"], ["B-X", "I-X", "B-X O", "B-X L-Y"]),
        ("BMES", "B-X M-X E-X S-X E-Y", ["B-X M-X E-X S-X", "S-X B-X E-X"], ["M-X", "B-X", "B-X S-X", "B-X E-Y"]),
        ("BMES", "O B-X E-X S-X", ["S-X"], ["O", "S-X O", "O S-X"]),
    ],
)
def test_schemes(scheme, labels, good, bad):
    names = dict(enumerate(labels.split()))
    numbers = {label: number for number, label in names.items()}
    allowed = set(allowed_transitions(scheme, names))
    for sequences, expected in ((good, True), (bad, False)):
        for sequence in sequences:
            path = [numbers[label] for label in sequence.split()]
            steps = {(len(names), path[0]), *itertools.pairwise(path), (path[-1], len(names) + 1)}
            assert (steps <= allowed) == expected, sequence


def test_refusals():
    with pytest.raises(ConfigurationError, match="constraint_type='BILUO'.*BIO"):
        allowed_transitions("BILUO", {0: "O"})
    for weights in (None, [1.0]):
        with pytest.raises(ConfigurationError, match="label_weights=.*3"):
            ConditionalRandomFieldWeightEmission(3, weights)


@pytest.mark.parametrize("name", ["tagger_1", "tagger_2", "tagger_3"])
def test_taggers_of_allennlp(reference, name):
    """Paths, scores and log-likelihoods from the taggers' own logits; the field's weights load by their names."""
    files = reference / "allennlp_tasks" / name
    with tarfile.open(files / "model.tar.gz") as archive:
        stored = torch.load(io.BytesIO(archive.extractfile("weights.th").read()), weights_only=True)
    weights = {key.removeprefix("crf."): value for key, value in stored.items() if key.startswith("crf.")}
    count = len(weights["transitions"])
    crf = ConditionalRandomField(count, None, "start_transitions" in weights)
    crf.load_state_dict(weights)
    expected = np.load(files / "expected.npz")
    sentences = json.loads((files / "sentences.json").read_text())
    longest = max(map(len, sentences))
    logits = torch.zeros(len(sentences), longest, count)
    tags, mask = torch.zeros(len(sentences), longest, dtype=torch.int64), torch.zeros(len(sentences), longest).bool()
    for row, words in enumerate(map(len, sentences)):
        logits[row, :words] = torch.from_numpy(expected[f"batch/{row}/logits"])
        tags[row, :words] = torch.from_numpy(expected[f"batch/{row}/tags"])
        mask[row, :words] = True
    for row, (path, value) in enumerate(crf.viterbi_tags(logits, mask)):
        assert path == expected[f"batch/{row}/tags"].tolist()
        assert value == pytest.approx(float(expected[f"batch/{row}/viterbi_score"]), abs=1e-4)
        likelihood = crf(logits[row : row + 1], tags[row : row + 1], mask[row : row + 1]).item()
        assert likelihood == pytest.approx(float(expected[f"batch/{row}/log_likelihood"]), abs=1e-4)
    total = sum(float(expected[f"batch/{row}/log_likelihood"]) for row in range(len(sentences)))
    assert crf(logits, tags, mask).item() == pytest.approx(total, abs=1e-3) and math.isfinite(total)
