"""Exports of this package's models, read with the assertions of the original programs."""

import codecs
import json

import h5py
import pytest
import torch
from torch import nn

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from hub_upload import CheckpointError, convert, export, verify

from ..tiny import BOTH_INPUTS, WORD_INPUT, tiny_config, with_large_weights
from .language_models import read_archive

MARKS = ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
WORDS = ["the", "cat", "sat", "中"]
SENTENCES = [["the", "cat", "zebra"], ["中", "sat"], ["x"]]


def save(folder, words=("<S>", "</S>", "<UNK>", *WORDS), tokens=None, dictionary=False, **fields):
    """A language model as `elmo-hf pretrain` leaves it; returns model and tokenizer."""
    length = fields.pop("max_characters_per_word", 50)
    symbols = [*MARKS, *"acehstz中"] if dictionary else None
    tokenizer = ElmoTokenizer(
        vocab=list(words), max_characters_per_word=length, character_vocabulary=symbols, **(tokens or {})
    )
    sizes = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "max_characters_per_word": length,
        "num_characters": tokenizer.num_characters,
        "character_activation": "relu",
        "forget_bias": 0.0 if dictionary else 1.0,
    }
    model = with_large_weights(ElmoForPreTraining(tiny_config(**{**sizes, **fields}))).eval()
    with torch.no_grad():  # as after training: padding and mask are not words
        for table in [*(t.word_embeddings.weight for t in model.word_tables().values()), *model.softmax.parameters()]:
            table[[0, -1]] = 0
        for name, weight in model.named_parameters():
            if name.endswith("character_embeddings.weight"):
                weight[0] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


# ---- the originals' readers


def read_many_languages(folder):
    """ELMoForManyLangs `Embedder.get_model`, `EmbeddingLayer`, `ConvTokenEmbedder`, `SampledSoftmaxLayer`."""
    config = json.loads((folder / json.loads((folder / "config.json").read_text())["config_path"]).read_text())
    sizes, encoder = config["token_embedder"], config["encoder"]

    def lexicon(name):
        found = {}
        with codecs.open(str(folder / name), "r", encoding="utf-8") as file:
            for line in file:
                tokens = line.strip().split("\t")
                if len(tokens) == 1:
                    tokens.insert(0, "\u3000")
                token, number = tokens
                found[token] = int(number)
        return found

    def table(lexicon, width):
        return nn.Embedding(len(lexicon), width, padding_idx=lexicon["<pad>"]) if lexicon["<oov>"] >= 0 else None

    modules, width = nn.ModuleDict(), 0
    words = characters = None
    if sizes["word_dim"] > 0:
        words = lexicon("word.dic")
        modules["word_emb_layer"] = nn.ModuleDict({"embedding": table(words, sizes["word_dim"])})
        width += sizes["word_dim"]
    if sizes["char_dim"] > 0:
        characters = lexicon("char.dic")
        assert all(mark in characters for mark in MARKS)
        modules["char_emb_layer"] = nn.ModuleDict({"embedding": table(characters, sizes["char_dim"])})
        modules["convolutions"] = nn.ModuleList(nn.Conv1d(sizes["char_dim"], n, k) for k, n in sizes["filters"])
        filters = sum(n for _, n in sizes["filters"])
        layers = nn.ModuleList(nn.Linear(filters, 2 * filters) for _ in range(sizes["n_highway"]))
        modules["highways"] = nn.ModuleDict({"_layers": layers})
        width += filters
    modules["projection"] = nn.Linear(width, encoder["projection_dim"])
    modules.load_state_dict(torch.load(folder / "token_embedder.pkl", weights_only=True), strict=True)
    if (folder / "classifier.pkl").exists():
        rows = len(lexicon("word.dic"))
        state = torch.load(folder / "classifier.pkl", weights_only=True)
        assert state["column_emb.weight"].shape == (rows, encoder["projection_dim"])
        assert state["column_bias.weight"].shape == (rows, 1)
    return words, characters


def read_bilm_tf(folder):
    """bilm-tf `Vocabulary`, `BidirectionalLanguageModel`, `_pretrained_initializer`; AllenNLP's shapes are the same."""
    options = json.loads((folder / "options.json").read_text())
    lines = []
    if (folder / "vocab.txt").exists():
        with open(folder / "vocab.txt", encoding="utf-8") as file:
            lines = [line.strip() for line in file]
        assert len(set(lines)) == len(lines) == options["n_tokens_vocab"]
        assert {"<S>", "</S>", "<UNK>"} <= set(lines), "Ensure the vocabulary file has <S>, </S>, <UNK> tokens"
    lstm, width = options["lstm"], options["lstm"]["projection_dim"]
    expected = {}
    if "char_cnn" in options:
        cnn = options["char_cnn"]
        assert cnn["n_characters"] == 262 and cnn["activation"] in ("relu", "tanh")
        filters = sum(count for _, count in cnn["filters"])
        expected["char_embed"] = (261, cnn["embedding"]["dim"])
        for i, (size, count) in enumerate(cnn["filters"]):
            expected |= {f"CNN/W_cnn_{i}": (1, size, cnn["embedding"]["dim"], count), f"CNN/b_cnn_{i}": (count,)}
        for i in range(cnn["n_highway"]):
            for part in ("carry", "transform"):
                expected |= {f"CNN_high_{i}/W_{part}": (filters, filters), f"CNN_high_{i}/b_{part}": (filters,)}
        if filters != width:
            expected |= {"CNN_proj/W_proj": (filters, width), "CNN_proj/b_proj": (width,)}
    else:
        expected["embedding"] = (len(lines), width)
    for direction in range(2):
        for layer in range(lstm["n_layers"]):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            expected |= {f"{cell}/B": (4 * lstm["dim"],), f"{cell}/W_0": (2 * width, 4 * lstm["dim"])}
            if lstm["dim"] != width:
                expected[f"{cell}/W_P_0"] = (lstm["dim"], width)
    found = {}
    for name in ("weights.hdf5", "softmax_weights.hdf5"):
        if (folder / name).exists():
            with h5py.File(folder / name) as file:
                file.visititems(lambda name, item: found.update({name: item.shape}) if hasattr(item, "shape") else None)
    softmax = {"softmax/W": (len(lines), width), "softmax/b": (len(lines),)}
    assert found == (expected | softmax if "softmax/b" in found else expected)
    return lines


