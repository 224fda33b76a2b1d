"""Task models, compared with AllenNLP's outputs and, for every option, with the plain implementation; refusals."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from elmo_hf import ElmoModel, tag
from elmo_hf.model.feed_forward import ACTIVATIONS
from hub_upload import CheckpointError, convert, verify
from hub_upload.allennlp_task import rules
from hub_upload.allennlp_task.plain import FUNCTIONS
from hub_upload.allennlp_task.rules import OTHER_KINDS
from hub_upload.cli import main

from ..checkpoints import options
from ..task_archives import BIOUL, CHARACTERS, ELMO, INDEXERS, SPELLED, TOKENS, WORDS, classifier, tagger, write

ARCHIVES = ("tagger_1", "tagger_2", "tagger_3", "classifier_1", "classifier_2")
# Largest absolute difference; AllenNLP's own rounding is 8e-6 in the logits.
LOGITS, EMBEDDED, LIKELIHOOD = 5e-5, 5e-6, 1e-4


@pytest.fixture(scope="module", params=ARCHIVES)
def archive(request, reference, tmp_path_factory):
    folder = reference / "allennlp_tasks" / request.param
    output = tmp_path_factory.mktemp("converted") / request.param
    convert(folder / "model.tar.gz", output, options=folder / "elmo_options.json")
    return folder, output


def load(folder):
    auto = AutoModelForTokenClassification if "tagger" in folder.name else AutoModelForSequenceClassification
    return auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def batches_of(way, expected, sentences):
    if way == "carried":
        ends = np.cumsum(expected["carried/batch_sizes"]).tolist()
        return [list(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
    return [[place] for place in range(len(sentences))] if way == "alone" else [list(range(len(sentences)))]


@pytest.mark.samples(5)
@pytest.mark.parametrize("way", ["alone", "batch", "carried"])
@torch.no_grad()
def test_outputs_equal_allennlp(archive, way):
    folder, output = archive
    model, tokenizer = load(output)
    is_tagger = "tagger" in output.name
    expected = np.load(folder / "expected.npz")
    answers = json.loads((folder / ("tags.json" if is_tagger else "labels.json")).read_text())
    sentences = json.loads((folder / "sentences.json").read_text())
    assert model.config.label_names == answers["labels"]
    encoded = {}
    model.task_layers.layers[-1].register_forward_hook(lambda module, given, result: encoded.update(packed=result[0]))
    state = None
    for batch in batches_of(way, expected, sentences):
        encoding = tokenizer(
            [sentences[place] for place in batch], is_split_into_words=True, padding=True, return_tensors="pt"
        )
        output = model(**encoding, initial_state=state, return_state=True)
        paths = model.predict_paths(2, **encoding, initial_state=state) if is_tagger else []
        state = output.state if way == "carried" else None
        inside = model.without_boundaries(encoding["attention_mask"].bool(), encoding["input_ids"])
        for row, place in enumerate(batch):
            arrays = {name: expected[f"{way}/{place}/{name}"] for name in ("logits", "encoded")}
            if not is_tagger:
                np.testing.assert_allclose(output.logits[row], arrays["logits"], rtol=0, atol=LOGITS)
                assert answers["labels"][output.logits[row].argmax()] == answers[way][place]
                continue
            emissions = output.emissions[row, inside[row]]
            np.testing.assert_allclose(emissions, arrays["logits"], rtol=0, atol=LOGITS)
            tags = output.logits[row, inside[row]].argmax(-1)
            assert [answers["labels"][one] for one in tags] == answers[way][place]
            words = torch.ones(1, len(emissions)).bool()
            found = model.crf.log_likelihood(emissions[None], tags[None], words).item()
            assert found == pytest.approx(float(expected[f"{way}/{place}/log_likelihood"]), abs=LIKELIHOOD)
            (best, score), second = paths[row]
            assert best == tags.tolist() and second[1] < score
            assert score == pytest.approx(float(expected[f"{way}/{place}/viterbi_score"]), abs=LIKELIHOOD)
        if way == "alone":
            np.testing.assert_allclose(encoded["packed"], arrays["encoded"], rtol=0, atol=EMBEDDED)


@pytest.mark.slow
def test_verify_computes_the_scores_once_more(archive):
    folder, output = archive
    sentences = json.loads((folder / "sentences.json").read_text())
    chosen = [sentences[place] for place in (1, 5)]
    report = verify(output, folder / "model.tar.gz", options=folder / "elmo_options.json", sentences=chosen)
    assert report.passed and report.task.passed and report.task.different == 0
    assert report.task.logits < 2e-5 and report.task.log_likelihoods < 5e-5
    # Alone, in a batch, and in three batches of 3, 2 and 4.
    assert report.task.sentences == 2 * 2 + 9


@pytest.mark.slow
def test_remote_code_of_a_converted_archive(archive):
    """Without the package, the folder's code gives the same labels."""
    folder, output = archive
    sentences = json.loads((folder / "sentences.json").read_text())
    program = """
import json, sys
sys.modules["elmo_hf"] = None
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
folder, sentences = sys.argv[1], json.loads(sys.argv[2])
auto = AutoModelForTokenClassification if "tagger" in folder else AutoModelForSequenceClassification
model = auto.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
print(json.dumps(model(**batch).logits.tolist()))
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(output), json.dumps(sentences)],
        capture_output=True, text=True, check=True, cwd=output.parent, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    model, tokenizer = load(output)
    batch = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    expected = model(**batch).logits
    torch.testing.assert_close(torch.tensor(json.loads(found.stdout)), expected, rtol=1e-6, atol=5e-5)


HIGHWAY = {"type": "stacked_bidirectional_lstm", "input_size": 25, "hidden_size": 5, "num_layers": 2}
BIO = ["O", "B-X", "I-X", "B-Y"]
BMES = ["S-X", "B-X", "M-X", "E-X", "B-Y", "E-Y"]
IOB1 = ["O", "I-X", "B-X", "I-Y"]
FORWARD = {"input_dim": 12, "num_layers": 2, "hidden_dims": [5, 4], "activations": ["elu", "sigmoid"], "dropout": 0.5}
LISTED = {"type": "l2", "alpha": 0.25}
ALONE = {"token_embedders": {"own": ELMO}}
TAGGERS = {
    "as published": (tagger(), {}),
    "highways": (tagger(encoder=HIGHWAY), {}),
    "highways of 0.9": (tagger(encoder={**HIGHWAY, "names": ""}), {}),
    "no highways": (tagger(encoder={**HIGHWAY, "use_highway": False, "recurrent_dropout_probability": 0.25}), {}),
    "feed-forward": (tagger(feedforward=FORWARD), {}),
    "IOB1, no end scores": (tagger(label_encoding="IOB1", include_start_end_transitions=False), {"labels": IOB1}),
    "label weights": (tagger(label_weights={"O": 0.25, "U-LOC": 3.0}, weight_strategy="emission"), {}),
    "BIO by its old name": (tagger(label_encoding=None, constraint_type="BIO"), {"labels": BIO}),
    "BMES": (tagger(label_encoding="BMES"), {"labels": BMES}),
    "not constrained": (tagger(label_encoding="BIO", constrain_crf_decoding=False), {"labels": BIO}),
    "no scheme": (tagger(label_encoding=None), {"labels": ["NOUN", "VERB"]}),
    "layer norm, old form": (
        tagger(
            text_field_embedder={"elmo": {**ELMO, "do_layer_norm": True}, "tokens": WORDS, "token_characters": SPELLED},
            regularizer=[["scalar_parameters", LISTED]],
        ),
        {},
    ),
    "ELMo alone": (
        tagger(text_field_embedder=ALONE, encoder={**HIGHWAY, "input_size": 12}, regularizer={"regexes": []}),
        {},
    ),
}
PLAIN_OUTPUT = {
    "input_dim": 72, "num_layers": 2, "hidden_dims": [6, 3], "activations": ["tanh", "linear"], "dropout": 0.1
}  # fmt: skip
CLASSIFIERS = {
    "as published": (classifier(), {}),
    "feed-forward": (classifier(output_layer=PLAIN_OUTPUT), {}),
    "ELMo at the output": (
        classifier(
            use_input_elmo=None, elmo=ELMO,
            pre_encode_feedforward={"input_dim": 5, "num_layers": 1, "hidden_dims": [7], "activations": ["relu"]},
        ),
        {},
    ),
    "ELMo among the embedders": (
        classifier(
            text_field_embedder={"token_embedders": {"zz": ELMO, "tokens": WORDS}}, elmo=None, use_input_elmo=None,
            use_integrator_output_elmo=None, output_layer={**PLAIN_OUTPUT, "input_dim": 24},
        ),
        {},
    ),
}  # fmt: skip
EVERY = {f"tagger, {name}": one for name, one in TAGGERS.items()}
EVERY |= {f"bcn, {name}": one for name, one in CLASSIFIERS.items()}


def strip(config):
    """Remove keys that only these tests use."""
    for part in ("encoder", "integrator"):
        config["model"].get(part, {}).pop("names", None)
    return config


SENTENCES = [["Maria", "10\u00a0000", "x"], ["the", "Reykjav\u00edk", "film", "MM", "."], ["good"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_option_by_the_plain_implementation(name, tmp_path):
    config, more = EVERY[name]
    source = write(tmp_path / "source", config, **more)
    stored = strip(json.loads((source / "config.json").read_text()))
    for embedder in stored["dataset_reader"]["token_indexers"].copy():
        stored["dataset_reader"]["token_indexers"].setdefault({"elmo": "own"}.get(embedder, embedder), {"type": "elmo"})
    stored["dataset_reader"]["token_indexers"]["zz"] = {"type": "elmo_characters"}
    (source / "config.json").write_text(json.dumps(stored))
    convert(source, tmp_path / "out")
    report = verify(tmp_path / "out", source, sentences=SENTENCES)
    assert report.passed and report.task.different == 0, report
    assert report.task.logits < 2e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["words_only"] and config["task_forget_bias"] == 0.0
    if name == "tagger, layer norm, old form":
        assert (config["scalar_mix_layer_norm"], config["scalar_mix_l2"]) == ("tokens", 0.25)


def test_every_activation_of_the_plain_implementation():
    values = torch.linspace(-4, 4, 17, dtype=torch.float64)
    assert set(FUNCTIONS) == set(rules.ACTIVATIONS) == set(ACTIVATIONS)
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(function(values.numpy()), ACTIVATIONS[name](values), rtol=0, atol=1e-12)


class TestConvertedFolder:
    def test_options_labels_and_vocabulary(self, tmp_path):
        source = write(tmp_path / "source", tagger(label_weights={"O": 0.5}, weight_strategy="emission_transition"))
        report = convert(source, tmp_path / "out")
        model, words = AutoModelForTokenClassification.from_pretrained(tmp_path / "out"), load(tmp_path / "out")[1]
        config = model.config
        assert report.architecture == "ElmoForTokenClassification"
        assert config.tag_names == BIOUL and config.id2label[1] == "B-LOC" and config.id2label[3] == "I-PER"
        assert (config.crf_constraints, config.crf_weight_strategy) == ("decoding", "transition")
        assert config.crf_label_weights == [0.5, 1, 1, 1, 1]
        assert words.code_point_set == [symbol.replace("@@NEWLINE@@", "\n") for symbol in CHARACTERS[1:]]
        assert words.lowercase_lookup and words.unk_token == "@@UNKNOWN@@"
        found = words(["MARIA", "10\u00a0000", "xyz"], is_split_into_words=True)["input_ids"][1:-1]
        assert words.convert_ids_to_tokens(found) == ["maria", "10\u00a0000", "@@UNKNOWN@@"]
        table = model.task_layers.word_vectors.word_embeddings.weight
        stored = torch.load(source / "weights.th")["text_field_embedder.token_embedder_tokens.weight"]
        for number, token in enumerate(TOKENS, 1):
            assert torch.equal(table[words.convert_tokens_to_ids(token)], stored[number])
        assert (table[[0, 1, 2, -1]] == 0).all()

    def test_pipelines_and_tag(self, tmp_path):
        convert(write(tmp_path / "source", tagger()), tmp_path / "tagger")
        convert(write(tmp_path / "other", classifier()), tmp_path / "classifier")
        sentence = "the film Maria saw"
        entities = pipeline("token-classification", model=str(tmp_path / "tagger"), aggregation_strategy="simple")
        (tagged,) = tag([sentence.split()], str(tmp_path / "tagger"))
        assert set(tagged.tags) <= set(BIOUL)
        begins = sum(name[0] in "BU" for name in tagged.tags)
        assert len(entities(sentence)) == begins
        classify = pipeline("text-classification", model=str(tmp_path / "classifier"))
        assert classify([sentence, "good"], batch_size=2)[0]["label"] in ("pos", "neg", "neutral")

    @pytest.mark.parametrize("config", [tagger(label_weights={"O": 0.5}, weight_strategy="lannoy"), classifier()])
    def test_trains_further(self, config, tmp_path):
        """With the stock Trainer, which pads the rows of code points."""
        convert(write(tmp_path / "source", config), tmp_path / config["model"]["type"])
        is_tagger = config["model"]["type"] == "crf_tagger"
        auto = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
        model = auto.from_pretrained(tmp_path / config["model"]["type"])
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / config["model"]["type"])
        rows = [dict(tokenizer(text)) for text in ("the film Maria saw", "good", "the Reykjav\u00edk film .")]
        if is_tagger:
            rows = [{**row, "labels": [-100, *[0] * (len(row["input_ids"]) - 2), -100]} for row in rows]
            collator = DataCollatorForTokenClassification(tokenizer)
        else:
            rows, collator = [{**row, "labels": 1} for row in rows], DataCollatorWithPadding(tokenizer)
        arguments = TrainingArguments(
            str(tmp_path / "out"), max_steps=3, learning_rate=0.05, per_device_train_batch_size=3, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before

    def test_archive_weights_take_precedence(self, tmp_path):
        """The weights are those of the archive, not of the HDF5 file that the configuration names."""
        source = write(tmp_path / "source", tagger())
        convert(source, tmp_path / "out")
        convert(source, tmp_path / "elmo", elmo_only=True)
        whole, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "elmo"))
        assert all(torch.equal(value, whole[f"elmo.{name}"]) for name, value in alone.items())
        assert isinstance(ElmoModel.from_pretrained(tmp_path / "elmo"), ElmoModel)
        report = verify(tmp_path / "elmo", source, sentences=SENTENCES)
        assert report.passed and report.task is None

    @pytest.mark.parametrize(
        ("version", "is_old"), [("2.10.1", False), ("1.2.2", False), ("1.2.1", True), (None, True)]
    )
    def test_character_windows_of_older_versions_are_noted(self, tmp_path, version, is_old):
        report = convert(write(tmp_path / "source", tagger(), version=version), tmp_path / "out")
        assert any("windows over padding counted" in note for note in report.notes) == is_old

    def test_notes(self, tmp_path):
        embedders = {"elmo": {**ELMO, "do_layer_norm": True}, "tokens": WORDS, "token_characters": SPELLED}
        source = write(tmp_path / "source", tagger(text_field_embedder={"token_embedders": embedders}))
        notes = " ".join(convert(source, tmp_path / "out").notes)
        assert "depends on the sentences beside it" in notes
        assert "depends on the sentences beside it" in (tmp_path / "out" / "README.md").read_text()
        assert "task_dropout=0.5 acts on the input of every layer" in notes
        assert "where the archive has encoder.dropout 0" in notes

    @pytest.mark.slow
    def test_a_packed_archive(self, tmp_path):
        source = write(tmp_path / "source", classifier())
        with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as file:
            file.add(source, ".")
        convert(tmp_path / "model.tar.gz", tmp_path / "out")
        assert verify(tmp_path / "out", tmp_path / "model.tar.gz", sentences=SENTENCES).passed

    @pytest.mark.slow
    def test_a_changed_weight_fails(self, tmp_path):
        source = write(tmp_path / "source", tagger())
        convert(source, tmp_path / "out")
        state = torch.load(source / "weights.th")
        state["tag_projection_layer._module.bias"] += 0.01
        torch.save(state, source / "weights.th")
        report = verify(tmp_path / "out", source, sentences=SENTENCES)
        assert not report.passed and 0.009 < report.task.logits < 0.011 and max(report.differences) < 1e-5

    def test_verify_refuses_another_model(self, tmp_path):
        convert(write(tmp_path / "source", tagger()), tmp_path / "out")
        labels = [*BIOUL[:-1], "B-LOC"]
        other = write(tmp_path / "other", tagger(), labels=labels)
        with pytest.raises(CheckpointError, match="same model: label_names"):
            verify(tmp_path / "out", other)


MAXOUT = {"input_dim": 72, "num_layers": 2, "output_dims": [6, 3]}


class TestRefused:
    def test_other_kinds_of_model(self, tmp_path):
        config = tagger()
        source = write(tmp_path / "source", config)
        for kind in (*OTHER_KINDS, "my_own_model"):
            config["model"]["type"] = kind
            (source / "config.json").write_text(json.dumps(config))
            with pytest.raises(CheckpointError) as raised:
                convert(source, tmp_path / "out")
            message = str(raised.value)
            assert f"type {kind!r}" in message and OTHER_KINDS.get(kind, "") in message and "--elmo-only" in message
        assert main(["convert", str(source), str(tmp_path / "out"), "--elmo-only"]) == 0
        assert isinstance(ElmoModel.from_pretrained(tmp_path / "out"), ElmoModel)

    GRU = {"type": "gru", "bidirectional": True, "input_size": 25, "hidden_size": 6}
    LSTM = {"type": "lstm", "bidirectional": True, "input_size": 25, "hidden_size": 6, "num_layers": 2}

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (tagger(encoder=GRU), "model.encoder.type.*'gru'.*'lstm'.*'stacked_bidirectional_lstm'"),
            (tagger(encoder={**LSTM, "bidirectional": False}), "model.encoder.bidirectional.*False"),
            (tagger(encoder={**LSTM, "hidden_size": 0}), "model.encoder.hidden_size.*0"),
            (tagger(encoder={**LSTM, "stateful": True}), "model.encoder.stateful.*True"),
            (tagger(encoder={**LSTM, "projection": 3}), "model.encoder has the options projection"),
            (tagger(has_magic=True), "model.*has_magic.*--elmo-only"),
            (tagger(dropout=1.5), "model.dropout.*1.5"),
            (tagger(label_encoding="BILOU"), "model.label_encoding.*'BILOU'.*BIO, BIOUL"),
            (tagger(label_weights={"O": 1}, weight_strategy="other"), "weight_strategy.*'other'"),
            (tagger(feedforward={**FORWARD, "activations": "mish"}), "activations.* 'mish'"),
            (tagger(feedforward={**FORWARD, "hidden_dims": [5]}), "feedforward.hidden_dims is .5., expected 2 values"),
            (classifier(output_layer={**PLAIN_OUTPUT, "activations": "relu"}), "activations.* 'relu'.* 'lin"),
            (classifier(output_layer={**MAXOUT, "pool_sizes": [4, 2]}), r"pool_sizes is \[4, 2\]"),
            (classifier(use_integrator_output_elmo=False), "2 mixes.*1 places"),
            (classifier(elmo={**ELMO, "keep_sentence_boundaries": True}), "model.elmo.keep_sentence_boundaries.*True"),
        ],
    )  # fmt: skip
    def test_options(self, config, message, tmp_path):
        written = tagger() if config["model"]["type"] == "crf_tagger" else classifier()
        source = write(tmp_path / "source", written)
        (source / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("embedders", "message"),
        [
            ({"elmo": ELMO, "tokens": WORDS, "more": WORDS}, "embedding, more, tokens"),
            ({"elmo": {**ELMO, "projection_dim": 4}, "tokens": WORDS}, "elmo.projection_dim.*4"),
            ({"elmo": ELMO, "tokens": {**WORDS, "max_norm": 1.0}}, "token_embedders.tokens has the options max_norm"),
            ({"elmo": {**ELMO, "magic": 1}, "tokens": WORDS}, "token_embedders.elmo has the options magic"),
            ({"elmo": ELMO, "tokens": {"type": "pass_through"}}, "tokens.type.*'pass_through'.*elmo_token"),
            (
                {"elmo": ELMO, "token_characters": {**SPELLED, "encoder": {"type": "gru"}}},
                "token_characters.encoder.type.*'gru'.*'cnn'",
            ),
            (
                {"elmo": ELMO, "token_characters": {**SPELLED, "encoder": {**SPELLED["encoder"], "output_dim": 9}}},
                "encoder.*output_dim",
            ),
        ],
    )  # fmt: skip
    def test_text_fields(self, embedders, message, tmp_path):
        source = write(tmp_path / "source", tagger())
        config = tagger(text_field_embedder={"token_embedders": embedders})
        config["dataset_reader"]["token_indexers"] = {**INDEXERS, "more": INDEXERS["tokens"]}
        (source / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out")

    def test_indexers(self, tmp_path):
        source = write(tmp_path / "source", tagger())
        config = tagger()
        field = config["model"]["text_field_embedder"]
        for more, message in (
            ({"embedder_to_indexer_map": {"elmo": ["tokens"]}}, "embedder_to_indexer_map.*'elmo': .'tokens'"),
            ({"magic": 1}, "text_field_embedder has the options magic"),
        ):
            config["model"]["text_field_embedder"] = {**field, **more}
            (source / "config.json").write_text(json.dumps(config))
            with pytest.raises(CheckpointError, match=message):
                convert(source, tmp_path / "out")
        same = {"embedder_to_indexer_map": {name: [name] for name in field["token_embedders"]}}
        config["model"]["text_field_embedder"] = {**field, "allow_unmatched_keys": True, **same}
        (source / "config.json").write_text(json.dumps(config))
        convert(source, tmp_path / "same")
        config["model"]["text_field_embedder"] = field
        for name, changes, message in (
            ("tokens", {"end_tokens": ["@"]}, "token_indexers.tokens.* end_tokens"),
            ("token_characters", {"character_tokenizer": {"byte_encoding": "utf-8"}}, "options byte_encoding"),
            ("token_characters", {"type": "single_id"}, "token_characters.type is 'single_id'"),
        ):
            changed = {**INDEXERS, name: {**INDEXERS[name], **changes}}
            config["dataset_reader"]["token_indexers"] = changed
            (source / "config.json").write_text(json.dumps(config))
            with pytest.raises(CheckpointError, match=message):
                convert(source, tmp_path / "out")

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"crf__transitions": None}, "missing: crf.transitions"),
            ({"more": torch.zeros(2)}, "config.json describes: more"),
            ({"crf__transitions": torch.zeros(4, 4)}, "disagree about crf.transitions"),
            ({"tag_projection_layer___module__bias": torch.zeros(5).double()}, "tag_projection_layer.*float64"),
            ({"tag_projection_layer___module__bias": torch.full((5,), torch.nan)}, "tag_projection_layer.*finite"),
            ({"encoder___module__bias_ih_l0": torch.zeros(7)}, "bias_ih_l0 .7,., encoder._module.bias_hh_l0 .24,. do"),
            ({"encoder___module__weight_ih_l0": torch.zeros(24, 3)}, "weight_ih_l0 .24, 3."),
            ({"text_field_embedder__token_embedder_tokens__weight": torch.zeros(3, 5)}, "3 rows for 9 words"),
            ({"crf___constraint_mask": torch.ones(7, 7)}, "_constraint_mask.*label_encoding"),
        ],
    )  # fmt: skip
    def test_weights(self, tensors, message, tmp_path):
        source = write(tmp_path / "source", tagger(), **tensors)
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_vocabularies(self, tmp_path):
        source = write(tmp_path / "source", tagger())
        tokens = source / "vocabulary" / "tokens.txt"
        for content, message in (
            (b"the\nfilm\n", "tokens.txt: .*'the'.*'@@UNKNOWN@@'"),
            (b"@@UNKNOWN@@\nthe\nthe\n", "vocabulary: .*'the'"),
            (b"@@UNKNOWN@@\n\xff\n", "tokens.txt, line 2: byte 0xff"),
            (None, "tokens.txt: no such file"),
        ):
            if content is None:
                tokens.unlink()
            else:
                tokens.write_bytes(content)
            with pytest.raises(CheckpointError, match=message):
                convert(source, tmp_path / "out")

    def test_vocabulary_options_are_refused(self, tmp_path):
        source = write(tmp_path / "source", tagger())
        (tmp_path / "vocab.txt").write_text("<S>\n</S>\n<UNK>\n")
        with pytest.raises(CheckpointError, match="--vocabulary .*vocab.txt"):
            convert(source, tmp_path / "out", vocabulary=tmp_path / "vocab.txt")
        with pytest.raises(CheckpointError, match=r"weights\.th: .*--without-vocabulary|--without-vocabulary"):
            convert(source, tmp_path / "out", without_vocabulary=True)

    def test_without_options_sizes_come_from_the_shapes(self, tmp_path):
        config = tagger()
        config["model"]["text_field_embedder"]["token_embedders"]["elmo"] = {
            **ELMO,
            "options_file": "https://example.org",
        }
        source = write(tmp_path / "source", config)
        assert any("no options file was found" in note for note in convert(source, tmp_path / "out").notes)
        (tmp_path / "options.json").write_text(json.dumps(options(cell_clip=0.25, proj_clip=3.0)))
        convert(source, tmp_path / "given", options=tmp_path / "options.json")
        assert json.loads((tmp_path / "given/config.json").read_text())["cell_clip"] == 0.25
