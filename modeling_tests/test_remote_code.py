"""A saved folder works without the package, with the code saved in it."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertGenerationConfig, PreTrainedModel

from elmo_hf import (
    ElmoEncoderDecoderConfig,
    ElmoEncoderDecoderModel,
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.model.configuration_elmo import AUTO_MAP

from .forking import run_python
from .tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, character_row, tiny_config, with_large_weights

# A tagger with all options: CRF, its own LSTM and word vectors, ELMo at both places.
PAPERS_TAGGER = {
    "use_crf": True,
    "tag_scheme": "BIO",
    "id2label": {0: "O", 1: "B-PER", 2: "I-PER"},
    "label2id": {"O": 0, "B-PER": 1, "I-PER": 2},
    "elmo_at": ["input", "output"],
    "word_vector_size": 3,
    "task_lstm_size": 2,
}

# The taggers and classifiers that AllenNLP published, with every layer of their own.
ALLENNLP_TAGGER = {
    **PAPERS_TAGGER,
    "tag_scheme": "BIOUL",
    "id2label": {0: "O", 1: "U-PER"},
    "label2id": {"O": 0, "U-PER": 1},
    "crf_constraints": "decoding",
    "crf_start_end_transitions": False,
    "task_encoder": "highway_lstm",
    "words_only": True,
    "task_character_size": 3,
    "num_task_characters": 5,
    "classifier_layers": [[4, "tanh"]],
}
BCN = {
    "elmo_at": ["input", "output"],
    "words_only": True,
    "pre_encoder_layers": [[4, "relu"]],
    "task_lstm_size": 3,
    "integrator_size": 2,
    "pooling": ["max", "min", "mean", "attention"],
    "maxout_sizes": [4],
    "maxout_classifier": True,
}

# A process in which the package is not installed. It imports torch and Transformers once; each job then runs in a copy
# of it, as it was after those imports, so that nothing one folder's code leaves behind helps the next.
WITHOUT_PACKAGE = """
import json, os, sys, traceback
sys.modules["elmo_hf"] = None  # as if it were not installed: importing it fails
import torch
import transformers.modeling_utils  # by far the longest import: before the copies
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer


def whole(folder, auto, again):
    auto = getattr(transformers, auto)
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    contexts = [["I see.", "Did they meet?"]] if auto is transformers.AutoModelForQuestionAnswering else []
    batch = tokenizer(["Ada met Grace.", "No"], *contexts, padding=True, return_tensors="pt")
    if auto is transformers.AutoModelForMultipleChoice:
        batch = {name: value.unsqueeze(0) for name, value in batch.items()}
    with torch.no_grad():
        values = model(**batch)[0]
    # What was loaded from code can be saved with it once more.
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    with torch.no_grad():
        second = auto.from_pretrained(again, trust_remote_code=True).eval()(**batch)[0]
    return {
        "type": type(model).__name__, "module": type(model).__module__.split(".")[:2], "values": values.tolist(),
        "second": second.tolist(), "ids": batch["input_ids"].flatten(0, -2).tolist(),
    }


def generated(folder, words):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    # With word ids alone, the model takes the characters from the folder's tokenizer.
    return model.generate(batch["input_ids"][:, :-1], max_new_tokens=3, do_sample=False).tolist()


