"""ELMoForManyLangs directories: the files that are found, and refusals."""

import json

import pytest
import torch

from hub_upload import CheckpointError
from hub_upload.detect import open_source
from hub_upload.many_languages.reader import BUILT_IN, BUILT_IN_ARCHITECTURE, Dictionary

from ..checkpoints import zip_folder
from . import ROWS, architecture, dictionary, write_model


def opened(path, **given):
    with open_source(path, **given) as source:
        return source


def test_a_directory(tmp_path):
    states = write_model(tmp_path / "m")
    for path in (tmp_path / "m", tmp_path / "m" / "encoder.pkl"):
        source = opened(path)
        assert source.layout == "elmoformanylangs"
        assert "ELMoForManyLangs" in source.description and "cnn_test.json" in source.description
        assert source.options == architecture()
        assert source.dictionaries.words.ids["中文"] == 5
        assert source.dictionaries.characters.ids["\u3000"] == ROWS - 1
        stored = {f"token_embedder.{name}": value for name, value in states["token_embedder.pkl"].items()}
        stored |= {f"encoder.{name}": value for name, value in states["encoder.pkl"].items()}
        assert source.tensors.keys() == stored.keys()
        for name, value in stored.items():
            assert torch.equal(torch.from_numpy(source.tensors[name].read()), value)


def test_a_zip_as_the_vectors_repository_packs_it(tmp_path):
    """Without architecture file, with an absolute path of another machine, and with its own file."""
    write_model(tmp_path / "m", config=f"/home/x/configs/{BUILT_IN}")
    (tmp_path / "m" / BUILT_IN).unlink()
    (tmp_path / "m" / "meta.json").write_text("{}")
    zip_folder(tmp_path / "m", tmp_path / "11.zip")
    source = opened(tmp_path / "11.zip")
    assert source.options == BUILT_IN_ARCHITECTURE
    assert f"built-in {BUILT_IN}" in source.description
    assert any(BUILT_IN in note and "original package" in note for note in source.notes)


def test_the_built_in_architecture_is_the_published_one():
    """char_dim 50, word_dim 100, L 50, P 512, H 4096, two layers, two highways, seven filters, clips of 3."""
    embedder, encoder = BUILT_IN_ARCHITECTURE["token_embedder"], BUILT_IN_ARCHITECTURE["encoder"]
    assert BUILT_IN == "cnn_50_100_512_4096_sample.json"
    assert (embedder["char_dim"], embedder["word_dim"], encoder["projection_dim"], encoder["dim"]) == (
        50,
        100,
        512,
        4096,
    )
    assert embedder["max_characters_per_token"] == 50 and embedder["n_highway"] == 2 and encoder["n_layers"] == 2
    assert sum(count for _, count in embedder["filters"]) == 2048
    assert (encoder["cell_clip"], encoder["proj_clip"]) == (3, 3)


class TestArchitecture:
    def test_beside_the_model_and_explicit(self, tmp_path):
        write_model(tmp_path / "m", config="configs/cnn_test.json")
        assert opened(tmp_path / "m").options_file.endswith("cnn_test.json")
        other = tmp_path / "other.json"
        other.write_text(json.dumps(architecture(encoder__dim=9)))
        assert opened(tmp_path / "m", options=other).options["encoder"]["dim"] == 9

    def test_a_missing_one_is_named(self, tmp_path):
        write_model(tmp_path / "m", config="/elsewhere/mine.json")
        (tmp_path / "m" / "mine.json").unlink()
        with pytest.raises(CheckpointError, match="'mine.json'.*config.json"):
            opened(tmp_path / "m")

    @pytest.mark.parametrize("value", [None, "", 3])
    def test_invalid_config_path(self, value, tmp_path):
        write_model(tmp_path / "m")
        (tmp_path / "m" / "config.json").write_text(json.dumps({"config_path": value}))
        with pytest.raises(CheckpointError, match=f"config_path is {value!r}.*--options"):
            opened(tmp_path / "m")
        (tmp_path / "m" / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"config.json: no such file"):
            opened(tmp_path / "m")

    def test_no_file_outside_the_folder_is_read(self, tmp_path):
        write_model(tmp_path / "m", config="../secret.json")
        (tmp_path / "m" / "secret.json").unlink()
        (tmp_path / "secret.json").write_text(json.dumps(architecture()))
        with pytest.raises(CheckpointError, match="'secret.json'.*config.json"):
            opened(tmp_path / "m")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder__name": "lstm"}, "^[^;]*encoder.name is 'lstm'.*'elmo'; "),
            ({"token_embedder__name": "lstm"}, "token_embedder.name is 'lstm'.*'cnn'; "),
            ({"token_embedder__name": "gru"}, "token_embedder.name.*'gru'.*'cnn'$"),
            ({"encoder__name": ...}, "encoder.name.*None.*'elmo'$"),
        ],
    )
    def test_variants_are_refused_by_name(self, change, message, tmp_path):
        write_model(tmp_path / "m")
        (tmp_path / "m" / "cnn_test.json").write_text(json.dumps(architecture(**change)))
        with pytest.raises(CheckpointError, match=message):
            opened(tmp_path / "m")


