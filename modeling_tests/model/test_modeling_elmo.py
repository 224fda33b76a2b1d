"""The models, compared with brute force; the originals' rules; the API of Transformers."""

import copy
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForTokenClassification

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoState
from elmo_hf.model import softmax
from modeling_tests.brute_force import BruteForceElmo
from modeling_tests.tiny import (
    BOTH_INPUTS,
    TRANSFORMER,
    WORD_INPUT,
    assert_finite_gradients,
    batch_of,
    tiny_config,
    with_large_weights,
)

SENTENCES = ["a cat sat", "why", "the dogs ran off at once", "no no"]

VARIANTS = {
    "default": {},
    "no skip connections": {"use_skip_connections": False},
    "one layer": {"num_hidden_layers": 1},
    "three layers": {"num_hidden_layers": 3},
    "tanh": {"character_activation": "tanh"},
    "no highways": {"num_highway_layers": 0},
    "no clipping": {"cell_clip": None, "projection_clip": None},
    "bias holds the forget bias": {"forget_bias": 0.0},
    "no character projection": {"projection_size": 12, "cell_size": 7},
    "no cell projection": {"projection_size": 4, "cell_size": 4},
    "kept projections": {
        "projection_size": 12,
        "cell_size": 12,
        "character_projection": True,
        "cell_projection": True,
    },
    "top layer": {"scalar_mix": "top"},
    "fixed mix": {"scalar_mix": "fixed", "scalar_mix_parameters": [0.5, -1.0, 0.25]},
    "two mixes": {"num_representations": 2},
    "word input": WORD_INPUT,
    "words and characters": BOTH_INPUTS,
    "characters projected before they are joined": {**BOTH_INPUTS, "character_projection": True},
    "layer over contexts and words": {"context_word_layer": True, "num_representations": 2},
    "layer over contexts and joined words": {**BOTH_INPUTS, "context_word_layer": True, "scalar_mix": "top"},
}

READS = {"characters": {}, "words": WORD_INPUT, "both": BOTH_INPUTS}
reads_either = pytest.mark.parametrize("reads", READS)


def tiny_model(cls=ElmoModel, **overrides):
    return with_large_weights(cls(tiny_config(**overrides))).eval()


def word_inputs(model, batch):
    """The inputs that the word layer reads."""
    return [batch[name] for name in model.embeddings.input_names]


def rows_of(model, batch, index):
    """The words of one sentence as brute force reads them."""
    inputs = [real_words(values, batch, index).numpy() for values in word_inputs(model, batch)]
    return inputs[0] if len(inputs) == 1 else list(zip(*inputs, strict=True))


def real_words(values, batch, index):
    return values[index][batch["attention_mask"][index].bool()]


@pytest.mark.samples(10)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_agrees_with_brute_force_in_float64(variant, side):
    model = tiny_model(**VARIANTS[variant]).double()
    plain = BruteForceElmo(model)
    batch = batch_of(SENTENCES, side)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, return_state=True)
    assert output.representations.shape == (4, model.config.num_representations, 8, 2 * model.config.projection_size)
    assert torch.equal(output.last_hidden_state, output.representations[:, 0])
    for index in range(len(SENTENCES)):
        layers, state = plain.sentence(rows_of(model, batch, index))
        assert len(output.hidden_states) == len(layers)
        for found, expected in zip(output.hidden_states, layers, strict=True):
            np.testing.assert_allclose(real_words(found, batch, index), expected, rtol=0, atol=1e-10)
        for mix, found in enumerate(output.representations.unbind(1)):
            expected = plain.mix(layers, mix)
            np.testing.assert_allclose(real_words(found, batch, index), expected, rtol=0, atol=1e-10)
        for (layer, name), (hidden, cell) in state.items():
            direction = ["forward", "backward"].index(name)
            np.testing.assert_allclose(output.state.hidden[layer, direction, index], hidden, rtol=0, atol=1e-10)
            np.testing.assert_allclose(output.state.cell[layer, direction, index], cell, rtol=0, atol=1e-10)
    padding = ~batch["attention_mask"].bool()
    for values in (*output.hidden_states, *output.representations.unbind(1)):
        assert (values[padding] == 0).all()


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_a_tiny_model(whole):
    """Every weight's gradient against finite differences, through clips, skips, shared words and the mix.

    Not whole, along one random direction of each weight: an error in any element is seen all the same.
    """
    config = tiny_config(
        character_filters=[[1, 2], [2, 2]], character_embedding_size=2, projection_size=3, cell_size=3,
        cell_projection=True, num_highway_layers=1, max_characters_per_word=6, cell_clip=0.6, projection_clip=0.4,
        num_characters=10, character_activation="tanh",
    )  # fmt: skip
    model = with_large_weights(ElmoModel(config), 0.5).double()
    characters = torch.randint(1, 10, (2, 3, 6))
    characters[1, 0], characters[1, 2] = characters[0, 1], 0
    names = [name for name, _ in model.named_parameters()]
    values = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    state = ElmoState(torch.randn(2, 2, 2, 3).double() / 5, torch.randn(2, 2, 2, 3).double() / 5)

    def run(hidden, cell, *parameters):
        output = torch.func.functional_call(
            model,
            dict(zip(names, parameters, strict=True)),
            kwargs={"character_ids": characters, "initial_state": ElmoState(hidden, cell), "return_state": True},
        )
        return output.last_hidden_state, *output.state

    start = tuple(part.requires_grad_() for part in state)
    assert torch.autograd.gradcheck(run, (*start, *values), eps=1e-6, atol=1e-6, fast_mode=not whole)


