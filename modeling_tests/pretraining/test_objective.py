"""The training loss, compared with a run of bilm-tf and with the model's full softmax; state, ends, mixed precision."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoState
from elmo_hf.pretraining.objective import StreamingObjective
from elmo_hf.pretraining.optimizer import OptimizerSettings, build_optimizer, clip_gradients
from elmo_hf.pretraining.settings import default_cutoffs
from elmo_hf.pretraining.streams import StreamBatch

from .training_reference import from_tensorflow, reference_batches, reference_config

WORDS = 40
# Models that read words by their id, without and with a softmax that shares their table.
WORD_INPUT: dict[str, Any] = {"character_filters": [], "word_embedding_size": 6}
TIED = {**WORD_INPUT, "tie_word_embeddings": True}
# A model with both inputs and a layer over contexts and words.
JOINED = {"word_embedding_size": 6, "context_word_layer": True, "tie_word_embeddings": True}
TAGGED = {**TIED, "num_pos_tags": 3, "pos_tag_embedding_size": 4}
SHAPES = {"characters": {}, "words": WORD_INPUT, "tied": TIED, "joined": JOINED, "tagged": TAGGED}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def small_config(**changes: Any) -> ElmoConfig:
    fields: dict[str, Any] = {
        "vocab_size": WORDS + 2,
        "mask_token_id": WORDS + 1,
        "max_characters_per_word": 8,
        "character_embedding_size": 4,
        "character_filters": [[1, 4], [2, 8]],
        "num_highway_layers": 1,
        "projection_size": 6,
        "cell_size": 10,
    }
    return ElmoConfig(**{**fields, **changes})


def small_batch(rows: int = 3, steps: int = 5, seed: int = 0) -> StreamBatch:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    return StreamBatch(
        forward_input_ids=ids(1, WORDS + 1, rows, steps),
        forward_character_ids=ids(1, 262, rows, steps, 8).to(torch.int16),
        forward_labels=ids(1, WORDS + 1, rows, steps),
        backward_input_ids=ids(1, WORDS + 1, rows, steps),
        backward_character_ids=ids(1, 262, rows, steps, 8).to(torch.int16),
        backward_labels=ids(1, WORDS + 1, rows, steps),
        words=rows * steps,
        forward_pos_tag_ids=ids(0, 4, rows, steps),
        backward_pos_tag_ids=ids(0, 4, rows, steps),
    )


def test_three_steps_equal_bilm_tf(reference: Path) -> None:
    """Weights and accumulators equal bilm-tf's after its steps: full softmax, clipping, carried states."""
    folder = reference / "bilm_tf_training"
    config, options = reference_config(folder)
    model = ElmoForPreTraining(config)
    loaded = model.load_state_dict(from_tensorflow(folder / "weights_before.npz", config), strict=False)
    assert not loaded.unexpected_keys
    assert all("scalar_mixes" in name for name in loaded.missing_keys)
    objective = StreamingObjective(model, loss="full").train()
    optimizer, schedule = build_optimizer(objective, OptimizerSettings())
    assert schedule is None
    weights = dict(model.named_parameters())
    # The variables were written after one step.
    for name, accumulator in from_tensorflow(folder / "weights_before.npz", config, "/Adagrad", 1.0).items():
        optimizer.state[weights[name]]["sum"].copy_(accumulator)
    state, norms = None, []
    for batch in reference_batches(folder / "batches.npz"):
        result = objective(batch, state)
        optimizer.zero_grad()
        (result.loss * options["unroll_steps"]).backward()
        norms.append(float(clip_gradients(objective.parameters(), options["all_clip_norm_val"])))
        optimizer.step()
        state = result.state
    assert len(norms) == 3
    assert min(norms) > options["all_clip_norm_val"], "the reference must exercise the clipping"
    for name, expected in from_tensorflow(folder / "weights_after.npz", config).items():
        torch.testing.assert_close(weights[name].detach(), expected, atol=1e-6, rtol=0)
    # Rows that TensorFlow lacks are unchanged: their accumulators are still 1.
    for name, expected in from_tensorflow(folder / "weights_after.npz", config, "/Adagrad", 1.0).items():
        torch.testing.assert_close(optimizer.state[weights[name]]["sum"], expected, atol=1e-6, rtol=0)


