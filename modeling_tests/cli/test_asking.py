"""info, fill, neighbours, senses, answer and translate, each on a tiny model."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoEncoderDecoderModel,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoModel,
    ElmoTokenizer,
    answer_question,
    embed,
    neighbors,
    senses,
)
from elmo_hf.cli import main
from modeling_tests.tiny import tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "sat", "on", "mat", ".", "a", "dog", "ran"]
LINES = ["the cat sat on the mat .", "a dog ran .", "the dog sat .", "a cat ran on a mat ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tokenizer = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    with_large_weights(ElmoForPreTraining(config), 0.3).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return str(path)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_info(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(["info", folder, "--json"], capsys))
    model = ElmoForPreTraining.from_pretrained(folder)
    assert found["architecture"] == "ElmoForPreTraining" and found["family"] == "biLSTM over characters"
    assert found["shape"]["vocabulary"] == model.config.vocab_size and found["shape"]["vector_size"] == 8
    weights = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers(recurse=True)}
    assert sum(found["parameters"].values()) == sum(
        value.numel() for name, value in model.state_dict().items() if name in weights
    )
    files = {each["name"]: each["what"] for each in found["files"]}
    assert files["config.json"] == "configuration of the model" and "?" not in files.values()
    text = printed(["info", folder], capsys)
    assert "'ptb'" in text and "CPU kernels" in text
    assert "torch" in printed(["info"], capsys)
    assert main(["info", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err


def test_fill(folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(printed(["fill", "the <mask> sat", "--model", folder, "--count", "3", "--json"], capsys))
    (gap,) = found["gaps"]
    assert len(gap) == 3 and {each["word"] for each in gap} <= set(WORDS)
    assert [each["probability"] for each in gap] == sorted((each["probability"] for each in gap), reverse=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the <mask> sat\na <mask> <mask> .\n"))
    lines = printed(["fill", "-", "--model", folder, "--count", "1"], capsys).splitlines()
    assert (
        lines[0] == "the <mask> sat" and lines[1].endswith(f"  {gap[0]['word']}") and lines[3:6:2] == ["gap 1", "gap 2"]
    )
    assert main(["fill", "the cat", "--model", folder]) == 1
    assert "<mask>" in capsys.readouterr().err


def test_neighbours(folder: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the definition, over all words of the corpus."""
    sentence = "the cat sat on the mat ."
    arguments = ["neighbours", "cat", text, "--in", sentence, "--model", folder, "--layers", "average"]
    found = json.loads(printed([*arguments, "--json", "--count", "40", "--each_usage"], capsys))["neighbours"]
    arrays = embed([line.split() for line in LINES], folder, layers="average")
    target = torch.tensor(arrays[0][1])
    expected = sorted(
        (
            (torch.cosine_similarity(torch.tensor(vector), target, dim=0).item(), words, place)
            for words, array in zip([line.split() for line in LINES], arrays)
            for place, vector in enumerate(array)
        ),
        reverse=True,
    )
    assert [each["similarity"] for each in found] == pytest.approx(
        [similarity for similarity, *_ in expected], abs=1e-5
    )
    assert (found[0]["words"], found[0]["place"]) == (expected[0][1], expected[0][2]) == (sentence.split(), 1)
    lines = printed(arguments, capsys).splitlines()
    assert lines[0].split() == ["1.000", "cat", "the", "[cat]", "sat", "on", "the", "mat", "."]
    assert len({line.split()[1] for line in lines}) == len(lines) == 9
    assert main([*arguments[:3], "--in", "a dog", "--model", folder]) == 1
    assert "word='cat'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="layers='all'"):
        neighbors("cat", "a cat", [], folder, layers="all")


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_senses(folder: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    other = tmp_path / "other.txt"
    other.write_text("on a dog .\nDog dog ran\n", encoding="utf-8")
    plot = tmp_path / "dog.svg"
    arguments = ["senses", "dog", text, str(other), "--model", folder]
    found = json.loads(printed([*arguments, "--count", "2", "--plot", str(plot), "--json"], capsys))
    assert found["usages"] == 5 and [sum(sense["counts"].values()) for sense in found["senses"]] in ([4, 1], [3, 2])
    examples = [example for sense in found["senses"] for example in sense["examples"]]
    assert len(examples) >= 2 and all("[dog]" in example.lower() for example in examples)
    assert b"<svg" in plot.read_bytes()
    # The distances, by their definitions.
    words = [line.split() for line in [*LINES, "on a dog .", "Dog dog ran"]]
    arrays = [torch.nn.functional.normalize(torch.tensor(array), dim=1) for array in embed(words, folder)]
    first, second = torch.stack([arrays[1][1], arrays[2][1]]), torch.stack([arrays[4][2], arrays[5][0], arrays[5][1]])
    pairs = [1 - torch.dot(one, each).item() for one in first for each in second]
    (change,) = found["changes"]
    assert change["average_pairwise_distance"] == pytest.approx(sum(pairs) / 6, abs=1e-5)
    prototypes = torch.cosine_similarity(first.mean(0), second.mean(0), dim=0).item()
    assert change["prototype_distance"] == pytest.approx(1 - prototypes, abs=1e-5)
    assert "average pairwise distance" in printed([*arguments, "--match_case"], capsys)
    assert main(["senses", "unicorn", text, "--model", folder]) == 1
    assert "word='unicorn'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="count=4"):
        senses("dog", {"one": [line.split() for line in LINES]}, folder, count=4)


def test_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = with_large_weights(ElmoForQuestionAnswering(tiny_config()), 0.3)
    model.save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    context, questions = "The bell was cast in 1782 .", ["When ?", "What was cast ?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(context))
    output = printed(["answer", *questions, "--text", "-", "--model", str(tmp_path), "--count", "2", "--json"], capsys)
    expected = answer_question(str(tmp_path), None, questions, context, n_best=2)
    for line, question, answers in zip(output.splitlines(), questions, expected, strict=True):
        found = json.loads(line)
        assert found["question"] == question
        assert [each["text"] for each in found["answers"]] == [answer.text for answer in answers]
        assert len(found["answers"]) == 2 and all(each["text"] in context for each in found["answers"])
    assert main(["answer", "When ?", "--text", str(tmp_path / "absent"), "--model", str(tmp_path)]) == 1
    assert "absent" in capsys.readouterr().err


@pytest.mark.slow
def test_translate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for lines, the same as one by one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import EncoderDecoderConfig, GPT2Config, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "ein", "Hund", "die", "Katze"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    target = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    target.save_pretrained(tmp_path / "target_tokenizer")
    torch.manual_seed(0)
    decoder = GPT2Config(vocab_size=7, n_embd=8, n_layer=1, n_head=2, n_positions=12, add_cross_attention=True)
    decoder.is_decoder = True
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config(), decoder, decoder_start_token_id=1, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = ElmoEncoderDecoderModel(config, encoder=ElmoModel(ElmoConfig.from_dict(config.encoder.to_dict())))
    model.generation_config.max_new_tokens = 4
    with_large_weights(model, 0.5).save_pretrained(tmp_path)
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    tokenizer.save_pretrained(tmp_path)
    lines = ["a dog ran .", "", "the cat", "a cat sat on the mat ."]
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    arguments = ["translate", str(tmp_path / "text.txt"), "--model", str(tmp_path)]
    found = printed(arguments, capsys).split("\n")
    loaded = ElmoEncoderDecoderModel.from_pretrained(tmp_path).eval()
    for line, translated in zip(lines, found, strict=False):
        ids = loaded.generate(**tokenizer([line], return_tensors="pt"))
        expected = " ".join(target.batch_decode(ids, skip_special_tokens=True)[0].split())
        assert translated == (expected if line else "")
    assert len(found) == 5
    output = tmp_path / "out.txt"
    assert main([*arguments, "--output", str(output), "--batch_words", "6"]) == 0
    assert output.read_text(encoding="utf-8").split("\n") == found
    assert main(["translate", str(tmp_path / "text.txt"), "--model", str(tmp_path / "target_tokenizer")]) == 1