class TestState:
    @reads_either
    def test_carries_over_as_brute_force_does(self, reads):
        model = tiny_model(**READS[reads]).double()
        plain, carried, state = BruteForceElmo(model), [None] * 3, None
        # The batch shrinks, grows and shrinks again; rows keep their state by index.
        for sentences in (["a b", "c"], ["d e f"], ["g", "h i", "j k l"], ["m", "n o"], ["p", "q", "r s"]):
            batch = batch_of(sentences)
            with torch.no_grad():
                output = model(**batch, initial_state=state, return_state=True, output_hidden_states=True)
            state = output.state
            for index in range(len(sentences)):
                layers, carried[index] = plain.sentence(rows_of(model, batch, index), carried[index])
                found = real_words(output.hidden_states[-1], batch, index)
                np.testing.assert_allclose(found, layers[-1], rtol=0, atol=1e-10)
        assert state.hidden.shape == (2, 2, 3, 4)
        assert state.cell.shape == (2, 2, 3, 6)

    def test_model_keeps_no_state(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        first = model(**batch, return_state=True)
        second = model(**batch, return_state=True)
        assert torch.equal(first.last_hidden_state, second.last_hidden_state)
        assert torch.equal(first.state.cell, second.state.cell)
        other = model(**batch, initial_state=first.state)
        assert not torch.equal(first.last_hidden_state, other.last_hidden_state)
        assert model(**batch).state is None

    def test_rows_of_padding_keep_their_state(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        state = model(**batch, return_state=True).state
        batch["attention_mask"][1:3] = 0
        after = model(**batch, initial_state=state, return_state=True)
        for before, now in zip(state, after.state, strict=True):
            assert torch.equal(before[:, :, 1:3], now[:, :, 1:3])
            assert not torch.equal(before[:, :, [0, 3]], now[:, :, [0, 3]])
        assert (after.last_hidden_state[1:3] == 0).all()

    def test_an_empty_sentence_moves_its_state(self):
        """As in both originals, boundaries are read like words."""
        model = tiny_model()
        state = model(**batch_of(["", "a b"]), return_state=True).state
        assert state.hidden[:, :, 0].abs().max() > 0

    def test_gradients_flow_through_the_carried_state_until_detached(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        state = model(**batch, return_state=True).state
        assert state.cell.requires_grad
        assert not state.detach().cell.requires_grad

    @pytest.mark.parametrize("shape", [(2, 2, 4, 5), (1, 2, 4, 4), (2, 1, 4, 4), (2, 4, 4)])
    def test_refuses_another_models_state(self, shape):
        state = ElmoState(torch.zeros(shape), torch.zeros(2, 2, 4, 6))
        with pytest.raises(ValueError, match=r"initial_state.hidden.*\(2, 2, rows, 4\)"):
            tiny_model()(**batch_of(SENTENCES), initial_state=state)


class TestInputs:
    @reads_either
    def test_padding_side_does_not_matter(self, reads):
        model = tiny_model(**READS[reads])
        right, left = batch_of(SENTENCES, "right", 11), batch_of(SENTENCES, "left", 11)
        for index in range(len(SENTENCES)):
            torch.testing.assert_close(
                real_words(model(**right).last_hidden_state, right, index),
                real_words(model(**left).last_hidden_state, left, index),
                rtol=0,
                atol=1e-6,
            )

    def test_batch_equals_its_sentences(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        together = model(**batch).last_hidden_state
        for index, sentence in enumerate(SENTENCES):
            alone = model(**batch_of([sentence])).last_hidden_state[0]
            torch.testing.assert_close(real_words(together, batch, index), alone, rtol=0, atol=1e-6)

    def test_a_word_model_needs_word_ids_only(self):
        model, batch = tiny_model(**WORD_INPUT), batch_of(SENTENCES, "left")
        expected = model(**batch).last_hidden_state
        assert torch.equal(model(input_ids=batch["input_ids"]).last_hidden_state, expected)
        assert torch.equal(model(input_ids=batch["input_ids"].short()).last_hidden_state, expected)
        other = torch.zeros_like(batch["character_ids"])
        assert torch.equal(model(input_ids=batch["input_ids"], character_ids=other).last_hidden_state, expected)
        moved = tiny_model(**WORD_INPUT, pad_token_id=None)
        assert (moved(input_ids=batch["input_ids"]).last_hidden_state != 0).any(-1).all()

    def test_mask_and_word_ids_are_optional(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        expected = model(**batch).last_hidden_state
        assert torch.equal(model(character_ids=batch["character_ids"]).last_hidden_state, expected)
        assert torch.equal(model(character_ids=batch["character_ids"].short()).last_hidden_state, expected)

    def test_masked_words_are_not_read_whatever_their_characters(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        expected = model(**batch).last_hidden_state
        batch["character_ids"][~batch["attention_mask"].bool()] = 7
        assert torch.equal(model(**batch).last_hidden_state, expected)

    def test_masked_words_are_not_read_whatever_their_ids(self):
        model, batch = tiny_model(**WORD_INPUT), batch_of(SENTENCES)
        expected = model(**batch).last_hidden_state
        for value in (7, -100, 10**6):
            batch["input_ids"][~batch["attention_mask"].bool()] = value
            assert torch.equal(model(**batch).last_hidden_state, expected)

    @reads_either
    def test_inputs_embeds_in_place_of_word_inputs(self, reads):
        model, batch = tiny_model(**READS[reads]), batch_of(SENTENCES)
        expected = model(**batch).last_hidden_state
        vectors = model.embeddings(*word_inputs(model, batch), mask=batch["attention_mask"].bool())
        found = model(inputs_embeds=vectors, attention_mask=batch["attention_mask"]).last_hidden_state
        assert torch.equal(found, expected)
        # Word ids given as well only identify the boundaries.
        ids = torch.full_like(batch["input_ids"], 3)
        found = model(ids, inputs_embeds=vectors, attention_mask=batch["attention_mask"]).last_hidden_state
        assert torch.equal(found, expected)

    def test_tuple_output(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).last_hidden_state)

    @reads_either
    @pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
    def test_empty_batches(self, shape, reads):
        model = tiny_model(**READS[reads])
        batch = {"input_ids": torch.zeros(shape, dtype=torch.int64), "character_ids": torch.zeros(*shape, 9).long()}
        output = model(**batch, return_state=True)
        assert output.last_hidden_state.shape == (*shape, 8)
        assert output.state.hidden.shape == (2, 2, shape[0], 4)

    @reads_either
    def test_nothing_but_padding(self, reads):
        batch = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "character_ids": torch.zeros(2, 3, 9).long()}
        output = tiny_model(**READS[reads])(**batch, return_state=True)
        assert (output.last_hidden_state == 0).all()
        assert (output.state.cell == 0).all()

    def test_word_ids_alone_are_refused(self):
        with pytest.raises(ValueError, match="character_ids or inputs_embeds, got none.*ElmoTokenizer"):
            tiny_model()(input_ids=torch.ones(2, 3, dtype=torch.int64))

    def test_a_word_model_refuses_characters_alone(self):
        model, batch = tiny_model(**WORD_INPUT), batch_of(SENTENCES)
        with pytest.raises(ValueError, match="input_ids or inputs_embeds, got none of input_ids"):
            model(character_ids=batch["character_ids"], attention_mask=batch["attention_mask"])
        with pytest.raises(ValueError, match=r"input_ids.*\(4,\).*\(batch, words\)"):
            model(batch["input_ids"][:, 0])
        with pytest.raises(ValueError, match=r"attention_mask.*\(4, 7\).*\(4, 8\).*input_ids"):
            model(batch["input_ids"], batch["attention_mask"][:, 1:])

    @pytest.mark.parametrize("cls", [ElmoModel, ElmoForPreTraining, ElmoForTokenClassification])
    @pytest.mark.parametrize("value", [-1, 12])
    def test_words_outside_the_table_are_refused(self, cls, value):
        batch = batch_of(SENTENCES)
        batch["input_ids"][0, 1] = value
        with pytest.raises(ValueError, match=f"input_ids holds {value}.* 0 to 11.*resize"):
            tiny_model(cls, **WORD_INPUT)(**batch)

    def test_contradicting_inputs_are_refused(self):
        model, batch = tiny_model(), batch_of(SENTENCES)
        with pytest.raises(ValueError, match="got both inputs_embeds and character_ids"):
            model(**batch, inputs_embeds=torch.zeros(4, 8, 4))
        with pytest.raises(ValueError, match=r"attention_mask.*\(4, 7\).*\(4, 8\)"):
            model(**{**batch, "attention_mask": batch["attention_mask"][:, 1:]})
        with pytest.raises(ValueError, match=r"character_ids.*\(batch, words, 9\)"):
            model(character_ids=batch["character_ids"][..., :8])
        with pytest.raises(ValueError, match=r"inputs_embeds.*\(batch, words, 4\)"):
            model(inputs_embeds=torch.zeros(4, 8, 5))

    @pytest.mark.parametrize("value", [-1, 262])
    def test_characters_outside_the_table_are_refused(self, value):
        batch = batch_of(SENTENCES)
        batch["character_ids"][0, 1, 2] = value
        with pytest.raises(ValueError, match=f"character_ids holds {value}.* 0 to 261"):
            tiny_model()(**batch)


class TestLayerNormOfTheMix:
    @pytest.mark.parametrize("counted", ["words", "tokens"])
    def test_statistics_of_the_whole_batch(self, counted):
        model = tiny_model(scalar_mix_layer_norm=counted).double()
        batch = batch_of(SENTENCES)
        output = model(**batch, output_hidden_states=True)
        mask = batch["attention_mask"].bool()
        if counted == "words":
            mask &= ~torch.isin(batch["input_ids"], torch.tensor([1, 2]))
        shares = torch.softmax(model.scalar_mixes[0].weights, 0)
        expected = 0
        for share, layer in zip(shares, output.hidden_states, strict=True):
            values = layer[mask].detach().numpy()
            expected = expected + share * (layer - values.mean()) / np.sqrt(values.var() + 1e-12)
        expected = expected * model.scalar_mixes[0].gamma * batch["attention_mask"].unsqueeze(-1)
        torch.testing.assert_close(output.last_hidden_state, expected, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("counted", ["words", "tokens"])
    def test_no_words_to_normalize(self, counted):
        """Boundaries alone, or nothing but padding: zeros at padding and no NaN, in values and gradients."""
        model = tiny_model(scalar_mix_layer_norm=counted)
        batch = batch_of(["", ""], words=4)
        output = model(**batch).last_hidden_state
        assert output.isfinite().all() and (output[:, 2:] == 0).all()
        batch["attention_mask"][:] = 0
        output = model(**batch).last_hidden_state
        assert (output == 0).all()
        output.sum().backward()
        assert_finite_gradients(model, is_read=False)

    def test_several_eos_token_ids(self):
        batch, weights = batch_of(SENTENCES), tiny_model(scalar_mix_layer_norm="words").state_dict()
        outputs = []
        for ends, words in ((2, (2, 2)), ([2, 11], (2, 11))):
            model = tiny_model(scalar_mix_layer_norm="words", eos_token_id=ends)
            model.load_state_dict(weights)
            last = batch["input_ids"].eq(2)
            ids = batch["input_ids"].masked_fill(last, words[0])
            ids[-1] = ids[-1].masked_fill(last[-1], words[1])
            outputs.append(model(**{**batch, "input_ids": ids}).last_hidden_state)
        assert torch.equal(*outputs)

    def test_needs_word_ids_to_find_boundaries(self):
        model = tiny_model(scalar_mix_layer_norm="words")
        with pytest.raises(ValueError, match="needs input_ids"):
            model(character_ids=batch_of(SENTENCES)["character_ids"])


class TestSaving:
    @pytest.mark.samples(4)
    @reads_either
    @pytest.mark.parametrize("cls", [ElmoModel, ElmoForPreTraining, ElmoForTokenClassification])
    def test_round_trip_is_bit_identical(self, cls, reads, tmp_path):
        model = tiny_model(cls, **READS[reads])
        model.save_pretrained(tmp_path)
        again = cls.from_pretrained(tmp_path)
        assert {**again.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
        assert model.state_dict().keys() == again.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
        batch = batch_of(SENTENCES)
        # Equal weights at other addresses: the matrix library may round the last bit differently.
        torch.testing.assert_close(model(**batch)[0], again(**batch)[0], rtol=0, atol=1e-6)

    def test_a_full_disk_leaves_the_old_checkpoint(self, tmp_path, monkeypatch):
        model = tiny_model()
        model.save_pretrained(tmp_path / "model")
        files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

        def fail(*args, **kwargs):
            (Path(args[1]) if len(args) > 1 else Path(kwargs["filename"])).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
        for folder in ("model", "new"):
            with pytest.raises(OSError, match="No space left"):
                with_large_weights(model).save_pretrained(tmp_path / folder)
        assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == files
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

    def test_interrupted_save_leaves_nothing_that_loads(self, tmp_path, monkeypatch):
        model = tiny_model()
        model.save_pretrained(tmp_path)
        replace, moved = os.replace, []

        def stop(source, target):
            if len(moved) == 2:
                raise OSError(errno.EIO, "broken cable")
            moved.append(target)
            replace(source, target)

        monkeypatch.setattr("os.replace", stop)
        with pytest.raises(OSError, match="broken cable"):
            model.save_pretrained(tmp_path, max_shard_size="2KB")
        monkeypatch.undo()
        assert not (tmp_path / "config.json").exists()
        assert not list(tmp_path.glob(".saving-*"))

    def test_a_rank_that_saves_nothing_removes_nothing(self, tmp_path, monkeypatch):
        model = tiny_model()
        model.save_pretrained(tmp_path)
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for arguments in ((False,), (True, None)):
            model.save_pretrained(tmp_path, *arguments)
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
        model.save_pretrained(tmp_path, is_main_process=False)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files

    def test_only_replaced_weights_are_removed(self, tmp_path):
        model = tiny_model()
        model.save_pretrained(tmp_path, max_shard_size="2KB")
        (tmp_path / "model_best.safetensors").write_bytes(b"mine")
        model.save_pretrained(tmp_path, variant="other")
        assert (tmp_path / "model.safetensors.index.json").exists()
        model.save_pretrained(tmp_path)
        names = {path.name for path in tmp_path.glob("model*.safetensors*")}
        assert names == {"model.safetensors", "model.other.safetensors", "model_best.safetensors"}

    def test_an_adapter_leaves_the_model_alone(self, tmp_path):
        peft = pytest.importorskip("peft")
        model = tiny_model()
        model.save_pretrained(tmp_path)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["output_proj"]))
        model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").exists() and (tmp_path / "adapter_config.json").exists()

    @pytest.mark.parametrize("kind", ["link", "relative", "text"])
    def test_folders_of_every_kind(self, tmp_path, monkeypatch, kind):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
        monkeypatch.chdir(tmp_path)
        folder = {"link": tmp_path / "link", "relative": Path("deep/er"), "text": str(tmp_path / "text")}[kind]
        model = tiny_model()
        model.save_pretrained(folder)
        assert torch.equal(ElmoModel.from_pretrained(folder).scalar_mixes[0].gamma, model.scalar_mixes[0].gamma)
        assert (tmp_path / "link").is_symlink()

    def test_file_in_place_of_the_folder_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match=f"{tmp_path / 'file'} is a file"):
            tiny_model().save_pretrained(tmp_path / "file")

    def test_saving_again_leaves_no_stale_shards(self, tmp_path):
        model = tiny_model()
        model.save_pretrained(tmp_path, max_shard_size="2KB")
        model.save_pretrained(tmp_path)
        assert [path.name for path in tmp_path.glob("model*.safetensors*")] == ["model.safetensors"]
        assert torch.equal(ElmoModel.from_pretrained(tmp_path).scalar_mixes[0].gamma, model.scalar_mixes[0].gamma)

    @pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
    def test_damaged_weights_are_refused(self, tmp_path, damage):
        tiny_model().save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        if damage == "missing":
            weights.unlink()
        else:
            weights.write_bytes(weights.read_bytes()[: 700 if damage == "truncated" else 0])
        error = OSError if damage == "missing" else ValueError
        with pytest.raises(error, match=r"model\.safetensors"):
            ElmoModel.from_pretrained(tmp_path)

    def test_damaged_configuration_is_refused(self, tmp_path):
        tiny_model().save_pretrained(tmp_path)
        text = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(text[:100])
        with pytest.raises(ValueError, match="config.json: ") as refused:
            ElmoModel.from_pretrained(tmp_path)
        assert str(refused.value).count("Fetch or save") == 1
        (tmp_path / "config.json").write_text(text.replace('"cell_size": 6', '"cell_size": 7'))
        with pytest.raises(RuntimeError, match=rf"{tmp_path}: .*input_proj.*\(24, 4\).*config\.json.*\(28, 4\)"):
            ElmoModel.from_pretrained(tmp_path)

    @reads_either
    def test_sharded_round_trip(self, reads, tmp_path):
        model = tiny_model(**READS[reads])
        model.save_pretrained(tmp_path, max_shard_size="2KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        again = AutoModel.from_pretrained(tmp_path)
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name

    def test_fixed_mix_keeps_its_weights_and_trains_nothing(self, tmp_path):
        model = ElmoModel(tiny_config(scalar_mix="fixed", scalar_mix_parameters=[0.5, -1.0, 0.25]))
        assert not any("scalar_mix" in name for name, _ in model.named_parameters())
        model.save_pretrained(tmp_path)
        again = ElmoModel.from_pretrained(tmp_path)
        assert again.scalar_mixes[0].weights.tolist() == [0.5, -1.0, 0.25]
        assert again.scalar_mixes[0].gamma.tolist() == [1.0]

    def test_layers_chosen_when_loading_win_over_the_checkpoint(self, tmp_path):
        """A fixed mix selects one layer of a model with another learned mix, as in AllenNLP."""
        model, batch = tiny_model(), batch_of(SENTENCES)
        model.save_pretrained(tmp_path)
        loaded, info = ElmoModel.from_pretrained(
            tmp_path, scalar_mix="fixed", scalar_mix_parameters=[-9e10, -9e10, 1.0], output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        top = model(**batch, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(loaded.eval()(**batch).last_hidden_state, top, rtol=0, atol=1e-6)

    def test_auto_classes(self, tmp_path):
        tiny_model(ElmoForTokenClassification).save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "ElmoConfig"
        assert isinstance(AutoModel.from_pretrained(tmp_path), ElmoModel)
        assert isinstance(AutoModelForTokenClassification.from_pretrained(tmp_path), ElmoForTokenClassification)
        assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path), ElmoForPreTraining)

    def test_a_task_model_starts_from_a_language_model(self, tmp_path, caplog):
        source = tiny_model(ElmoForPreTraining)
        source.save_pretrained(tmp_path)
        loaded, info = ElmoForTokenClassification.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
        assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
        assert not info["unexpected_keys"]
        for name, value in source.elmo.state_dict().items():
            assert torch.equal(value, loaded.elmo.state_dict()[name]), name

    def test_missing_weights_start_as_configured(self, tmp_path):
        """Loaded tensors survive initialization, and what the checkpoint lacks gets the original's initial values."""
        ElmoModel(tiny_config()).save_pretrained(tmp_path)
        again = ElmoModel.from_pretrained(tmp_path, num_representations=3)
        assert again.scalar_mixes[2].weights.tolist() == [0.0, 0.0, 0.0]
        assert again.scalar_mixes[2].gamma.tolist() == [1.0]

    def test_half_precision(self, tmp_path):
        model = with_large_weights(ElmoModel(tiny_config()), 0.3).eval()
        model.save_pretrained(tmp_path)
        half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert half.dtype == torch.bfloat16
        batch = batch_of(SENTENCES)
        output = half(**batch, return_state=True)
        assert output.last_hidden_state.dtype == torch.bfloat16
        assert output.state.cell.dtype == torch.float32
        scale = model(**batch).last_hidden_state.abs().max()
        difference = (output.last_hidden_state - model(**batch).last_hidden_state).abs().max()
        assert difference < 0.05 * scale
        assert model.half()(**batch).last_hidden_state.isfinite().all()
        model.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(**batch, return_state=True)
        assert mixed.state.cell.dtype == torch.float32
        assert (mixed.last_hidden_state - model(**batch).last_hidden_state).abs().max() < 0.05 * scale

    @pytest.mark.samples(3)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        "overrides",
        [
            {},
            {"num_representations": 2, "scalar_mix_layer_norm": "tokens"},
            {"scalar_mix": "top", "context_word_layer": True},
            WORD_INPUT,
            {**BOTH_INPUTS, **TRANSFORMER},
        ],
        ids=["characters", "mixes that normalize", "top layer", "words", "Transformer"],
    )
    def test_autocast_gives_the_dtype_of_the_weights(self, overrides, dtype):
        """In training and evaluation, with and without gradients; only matmuls are rounded."""
        model = with_large_weights(ElmoModel(tiny_config(**overrides)), 0.4).to(dtype)
        batch = batch_of(SENTENCES)
        with torch.no_grad():
            expected = model(**batch, output_hidden_states=True)
        for trains in (True, False):
            for with_gradients in (True, False):
                for frozen in (True, False):
                    model.train(trains).requires_grad_(not frozen)
                    with torch.set_grad_enabled(with_gradients), torch.autocast("cpu", dtype=torch.bfloat16):
                        found = model(**batch, output_hidden_states=True, return_state=True)
                    pairs = [(found.representations, expected.representations)]
                    pairs += list(zip(found.hidden_states, expected.hidden_states, strict=True))
                    for values, wanted in pairs:
                        assert values.dtype == dtype
                        assert (values - wanted).abs().max() <= 0.05 * wanted.abs().max()
                    if found.state is not None:
                        assert [part.dtype for part in found.state] == [dtype, torch.float32]

    @reads_either
    def test_device_map_and_meta_device(self, reads, tmp_path, monkeypatch):
        # With hooks, the dispatched model does not use the compiled kernels, so rounding differs.
        monkeypatch.setenv("ELMO_HF_KERNELS", "reference")
        model = tiny_model(**READS[reads])
        model.save_pretrained(tmp_path / "model")
        batch = batch_of(SENTENCES)
        with torch.device("meta"):
            assert all(weight.is_meta for weight in ElmoModel(tiny_config(**READS[reads])).parameters())
        placed = AutoModel.from_pretrained(
            tmp_path / "model",
            device_map={
                "embeddings": "cpu",
                "encoder.layers.0": "disk",
                "encoder.layers.1": "cpu",
                "scalar_mixes": "cpu",
            },
            offload_folder=tmp_path / "offload",
        )
        expected = model(**batch).last_hidden_state
        torch.testing.assert_close(placed(**batch).last_hidden_state, expected, rtol=0, atol=1e-6)
        automatic = AutoModel.from_pretrained(tmp_path / "model", device_map="auto")
        torch.testing.assert_close(automatic(**batch).last_hidden_state, expected, rtol=0, atol=1e-6)


class TestTraining:
    @pytest.mark.slow
    @reads_either
    @pytest.mark.parametrize("cls", [ElmoForPreTraining, ElmoForTokenClassification])
    def test_gradient_checkpointing_changes_nothing(self, cls, reads):
        # Clips so wide that no gradient is cut off whole.
        model = tiny_model(cls, cell_clip=1.0, projection_clip=1.0, **READS[reads])
        batch = batch_of(SENTENCES)
        labels = batch["input_ids"] if cls is ElmoForPreTraining else batch["input_ids"].clamp(max=1)
        gradients = []
        for checkpointing in (False, True):
            copied = copy.deepcopy(model).double().train()
            if checkpointing:
                copied.gradient_checkpointing_enable()
                assert copied.is_gradient_checkpointing
            copied(**batch, labels=labels).loss.backward()
            gradients.append({n: p.grad for n, p in copied.named_parameters() if p.requires_grad})
        for name, expected in gradients[0].items():
            assert expected is not None and expected.abs().sum() > 0, name
            torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-14)

    @reads_either
    def test_freezing_leaves_mix_and_head_to_train(self, reads):
        model = tiny_model(ElmoForTokenClassification, **READS[reads])
        model.freeze_bilm()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {
            "elmo.scalar_mixes.0.weights",
            "elmo.scalar_mixes.0.gamma",
            "classifier.weight",
            "classifier.bias",
        }
        model.freeze_bilm(False)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_dropout_acts_in_training_only(self):
        model = tiny_model(lstm_input_dropout=0.4, representation_dropout=0.3)
        batch = batch_of(SENTENCES)
        assert torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)
        model.train()
        assert not torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)

    @pytest.mark.slow
    @reads_either
    def test_lora_on_the_projections(self, reads):
        peft = pytest.importorskip("peft")
        model, batch = tiny_model(ElmoForTokenClassification, **READS[reads]), batch_of(SENTENCES)
        before = model(**batch).logits
        settings = peft.LoraConfig(
            r=2, target_modules=["input_proj", "hidden_proj", "output_proj"], modules_to_save=["classifier"]
        )
        adapted = peft.get_peft_model(copy.deepcopy(model), settings)
        torch.testing.assert_close(adapted(**batch).logits, before, rtol=1e-6, atol=1e-6)
        labels = batch["input_ids"].clamp(max=1)
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
        for _ in range(2):
            adapted(**batch, labels=labels).loss.backward()
            optimizer.step()
        grads = {n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is not None}
        for part in ("input_proj", "hidden_proj", "output_proj"):
            assert any(f"{part}.lora_A" in name for name in grads)
        after = adapted(**batch).logits
        assert not torch.allclose(after, before, atol=1e-4)
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, after, rtol=0, atol=1e-5)

    def test_resizing_the_vocabulary_leaves_the_characters_alone(self):
        model = tiny_model(ElmoForPreTraining)
        characters, weight = model.elmo.embeddings.character_embeddings.weight, model.softmax.weight.clone()
        table = characters.clone()
        assert model.resize_token_embeddings(20).num_embeddings == 20
        assert model.elmo.embeddings.character_embeddings.weight is characters and torch.equal(characters, table)
        assert model.config.vocab_size == 20
        assert model.softmax.weight.shape == (20, 4) and model.softmax.bias.shape == (20,)
        assert torch.equal(model.softmax.weight[:12], weight)
        model.resize_token_embeddings(6)
        assert torch.equal(model.softmax.weight, weight[:6])
        model.resize_token_embeddings(pad_to_multiple_of=8)
        assert model.config.vocab_size == 8
        plain = tiny_model(ElmoModel)
        plain.resize_token_embeddings(99)
        assert plain.config.vocab_size == 99 and plain.embeddings.character_embeddings.num_embeddings == 262
        with pytest.raises(ValueError, match="new_num_tokens=0"):
            plain.resize_token_embeddings(0)

    @pytest.mark.parametrize("tied", [False, True])
    def test_resizing_the_vocabulary_of_a_word_model(self, tied):
        model = tiny_model(ElmoForPreTraining, **WORD_INPUT, tie_word_embeddings=tied)
        table = model.get_input_embeddings().weight.clone()
        words = [row for row in range(12) if row not in (0, 4)]  # without padding and mask
        assert model.resize_token_embeddings(20) is model.get_input_embeddings()
        weight = model.get_input_embeddings().weight
        assert weight.shape == (20, 4) and model.get_input_embeddings().num_embeddings == 20
        assert torch.equal(weight[:12], table)
        torch.testing.assert_close(weight[12:], table[words].mean(0).expand(8, 4))
        assert (model.softmax.weight is weight) == tied
        assert model.softmax.weight.shape == (20, 4) and model.softmax.bias.shape == (20,)
        batch = batch_of(SENTENCES)
        batch["input_ids"][0, 1] = 19
        assert torch.isfinite(model(**batch, labels=batch["input_ids"]).loss)
        model.resize_token_embeddings(9, mean_resizing=False)
        assert torch.equal(model.get_input_embeddings().weight, table[:9])
        model.resize_token_embeddings(30, mean_resizing=False)
        added = model.get_input_embeddings().weight[9:]
        assert (added != 0).all()
        assert added.abs().max() <= (4 * 4**-0.5 if tied else 1)  # four deviations, or the bound, of a new table
        assert (model.softmax.weight is model.get_input_embeddings().weight) == tied