def reference_loss(objective: StreamingObjective, batch: StreamBatch) -> torch.Tensor:
    """Full softmax loss by plain autograd, one row at a time, from zero states."""
    model = objective.model
    losses = []
    layer_on_top = model.elmo.encoder.context_word_layer
    for direction in ("forward", "backward"):
        inputs = [getattr(batch, f"{direction}_{name}") for name in model.elmo.embeddings.input_names]
        labels = getattr(batch, f"{direction}_labels")
        name = f"{direction}_lstm"
        nlls = []
        for row in range(len(labels)):
            given = [each[row : row + 1] for each in inputs]
            mask = given[0].ne(0)
            words = model.elmo.embeddings(*given, mask=mask if mask.dim() == 2 else mask.any(-1))[0]
            hidden = words
            for layer in model.elmo.encoder.layers:
                lstm = getattr(layer, name)
                zeros = hidden.new_zeros(1, model.config.projection_size), hidden.new_zeros(1, model.config.cell_size)
                output, _, _ = lstm(hidden, [1] * len(hidden), *zeros)
                hidden = output + hidden if layer.has_skip_connection else output
            if layer_on_top is not None:
                last = layer_on_top.get_submodule(f"{direction}_layer")
                hidden = torch.tanh(last(torch.cat([hidden, words], dim=-1)))
            logits = functional.linear(hidden, model.softmax.weight[1:-1], model.softmax.bias[1:-1])
            real = labels[row] >= 0
            nlls.append(functional.cross_entropy(logits[real], labels[row][real] - 1, reduction="none"))
        losses.append(torch.cat(nlls).mean())
    return (losses[0] + losses[1]) / 2


def with_tail(batch: StreamBatch) -> StreamBatch:
    """The batch with two rows that end early, at different steps in each direction."""
    changed = {}
    for direction, ends in (("forward", (2, 0)), ("backward", (4, 1))):
        labels = getattr(batch, f"{direction}_labels").clone()
        ids = getattr(batch, f"{direction}_input_ids").clone()
        characters = getattr(batch, f"{direction}_character_ids").clone()
        for row, end in enumerate(ends, start=1):
            labels[row, end:] = -100
            ids[row, end:] = 0
            characters[row, end:] = 0
        tags = getattr(batch, f"{direction}_pos_tag_ids") * ids.ne(0)
        changed |= {f"{direction}_labels": labels, f"{direction}_input_ids": ids, f"{direction}_pos_tag_ids": tags}
        changed[f"{direction}_character_ids"] = characters
    return dataclasses.replace(batch, **changed)


