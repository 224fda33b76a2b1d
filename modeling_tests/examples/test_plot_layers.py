"""`examples/plot_layers.py`: the layer weights that were set; neighbors by brute force over all occurrences."""

from pathlib import Path

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from examples import plot_layers
from examples.plot_layers import Occurrence, occurrences

SHAPE = {"character_filters": [[1, 4], [2, 8]], "max_characters_per_word": 12, "projection_size": 4, "cell_size": 6}
TEXT = [
    "the actors play Hamlet on stage",
    "a play by Ibsen",
    "a play by Ibsen",
    "children Play in the yard",
    "nothing of that word",
    "play after play after play",
    "they play football",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    model = ElmoModel(ElmoConfig(**SHAPE))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    ElmoTokenizer(max_characters_per_word=12).save_pretrained(path)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXT) + "\n")
    return path


def tagger(path: Path, mixes: list[list[float]], **fields: object) -> str:
    model = ElmoForTokenClassification(ElmoConfig(**SHAPE, **fields))
    with torch.no_grad():
        for mix, (*shares, gamma) in zip(model.elmo.scalar_mixes, mixes, strict=True):
            mix.weights[:] = torch.tensor(shares).log() + 3.0  # the softmax does not see the constant
            mix.gamma[:] = gamma
    model.save_pretrained(path)
    return str(path)


@pytest.mark.usefixtures("figures")
def test_layer_weights_of_tasks(tmp_path: Path) -> None:
    both = tagger(
        tmp_path / "ner", [[0.5, 0.2, 0.3, 1.5], [0.1, 0.1, 0.8, 2.0]], elmo_at=["input", "output"], task_lstm_size=3
    )
    one = tagger(tmp_path / "sentiment", [[0.25, 0.25, 0.25, 0.25, 1.0]], num_hidden_layers=3)
    arguments = [f"NER={both}", f"sentiment={one}"]
    plot_layers.main(["--task_models", *arguments, "--output_dir", str(tmp_path / "out")])
    lines = (tmp_path / "out" / "layer_weights.txt").read_text().splitlines()
    assert lines[0].split("\t") == ["task", "place", "gamma", "layer", "share"]
    expected = [
        *[("NER", "input", 1.5, layer, share) for layer, share in enumerate([0.5, 0.2, 0.3])],
        *[("NER", "output", 2.0, layer, share) for layer, share in enumerate([0.1, 0.1, 0.8])],
        *[("sentiment", "input", 1.0, layer, 0.25) for layer in range(4)],
    ]
    assert lines[1:] == [f"{t}\t{p}\t{g:.4f}\t{k}\t{share:.4f}" for t, p, g, k, share in expected]
    assert (tmp_path / "out" / "layer_weights.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert len(list((tmp_path / "out").iterdir())) == 2
    figure = plot_layers.draw_layer_weights(plot_layers.layer_weights(arguments))
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert set(panels) == {"ELMo at the input", "ELMo at the output"}
    (image,) = panels["ELMo at the input"].get_images()
    drawn = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(drawn[:, 0], [0.5, 0.2, 0.3, np.nan], atol=1e-6)
    np.testing.assert_allclose(drawn[:, 1], [0.25] * 4, atol=1e-6)


def test_occurrences_ignore_case_and_duplicate_sentences() -> None:
    found = list(occurrences(TEXT, "play"))
    assert [each.text() for each in found] == [
        "the actors [play] Hamlet on stage",
        "a [play] by Ibsen",
        "children [Play] in the yard",
        "[play] after play after play",
        "play after [play] after play",
        "play after play after [play]",
        "they [play] football",
    ]


@torch.no_grad()
def similarity(folder: Path, first: Occurrence, second: Occurrence, layer: int) -> float:
    model, tokenizer = ElmoModel.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    vectors = []
    for words, place in (first, second):
        batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        vectors.append(model(**batch, output_hidden_states=True).hidden_states[layer][0, place + 1])
    return float(torch.cosine_similarity(*vectors, dim=0))


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_neighbors_equal_brute_force(folder: Path, text: Path, tmp_path: Path) -> None:
    query = "we saw a play yesterday"
    argv = ["--model_name_or_path", str(folder), "--text_files", str(text), "--word", "play", "--neighbours", "4"]
    plot_layers.main([*argv, "--queries", query, "--output_dir", str(tmp_path / "out")])
    written = (tmp_path / "out" / "neighbours_play.txt").read_text().splitlines()
    assert (tmp_path / "out" / "neighbours_play.png").read_bytes().startswith(b"\x89PNG\r\n")
    everywhere = list(occurrences(TEXT, "play"))
    source = Occurrence(query.split(), 3)
    expected = sorted(((similarity(folder, source, each, 2), each.text()) for each in everywhere), reverse=True)[:4]
    start = written.index("we saw a [play] yesterday")
    found = [line.strip().split("  ", 1) for line in written[start + 1 :]]
    assert [context for _, context in found] == [context for _, context in expected]
    assert [float(value) for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    # The word layer: other words of those sentences, whatever the context.
    others = sorted({word for each in everywhere for word in each.words} - {"play", "Play"})
    alone = sorted(
        ((similarity(folder, Occurrence(["play"], 0), Occurrence([word], 0), 0), word) for word in others), reverse=True
    )[:4]
    assert written[0] == "[play] (word layer)"
    assert [line.split()[1] for line in written[1:5]] == [word for _, word in alone]


@pytest.mark.slow
def test_default_queries_are_the_two_least_similar_occurrences(folder: Path) -> None:
    found = list(occurrences(TEXT, "play"))
    rows = plot_layers.neighbors_in_context(found, [], ElmoModel.from_pretrained(folder), "top", 2)
    pairs = {(a.text(), b.text()): similarity(folder, a, b, 2) for n, a in enumerate(found) for b in found[n + 1 :]}
    assert len(rows) == 2
    assert {row.source for row in rows} == set(min(pairs, key=pairs.__getitem__))
    for row in rows:
        assert len(row.nearest) == 2
        of_same_sentence = row.source.replace("[", "").replace("]", "")
        assert all(text.replace("[", "").replace("]", "") != of_same_sentence for _, text in row.nearest)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to do: .*--task_models.*--word"),
        (["--task_models", "folder"], "--task_models folder: expected NAME=FOLDER"),
        (["--word", "play"], "--word play.*--text_files"),
        (["--word", "zebra", "MODEL"], "--word zebra: 0 "),
        (
            ["--word", "play", "MODEL", "--queries", "a play", "none"],
            "--queries: 2 sentences, 1 .*'play'",
        ),
    ],
)
def test_bad_options(folder: Path, text: Path, tmp_path: Path, more: list[str], message: str) -> None:
    model = ["--model_name_or_path", str(folder), "--text_files", str(text)]
    argv = [part for given in more for part in (model if given == "MODEL" else [given])]
    with pytest.raises(ValueError, match=message):
        plot_layers.main([*argv, "--output_dir", str(tmp_path)])


def test_a_model_without_elmo_has_no_layers(tmp_path: Path) -> None:
    ElmoForTokenClassification(ElmoConfig(**SHAPE, elmo_at=[], word_vector_size=4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"biLM \(elmo_at=\[\]\)"):
        plot_layers.layer_weights([f"baseline={tmp_path}"])
