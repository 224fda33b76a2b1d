"""`elmo-hf run`: scripts with ELMo registered."""

from subprocess import CompletedProcess

import pytest

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from modeling_tests.forking import run_python
from modeling_tests.tiny import tiny_config

SCRIPT = """
import sys
import beside
from transformers import AutoModelForTokenClassification, AutoTokenizer

if __name__ == "__main__":
    model = AutoModelForTokenClassification.from_pretrained(sys.argv[1])
    print(type(model).__name__, type(AutoTokenizer.from_pretrained(sys.argv[1])).__name__, sys.argv[0], *sys.argv[2:])
    if "--fail" in sys.argv:
        raise ValueError("the script's own")
"""


def run(*arguments: object) -> CompletedProcess:
    return run_python("-m", "elmo_hf.cli", "run", *arguments)


@pytest.mark.slow
def test_a_script_finds_elmo_registered(tmp_path):
    ElmoForTokenClassification(tiny_config()).save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("")
    process = run(script, tmp_path, "--do_train", "--help", "-x")
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [
        "ElmoForTokenClassification", "ElmoTokenizer", str(script), "--do_train", "--help", "-x",
    ]  # fmt: skip
    failed = run(script, tmp_path, "--fail")
    assert failed.returncode == 1 and "Traceback" in failed.stderr and "the script's own" in failed.stderr


def test_no_such_script():
    process = run("nowhere.py")
    assert process.returncode == 1 and process.stderr.splitlines()[-1].startswith("elmo-hf run: nowhere.py")
