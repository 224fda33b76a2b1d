"""Model cards: a template filled with facts read from the folder and facts given by the model's author."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from elmo_hf.atomic import write_text
from elmo_hf.folders import stored_shapes
from elmo_hf.version import __version__

from .errors import HubError
from .files import CARD, read_settings, traveling_code

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PIPELINES = {
    "ElmoModel": "feature-extraction",
    "ElmoForPreTraining": "fill-mask",
    "ElmoForMaskedLM": "fill-mask",
    "ElmoForCausalLM": "text-generation",
    "ElmoForTokenClassification": "token-classification",
    "ElmoForSequenceClassification": "text-classification",
    "ElmoForQuestionAnswering": "question-answering",
    "ElmoForMultipleChoice": "multiple-choice",
    "ElmoEncoderDecoderModel": "translation",
}
# The line of the card's example code that names the model: the folder, or the repository once it is on the Hub.
_NAME_LINE = re.compile(r'^name = ".*"  # this model$', re.MULTILINE)
_VERIFIED = re.compile(r"(?<=<!-- verified -->\n).*?(?=\n<!-- /verified -->)", re.DOTALL)
ENGLISH = ("The bank closed early.", "What closed?")
_CODES = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual")


@dataclass(frozen=True)
class SourceFile:
    """A source file of a converted model.

    Attributes:
        name: File name without folders.
        size: Size in bytes.
        sha256: Hash of its content, in hexadecimal digits.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """A score of the model, for `model-index`.

    Attributes:
        metric: Name of the metric, such as `f1`.
        value: The score.
        dataset: Name of the data on the Hub, or of a file.
        split: Split of the data.
        shown: Display name of the metric.
    """

    metric: str
    value: float
    dataset: str
    split: str
    shown: str | None = None


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Facts about a model that its folder does not contain.

    Attributes:
        name: Name of the model.
        summary: A sentence or two, in Markdown.
        place: Name that the card's code loads before the model is pushed, if not `name`: the folder's name.
        license: Hub identifier, such as `apache-2.0`; `unknown` if the authors state none.
        language: Language codes, such as `en`.
        base_model: Hub name of the model it was made from.
        datasets: Hub names of the training data.
        tags: Tags in addition to `elmo`.
        source: Files it was converted from.
        source_url: URL at which its authors publish them.
        verified: A sentence about the comparison with the source.
        training: Rows of the table about training data and size.
        results: Scores.
        settings: Rows of the table of program settings.
        notes: Sentences about the model.
        curves: File name of a figure in the folder.
        versions: A line with the versions of the programs used.
        citations: BibTeX entries that replace the family's.
    """

    name: str
    summary: str
    place: str | None = None
    license: str | None = None
    language: Sequence[str] = ()
    base_model: str | None = None
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    source: Sequence[SourceFile] = ()
    source_url: str | None = None
    verified: str | None = None
    training: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[Result] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    curves: str | None = None
    versions: str = ""
    citations: Sequence[str] = ()


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write the card of a complete model folder and return its path.

    Raises:
        HubError: the folder holds no model, or a fact has a form that the Hub does not accept.
    """
    config = read_settings(folder / "config.json")
    tokenizer = read_settings(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    architecture = str((config.get("architectures") or ["ElmoModel"])[0])
    task = PIPELINES.get(architecture, "feature-extraction")
    is_english = "en" in facts.language
    card = ModelCard.from_template(
        ModelCardData(
            language=list(facts.language) or None,
            license=facts.license,
            library_name="transformers",
            pipeline_tag=task,
            tags=["elmo", *facts.tags],
            datasets=list(facts.datasets) or None,
            base_model=facts.base_model,
            widget=_widgets(task, tokenizer) if is_english else None,
            model_name=facts.name if facts.results else None,
            eval_results=[
                EvalResult(
                    task_type=task,
                    dataset_type=result.dataset,
                    dataset_name=result.dataset,
                    dataset_split=result.split,
                    metric_type=result.metric,
                    metric_name=result.shown,
                    metric_value=round(result.value, 6),
                )
                for result in facts.results
            ]
            or None,
        ),
        template_path=str(TEMPLATE),
        facts=facts,
        config=config,
        task=task,
        architecture=architecture,
        rows=_shape(folder, config, architecture),
        travels=bool(traveling_code(folder)),
        pos_tag_set=tokenizer.get("pos_tag_set"),
        text=ENGLISH[0],
        question=ENGLISH[1],
        mask=_token(tokenizer, "mask_token", "<mask>"),
        made_by=facts.versions or f"elmo_hf {__version__}",
    )
    text = str(card)
    check_metadata(folder / CARD, text)
    write_text(folder / CARD, text)
    return folder / CARD


def add_facts(
    folder: Path,
    *,
    name: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> str:
    """Add facts to a folder's card, creating it if there is none, and return the card's text.

    Args:
        folder: A model's folder.
        name: Name of the model in a new card; by default the folder's name.
        license: Hub identifier; `other` also needs `license_name`.
        license_name: Name of a license without Hub identifier.
        language: Language codes.
        datasets: Hub names of the training data.

    Raises:
        HubError: no model, no readable card, or a fact in a form that the Hub does not accept.
    """
    if not folder.is_dir():
        raise HubError(f"{folder}: no such folder")
    if not (folder / CARD).is_file():
        write_card(folder, CardFacts(name=name or folder.absolute().name, summary="A model of the ELMo family."))
    card = _read(folder / CARD)
    for key, value in (("license", license), ("license_name", license_name)):
        if value is not None:
            setattr(card.data, key, value)
    for key, values in (("language", language), ("datasets", datasets)):
        if values:
            setattr(card.data, key, list(values))
    if "en" in (card.data.get("language") or ()) and not card.data.get("widget"):
        tokenizer = folder / "tokenizer_config.json"
        task = card.data.get("pipeline_tag") or ""
        if widgets := _widgets(task, read_settings(tokenizer) if tokenizer.is_file() else {}):
            card.data["widget"] = widgets
    text = str(card)
    check_metadata(folder / CARD, text)
    write_text(folder / CARD, text)
    return text


def note_verification(folder: Path, sentence: str) -> None:
    """Write the result of a comparison with the source into a card that has a section for it."""
    path = folder / CARD
    if path.is_file() and _VERIFIED.search(text := path.read_text(encoding="utf-8")):
        write_text(path, _VERIFIED.sub(lambda _: sentence, text, count=1))


def with_name(folder: Path, name: str) -> str:
    """The text of a folder's card, with code that loads the model by its Hub name.

    Raises:
        HubError: there is none.
    """
    path = folder / CARD
    if not path.is_file():
        raise HubError(
            f"{folder}: has no card ({CARD}): elmo-hub card {folder.name} --license LICENSE --language CODE writes one"
        )
    return _NAME_LINE.sub(f'name = "{name}"  # this model', path.read_text(encoding="utf-8"))


def check_card(folder: Path, text: str) -> str:
    """Return the card's text if it has everything needed for publishing.

    Raises:
        HubError: something is missing; the message names it, and the command that adds it.
    """
    path = folder / CARD
    data = check_metadata(path, text)
    missing = [name for name in ("license", "language") if not data.get(name)]
    if data.get("license") == "other" and not data.get("license_name"):
        missing.append("license_name")
    if missing:
        options = " ".join(f"--{name} {_EXAMPLES[name]}" for name in missing)
        raise HubError(f"{path}: the card lacks {' and '.join(missing)}: elmo-hub card {folder.name} {options}")
    return text


_EXAMPLES = {"license": "apache-2.0", "language": "en", "license_name": "NAME"}


def check_metadata(path: Path, text: str) -> dict[str, Any]:
    """The metadata of a card.

    Raises:
        HubError: not YAML, or values in a form that the Hub does not accept.
    """
    try:
        data = ModelCard(text).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise HubError(f"{path}: its metadata cannot be read: {' '.join(str(error).split())}") from error
    language = data.get("language") or []
    for code in [language] if isinstance(language, str) else language:
        if not isinstance(code, str) or not _CODES.fullmatch(code):
            raise HubError(f"{path}: language {code!r}: expected a code such as en, de or zh (in quotes: 'no')")
    license = data.get("license")
    if license is not None and (not isinstance(license, str) or not re.fullmatch(r"[a-z0-9.+-]+", license)):
        raise HubError(f"{path}: license {license!r}: expected an identifier such as apache-2.0, cc-by-4.0 or other")
    return data


def file_name_only(value: Any) -> Any:
    """Strip the folders from a path, so that a card does not reveal them; return other values unchanged.

    A value such as `owner/name` counts as a path only if the file exists; otherwise it is a Hub name.
    """
    if isinstance(value, list | tuple):
        return [file_name_only(each) for each in value]
    if isinstance(value, dict):
        return {key: file_name_only(each) for key, each in value.items()}
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not re.search(r"[/\\]", value) or "://" in value or "\n" in value:
        return value
    is_path = (
        re.match(r"[/\\~.]|[A-Za-z]:[/\\]", value) is not None
        or os.path.exists(value)
        or re.search(r"[*?\[]", value) is not None
        or value.count("/") > 1
        or "\\" in value
    )
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value


def hub_names(values: Sequence[str]) -> list[str]:
    """Values that name data sets on the Hub rather than files."""
    return [
        value
        for value in values
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", value) and file_name_only(value) == value and not os.path.exists(value)
    ]


def _widgets(task: str, tokenizer: Mapping[str, Any]) -> list[dict[str, str]] | None:
    text, question = ENGLISH
    if task == "question-answering":
        return [{"text": question, "context": text}]
    if task == "fill-mask":
        return [{"text": text.replace("early", _token(tokenizer, "mask_token", "<mask>"))}]
    return None if task in ("multiple-choice", "translation") else [{"text": text}]


def _token(tokenizer: Mapping[str, Any], name: str, default: str) -> str:
    value = tokenizer.get(name)
    return str(value.get("content", default)) if isinstance(value, dict) else str(value or default)


def _shape(folder: Path, config: Mapping[str, Any], architecture: str) -> dict[str, str]:
    """Rows of the table about the model's architecture."""
    values: Mapping[str, Any] = config.get("encoder") or config
    rows = {"class": f"`{architecture}`"}
    with suppress(ValueError):  # damaged weights, which are not counted
        if parameters := sum(map(math.prod, stored_shapes(folder).values())):
            rows["parameters"] = f"{parameters:,}"
    if values.get("elmo_at") != []:
        rows |= _shape_of_bilm(values)
    if values.get("word_vector_size"):
        rows["word vectors of the task"] = f"{values.get('vocab_size'):,} rows of {values['word_vector_size']}"
    if values.get("task_lstm_size"):
        layers = values.get("task_lstm_layers")
        rows["biLSTM of the task"] = f"{layers} layers, {values['task_lstm_size']} in each direction"
    labels = config.get("tag_names") or list((config.get("id2label") or {}).values())
    if labels and architecture.endswith(("TokenClassification", "SequenceClassification")):
        shown = ", ".join(f"`{label}`" for label in labels[:20])
        rows["labels"] = shown if len(labels) <= 20 else f"{shown} and {len(labels) - 20} more"
    return rows


def _shape_of_bilm(values: Mapping[str, Any]) -> dict[str, str]:
    rows, depth, width = {}, values.get("num_hidden_layers"), values.get("projection_size")
    if values.get("encoder_type") == "transformer":
        rows["encoder"] = (
            f"Transformer, {depth} layers a direction, {values.get('num_attention_heads')} heads, feed-forward "
            f"{values.get('feed_forward_size')}"
        )
    else:
        sides = "both directions" if values.get("bidirectional", True) else "forward only"
        rows["encoder"] = f"LSTM, {depth} layers, {sides}, cell {values.get('cell_size')}"
    rows["output of a direction"] = str(width)
    if filters := values.get("character_filters"):
        count = sum(pair[1] for pair in filters)
        rows["characters"] = f"{count} filters, {values.get('num_highway_layers')} highway layers"
    if values.get("word_embedding_size"):
        rows["table of words"] = f"{values.get('vocab_size'):,} rows of {values['word_embedding_size']}"
    return rows


def _read(path: Path) -> ModelCard:
    check_metadata(path, text := path.read_text(encoding="utf-8"))
    return ModelCard(text)


def json_settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Rows of settings, with file names instead of paths."""
    return {name: json.dumps(file_name_only(value), ensure_ascii=False) for name, value in values.items()}