class TestTiedSoftmax:
    """bilm-tf's `share_embedding_softmax`: one table for embeddings and softmax."""

    def test_tied_table_is_saved_once_and_loaded_tied(self, tmp_path):
        model = tiny_model(ElmoForPreTraining, **WORD_INPUT, tie_word_embeddings=True)
        assert model.softmax.weight is model.get_input_embeddings().weight
        model.save_pretrained(tmp_path)
        again, info = ElmoForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert again.softmax.weight is again.get_input_embeddings().weight
        assert torch.equal(again.softmax.weight, model.softmax.weight)
        assert torch.equal(again.softmax.bias, model.softmax.bias)
        tagger = ElmoForTokenClassification.from_pretrained(tmp_path)
        assert torch.equal(tagger.get_input_embeddings().weight, model.softmax.weight)

    def test_gradients_of_embedding_and_softmax_add_up(self):
        tied = tiny_model(ElmoForPreTraining, **WORD_INPUT, tie_word_embeddings=True).double()
        apart = ElmoForPreTraining(tiny_config(**WORD_INPUT)).double()
        apart.load_state_dict(tied.state_dict())
        batch = batch_of(SENTENCES)
        for model in (tied, apart):
            model(**batch, labels=batch["input_ids"]).loss.backward()
        ends = apart.get_input_embeddings().weight.grad + apart.softmax.weight.grad
        torch.testing.assert_close(tied.softmax.weight.grad, ends, rtol=0, atol=1e-10)
        assert (tied.softmax.weight.grad[0] == 0).all()


