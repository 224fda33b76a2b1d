"""Analysis of a biLM as in the paper: layer weights of tasks, and a word's nearest neighbors in its different senses.

Run it cell by cell in an editor that supports `# %%`, or as a script:

    python examples/plot_layers.py --task_models NER=tagger sentiment=classifier \\
        --model_name_or_path elmo-small --text_files text.txt --word play --output_dir figures

This draws Figure 2 and Table 4 of Peters et al. 2018 as PNG files, and writes their numbers as text.
"""

# %% Options
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from transformers import HfArgumentParser

from elmo_hf import ElmoModel, default_model, embed, neighbors
from elmo_hf.finetuning import option, run, write_figure, write_lines
from elmo_hf.hub import resolve
from elmo_hf.pretraining import open_corpus, word_splitter


@dataclass
class Arguments:
    task_models: list[str] = option([], "Fine-tuned models whose layer weights are drawn, as NAME=FOLDER.")
    model_name_or_path: str | None = option(None, "The biLM for neighbors (default: the shipped English model).")
    text_files: list[str] = option([], "Tokenized text, one sentence per line, to search for neighbors.")
    word: str | None = option(None, "The word, in either case.")
    queries: list[str] = option(
        [], "Tokenized sentences with the word, one per sense (default: two dissimilar ones of the text)."
    )
    neighbours: int = option(3, "Number of neighbors to show.")
    layers: Literal["mix", "top", "average"] = option(
        "top", "Layers to compare; according to the paper, the top layer separates senses best."
    )
    max_occurrences: int = option(2000, "Use at most this many occurrences of the text.")
    output_dir: str = option(".", "Where to write.")


# %% Layer weights of tasks (Figure 2)
class LayerWeights(NamedTuple):
    """The learned mix of a task model at one position: the layers' weights, which sum to one, and their scale."""

    task: str
    place: str
    shares: np.ndarray
    gamma: float


def layer_weights(task_models: Sequence[str]) -> list[LayerWeights]:
    """Layer weights of every model at every position where it reads ELMo.

    Raises:
        ValueError: an argument without a name, or a model that does not read ELMo.
    """
    found = []
    for argument in task_models:
        task, equals, folder = argument.partition("=")
        if not (task and equals and folder):
            raise ValueError(f"--task_models {argument}: expected NAME=FOLDER, such as NER=outputs/tagger")
        model = ElmoModel.from_pretrained(resolve(folder))
        # Mixes belong to positions in this order.
        places = [place for place in ("input", "output") if place in model.config.elmo_at]
        if not places:
            raise ValueError(f"--task_models {argument}: the model has no biLM (elmo_at=[]), hence no layer weights")
        for place, mix in zip(places, model.scalar_mixes):
            shares = mix.normalized_weights().detach().double().numpy()
            found.append(LayerWeights(task, place, shares, float(mix.gamma.detach())))
    return found


def layer_table(found: list[LayerWeights]) -> str:
    """Tab-separated table with one line per layer of each mix; layer 0 is the word layer."""
    lines = ["task\tplace\tgamma\tlayer\tshare"]
    for task, place, shares, gamma in found:
        lines += [f"{task}\t{place}\t{gamma:.4f}\t{layer}\t{share:.4f}" for layer, share in enumerate(shares)]
    return "\n".join(lines) + "\n"


def draw_layer_weights(found: list[LayerWeights]) -> Figure:
    """Draw one panel per position, one column per task, one row per layer, with the word layer at the bottom."""
    places = [place for place in ("input", "output") if any(each.place == place for each in found)]
    widest = max(sum(each.place == place for each in found) for place in places)
    figure = Figure(figsize=(2.5 + 1.3 * widest * len(places), 3.2), layout="constrained")
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    for panel, place in zip(panels, places, strict=True):
        columns = [each for each in found if each.place == place]
        count = max(len(each.shares) for each in columns)
        grid = np.full((count, len(columns)), np.nan)
        for number, each in enumerate(columns):
            grid[: len(each.shares), number] = each.shares
        image = panel.imshow(grid, vmin=0, vmax=1, cmap="Blues", origin="lower", aspect="auto")
        for (layer, number), share in np.ndenumerate(grid):
            if not np.isnan(share):
                panel.text(number, layer, f"{share:.2f}", ha="center", va="center", color="w" if share > 0.6 else "k")
        panel.set_xticks(range(len(columns)), [each.task for each in columns], rotation=30, ha="right")
        panel.set_yticks(range(count), ["words", *(f"biLM {layer}" for layer in range(1, count))])
        panel.set_title(f"ELMo at the {place}")
    figure.colorbar(image, ax=panels, label="share of the layer")
    return figure


# %% Neighbors of a word in different senses (Table 4)
class Occurrence(NamedTuple):
    """A word in its sentence."""

    words: list[str]
    place: int

    def text(self) -> str:
        return " ".join([*self.words[: self.place], f"[{self.words[self.place]}]", *self.words[self.place + 1 :]])


class Neighbors(NamedTuple):
    """Nearest neighbors of `source` with cosine similarities, nearest first."""

    source: str
    nearest: list[tuple[float, str]]


