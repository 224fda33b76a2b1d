"""Model cards: facts of the folder and of its author, in a form that the Hub's classes read."""

import re

import pytest
from huggingface_hub import ModelCard

from elmo_hf import (
    ElmoForCausalLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.hub import CardFacts, HubError, Result, SourceFile, add_facts, note_verification, write_card
from elmo_hf.hub.card import check_card, file_name_only, json_settings, with_name
from modeling_tests.tiny import TRANSFORMER, tiny_config, with_large_weights

KINDS = {
    "feature-extraction": ElmoModel,
    "fill-mask": ElmoForPreTraining,
    "text-generation": ElmoForCausalLM,
    "token-classification": ElmoForTokenClassification,
    "text-classification": ElmoForSequenceClassification,
    "question-answering": ElmoForQuestionAnswering,
    "multiple-choice": ElmoForMultipleChoice,
}
FACTS = CardFacts(
    name="elmo-tiny",
    summary="A tiny model.",
    license="apache-2.0",
    language=["en"],
    base_model="somebody/elmo",
    datasets=["somebody/corpus"],
    source=[SourceFile("weights.hdf5", 12_345, "ab" * 32)],
    source_url="https://example.org/elmo",
    training={"words seen": "1,000"},
    results=[
        Result("f1", 0.75, "somebody/corpus", "test", "entity F1"),
        Result("perplexity", 42.5, "held.txt", "test"),
    ],
    settings={"loss": '"full|sampled"'},
    notes=["A note."],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("cards")
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the"], max_characters_per_word=9)
    for task, kind in KINDS.items():
        config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
        with_large_weights(kind(config)).save_pretrained(root / task)
        tokenizer.save_pretrained(root / task)
    return root


@pytest.fixture
def folder(folders):
    path = folders / "fill-mask"
    (path / "README.md").unlink(missing_ok=True)
    return path


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("task", KINDS)
def test_every_kind_of_model_has_a_card_whose_code_runs(task, folders, monkeypatch):
    """Run the card's code with the package; `test_remote_card.py` runs it without."""
    write_card(folders / task, CardFacts(name=task, summary="A model.", license="mit", language=["en"]))
    text = (folders / task / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.pipeline_tag, card.data.library_name, card.data.license) == (task, "transformers", "mit")
    assert (card.data.get("widget") is None) == (task == "multiple-choice")
    with_package, without = blocks(text)
    assert "trust_remote_code=True" in without and "import elmo_hf" not in without
    monkeypatch.chdir(folders)
    exec(compile(with_package, "card", "exec"), {})


def test_all_facts_are_written_and_read_back(folder, hub):
    write_card(folder, FACTS)
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.language, card.data.base_model) == ("apache-2.0", ["en"], "somebody/elmo")
    assert card.data.datasets == ["somebody/corpus"]
    values = {(each.metric_type, each.dataset_type): each.metric_value for each in card.data.eval_results}
    assert values == {("f1", "somebody/corpus"): 0.75, ("perplexity", "held.txt"): 42.5}
    assert card.data.eval_results[0].task_type == "fill-mask"
    for part in ("12,345", "ab" * 32, "<https://example.org/elmo>", "| words seen | 1,000 |", "entity F1", "- A note."):
        assert part in text
    assert '`"full\\|sampled"`' in text and "LSTM, 2 layers" in text and "@inproceedings{peters-etal-2018-deep" in text
    parameters = sum(each.numel() for each in ElmoForPreTraining.from_pretrained(folder).state_dict().values())
    assert f"| parameters | {parameters:,} |" in text
    card.validate()  # asks the server
    assert hub.asked("POST", "/api/validate-yaml") == 1


def test_a_transformer_cites_its_own_paper(tmp_path):
    ElmoModel(tiny_config(**TRANSFORMER)).save_pretrained(tmp_path)
    write_card(tmp_path, CardFacts(name="t", summary="A model."))
    assert "Transformer, 2 layers" in (tmp_path / "README.md").read_text()
    assert "dissecting" in (tmp_path / "README.md").read_text()


def test_missing_facts_are_asked_for_by_name(folder):
    write_card(folder, CardFacts(name="x", summary="A model."))
    with pytest.raises(HubError, match="--license.*--language"):
        check_card(folder, with_name(folder, "a/b"))
    add_facts(folder, license="other", language=["en", "de"])
    with pytest.raises(HubError, match="license_name"):
        check_card(folder, with_name(folder, "a/b"))
    text = add_facts(folder, license_name="my own")
    assert check_card(folder, text) == text == (folder / "README.md").read_text()
    assert ModelCard(text).data.get("widget"), "with a language, its examples"


def test_facts_are_added_without_changing_the_text(folder):
    path = folder / "README.md"
    path.write_text("---\ntags:\n- mine\n---\n\n# My own words\n", encoding="utf-8")
    add_facts(folder, license="mit", language=["de"], datasets=["a/b"])
    text = path.read_text()
    assert text.endswith("# My own words\n") and ModelCard(text).data.tags == ["mine"]
    assert (ModelCard(text).data.license, ModelCard(text).data.datasets) == ("mit", ["a/b"])


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"license": "Apache 2"}, "license 'Apache 2'"), ({"language": ["English"]}, "language 'English'")],
)
def test_invalid_facts_are_refused(facts, message, folder):
    write_card(folder, FACTS)
    before = (folder / "README.md").read_text()
    with pytest.raises(HubError, match=rf"README\.md: {message}"):
        add_facts(folder, **facts)
    assert (folder / "README.md").read_text() == before


def test_verification_note_is_replaced(folder):
    write_card(folder, FACTS)
    note_verification(folder, "Largest difference 1e-7.")
    text = (folder / "README.md").read_text()
    assert "Largest difference 1e-7." in text and "Not yet compared" not in text
    note_verification(folder, "Second.")
    assert "Largest" not in (folder / "README.md").read_text()


def test_paths_are_reduced_to_file_names(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    for given, shown in [
        (f"{tmp_path}/text/a.txt", "a.txt"),
        ("text/a.txt", "a.txt"),
        ("text/*.txt.gz", "*.txt.gz"),
        ("~/corpus/a.txt", "a.txt"),
        ("../corpus", "corpus"),
        ("C:\\corpus\\a.txt", "a.txt"),
        ("somebody/corpus", "somebody/corpus"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        (["/a/b", 3, None], ["b", 3, None]),
        ("small", "small"),
    ]:
        assert file_name_only(given) == shown
    assert json_settings({"x": ["/home/me/a.txt"], "y": 0.5}) == {"x": '["a.txt"]', "y": "0.5"}
