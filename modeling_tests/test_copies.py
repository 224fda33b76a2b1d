"""Copies of the code in one process: that of a checkpoint's folder, and the installed package.

A process each for the package absent, installed but not imported, imported before and imported after the model; folders
saved by this version and by the last one before the rooms, from a local folder and from the Hub's cache.
"""

import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.old_code import OLD_CODE, remove_old_code
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer as Tokenizer

from .forking import run_python
from .tiny import tiny_config, with_large_weights

ROOT = Path(__file__).resolve().parent.parent
OLD_FOLDER = ROOT / "modeling_tests" / "data" / "folder_before_rooms.tar.xz"
MODES = ("absent", "installed", "imported before", "imported after")
LAYOUTS = ("local", "hub")
TEXTS = ["Ada met Grace.", "No"]

READER = """
import json, os, sys, traceback
mode, jobs = sys.argv[1], json.load(sys.stdin)
if mode == "absent":
    sys.modules["elmo_hf"] = None
if mode == "imported before":
    import elmo_hf
import torch
import transformers.modeling_utils
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline


def read(name, again):
    model = AutoModelForTokenClassification.from_pretrained(name, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
    origin = type(model).__module__.split(".")[0]
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    found = {
        "origin": origin, "logits": logits.tolist(), "imported": bool(sys.modules.get("elmo_hf")),
        "next_origin": type(AutoModelForTokenClassification.from_pretrained(name, trust_remote_code=True)).__module__,
        "tags": len(pipeline("token-classification", model=model, tokenizer=tokenizer)(TEXTS[0])),
    }
    if mode.startswith("imported"):
        import elmo_hf
        try:
            found["embedded"] = [each.tolist() for each in elmo_hf.embed(TEXTS, model, tokenizer)]
        except TypeError as error:
            found["refused"] = str(error)
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    second = AutoModelForTokenClassification.from_pretrained(again, trust_remote_code=True).eval()
    with torch.no_grad():
        found["second"] = second(**batch).logits.tolist()
    return found


TEXTS = jobs.pop("texts")
for name, (again, answer) in jobs.items():
    child = os.fork()
    if not child:
        try:
            result = read(name, again)
        except BaseException:
            result = {"error": traceback.format_exc()}
        with open(answer, "w") as file:
            json.dump(result, file)
        os._exit(0)
    os.waitpid(child, 0)
"""


def put_into_hub_cache(folder: Path, cache: Path, name: str) -> None:
    """Lay a folder out as `huggingface_hub` keeps a download."""
    repository, revision = cache / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders saved by the current (`new`) and an earlier (`old`) version, and a Hub cache with both."""
    base = tmp_path_factory.mktemp("copies")
    torch.manual_seed(0)
    config = tiny_config(vocab_size=5, id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1})
    model = with_large_weights(ElmoForTokenClassification(config)).eval()
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    model.save_pretrained(base / "new")
    tokenizer.save_pretrained(base / "new")
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    (base / "new" / "expected.json").write_text(json.dumps(logits.tolist()))
    with tarfile.open(OLD_FOLDER) as archive:
        archive.extractall(base / "old", filter="data")
    for version in ("new", "old"):
        put_into_hub_cache(base / version, base / "home" / "hub", f"someone/{version}")
    return base


@pytest.fixture(scope="module", params=MODES)
def answers(request: pytest.FixtureRequest, folders: Path) -> tuple[str, Any]:
    mode, answers = request.param, folders / request.param.replace(" ", "_")
    answers.mkdir()
    jobs: dict[str, Any] = {"texts": TEXTS}
    for version in ("new", "old"):
        for layout in LAYOUTS:
            name = str(folders / version) if layout == "local" else f"someone/{version}"
            jobs[name] = str(answers / f"{version}_{layout}"), str(answers / f"{version}_{layout}.json")
    environment = {
        **os.environ, "HF_HOME": str(folders / "home"), "HF_MODULES_CACHE": str(answers / "modules"),
        "PYTHONPATH": "" if mode == "absent" else str(ROOT), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    process = run_python("-c", READER, mode, cwd=answers, env=environment, stdin=json.dumps(jobs))
    assert process.returncode == 0, process.stderr
    return mode, answers


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", ["new", "old"])
def test_every_copy_of_the_code_loads_every_folder(
    answers: tuple[str, Path], folders: Path, version: str, layout: str
) -> None:
    mode, where = answers
    found = json.loads((where / f"{version}_{layout}.json").read_text())
    assert "error" not in found, found["error"]
    expected = torch.tensor(json.loads((folders / version / "expected.json").read_text()))
    for values in (found["logits"], found["second"]):
        torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=1e-6)
    # Finding the installed kernels registers nothing: the same class before and after the first forward pass.
    assert found["next_origin"].split(".")[0] == found["origin"]
    # The pipeline leaves out words that are outside of entities: Ada met Grace . between the boundaries.
    assert found["tags"] == int(expected[0, 1:5].argmax(dim=-1).sum())
    if not mode.startswith("imported"):
        assert found["origin"] == "transformers_modules" and not found["imported"]
        return
    if found["origin"] == "transformers_modules" and version == "old":
        # The error for an old copy names both origins.
        assert "transformers_modules" in found["refused"] and "elmo_hf" in found["refused"]
    else:
        assert len(found["embedded"]) == len(TEXTS)


TWO_SETS = """
import os, sys, threading, warnings
warnings.simplefilter("error")
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
folder, texts = sys.argv[1], ["Ada met Grace.", "No"]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
remote = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True).eval()
batch = tokenizer(texts, padding=True, return_tensors="pt")