class TestFiles:
    @pytest.mark.parametrize("name", ["encoder.pkl", "token_embedder.pkl", "char.dic", "word.dic"])
    def test_missing_ones_are_named(self, name, tmp_path):
        write_model(tmp_path / "m")
        (tmp_path / "m" / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name}: no such file"):
            opened(tmp_path / "m")

    def test_no_code_is_run(self, tmp_path):
        write_model(tmp_path / "m")
        torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "m" / "encoder.pkl")
        with pytest.raises(CheckpointError, match=r"encoder\.pkl: .*pickle"):
            opened(tmp_path / "m")

    def test_a_classifier_of_unknown_form_is_noted(self, tmp_path):
        write_model(tmp_path / "m")
        torch.save({}, tmp_path / "m" / "classifier.pkl")
        assert any("classifier.pkl was left out" in note for note in opened(tmp_path / "m").notes)

    def test_files_of_other_programs_are_refused(self, tmp_path):
        write_model(tmp_path / "m")
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("x\n")
        for name in ("vocabulary", "softmax"):
            with pytest.raises(CheckpointError, match=f"own files.*--{name} "):
                opened(tmp_path / "m", **{name: vocabulary})


class TestDictionaries:
    def read(self, tmp_path, text):
        path = tmp_path / "char.dic"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return Dictionary(path).ids

    def test_every_line_is_a_symbol_and_its_id(self, tmp_path):
        assert self.read(tmp_path, "b\t1\na\t0\n") == {"a": 0, "b": 1}
        assert list(self.read(tmp_path, "b\t1\na\t0\n")) == ["a", "b"]
        assert self.read(tmp_path, "\ufeffa\t0\r\nb\t1") == {"a": 0, "b": 1}

    @pytest.mark.parametrize("symbol", ["\u3000", "\u00a0", "\u2028", "\x85", "\r", "\t", " ", ""])
    def test_whitespace_means_the_ideographic_space(self, symbol, tmp_path):
        assert self.read(tmp_path, f"a\t0\n{symbol}\t1\nb\t2\n") == {"a": 0, "\u3000": 1, "b": 2}

    def test_last_whitespace_symbol_takes_precedence(self, tmp_path):
        assert self.read(tmp_path, "\u00a0\t0\na\t1\n\u3000\t2\n\u2003\t3\n") == {"a": 1, "\u3000": 3}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\t0\nb\t1\na\t2\n", "line 3: the symbol 'a' .*line 1"),
            ("a\t0\nb\t0\n", "line 2: the id 0 .*line 1"),
            ("\u3000\t0\nb\t1\n\u3000\t2\n", r"line 3: the symbol '\\u3000' .*line 1"),
            ("a\t0\n\u00a0a\t1\n", "line 2: the symbol 'a' .*line 1"),
            ("a\t0\tx\n", r"line 1: 'a\\t0\\tx'"),
            ("a\tx\n", "line 1: 'a"),
            ("a\t-1\n", "line 1: 'a"),
            ("a\t0\n\nb\t1\n", "line 2: ''; expected"),
            (b"a\t0\n\xff\t1\n", "line 2: byte 0xff.*UTF-8"),
        ],
    )
    def test_damaged_ones_are_refused(self, text, message, tmp_path):
        with pytest.raises(CheckpointError, match=f"char.dic, {message}"):
            self.read(tmp_path, text)

    def test_ids_out_of_range_and_missing_marks(self, tmp_path):
        path = tmp_path / "char.dic"
        path.write_text(dictionary(("a", "b")))
        Dictionary(path).check(2, ("a",), "table of characters")
        with pytest.raises(CheckpointError, match="'b' has the id 1.*characters has 1 rows"):
            Dictionary(path).check(1, ("a",), "table of characters")
        with pytest.raises(CheckpointError, match="<oov>.*<pad>"):
            Dictionary(path).check(2, ("<oov>", "a", "<pad>"), "table of characters")
