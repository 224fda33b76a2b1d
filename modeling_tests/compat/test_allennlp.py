"""AllenNLP's classes, compared with the outputs of bilm-tf and AllenNLP and with the model itself."""

import functools
import http.server
import io
import json
import tarfile
import threading

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoModel, ElmoTokenizer, embed
from elmo_hf.compat.allennlp import (
    ConfigurationError,
    Elmo,
    ELMoCharacterMapper,
    ElmoEmbedder,
    ElmoTokenEmbedder,
    ScalarMix,
    batch_to_ids,
)
from hub_upload import convert
from modeling_tests.hub_upload.checkpoints import VOCABULARY, word_options, write_bilm
from modeling_tests.tiny import tiny_config, with_large_weights

SENTENCES = [["The", "cat", "sat", "."], ["On", "a", "mat"], ["Straße", "."]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of this package with words of 50 characters."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ours")
    config = tiny_config(max_characters_per_word=50, scalar_mix_layer_norm="tokens", representation_dropout=0.4)
    with_large_weights(ElmoModel(config)).save_pretrained(path)
    ElmoTokenizer().save_pretrained(path)
    return path


def bilm(elmo):
    """The attribute in which old code finds the state."""
    return elmo._elmo_lstm._elmo_lstm


def layers_of(folder, sentences, **state):
    return embed(sentences, folder, layers="all", **state)


class TestWords:
    def test_rows(self):
        rows = ELMoCharacterMapper({"<first>": 1})
        start, pad = 259, 261
        for word, body in (
            ("cat", [c + 1 for c in b"cat"]),
            ("ß", [196, 160]),
            ("\ud800x", [ord("x") + 1]),
            ("", []),
            ("<S>", [257]),
            ("</S>", [258]),
            ("<UNK>", [c + 1 for c in b"<UNK>"]),
            ("<first>", [2]),
            ("x" * 80, [ord("x") + 1] * 48),
            ("é" * 24 + "x", [c + 1 for c in ("é" * 24).encode()]),
        ):
            row = rows.convert_word_to_char_ids(word)
            assert row == [start, *body, 260] + [pad] * (48 - len(body))

    def test_batches(self):
        ids = batch_to_ids(SENTENCES)
        assert ids.shape == (3, 4, 50) and ids.dtype == torch.int64
        assert ids[1, 1].tolist() == ELMoCharacterMapper().convert_word_to_char_ids("a")
        assert not ids[1, 3].any() and not ids[2, 2:].any()
        assert batch_to_ids([[]]).shape == (1, 0, 50) and batch_to_ids([[], ["a"]]).shape == (2, 1, 50)
        assert batch_to_ids([["<x>"]], {"<x>": 7})[0, 0, :3].tolist() == [259, 8, 260]