def trained(folder, auto, again):
    # What Transformers' scripts call with --trust_remote_code.
    from transformers import (
        DataCollatorForMultipleChoice, DataCollatorForSeq2Seq, DataCollatorForTokenClassification,
        DataCollatorWithPadding, Seq2SeqTrainer, Seq2SeqTrainingArguments,
    )
    auto, classifies = getattr(transformers, auto), auto == "AutoModelForTokenClassification"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, **({"num_labels": 5} if classifies else {}))
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=True)
    model = auto.from_pretrained(folder, config=config, trust_remote_code=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    texts, writes = ("Mary", "Mary Mary", "Mary Mary Mary"), auto is transformers.AutoModelForSeq2SeqLM
    if auto is transformers.AutoModelForSequenceClassification:
        rows = [{**tokenizer(text), "label": len(text) % 2} for text in texts]
        collator = DataCollatorWithPadding(tokenizer)
    elif auto is transformers.AutoModelForMultipleChoice:
        rows = [{**tokenizer([text] * 2, [text, "Mary"]), "label": 1} for text in texts]
        collator = DataCollatorForMultipleChoice(tokenizer)
    elif auto is transformers.AutoModelForQuestionAnswering:
        rows = [dict(tokenizer("Mary", text, padding="max_length", max_length=9)) for text in texts]
        rows = [{**row, "start_positions": 4, "end_positions": 4} for row in rows]
        collator = transformers.default_data_collator
    else:
        rows = [dict(tokenizer(text)) for text in texts]
        rows = [{**row, "labels": [min(number, 4) for number in row["input_ids"]], "unused": 1} for row in rows]
        collator = DataCollatorForSeq2Seq(tokenizer, model) if writes else DataCollatorForTokenClassification(tokenizer)
    arguments = Seq2SeqTrainingArguments(
        again, max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", predict_with_generate=writes, generation_max_length=6,
    )
    trainer = (Seq2SeqTrainer if writes else transformers.Trainer)(
        model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator, processing_class=tokenizer,
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    trainer.model = auto.from_pretrained(again, trust_remote_code=True)
    again = transformers.Trainer(trainer.model, arguments, data_collator=collator).evaluate(rows)["eval_loss"]
    return {"type": type(model).__name__, "loss": loss, "again": again}


def tagged(folder, words, tags):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True).eval()
    batch = tokenizer(words, pos_tags=tags, is_split_into_words=True, padding=True, return_tensors="pt")
    return model(**batch)[0].tolist()


def characters(folder, text):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    row = tokenizer(text)
    module = type(tokenizer).__module__.split(".")[:2]
    return {"module": module, "ids": row["input_ids"], "characters": row["character_ids"].tolist()}


def answer(job):
    try:
        result = {"value": globals()[job["function"]](*job["arguments"])}
    except BaseException:
        result = {"error": traceback.format_exc()}
    with open(job["answer"], "w") as file:
        json.dump(result, file)


for job in json.load(sys.stdin):
    child = os.fork()
    if not child:
        answer(job)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        with open(job["answer"], "w") as file:
            json.dump({"error": f"ended with status {status}"}, file)
"""

ROWS = [
    (ElmoModel, "AutoModel", {}),
    (ElmoForPreTraining, "AutoModelForPreTraining", {}),
    (ElmoForCausalLM, "AutoModelForCausalLM", {}),
    (ElmoForCausalLM, "AutoModelForCausalLM", {**TRANSFORMER, "direction": "backward"}),
    (ElmoForCausalLM, "AutoModelForCausalLM", {**WORD_INPUT, "direction": "backward"}),
    (ElmoForMaskedLM, "AutoModelForMaskedLM", {}),
    (ElmoForTokenClassification, "AutoModelForTokenClassification", {}),
    (
        ElmoForSequenceClassification,
        "AutoModelForSequenceClassification",
        {"pooling": ["max", "attention"], "maxout_sizes": [3], "task_lstm_size": 2},
    ),
    (ElmoForMultipleChoice, "AutoModelForMultipleChoice", {}),
    (ElmoForQuestionAnswering, "AutoModelForQuestionAnswering", {"task_lstm_size": 2}),
    (ElmoForTokenClassification, "AutoModelForTokenClassification", PAPERS_TAGGER),
    (ElmoForTokenClassification, "AutoModelForTokenClassification", {"elmo_at": [], "word_vector_size": 3}),
    (ElmoForTokenClassification, "AutoModelForTokenClassification", ALLENNLP_TAGGER),
    (ElmoForSequenceClassification, "AutoModelForSequenceClassification", BCN),
    # Other tasks than the saved one: every class is in `auto_map`.
    (ElmoForTokenClassification, "AutoModel", {}),
    (ElmoForPreTraining, "AutoModelForPreTraining", {**WORD_INPUT, "tie_word_embeddings": True}),
    (ElmoForPreTraining, "AutoModelForPreTraining", {**BOTH_INPUTS, "context_word_layer": True}),
    (ElmoForSequenceClassification, "AutoModelForSequenceClassification", BOTH_INPUTS),
    (ElmoModel, "AutoModel", {**TRANSFORMER, "causal": False, "character_layer_norm": True}),
    (ElmoForPreTraining, "AutoModelForPreTraining", TRANSFORMER),
    (ElmoForTokenClassification, "AutoModelForTokenClassification", {**TRANSFORMER, **WORD_INPUT}),
]
CASES = {f"{row[0].__name__}{index}": row for index, row in enumerate(ROWS)}


def tagger_of_characters_and_tags() -> tuple[ElmoForTokenClassification, ElmoTokenizer]:
    tokenizer = ElmoTokenizer(
        max_characters_per_word=9,
        character_vocabulary=["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", *"中文kitab"],
        pos_tag_set=["NOUN", "VERB"],
    )
    config = tiny_config(**BOTH_INPUTS, num_pos_tags=2, num_characters=tokenizer.num_characters)
    return with_large_weights(ElmoForTokenClassification(config)).eval(), tokenizer


def language_model() -> tuple[ElmoForCausalLM, ElmoTokenizer]:
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, max_characters_per_word=9)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    return with_large_weights(ElmoForCausalLM(config)).eval(), tokenizer


def translator() -> tuple[ElmoEncoderDecoderModel, ElmoTokenizer]:
    _, tokenizer = language_model()
    decoder = BertGenerationConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    config = ElmoEncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config(vocab_size=len(tokenizer)), decoder, pad_token_id=0, decoder_start_token_id=1, eos_token_id=2
    )
    return ElmoEncoderDecoderModel(config), tokenizer


# The scripts of each: run_ner, run_glue and run_classification, run_swag, run_qa, run_mlm, run_clm; run_translation and
# run_summarization.
SCRIPTS = {
    "AutoModelForTokenClassification": language_model,
    "AutoModelForSequenceClassification": language_model,
    "AutoModelForMultipleChoice": language_model,
    "AutoModelForQuestionAnswering": language_model,
    "AutoModelForMaskedLM": language_model,
    "AutoModelForCausalLM": language_model,
    "AutoModelForSeq2SeqLM": translator,
}
VOCABULARY = ["<S>", "</S>", "<UNK>", "Mary"]
TAGGED = [["中文", "kitab"], ["字"]], [["NOUN", "VERB"], [None]]


class WithoutPackage:
    """Folders, and the answers of the other process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []
        self.models: dict[str, PreTrainedModel] = {}
        self.failures: dict[str, Exception] = {}

    def add(self, name: str, make: Callable[[], tuple], function: str, *arguments: Any) -> None:
        """Save a model or a tokenizer or both, under a name of their own: Transformers files their code by it."""
        torch.manual_seed(0)
        try:
            model, tokenizer = make()
            for each in filter(None, (model, tokenizer)):
                each.save_pretrained(self.folder / name)
        except Exception as error:
            self.failures[name] = error
            return
        self.models[name] = model
        arguments = (str(self.folder / name), *arguments)
        self.jobs.append({"function": function, "arguments": arguments, "answer": str(self.folder / f"{name}.json")})

    def run(self) -> None:
        empty = self.folder / "empty"
        empty.mkdir()
        environment = {**os.environ, "HF_HOME": str(self.folder / "home"), "PYTHONPATH": ""}
        self.process = run_python("-c", WITHOUT_PACKAGE, cwd=empty, env=environment, stdin=json.dumps(self.jobs))

    def answer(self, name: str) -> Any:
        if name in self.failures:
            raise self.failures[name]
        path = self.folder / f"{name}.json"
        assert self.process.returncode == 0 and path.is_file(), f"{name}: no answer\n{self.process.stderr}"
        result = json.loads(path.read_text())
        assert "error" not in result, result["error"]
        return result["value"]


def model_and_tokenizer(name: str) -> tuple[PreTrainedModel, ElmoTokenizer]:
    cls, _, overrides = CASES[name]
    return with_large_weights(cls(tiny_config(**overrides))).eval(), tokenizer_for(overrides)


def tokenizer_for(overrides: dict[str, Any]) -> ElmoTokenizer:
    code_points = ["A", "d", "e"] if "task_character_size" in overrides else None
    return ElmoTokenizer(max_characters_per_word=9, code_point_set=code_points)


@pytest.fixture(scope="module")
def without_package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WithoutPackage:
    """All jobs of the selected tests for the other process."""
    without_package = WithoutPackage(tmp_path_factory.mktemp("strangers"))
    asked = {value for item in request.session.items if (call := getattr(item, "callspec", None))
             for value in call.params.values() if isinstance(value, str)}  # fmt: skip
    for name, (_, auto, _) in CASES.items():
        if name in asked:
            again = str(without_package.folder / f"{name}Again")
            without_package.add(name, partial(model_and_tokenizer, name), "whole", auto, again)
    without_package.add("spelled", language_model, "generated", ["Mary"])
    for auto, make in SCRIPTS.items():
        if auto in asked:
            without_package.add(
                f"script{auto}", make, "trained", auto, str(without_package.folder / f"script{auto}Again")
            )
    without_package.add("tagged", tagger_of_characters_and_tags, "tagged", *TAGGED)
    without_package.add("alone", lambda: (None, ElmoTokenizer(vocab=VOCABULARY)), "characters", "Mary knows")
    without_package.run()
    return without_package


@pytest.mark.samples(3)
@pytest.mark.parametrize("name", CASES)
def test_loads_without_the_package(name, without_package):
    cls, auto, overrides = CASES[name]
    result = without_package.answer(name)
    assert not any(path.is_dir() for path in (without_package.folder / name).iterdir())
    assert result["type"] == AUTO_MAP[auto].split(".")[1]
    assert result["module"] == ["transformers_modules", name]
    contexts = [["I see.", "Did they meet?"]] if cls is ElmoForQuestionAnswering else []
    tokenizer = tokenizer_for(overrides)
    batch = tokenizer(["Ada met Grace.", "No"], *contexts, padding=True, return_tensors="pt")
    assert result["ids"] == batch["input_ids"].tolist()
    if cls is ElmoForMultipleChoice:
        batch = {name: value.unsqueeze(0) for name, value in batch.items()}
    model = without_package.models[name]
    expected = (model if auto != "AutoModel" or cls is ElmoModel else model.elmo)(**batch)[0]
    for found in (result["values"], result["second"]):
        torch.testing.assert_close(torch.tensor(found), expected, rtol=4e-6, atol=4e-6)


def test_a_dictionary_of_characters_and_a_tag_set_load_without_the_package(without_package):
    found = torch.tensor(without_package.answer("tagged"))
    _, tokenizer = tagger_of_characters_and_tags()
    words, tags = TAGGED
    batch = tokenizer(words, pos_tags=tags, is_split_into_words=True, padding=True, return_tensors="pt")
    torch.testing.assert_close(found, without_package.models["tagged"](**batch)[0], rtol=0, atol=1e-6)


def test_a_language_model_generates_without_the_package(without_package):
    _, tokenizer = language_model()
    model = without_package.models["spelled"]
    batch = tokenizer(["Mary"], is_split_into_words=True, return_tensors="pt")
    prompt = {name: value[:, :-1] for name, value in batch.items()}
    model.set_tokenizer(tokenizer)
    assert without_package.answer("spelled") == model.generate(**prompt, max_new_tokens=3, do_sample=False).tolist()


@pytest.mark.samples(1)
@pytest.mark.parametrize("auto", SCRIPTS)
def test_scripts_train_without_the_package(auto, without_package):
    """Trained, evaluated and saved by the Trainer; what was saved has the same loss."""
    result = without_package.answer(f"script{auto}")
    assert result["type"] == {**AUTO_MAP, "AutoModelForSeq2SeqLM": ".ElmoEncoderDecoderModel"}[auto].split(".")[1]
    assert result["again"] == pytest.approx(result["loss"], rel=1e-5)


def test_a_tokenizer_alone_loads_without_the_package(without_package):
    result = without_package.answer("alone")
    assert result["module"] == ["transformers_modules", "alone"]
    assert result["characters"] == [character_row(word, 50) for word in ("<S>", "Mary", "knows", "</S>")]
    tokenizer = ElmoTokenizer(vocab=VOCABULARY)
    assert result["ids"] == tokenizer.convert_tokens_to_ids(["<S>", "Mary", "<UNK>", "</S>"])


def test_registered_classes_need_no_trust(tmp_path):
    """With the package imported its own classes are used, and no code of the folder runs."""
    from transformers import AutoModel, AutoTokenizer

    ElmoModel(tiny_config()).save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    (tmp_path / "modeling_elmo.py").write_text("raise SystemExit('ran the code of a folder')")
    assert type(AutoModel.from_pretrained(tmp_path)) is ElmoModel
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ElmoTokenizer


def test_auto_map_names_every_registered_class():
    import importlib

    for auto, reference in AUTO_MAP.items():
        module, name = reference.split(".")
        assert getattr(importlib.import_module(f"elmo_hf.model.{module}"), name)._auto_class == auto