class TestForTokenClassification:
    def test_logits_and_loss(self):
        model = tiny_model(ElmoForTokenClassification, num_labels=3)
        batch = batch_of(SENTENCES)
        labels = torch.full_like(batch["input_ids"], -100)
        labels[0, 1:4], labels[2, 1:3] = torch.tensor([0, 2, 1]), torch.tensor([1, 1])
        output = model(**batch, labels=labels)
        assert output.logits.shape == (4, 8, 3)
        expected = model.classifier(model.elmo(**batch).last_hidden_state)
        assert torch.equal(output.logits, expected)
        log_probs = expected.log_softmax(-1)
        mean = -(log_probs[0, [1, 2, 3], [0, 2, 1]].sum() + log_probs[2, [1, 2], [1, 1]].sum()) / 5
        torch.testing.assert_close(output.loss, mean)
        torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=10).loss, mean / 2)

    def test_penalty_on_the_mixing_weights(self):
        model = tiny_model(ElmoForTokenClassification, num_labels=2, num_representations=2)
        batch = batch_of(SENTENCES)
        labels = batch["input_ids"].clamp(max=1)
        plain = model(**batch, labels=labels).loss
        model.config.scalar_mix_l2 = 0.1
        squares = sum(mix.weights.square().sum() for mix in model.elmo.scalar_mixes)
        torch.testing.assert_close(model.scalar_mix_penalty(), 0.1 * squares)
        torch.testing.assert_close(model(**batch, labels=labels).loss, plain + 0.1 * squares)
        # Accumulated over two batches of half the labels each, the penalty counts once.
        half = model(**batch, labels=labels, num_items_in_batch=2 * labels.numel()).loss
        torch.testing.assert_close(half, (plain + 0.1 * squares) / 2)

    @pytest.mark.parametrize("label", [3, -1])
    def test_labels_out_of_range_are_refused(self, label):
        model, batch = tiny_model(ElmoForTokenClassification, num_labels=3), batch_of(SENTENCES)
        labels = torch.zeros_like(batch["input_ids"])
        labels[1, 1] = label
        with pytest.raises(ValueError, match=f"label {label}: expected 0 to 2"):
            model(**batch, labels=labels)