@pytest.mark.slow
@every_shape
@pytest.mark.parametrize("tail", [False, True])
def test_full_softmax_loss_and_gradients(tail: bool, shape: dict[str, Any]) -> None:
    objective = StreamingObjective(ElmoForPreTraining(small_config(**shape)), loss="full").double()
    batch = with_tail(small_batch()) if tail else small_batch()
    expected = reference_loss(objective, batch)
    expected.backward()
    gradients = {name: weight.grad for name, weight in objective.named_parameters()}
    objective.zero_grad()
    result = objective(batch)
    torch.testing.assert_close(result.loss, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close((result.forward_loss + result.backward_loss) / 2, expected, atol=1e-12, rtol=0)
    assert result.words == result.forward_words == batch.forward_labels.ne(-100).sum()
    assert result.backward_words == batch.backward_labels.ne(-100).sum()
    result.loss.backward()
    for name, weight in objective.named_parameters():
        if "scalar_mixes" not in name:
            torch.testing.assert_close(weight.grad, gradients[name], atol=1e-12, rtol=0)


def test_carried_state_continues_the_text_and_is_detached() -> None:
    objective = StreamingObjective(ElmoForPreTraining(small_config()), loss="full").double()
    whole = small_batch(rows=2, steps=6)

    def part(of: slice) -> StreamBatch:
        tensors = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
        cut = {name: value[:, of] for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(whole, **cut, words=2 * 3)

    first = objective(part(slice(0, 3)))
    second = objective(part(slice(3, 6)), first.state)
    torch.testing.assert_close((first.loss + second.loss) / 2, objective(whole).loss, atol=1e-12, rtol=0)
    assert not second.state.hidden.requires_grad
    assert not second.state.cell.requires_grad
    fresh = dataclasses.replace(part(slice(3, 6)), starts_fresh=True)
    torch.testing.assert_close(objective(fresh, first.state).loss, objective(fresh).loss, atol=0, rtol=0)


def test_states_are_reset_where_sentences_begin() -> None:
    model = ElmoForPreTraining(small_config())
    objective = StreamingObjective(model, loss="full", reset_states=True).double()
    starts = {
        "forward_starts": torch.tensor([True, False, False]),
        "backward_starts": torch.tensor([False, False, True]),
    }
    batch = dataclasses.replace(small_batch(), **starts)
    carried = objective(small_batch(seed=1)).state
    by_hand = ElmoState(carried.hidden.clone(), carried.cell.clone())
    for part in by_hand:
        part[:, 0, 0] = 0
        part[:, 1, 2] = 0
    result = objective(batch, carried)
    plain = StreamingObjective(model, loss="full")
    torch.testing.assert_close(result.loss, plain(batch, by_hand).loss, atol=1e-12, rtol=0)
    torch.testing.assert_close(objective.contexts(batch, carried)[1], plain.contexts(batch, by_hand)[1])
    assert (result.loss - plain(batch, carried).loss).abs() > 1e-4
    assert carried.hidden[:, 0, 0].abs().sum() > 0  # the given state is unchanged
    with pytest.raises(ValueError, match="reset_states=True"):
        objective(small_batch(), carried)


def test_parts_of_a_step_add_up() -> None:
    """With losses divided by the targets of the whole step, uneven parts give the gradient of the whole."""
    objective = StreamingObjective(ElmoForPreTraining(small_config()), loss="full").double()
    whole = with_tail(small_batch(rows=4))
    counts = (whole.forward_labels.ne(-100).sum(), whole.backward_labels.ne(-100).sum())

    def rows(of: slice) -> StreamBatch:
        tensors = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
        return dataclasses.replace(
            whole, **{name: value[of] for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        )

    parts = [objective(rows(part), None, counts).loss for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(parts[0] + parts[1], objective(whole).loss, atol=1e-12, rtol=0)


def test_sampled_loss_of_all_words_follows_its_formula() -> None:
    """Every word sampled: the correction by ln Q remains, as TensorFlow's formula has it."""
    objective = StreamingObjective(ElmoForPreTraining(small_config()), loss="sampled", num_samples=WORDS, seed=4)
    batch = small_batch()
    result = objective(batch)
    contexts, _ = objective.contexts(batch)
    model, nlls = objective.model, []
    objective.sampler.draws = 0
    for hidden, labels in zip(contexts.chunk(2), (batch.forward_labels, batch.backward_labels), strict=True):
        tries = objective.sampler.draw().tries
        ranks = torch.arange(WORDS, dtype=torch.float64)
        chance = ((ranks + 2) / (ranks + 1)).log() / torch.tensor(WORDS + 1.0, dtype=torch.float64).log()
        count = chance * WORDS if tries == WORDS else 1 - (1 - chance) ** tries
        logits = functional.linear(hidden, model.softmax.weight[1:-1], model.softmax.bias[1:-1]) - count.log()
        nlls.append(functional.cross_entropy(logits, labels.T.flatten() - 1))
    torch.testing.assert_close(result.loss.double(), sum(nlls) / 2, atol=1e-6, rtol=0)


def test_evaluation_takes_the_full_softmax() -> None:
    model = ElmoForPreTraining(small_config())
    sampled = StreamingObjective(model, loss="sampled", num_samples=8).eval()
    full = StreamingObjective(model, loss="full").eval()
    with torch.no_grad():
        assert torch.equal(sampled(small_batch()).loss, full(small_batch()).loss)
    assert sampled.sampler.draws == 0


@every_shape
def test_sparse_gradients_are_the_dense_ones(shape: dict[str, Any]) -> None:
    model = ElmoForPreTraining(small_config(**shape))
    gradients = []
    for sparse in (False, True):
        objective = StreamingObjective(model, num_samples=8, seed=1, sparse_gradients=sparse)
        model.zero_grad()
        objective(small_batch()).loss.backward()
        objective(small_batch(seed=1)).loss.backward()  # accumulated
        rows = [*model.softmax.parameters(), *([model.get_input_embeddings().weight] if shape else ())]
        gradients.append([weight.grad for weight in rows])
    for dense, sparse in zip(*gradients, strict=True):
        assert sparse.is_sparse
        assert 0 < len(sparse.coalesce().values()) < WORDS
        torch.testing.assert_close(sparse.to_dense(), dense, atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [TIED, TAGGED], ids=["tied", "tagged"])
def test_word_model_needs_no_characters_and_keeps_gradient_layouts(shape: dict[str, Any]) -> None:
    """After the end of all its rows, a process still has gradients of the same kinds as the others."""
    model = ElmoForPreTraining(small_config(**shape))
    objective = StreamingObjective(model, num_samples=8, sparse_gradients=True)
    batch = dataclasses.replace(small_batch(), forward_character_ids=None, backward_character_ids=None)
    ended = {
        f"{direction}_{name}": torch.full((3, 5), value)
        for direction in ("forward", "backward")
        for name, value in (("input_ids", 0), ("labels", -100), ("pos_tag_ids", 0))
    }
    kinds = []
    for each in (batch, dataclasses.replace(batch, **ended, words=0, backward_words=0)):
        model.zero_grad()
        objective(each).loss.backward()
        kinds.append({name: weight.grad.layout for name, weight in model.named_parameters() if weight.requires_grad})
    assert kinds[0] == kinds[1]
    table = "elmo.embeddings.words.word_embeddings" if shape is TAGGED else "elmo.embeddings.word_embeddings"
    assert kinds[0][f"{table}.weight"] == torch.sparse_coo
    with pytest.raises(ValueError, match="reads character_ids"):
        StreamingObjective(ElmoForPreTraining(small_config()), loss="full")(batch)


def test_pos_tags_change_the_loss_of_their_direction_only() -> None:
    objective = StreamingObjective(ElmoForPreTraining(small_config(**TAGGED)), loss="full")
    batch = small_batch()
    losses = objective(batch)
    for name, moved in (("forward", (True, False)), ("backward", (False, True))):
        tags = getattr(batch, f"{name}_pos_tag_ids")
        other = objective(dataclasses.replace(batch, **{f"{name}_pos_tag_ids": (tags + 1) % 4}))
        changes = (other.forward_loss != losses.forward_loss, other.backward_loss != losses.backward_loss)
        assert tuple(map(bool, changes)) == moved
    with pytest.raises(ValueError, match="pos_tag_ids.*pos_tag_ids"):
        objective(dataclasses.replace(batch, forward_pos_tag_ids=None))


def test_samples_resume() -> None:
    model = ElmoForPreTraining(small_config())
    one, other = (StreamingObjective(model, num_samples=8, seed=3) for _ in range(2))
    one(small_batch())
    other.load_sampler_state(one.sampler_state())
    assert torch.equal(one(small_batch()).loss, other(small_batch()).loss)
    with pytest.raises(ValueError, match="loss='full'"):
        StreamingObjective(model, loss="full").load_sampler_state(one.sampler_state())


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_bfloat16_matmuls(loss: str) -> None:
    """Autocast changes matmuls only: weights, gradients, loss and cell stay float32."""
    objective = StreamingObjective(ElmoForPreTraining(small_config()), loss=loss, num_samples=8, seed=2)
    exact = objective(small_batch())
    if objective.sampler is not None:
        objective.sampler.draws = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = objective(small_batch())
    result.loss.backward()
    assert result.loss.dtype == result.state.cell.dtype == torch.float32
    # bfloat16 has 8 bits.
    torch.testing.assert_close(result.loss, exact.loss, atol=0.02, rtol=0)
    assert {p.grad.dtype for p in objective.parameters() if p.grad is not None} == {torch.float32}


def test_only_the_softmax_learns_while_the_bilm_is_frozen() -> None:
    model = ElmoForPreTraining(small_config())
    objective = StreamingObjective(model, num_samples=8, sparse_gradients=True)
    optimizer, _ = build_optimizer(model, OptimizerSettings())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    moved = []
    for frozen in (True, False):
        model.freeze_bilm(frozen)
        optimizer.zero_grad()
        objective(small_batch()).loss.backward()
        optimizer.step()
        moved.append({name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])})
    assert moved[0] == {"softmax.weight", "softmax.bias"}
    assert moved[1] == {name for name in before if "scalar_mixes" not in name}


def test_dropout_reaches_the_top_layer() -> None:
    objective = StreamingObjective(ElmoForPreTraining(small_config(lstm_input_dropout=0.5)), loss="full")
    contexts, _ = objective.contexts(small_batch())
    assert (contexts == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    contexts, _ = objective.eval().contexts(small_batch())
    assert (contexts != 0).all()


class TestAdaptive:
    # Two clusters, four and sixteen times narrower.
    width = 16

    def model(self) -> ElmoForPreTraining:
        return ElmoForPreTraining(small_config(softmax_cutoffs=[5, 20], projection_size=self.width))

    def test_loss_is_the_mean_log_probability(self) -> None:
        model = self.model().double()
        objective = StreamingObjective(model, loss="adaptive")
        batch = with_tail(small_batch())
        result = objective(batch)
        contexts, _ = objective.contexts(batch)
        means = []
        for hidden, labels in zip(contexts.chunk(2), (batch.forward_labels, batch.backward_labels), strict=True):
            labels = labels.T.flatten()
            scores = model.softmax.logits(hidden)
            torch.testing.assert_close(scores.exp().sum(-1), torch.ones(len(labels)).double(), atol=1e-12, rtol=0)
            assert torch.isneginf(scores[:, [0, WORDS + 1]]).all()
            means.append(-scores[labels >= 0].gather(1, labels[labels >= 0, None]).mean())
        torch.testing.assert_close(result.loss, sum(means) / 2, atol=1e-12, rtol=0)
        result.loss.backward()
        assert all(weight.grad is not None for weight in model.softmax.parameters())

    def test_round_trip(self, tmp_path: Path) -> None:
        model = self.model().eval()
        model.save_pretrained(tmp_path)
        again = ElmoForPreTraining.from_pretrained(tmp_path).eval()
        for name, weight in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], weight)
        hidden = torch.randn(3, self.width)
        torch.testing.assert_close(again.softmax.logits(hidden), model.softmax.logits(hidden), atol=1e-6, rtol=0)

    def test_resize_keeps_the_known_words(self) -> None:
        model = self.model()
        hidden, ids = torch.randn(4, self.width), torch.tensor([1, 7, 30, WORDS])
        before = model.softmax.clusters.tail[-1][-1].weight.clone()
        model.resize_token_embeddings(WORDS + 5)
        assert torch.equal(model.softmax.clusters.tail[-1][-1].weight[: len(before)], before)
        scores = model.softmax.logits(hidden)
        assert scores.shape == (4, WORDS + 5)
        torch.testing.assert_close(scores.exp().sum(-1), torch.ones(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            model.softmax.log_probabilities(hidden, ids), scores.gather(1, ids[:, None])[:, 0], atol=1e-6, rtol=0
        )

    @pytest.mark.parametrize("cutoffs", [[], [0, 5], [5, 5], [9, 3], [WORDS]])
    def test_impossible_cutoffs(self, cutoffs: list[int]) -> None:
        with pytest.raises(ValueError, match="softmax_cutoffs=.* 1 to 39"):
            ElmoForPreTraining(small_config(softmax_cutoffs=cutoffs))

    def test_default_cutoffs(self) -> None:
        assert default_cutoffs(800_000) == [8_000, 40_000, 200_000]
        with pytest.raises(ValueError, match="vocab_size=99"):
            default_cutoffs(99)

    def test_too_many_clusters(self) -> None:
        with pytest.raises(ValueError, match="projection_size=6"):
            ElmoForPreTraining(small_config(softmax_cutoffs=[5, 20]))


def test_refusals() -> None:
    model = ElmoForPreTraining(small_config())
    with pytest.raises(ValueError, match="loss='adaptive'"):
        StreamingObjective(model, loss="adaptive")
    with pytest.raises(ValueError, match="'full'.*'sampled'.*'adaptive'"):
        StreamingObjective(model, loss="hierarchical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_samples=41.*1.*40"):
        StreamingObjective(model, num_samples=WORDS + 1)
    objective = StreamingObjective(model, loss="full")
    batch = small_batch()
    for wrong in (0, WORDS + 1, WORDS + 2, -1):
        labels = batch.forward_labels.clone()
        labels[1, 1] = wrong
        with pytest.raises(ValueError, match=f"label {wrong}: .*vocab_size="):
            objective(dataclasses.replace(batch, forward_labels=labels))
    with pytest.raises(ValueError, match="state has 3 rows.*batch 2"):
        objective(small_batch(rows=2), objective(batch).state)
