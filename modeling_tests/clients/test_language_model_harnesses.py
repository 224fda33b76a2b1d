"""minicons and lm-evaluation-harness read an unmodified language model.

They need an environment of their own: `make clients`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import elmo_hf
from elmo_hf import ElmoForCausalLM, ElmoTokenizer
from modeling_tests.tiny import TRANSFORMER, WORD_INPUT, tiny_config, with_large_weights

# Minimal pairs in BLiMP's form; some words are not in the vocabulary.
PAIRS = [
    ("The cats sleep.", "The cats sleeps."),
    ("A dog that likes the cats sleeps.", "A dog that likes the cats sleep."),
    ("The zebra sleeps.", "The zebra sleep."),
    ("Dogs like it.", "Dogs likes it."),
]
WORDS = "The A a the cat cats dog dogs Dogs that like likes sleep sleeps it .".split()
KINDS = {"characters": {}, "words": WORD_INPUT, "Transformer": TRANSFORMER}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, or the one in `$ELMO_LANGUAGE_MODEL`."""
    given = os.environ.get("ELMO_LANGUAGE_MODEL")
    if given is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *WORDS], max_characters_per_word=9)
    ids = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id}
    with_large_weights(ElmoForCausalLM(tiny_config(**ids, **KINDS[request.param]))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """The pairs above, or the first of each kind of the BLiMP file in `$ELMO_BLIMP` (JSON lines: uid, good, bad)."""
    given = os.environ.get("ELMO_BLIMP")
    if given is None:
        return PAIRS
    import lzma

    chosen: dict[str, list[tuple[str, str]]] = {}
    opener = lzma.open if given.endswith(".xz") else open
    with opener(given, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            of_kind = chosen.setdefault(record["uid"], [])
            if len(of_kind) < int(os.environ.get("ELMO_BLIMP_PAIRS", "3")):
                of_kind.append((record["good"], record["bad"]))
    return [pair for of_kind in chosen.values() for pair in of_kind]


def own_scores(folder: Path, sentences: list[str], end: bool) -> np.ndarray:
    """log P(sentence) of the forward direction, with or without its end."""
    scores = elmo_hf.score(sentences, folder, device="cpu", dtype=torch.float32, per_word=True, progress=False)
    words = [each.forward_log_probs for each in scores.sentences]
    return np.array([sum(each if end else each[:-1]) for each in words])


def test_minicons(folder: Path, pairs: list[tuple[str, str]]) -> None:
    scorer = pytest.importorskip("minicons.scorer").IncrementalLMScorer(str(folder), "cpu")
    sentences = [sentence for pair in pairs for sentence in pair]
    found = []
    for start in range(0, len(sentences), 16):
        found += scorer.sequence_score(sentences[start : start + 16], reduction=lambda each: each.sum().item())
    np.testing.assert_allclose(found, own_scores(folder, sentences, end=True), rtol=1e-5, atol=1e-5)
    # `distribution` passes word ids only.
    assert scorer.distribution(scorer.prepare_text(["The cats"])).shape[-1] == scorer.model.config.vocab_size


def test_lm_evaluation_harness(folder: Path, pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    """The harness passes word ids only, so words outside the vocabulary are read as `<UNK>`."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    data = tmp_path / "pairs.jsonl"
    records = [{"sentence_good": good, "sentence_bad": bad} for good, bad in pairs]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "pairs.yaml").write_text(
        f"""
task: local_pairs
dataset_path: json
dataset_kwargs: {{data_files: {{train: {data}}}}}
output_type: multiple_choice
validation_split: train
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
num_fewshot: 0
metric_list: [{{metric: acc}}]
"""
    )
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=["local_pairs"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        batch_size=8,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["local_pairs"], key=lambda each: each["doc_id"])
    found = np.array([[float(answer[0][0]) for answer in each["resps"]] for each in samples])
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    known = tokenizer.get_vocab()
    sentences = [
        [word if word in known else tokenizer.unk_token for word, _ in tokenizer.words(sentence)]
        for pair in pairs
        for sentence in pair
    ]
    expected = own_scores(folder, sentences, end=False).reshape(-1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    accuracy = np.mean(found.argmax(axis=1) == 0)  # of equal scores, as if all words are unknown, the first one counts
    assert results["results"]["local_pairs"]["acc,none"] == pytest.approx(accuracy)


def test_lm_evaluation_harness_generates(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)
    options = {"until": ["."], "max_gen_toks": 3}
    requests = [Instance("generate_until", {}, (text, options), 0) for text in ("The cats", "A dog that")]
    assert all(isinstance(text, str) for text in model.generate_until(requests))