class TestForPreTraining:
    @reads_either
    def test_probabilities_by_definition(self, reads):
        model = tiny_model(ElmoForPreTraining, **READS[reads]).double()
        for side in ("right", "left"):
            batch = batch_of(SENTENCES, side)
            output = model(**batch, labels=batch["input_ids"].where(batch["input_ids"] > 0, -100))
            top = model.elmo(**batch, output_hidden_states=True).hidden_states[-1]
            words = [token for token in range(12) if token not in (0, 4)]
            totals = [[], []]
            for row in range(len(SENTENCES)):
                real = batch["attention_mask"][row].nonzero().flatten().tolist()
                for here in range(8):
                    for direction, log_probs in enumerate((output.forward_log_probs, output.backward_log_probs)):
                        context = here + (-1 if direction == 0 else 1)
                        if here not in real or context not in real:
                            assert log_probs[row, here] == 0
                            continue
                        half = top[row, context, :4] if direction == 0 else top[row, context, 4:]
                        scores = model.softmax.weight @ half + model.softmax.bias
                        expected = scores[batch["input_ids"][row, here]] - torch.logsumexp(scores[words], 0)
                        torch.testing.assert_close(log_probs[row, here], expected, rtol=0, atol=1e-10)
                        totals[direction].append(expected)
            forward, backward = (-torch.stack(total).mean() for total in totals)
            torch.testing.assert_close(output.forward_loss, forward.detach())
            torch.testing.assert_close(output.backward_loss, backward.detach())
            torch.testing.assert_close(output.loss, (forward + backward) / 2)

    def test_large_vocabularies_are_scored_in_parts(self, monkeypatch):

        model, batch = tiny_model(ElmoForPreTraining), batch_of(SENTENCES)
        whole = model(**batch)
        monkeypatch.setattr(softmax, "LOGITS_AT_A_TIME", 25)
        parts = model(**batch)
        torch.testing.assert_close(parts.forward_log_probs, whole.forward_log_probs)
        torch.testing.assert_close(parts.backward_log_probs, whole.backward_log_probs)

    def test_words_outside_the_vocabulary_are_refused(self):
        model, batch = tiny_model(ElmoForPreTraining), batch_of(SENTENCES)
        batch["input_ids"][0, 1] = 12
        with pytest.raises(ValueError, match="word id 12.* 11"):
            model(**batch)

    def test_no_labels_give_zero_loss(self):
        model, batch = tiny_model(ElmoForPreTraining), batch_of(SENTENCES)
        output = model(**batch, labels=torch.full_like(batch["input_ids"], -100))
        assert output.loss == 0
        output.loss.backward()