@torch.no_grad()
def logits(model):
    return model(**batch).logits


expected = logits(remote)
operators = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("elmo::")]
assert "elmo_hf_installed.kernels" in sys.modules and "elmo_hf" not in sys.modules
assert sys.modules["elmo_hf_installed.kernels"].logger.name == "elmo_hf.kernels"
os.environ["ELMO_HF_KERNELS"] = "bogus"
try:
    logits(remote)
except ValueError as error:
    assert "ELMO_HF_KERNELS='bogus'" in str(error)
else:
    raise AssertionError("refused nothing")
del os.environ["ELMO_HF_KERNELS"]
import elmo_hf
own = elmo_hf.ElmoForTokenClassification.from_pretrained(folder).eval()
own_logits = logits(own)
assert "elmo_hf.kernels" in sys.modules and type(own) is not type(remote)
torch.testing.assert_close(own_logits, expected, rtol=0, atol=0)
torch.testing.assert_close(logits(remote), expected, rtol=0, atol=0)
# The operator for compilers is registered once, and serves both.
assert [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("elmo::")] == operators
assert len(set(operators)) == len(operators) == 2 and remote._number != own._number
# One C library, with the threads of one.
builders = [sys.modules[f"{name}.cpu.builder"] for name in ("elmo_hf_installed.kernels", "elmo_hf.kernels")]
handles = {builder.native_library() and builder.native_library()._handle for builder in builders}
assert len(handles) == 1, handles
# Both train side by side, in threads and in a forked process.
def train(model):
    for _ in range(2):
        model.zero_grad()
        model(**batch, labels=batch["attention_mask"] * 0).loss.backward()