def read_language_model(folder):
    """AllenNLP `Vocabulary.from_files` and the sampled softmax of `LanguageModel`: a class more than lines."""
    state, lines, settings = read_archive(folder / "model.tar.gz")
    model = json.loads(settings)["model"]
    assert "@@UNKNOWN@@" in lines and len(set(lines)) == len(lines)
    width = model["contextualizer"]["input_dim"]
    assert state["_softmax_loss.softmax_w.weight"].shape == (len(lines) + 1, width)
    assert state["_softmax_loss.softmax_b.weight"].shape == (len(lines) + 1, 1)
    return lines


# ---- models made here


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [BOTH_INPUTS, {}, {**WORD_INPUT, "word_embedding_size": 5}])
def test_export_to_many_languages_reads_back(inputs, tmp_path):
    """The program looks up `<bos>`, `<eos>`, `<oov>` and `<pad>` in `word.dic`, and has a row for every line."""
    model, tokenizer = save(tmp_path / "own", dictionary=True, **inputs)
    report = export(tmp_path / "own", tmp_path / "back")
    words, characters = read_many_languages(tmp_path / "back")
    lines = [line.split("\t") for line in (tmp_path / "back" / "word.dic").read_text().splitlines()]
    assert [word for word, _ in lines] == ["<bos>", "<eos>", "<oov>", *WORDS, "<pad>"]
    assert [int(number) for _, number in lines] == list(range(8))
    assert (words is None) == (not inputs) and (characters is None) == (inputs.get("character_filters") == [])
    assert any("'<UNK>' (unk_token) is called '<oov>'" in note for note in report.notes)
    convert(tmp_path / "back", tmp_path / "again")
    # Relative to a layer's largest value: these layers' inputs are up to 80 times as large as their outputs.
    assert verify(tmp_path / "again", tmp_path / "back", tolerance=2e-5).passed
    again = ElmoForPreTraining.from_pretrained(tmp_path / "again").eval()
    read = ElmoTokenizer.from_pretrained(tmp_path / "again")
    for words in SENTENCES:
        ours, theirs = (
            m(**t([words], is_split_into_words=True, return_tensors="pt"))
            for m, t in ((model, tokenizer), (again, read))
        )
        torch.testing.assert_close(theirs.forward_log_probs, ours.forward_log_probs, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs.backward_log_probs, ours.backward_log_probs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("word", "message"),
    [("<oov>", "calls '<oov>'"), ("a\u2028b", r"'a\\u2028b'")],
)
def test_words_not_storable_in_a_dictionary(word, message, tmp_path):
    save(tmp_path / "own", ["<S>", "</S>", "<UNK>", word], dictionary=True, **BOTH_INPUTS)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "own", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [{}, WORD_INPUT, {**WORD_INPUT, "tie_word_embeddings": True}])
def test_export_to_bilm_tf_reads_back(inputs, tmp_path):
    save(tmp_path / "own", **inputs)
    export(tmp_path / "own", tmp_path / "back")
    if not inputs.get("tie_word_embeddings"):
        assert read_bilm_tf(tmp_path / "back") == ["<S>", "</S>", "<UNK>", *WORDS]
    convert(tmp_path / "back", tmp_path / "again")
    assert verify(tmp_path / "again", tmp_path / "back", tolerance=5e-6).passed


def test_renamed_special_tokens(tmp_path):
    """bilm-tf refuses a vocabulary without `<S>`, `</S>` and `<UNK>`."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}
    save(tmp_path / "own", ["[UNK]", "</s>", "the", "<s>"], tokens=tokens)
    export(tmp_path / "own", tmp_path / "back")
    assert read_bilm_tf(tmp_path / "back") == ["<UNK>", "</S>", "the", "<S>"]
    save(tmp_path / "other", ["[UNK]", "</s>", "<S>", "<s>"], tokens=tokens)
    with pytest.raises(CheckpointError, match="calls '<S>'"):
        export(tmp_path / "other", tmp_path / "back", force=True)


def test_export_of_a_transformer_reads_back(tmp_path):
    save(
        tmp_path / "own",
        encoder_type="transformer",
        projection_size=16,
        num_attention_heads=8,
        feed_forward_size=6,
        max_position_embeddings=40,
    )
    export(tmp_path / "own", tmp_path / "back")
    assert read_language_model(tmp_path / "back") == ["<S>", "</S>", "@@UNKNOWN@@", *WORDS]
    convert(tmp_path / "back", tmp_path / "again")
    assert ElmoConfig.from_pretrained(tmp_path / "again").projection_size == 16
