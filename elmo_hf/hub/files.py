"""Selection of a model folder's files for publishing: an allow-list, checked for local paths and tokens."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elmo_hf.model.configuration_elmo import AUTO_MAP
from elmo_hf.model.configuration_encoder_decoder import AUTO_MAP as TRANSLATOR_AUTO_MAP

from .errors import HubError

CARD = "README.md"
WEIGHTS = re.compile(r"model(\.[\w-]+)?(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(\.[\w-]+)?\.json")
# The tokenizer of a translator's target language is in a subfolder.
_TOKENIZER = r"(tokenizer|tokenizer_config|character_vocabulary|special_tokens_map)\.json"
ALLOWED = re.compile(
    rf"{WEIGHTS.pattern}|config\.json|generation_config\.json|(target_tokenizer/)?{_TOKENIZER}"
    r"|README\.md|LICENSE(\.txt|\.md)?|NOTICE(\.txt|\.md)?"
    r"|(all|train|eval|test)_results\.json|metrics\.jsonl|training_curves?\.png"
)
# Auto classes that load a model from its own code, by `model_type`.
AUTO_MAPS: Mapping[str, Mapping[str, str]] = {"elmo": AUTO_MAP, "encoder-decoder": TRANSLATOR_AUTO_MAP}
ENTRY_POINTS = (
    "configuration_elmo",
    "configuration_encoder_decoder",
    "modeling_elmo",
    "encoder_decoder",
    "tokenization_elmo",
)
# Vocabularies may contain any word, even a path, so they are not checked.
_WORDS = re.compile(r"(.*/)?(tokenizer|character_vocabulary)\.json")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_HOMES = re.compile(r"(?<![\w.:/-])(/(home|Users|root)/[\w.-]+|[A-Za-z]:\\\\?Users\\\\?[\w.-]+)")


def traveling_code(folder: Path) -> set[str]:
    """Names of the code files that belong to a checkpoint of any version: its entry points and their imports.

    The suffix alone is not enough: the folder may also hold a user's training script.
    """
    found: set[str] = set()
    names = list(ENTRY_POINTS)
    while names:
        path = folder / f"{names.pop()}.py"
        if path.name not in found and path.is_file():
            found.add(path.name)
            names += re.findall(r"^\s*from \.(\w+) import", path.read_text("utf-8", errors="replace"), re.MULTILINE)
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """Read the object of a JSON file.

    Raises:
        HubError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HubError(f"{path}: cannot be read ({error.strerror}): expected the folder of a saved model") from error
    except ValueError as error:
        raise HubError(f"{path}: damaged ({error}): save the model again") from error
    if not isinstance(values, dict):
        raise HubError(f"{path}: expected a JSON object: save the model again")
    return values


def publishable(folder: Path) -> dict[str, Path | bytes]:
    """Files to publish by their name in the repository: paths, and configurations with a completed `auto_map`.

    Raises:
        HubError: no model, no weights, incomplete code, or a file that contains a local path or a token.
    """
    if not folder.is_dir():
        raise HubError(f"{folder}: no such folder")
    config = read_settings(folder / "config.json")
    whole = AUTO_MAPS.get(config.get("model_type", ""))
    if whole is None:
        raise HubError(
            f"{folder / 'config.json'}: model_type is {config.get('model_type')!r}, expected {' or '.join(AUTO_MAPS)}"
        )
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    code = traveling_code(folder)
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    files: dict[str, Path | bytes] = {
        name: path for name, path in names.items() if ALLOWED.fullmatch(name) or name in code
    }
    _check_weights_are_there(folder, set(files))
    if code:
        for name in ("config.json", "tokenizer_config.json"):
            if name in files:
                files[name] = _with_whole_auto_map(folder / name, whole, code)
    for name, content in files.items():
        _check_private(folder, name, content)
    return files


def _check_weights_are_there(folder: Path, names: set[str]) -> None:
    weights = {name for name in names if WEIGHTS.fullmatch(name)}
    if not weights:
        raise HubError(f"{folder}: holds no weights (model.safetensors): save the model with save_pretrained")
    for name in weights:
        if name.endswith(".json"):
            mapping = read_settings(folder / name).get("weight_map")
            shards = set(mapping.values()) if isinstance(mapping, dict) else set()
            if lacking := sorted(map(str, shards - names)):
                raise HubError(f"{folder / name}: names {lacking[0]}, which is not there: save the model again")


def _with_whole_auto_map(path: Path, whole: Mapping[str, str], code: set[str]) -> Path | bytes:
    """The file, or its content with every Auto class whose code is in the folder added to `auto_map`."""
    values = read_settings(path)
    present = dict(values.get("auto_map") or {})
    if path.name == "tokenizer_config.json":
        wanted: dict[str, Any] = {"AutoTokenizer": ["tokenization_elmo.ElmoTokenizer", None]}
        wanted = wanted if values.get("tokenizer_class") == "ElmoTokenizer" else {}
    else:
        # The code may be of a version with fewer classes.
        wanted = {auto: home for auto, home in whole.items() if _is_defined(path.parent, home)}
    for home in [home for value in present.values() for home in (value if isinstance(value, list) else [value])]:
        module = str(home or "").rpartition("--")[2].split(".")[0]
        if home and f"{module}.py" not in code:
            raise HubError(f"{path}: auto_map names {home}, whose code is not in the folder: save the model again")
    # Prefixes of another repository are dropped, because the code is in this folder.
    if present == wanted or not wanted:
        return path
    values["auto_map"] = wanted
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _is_defined(folder: Path, home: str) -> bool:
    module, _, name = home.partition(".")
    path = folder / f"{module}.py"
    return path.is_file() and re.search(rf"\b{name}\b", path.read_text("utf-8", errors="replace")) is not None


def _check_private(folder: Path, name: str, content: Path | bytes) -> None:
    """Raise `HubError` for a text file that contains a local path or a Hub token."""
    if not name.endswith((".json", ".jsonl", ".md", ".py", ".txt")) or _WORDS.fullmatch(name):
        return
    text = (content.read_bytes() if isinstance(content, Path) else content).decode("utf-8", errors="replace")
    ours = (Path.home(), Path.cwd(), folder.absolute(), folder.resolve())
    places = {str(path) for path in ours if len(path.parts) > 1}
    for number, line in enumerate(text.splitlines(), 1):
        if _TOKEN.search(line):
            raise HubError(f"{folder / name}: line {number} holds a token of the Hub: remove it, and revoke the token")
        shown = next((place for place in sorted(places) if re.search(rf"{re.escape(place)}(?![\w.-])", line)), None)
        found = _HOMES.search(line)
        if shown is None and found is not None and not name.endswith(".py"):
            shown = found[0]
        if shown is not None:
            raise HubError(
                f"{folder / name}: line {number} names {shown}, a folder of this machine: keep the file's own name only"
            )