threads = [threading.Thread(target=train, args=(model,)) for model in (own.train(), remote.train())]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
of_own, of_remote = (
    {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    for model in (own, remote)
)
assert of_own.keys() == of_remote.keys() and of_own
for name, gradient in of_own.items():
    torch.testing.assert_close(of_remote[name], gradient)
child = os.fork()
if not child:
    same = torch.equal(logits(own.eval()), expected) and torch.equal(logits(remote.eval()), expected)
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
print("fine")
"""


@pytest.mark.slow
def test_two_sets_of_kernels_in_one_process(folders: Path, tmp_path: Path) -> None:
    """A checkpoint's code loads the installed kernels under a module name of its own, the package under another."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": str(ROOT)}
    process = run_python("-c", TWO_SETS, folders / "new", cwd=tmp_path, env=environment)
    assert process.returncode == 0 and process.stdout == "fine\n", process.stderr


NOT_IMPORTED = """
import json, os, sys, threading
from pathlib import Path
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer
new, old = map(Path, sys.argv[1:])
model = AutoModelForTokenClassification.from_pretrained(new, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(new, trust_remote_code=True)
model.save_pretrained(old)
tokenizer.save_pretrained(old)
errors = {}


def refused(what, read, **more):
    try:
        read.from_pretrained(old, trust_remote_code=True, **more)
    except Exception as error:
        errors[what] = [type(error).__name__, str(error)]


fields = json.loads((old / "config.json").read_text())
(old / "config.json").write_text(json.dumps({**fields, "task_lstm_size": 2**24}))
refused("sizes", AutoModelForTokenClassification)
(old / "config.json").write_text(json.dumps(fields))
(old / "tokenizer.json").write_text("[]")
refused("tokenizer", AutoTokenizer)
assert "elmo_hf" not in sys.modules and AutoConfig.from_pretrained(new, trust_remote_code=True).model_type == "elmo"
again = AutoModelForTokenClassification.from_pretrained(new, trust_remote_code=True)
assert type(again) is type(model) and type(again).__module__.startswith("transformers_modules")
assert not any(getattr(finder, "is_elmo_finder", False) for finder in sys.meta_path)
ours = {name for name in sys.modules if name.startswith("elmo_hf") and name.count(".") < 2}
print(json.dumps({"errors": errors, "ours": sorted(ours)}))
"""


@pytest.mark.slow
def test_installed_package_is_used_without_importing_it(folders: Path, tmp_path: Path) -> None:
    """A checkpoint's code detects damage and removes old code through the installed package, without side effects."""
    old = tmp_path / "old"
    with tarfile.open(OLD_FOLDER) as archive:
        archive.extractall(old, filter="data")
    assert len(list(old.glob("*_elmo.py"))) == 51
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": str(ROOT)}
    process = run_python("-c", NOT_IMPORTED, folders / "new", old, cwd=tmp_path, env=environment)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    kept = {path.name for path in old.glob("*_elmo.py")}
    assert kept == {"configuration_elmo.py", "modeling_elmo.py", "tokenization_elmo.py"}
    kinds = {what: kind for what, (kind, _) in found["errors"].items()}
    assert kinds == {"sizes": "ValueError", "tokenizer": "DamageError"}, found["errors"]
    places = {"sizes": old, "tokenizer": old / "tokenizer.json"}
    assert all(str(place) in found["errors"][what][1] for what, place in places.items()), found["errors"]
    parts = {name for name in found["ours"] if name.count(".") == 1}
    assert parts == {f"elmo_hf_installed.{part}" for part in ("folders", "kernels", "old_code")}


@pytest.mark.parametrize("part", OLD_CODE)
def test_code_of_the_previous_version_is_removed(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Obsolete code files are recognized by name and content."""
    entries = dict(entry.split(":") for entry in OLD_CODE[part].split())
    assert not {path.stem for room in ("model", "tokenizer") for path in ROOT.glob(f"elmo_hf/{room}/*")} & set(entries)
    content = b"# of before"
    monkeypatch.setitem(OLD_CODE, part, " ".join(f"{stem}:{zlib.crc32(content):x}" for stem in entries))
    first, *others = (tmp_path / f"{stem}.py" for stem in entries)
    for path in (first, *others):
        path.write_bytes(content)
    first.write_bytes(b"# mine")
    remove_old_code(tmp_path, part)
    assert list(tmp_path.iterdir()) == [first]
    first.write_bytes(content)
    remove_old_code(tmp_path, part)
    assert not list(tmp_path.iterdir())


def test_code_of_versions_with_a_single_folder_is_removed(tmp_path: Path) -> None:
    """Only files that the version wrote are removed; files of the user stay."""
    with tarfile.open(OLD_FOLDER) as archive:
        archive.extractall(tmp_path, filter="data")
    old = {path.name for path in tmp_path.glob("*_elmo.py")}
    assert len(old) == 51
    (tmp_path / "lstm_elmo.py").write_text("# mine\n")
    (tmp_path / "notes.py").write_text("# mine too\n")
    model = ElmoForTokenClassification.from_pretrained(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kept = {path.name for path in tmp_path.glob("*_elmo.py")}
    assert kept == {"configuration_elmo.py", "modeling_elmo.py", "tokenization_elmo.py", "lstm_elmo.py"}
    assert (tmp_path / "notes.py").is_file() and (tmp_path / "operators.py").is_file()