def occurrences(sentences: Iterable[str | list[str]], word: str) -> Iterator[Occurrence]:
    """Every occurrence of a word, in either case, in sentences that are not repeated."""
    seen = set()
    for sentence in sentences:
        words = sentence.split() if isinstance(sentence, str) else sentence
        sentence = " ".join(words)
        if sentence not in seen and word.lower() in map(str.lower, words):
            seen.add(sentence)
            yield from (Occurrence(words, n) for n, other in enumerate(words) if other.lower() == word.lower())


def unit_vectors(found: list[Occurrence], model: ElmoModel, layers: str) -> np.ndarray:
    """Vectors of the words in their sentences, scaled to length one: (occurrences, 2P)."""
    arrays = embed([each.words for each in found], model, layers=layers)
    vectors = np.stack([array[each.place] for array, each in zip(arrays, found, strict=True)])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def unlike_pair(vectors: np.ndarray) -> list[int]:
    """The two least similar occurrences, which probably have different senses."""
    first, second = np.unravel_index(np.argmin(vectors @ vectors.T), (len(vectors), len(vectors)))
    return [int(first), int(second)]


def neighbors_in_context(
    text: list[Occurrence], queries: list[Occurrence], model: ElmoModel, layers: str, count: int
) -> list[Neighbors]:
    """Nearest occurrences in other sentences for each query; by default, for two dissimilar occurrences of the text."""
    vectors = unit_vectors([*text, *queries], model, layers)
    of_text = vectors[: len(text)]
    chosen = range(len(text), len(vectors)) if queries else unlike_pair(of_text)
    found = []
    for index in chosen:
        source = [*text, *queries][index]
        similar = of_text @ vectors[index]
        order = [n for n in np.argsort(-similar) if text[n].words != source.words][:count]
        found.append(Neighbors(source.text(), [(float(similar[n]), text[n].text()) for n in order]))
    return found


def neighbors_without_context(text: list[Occurrence], word: str, model: ElmoModel, count: int) -> Neighbors:
    """Words of the same sentences with the nearest word-layer vectors: one list for all senses."""
    types = sorted({other for each in text for other in each.words if other.lower() != word.lower()})
    # The word layer does not depend on the sentence.
    found = neighbors(word, [word], [[each] for each in types], model, layers=0, count=count, each_usage=True)
    return Neighbors(f"[{word}] (word layer)", [(each.similarity, each.word) for each in found])


def neighbor_table(rows: list[Neighbors]) -> str:
    """Text table of each source and its neighbors with similarities."""
    return "\n".join(
        "\n".join([row.source, *(f"  {similarity:.3f}  {text}" for similarity, text in row.nearest)]) for row in rows
    )


def draw_neighbors(rows: list[Neighbors]) -> Figure:
    """Draw Table 4: sources on the left, neighbors on the right."""
    cells = [[textwrap.fill(row.source, 48)] for row in rows]
    for cell, row in zip(cells, rows, strict=True):
        cell.append("\n".join(textwrap.fill(f"{similarity:.2f} {text}", 72) for similarity, text in row.nearest))
    lines = [1, *(max(part.count("\n") for part in cell) + 1.6 for cell in cells)]
    figure = Figure(figsize=(12, 0.2 * sum(lines) + 0.2))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.axis("off")
    table = axes.table(
        cells, colLabels=["source", "nearest neighbors"], colWidths=[0.4, 0.6], cellLoc="left", bbox=(0, 0, 1, 1)
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row, _), cell in table.get_celld().items():
        cell.set_height(lines[row] / sum(lines))
        cell.PAD = 0.02
    return figure


# %% Both
def save(figure: Figure, text: str, path: Path) -> None:
    """Write `path.png` and `path.txt`, each of which appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path.with_name(path.name + ".png"))
    write_lines(path.with_name(path.name + ".txt"), [text])


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    output = Path(args.output_dir)
    if not args.task_models and args.word is None:
        raise ValueError("nothing to do: give --task_models, or --word and --text_files")
    if args.task_models:
        weights = layer_weights(args.task_models)
        save(draw_layer_weights(weights), layer_table(weights), output / "layer_weights")
    if args.word is not None:
        if not args.text_files:
            raise ValueError(f"--word {args.word} needs --text_files")
        text = list(
            islice(
                occurrences(map(word_splitter("whitespace"), open_corpus(args.text_files)), args.word),
                args.max_occurrences,
            )
        )
        if len(text) < 2:
            raise ValueError(f"--word {args.word}: {len(text)} occurrences in the text, expected several to compare")
        queries = list(occurrences(args.queries, args.word))
        if len(queries) < len(args.queries):
            raise ValueError(f"--queries: {len(args.queries)} sentences, {len(queries)} hold the word {args.word!r}")
        # The CPU is fast enough for the sentences of one word.
        model = ElmoModel.from_pretrained(resolve(args.model_name_or_path or default_model()))
        rows = [neighbors_without_context(text, args.word, model, args.neighbours)]
        rows += neighbors_in_context(text, queries, model, args.layers, args.neighbours)
        save(draw_neighbors(rows), neighbor_table(rows) + "\n", output / f"neighbours_{args.word}")


if __name__ == "__main__":
    run(main)