class TestElmo:
    def test_mixes(self, folder):
        elmo = Elmo(folder, None, 2, dropout=0.0)
        with torch.no_grad():
            for value, parameter in zip((0.1, -0.3, 0.7), elmo.scalar_mix_1.scalar_parameters, strict=True):
                parameter.fill_(value)
            elmo.scalar_mix_1.gamma.fill_(1.7)
        output = elmo(batch_to_ids(SENTENCES))
        first, second = output["elmo_representations"]
        assert first.shape == second.shape == (3, 4, 8) == (3, 4, elmo.get_output_dim())
        assert output["mask"].tolist() == [[True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2]
        shares = np.exp([0.1, -0.3, 0.7]) / np.exp([0.1, -0.3, 0.7]).sum()
        for row, layers in enumerate(layers_of(folder, SENTENCES)):
            words = layers.shape[1]
            close(first[row, :words], layers.mean(axis=0))
            close(second[row, :words], 1.7 * np.einsum("l,lwd->wd", shares, layers))
            assert not first[row, words:].any()

    def test_training(self, folder):
        """By default only the mixes are trained; with fine-tuning also the biLM, but not its own, unused mixes."""
        elmo = Elmo(folder, None, 1).train()
        assert {name for name, weight in elmo.named_parameters() if weight.requires_grad} == {
            "scalar_mix_0.gamma",
            *(f"scalar_mix_0.scalar_parameters.{k}" for k in range(3)),
        }
        values = elmo(batch_to_ids(SENTENCES))["elmo_representations"][0]
        assert 0.2 < (values[0] == 0).float().mean() < 0.8  # dropout 0.5
        values.sum().backward()
        assert elmo.scalar_mix_0.gamma.grad is not None
        elmo = Elmo(folder, None, 1, requires_grad=True, dropout=0.0).train()
        elmo(batch_to_ids(SENTENCES))["elmo_representations"][0].sum().backward()
        without = {name for name, weight in elmo.named_parameters() if weight.grad is None}
        assert without and all("model.scalar_mixes." in name for name in without)
        # The biLM has no dropout: evaluation gives the same.
        bilm(elmo).reset_states()
        trained = elmo(batch_to_ids(SENTENCES))["elmo_representations"][0]
        bilm(elmo).reset_states()
        close(elmo.eval()(batch_to_ids(SENTENCES))["elmo_representations"][0], trained)

    def test_fixed_mixes(self, folder):
        elmo = Elmo(folder, None, 1, scalar_mix_parameters=[-9e10, 1, -9e10], dropout=0.0)
        assert not any(weight.requires_grad for weight in elmo.parameters())
        close(elmo(batch_to_ids(SENTENCES))["elmo_representations"][0][0], layers_of(folder, SENTENCES)[0][1])

    def test_boundaries(self, folder):
        elmo = Elmo(folder, None, 1, keep_sentence_boundaries=True, dropout=0.0)
        output = elmo(batch_to_ids(SENTENCES))
        assert output["mask"].sum(1).tolist() == [6, 5, 4] and output["mask"].shape == (3, 6)
        expected = embed(SENTENCES, folder, layers="average", boundaries=True)
        for row, array in zip(output["elmo_representations"][0], expected, strict=True):
            close(row[: len(array)], array)

    def test_extra_batch_dimensions(self, folder):
        elmo = Elmo(folder, None, 1, dropout=0.0).eval()
        flat = elmo(batch_to_ids([*SENTENCES, []]))
        bilm(elmo).reset_states()
        output = elmo(batch_to_ids([*SENTENCES, []]).view(2, 2, 4, 50))
        assert output["mask"].shape == (2, 2, 4)
        assert torch.equal(output["elmo_representations"][0], flat["elmo_representations"][0].view(2, 2, 4, 8))
        assert not output["mask"][1, 1].any() and not output["elmo_representations"][0][1, 1].any()
        bilm(elmo).reset_states()
        elmo._keep_sentence_boundaries = True
        assert elmo(batch_to_ids([*SENTENCES, []]).view(2, 2, 4, 50))["mask"].shape == (2, 2, 6)

    def test_empty_sentences(self, folder):
        output = Elmo(folder, None, 1)(batch_to_ids([[], []]))
        assert output["elmo_representations"][0].shape == (2, 0, 8) and output["mask"].shape == (2, 0)

    def test_cached_vocabulary(self, folder):
        words = ["@@PADDING@@", "The", "cat", "sat", "on", "."]
        elmo = Elmo(folder, None, 1, dropout=0.0, vocab_to_cache=words).eval()
        sentences = [["The", "cat", "sat", "."], ["cat", "."]]
        ids, places = batch_to_ids(sentences), torch.tensor([[1, 2, 3, 5], [2, 5, 0, 0]])
        expected = elmo(ids)
        for inputs, given in ((torch.zeros_like(ids), places), (ids, torch.tensor([[1, 2, 3, 6], [2, 5, 0, 0]]))):
            bilm(elmo).reset_states()  # in the second one 6 is not known, and characters are read
            output = elmo(inputs, given)
            close(output["elmo_representations"][0], expected["elmo_representations"][0])
            assert torch.equal(output["mask"], expected["mask"])
        bilm(elmo).reset_states()
        deep = elmo(torch.zeros(2, 1, 4, 50, dtype=torch.int64), places.unsqueeze(1))
        close(deep["elmo_representations"][0][:, 0], expected["elmo_representations"][0])
        # Without cached vectors, word ids are not read.
        close(
            Elmo(folder, None, 1, dropout=0.0)(ids, places)["elmo_representations"][0][0],
            expected["elmo_representations"][0][0],
        )

    def test_another_module(self, folder):
        """Any module that returns activations and a mask is accepted."""
        elmo = Elmo(folder, None, 1, dropout=0.0)
        other = Elmo(None, None, 1, dropout=0.0, module=elmo._elmo_lstm)
        expected = elmo(batch_to_ids(SENTENCES))["elmo_representations"][0]
        bilm(elmo).reset_states()
        close(other(batch_to_ids(SENTENCES))["elmo_representations"][0], expected)
        with pytest.raises(ConfigurationError, match="options_file.*weight_file.*module"):
            Elmo(folder, None, 1, module=elmo._elmo_lstm)


class TestState:
    def test_rows_keep_their_state(self, folder):
        """In batches of 2, 3, 1 and 2 sentences, the state belongs to the row's index."""
        elmo = Elmo(folder, None, 1, dropout=0.0).eval()
        batches = [SENTENCES[:2], SENTENCES, SENTENCES[2:], SENTENCES[:2]]
        found = [elmo(batch_to_ids(batch))["elmo_representations"][0] for batch in batches]
        for row in range(3):
            read = [batch[row] for batch in batches if row < len(batch)]
            arrays = embed(read, folder, layers="average", carry_state=True)
            for array, values in zip(arrays, [each for each in found if row < len(each)], strict=True):
                close(values[row, : len(array)], array)

    def test_reset(self, folder):
        elmo = Elmo(folder, None, 1, dropout=0.0).eval()
        ids = batch_to_ids(SENTENCES)
        first = elmo(ids)["elmo_representations"][0]
        second = elmo(ids)["elmo_representations"][0]
        assert (first - second).abs().max() > 0.01
        bilm(elmo).reset_states(torch.tensor([True, False, True]))
        third = elmo(ids)["elmo_representations"][0]
        close(third[0], first[0])
        close(third[2], first[2])
        assert (third[1] - first[1]).abs().max() > 0.01
        with pytest.raises(ValueError, match="mask has 2 rows.*3"):
            bilm(elmo).reset_states(torch.tensor([True, False]))
        for forget in (lambda: bilm(elmo).reset_states(), lambda: setattr(bilm(elmo), "_states", None)):
            forget()
            close(elmo(ids)["elmo_representations"][0], first)
        bilm(elmo).stateful = False
        for _ in range(2):
            close(elmo(ids)["elmo_representations"][0], first)

    def test_carried_state_is_detached(self, folder):
        elmo = Elmo(folder, None, 1, requires_grad=True, dropout=0.0).train()
        for _ in range(2):
            elmo.zero_grad()
            elmo(batch_to_ids(SENTENCES))["elmo_representations"][0].sum().backward()  # not through the batch before
        assert any(weight.grad is not None and weight.grad.any() for weight in elmo.parameters())

    def test_state_is_not_in_the_state_dict(self, folder):
        elmo = Elmo(folder, None, 1)
        names = set(elmo.state_dict())
        elmo(batch_to_ids(SENTENCES))
        assert set(elmo.state_dict()) == names


class TestScalarMix:
    def test_layer_norm(self):
        """The mean and variance are those of all unmasked values, and also normalize the masked ones."""
        torch.manual_seed(0)
        tensors = [torch.randn(2, 3, 4) * 3 + 1 for _ in range(2)]
        mask = torch.tensor([[True, True, False], [True, False, False]])
        mix = ScalarMix(2, do_layer_norm=True, initial_scalar_parameters=[0.3, -1.0])
        shares = np.exp([0.3, -1.0]) / np.exp([0.3, -1.0]).sum()
        expected = np.zeros((2, 3, 4))
        for share, tensor in zip(shares, tensors, strict=True):
            counted = tensor[mask].double()
            expected += share * ((tensor - counted.mean()) / counted.std(correction=0)).numpy()
        close(mix(tensors, mask), expected)

    def test_refusals(self):
        with pytest.raises(ConfigurationError, match="2.*mixture_size=3"):
            ScalarMix(3, initial_scalar_parameters=[0.0, 1.0])
        with pytest.raises(ConfigurationError, match="2.*mixture_size=3"):
            ScalarMix(3)([torch.zeros(1, 1)] * 2)
        with pytest.raises(ConfigurationError, match="mask=None with do_layer_norm"):
            ScalarMix(1, do_layer_norm=True)([torch.zeros(1, 1)])


def test_token_embedder(folder):
    embedder = ElmoTokenEmbedder(folder, None, dropout=0.0, projection_dim=3)
    assert embedder.get_output_dim() == 3
    values = embedder(batch_to_ids(SENTENCES))
    plain = Elmo(folder, None, 1, dropout=0.0)(batch_to_ids(SENTENCES))["elmo_representations"][0]
    close(values, embedder._projection(plain))
    plain_embedder = ElmoTokenEmbedder(folder, None, dropout=0.0)
    assert plain_embedder.get_output_dim() == 8
    deep = plain_embedder(batch_to_ids(SENTENCES).unsqueeze(1))
    close(deep[:, 0], plain)


class TestElmoEmbedder:
    def test_batches(self, folder):
        embedder = ElmoEmbedder(folder, None)
        arrays = list(embedder.embed_sentences([*SENTENCES, [], ["cat"]], batch_size=2))
        expected = embed([*SENTENCES, [], ["cat"]], folder, layers="all", carry_state=True, rows=2)
        for array, same in zip(arrays, expected, strict=True):
            assert array.dtype == np.float32 and array.shape == same.shape
            close(array, same)
        before = bilm(embedder_of(embedder))._states
        assert embedder.embed_sentence([]).shape == (3, 0, 8)
        assert bilm(embedder_of(embedder))._states is before

    @pytest.mark.parametrize("output_format", ["all", "top", "average"])
    def test_embed_file(self, folder, tmp_path, output_format):
        lines = ["The cat sat .", "On  a mat", "The cat sat ."]
        ElmoEmbedder(folder, None).embed_file(
            io.StringIO("\n".join(lines) + "\n"), tmp_path / "out.hdf5", output_format, batch_size=2
        )
        layers = output_format
        expected = embed([line.split() for line in lines], folder, layers=layers, carry_state=True, rows=2)
        with h5py.File(tmp_path / "out.hdf5") as file:
            assert set(file) == {"0", "1", "2", "sentence_to_index"}
            assert json.loads(file["sentence_to_index"][0]) == {"The cat sat .": "2", "On  a mat": "1"}
            for number, same in enumerate(expected):
                assert file[str(number)].dtype == np.float32
                close(file[str(number)][...], same)

    def test_sentence_keys(self, folder, tmp_path):
        embedder, out = ElmoEmbedder(folder, None), tmp_path / "out.hdf5"
        embedder.embed_file(io.StringIO("a cat\n1/2 mat"), out, "top", use_sentence_keys=True)
        with h5py.File(out) as file:
            assert file["a cat"].shape == file["1/2 mat"].shape == (2, 8) and "sentence_to_index" not in file
        embedder.embed_file(io.StringIO("a cat\nb"), out, forget_sentences=True)
        with h5py.File(out) as file:
            assert set(file) == {"0", "1"}
        before = out.read_bytes()
        for text, options, message in (
            ("a\na\n", {"use_sentence_keys": True}, "line 1 .*'a'.*HDF5"),
            ("a\n\nb\n", {}, r"lines \[1\] "),
            ("a\n", {"output_format": "mix"}, "output_format='mix'.*'all', 'top' or 'average'"),
        ):
            with pytest.raises(ConfigurationError, match=message):
                embedder.embed_file(io.StringIO(text), out, **options)
        assert out.read_bytes() == before


def embedder_of(embedder):
    """An `ElmoEmbedder` under the attribute of `Elmo`."""

    class Named:
        _elmo_lstm = embedder.elmo_bilm

    return Named


class TestOriginalOutputs:
    def test_ten_batches_of_bilm_tf(self, reference):
        """Top layer of sentence i of three lists, with state carried from batch to batch."""
        files = reference / "bilm_tf"
        embedder = ElmoEmbedder(files / "options.json", files / "lm_weights.hdf5")
        lists = json.loads((files / "lm_embeddings_sentences.json").read_text())
        for place in range(10):
            arrays = embedder.embed_batch([each[place].split() for each in lists])
            for number, array in enumerate(arrays):
                with h5py.File(files / f"lm_embeddings_{number}.hdf5") as file:
                    close(array[2], np.concatenate(list(file[str(place)][...]), axis=-1), 2e-6)

    @pytest.mark.samples(1)
    @pytest.mark.parametrize(
        ("name", "way"),
        [("tagger_1", "alone"), ("tagger_1", "carried"), ("tagger_3", "batch"), ("tagger_3", "carried")],
    )
    def test_representations_of_allennlp(self, reference, tmp_path, way, name):
        """ELMo's columns of what two taggers embed; the second with a layer norm over the batch."""
        files = reference / "allennlp_tasks" / name
        with tarfile.open(files / "model.tar.gz") as archive:
            stored = torch.load(io.BytesIO(archive.extractfile("weights.th").read()), weights_only=True)
        if name == "tagger_1":  # these files are what the archive holds
            source = files / "elmo_options.json", files / "elmo_weights.hdf5"
        else:
            convert(files / "model.tar.gz", tmp_path / "folder", options=files / "elmo_options.json")
            source = tmp_path / "folder", None
        elmo = Elmo(*source, 1, do_layer_norm=name == "tagger_3").eval()
        mix = {key.split("scalar_mix_0.")[1]: value for key, value in stored.items() if "scalar_mix_0." in key}
        elmo.scalar_mix_0.load_state_dict(mix)
        sentences = json.loads((files / "sentences.json").read_text())
        expected = np.load(files / "expected.npz")
        sizes = {"alone": [1] * len(sentences), "batch": [len(sentences)]}.get(way)
        place = 0
        for size in expected["carried/batch_sizes"].tolist() if sizes is None else sizes:
            if way != "carried":
                bilm(elmo).reset_states()
            with torch.no_grad():
                values = elmo(batch_to_ids(sentences[place : place + size]))["elmo_representations"][0]
            for row in values:
                words = len(sentences[place])
                close(row[:words], expected[f"{way}/{place}/embedded"][:, :16], 5e-6)
                place += 1
        assert place == len(sentences)


class TestSources:
    def test_weights_from_urls(self, tmp_path, monkeypatch):
        """Fetched once."""
        (tmp_path / "served").mkdir()
        write_bilm(tmp_path / "served")
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *_):
                asked.append(self.path)

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=tmp_path / "served")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        weights = next((tmp_path / "served").glob("*.hdf5")).name
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            for _ in range(2):
                found = ElmoEmbedder(f"{base}/options.json", f"{base}/{weights}").embed_sentence(["a", "cat"])
            with pytest.raises(OSError, match=f"{base}/none.hdf5.*404"):
                ElmoEmbedder(f"{base}/options.json", f"{base}/none.hdf5")
        finally:
            server.shutdown()
            server.server_close()
        assert sorted(asked) == sorted(["/options.json", f"/{weights}", "/none.hdf5"])
        same = ElmoEmbedder(tmp_path / "served" / "options.json", tmp_path / "served" / weights)
        assert np.array_equal(found, same.embed_sentence(["a", "cat"]))
        assert not list((tmp_path / "cache").rglob("*.writing"))

    def test_refusals(self, tmp_path, folder):
        with pytest.raises(ConfigurationError, match="options_file=None"):
            Elmo(None, None, 1)
        with pytest.raises(ValueError, match="nothing.hdf5"):
            Elmo(folder / "config.json", tmp_path / "nothing.hdf5", 1)
        with pytest.raises(OSError, match="nothing.*folder"):
            Elmo(tmp_path / "nothing", None, 1)
        write_bilm(tmp_path, word_options(), vocabulary=VOCABULARY)
        with pytest.raises(ConfigurationError, match=f"{tmp_path}.*elmo_hf.embed"):
            Elmo(tmp_path, None, 1)


def close(found, expected, bound=1e-6):
    found, expected = (np.asarray(value.detach() if hasattr(value, "detach") else value) for value in (found, expected))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=bound)
