"""Models and tokenizers by object or by folder; sentences of every kind."""

import pytest
import torch

from elmo_hf import ElmoForMaskedLM, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.inference.loading import check_sentences, load_model, load_tokenizer
from modeling_tests.tiny import tiny_config, with_large_weights


@pytest.fixture
def folder(tmp_path):
    with_large_weights(ElmoForPreTraining(tiny_config(vocab_size=5))).save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_and_an_object_are_the_same_model(folder):
    model = ElmoForPreTraining.from_pretrained(folder)
    assert load_model(model, ElmoForPreTraining) is model
    for name in (folder, str(folder)):
        loaded = load_model(name, ElmoForPreTraining, device="cpu")
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert not loaded.training
    # A language model in place of a plain one, and the reverse, as objects.
    masked = ElmoForMaskedLM(tiny_config())
    assert load_model(masked, ElmoForPreTraining) is masked
    assert type(load_model(folder, ElmoModel)) is ElmoModel


def test_dtype_of_a_folder(folder):
    assert load_model(folder, ElmoModel, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_model(folder, ElmoModel).dtype == torch.float32


def test_the_tokenizer_beside_the_model(folder):
    vocabulary = load_tokenizer(None, folder).get_vocab()
    assert vocabulary == ElmoTokenizer().get_vocab()
    assert load_tokenizer(None, ElmoModel.from_pretrained(folder)).get_vocab() == vocabulary
    assert load_tokenizer(str(folder), ElmoModel(tiny_config())).get_vocab() == vocabulary
    tokenizer = ElmoTokenizer()
    assert load_tokenizer(tokenizer, folder) is tokenizer
    with pytest.raises(ValueError, match="tokenizer=None"):
        load_tokenizer(None, ElmoModel(tiny_config()))


def test_refusals(folder, tmp_path):
    with pytest.raises(TypeError, match="model.*ElmoModel.*ElmoForPreTraining"):
        load_model(ElmoModel(tiny_config()), ElmoForPreTraining)
    with pytest.raises(TypeError, match=r"^model .*\bint\b"):
        load_model(3, ElmoModel)
    with pytest.raises(ValueError, match=r"device='cpu'.*folder.*model.to\('cpu'\)"):
        load_model(ElmoModel(tiny_config()), ElmoModel, device="cpu")
    with pytest.raises(ValueError, match="dtype=torch.float16"):
        load_model(ElmoModel(tiny_config()), ElmoModel, dtype=torch.float16)
    ElmoForTokenClassification(tiny_config()).save_pretrained(tmp_path / "tagger")
    with pytest.raises(ValueError, match="tagger.*2.*ElmoForPreTraining.*softmax.bias"):
        load_model(tmp_path / "tagger", ElmoForPreTraining)
    with pytest.raises(OSError, match="nowhere.*folder"):
        load_model(tmp_path / "nowhere", ElmoModel)


def test_missing_mixes_are_initialized(folder):
    assert isinstance(load_model(folder, ElmoModel), ElmoModel)
    plain = ElmoModel.from_pretrained(folder, num_representations=3)
    assert len(plain.scalar_mixes) == 3


def test_sentences():
    given = ["a text", ["two", "words"], ("one",), "", []]
    assert list(check_sentences(iter(given))) == ["a text", ["two", "words"], ["one"], "", []]
    assert list(check_sentences([])) == []


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("a text", "sentences.*'a text'.*list"),
        (5, "sentences.*5.*list"),
        (["a", 5], "sentence 1.*5.*int.*list"),
        ([["a"], ["b", None]], "sentence 1.*None.*NoneType"),
        ([[["a"]]], r"sentence 0.*\['a'\].*list"),
        ([{"text": "a"}], "sentence 0.*dict"),
    ],
)
def test_invalid_sentences(sentences, message):
    with pytest.raises(TypeError, match=message):
        list(check_sentences(sentences))
