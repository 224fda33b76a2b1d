"""Python programs in processes of their own, without starting Python and importing PyTorch for each.

One server process imports PyTorch and the other libraries that Transformers imports, nothing of Transformers or of this
package. Each program then runs in a fork of it: from its point of view it was started by `python`, with these modules
imported already. Programs whose subject is Python's start or what it imports need `subprocess.run`.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The names `job` and `child` are gone by the time the program runs: it has `__main__` for itself.
SERVER = """
import importlib.util, json, os, runpy, sys

for name in sys.argv[1:]:
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)


def become(job):
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for number, name in enumerate(job["files"]):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    kind, program, *arguments = job["command"]
    paths = [path for path in job["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["" if kind != "file" else os.path.dirname(program), *paths, *sys.path[1:]]
    sys.argv = ["-c" if kind == "-c" else program, *arguments]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    return kind, program


def serve():
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            return become(job)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)


kind, program = serve()
if kind == "-c":
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
elif kind == "-m":
    runpy.run_module(program, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(program, run_name="__main__")
"""

# What `import transformers.modeling_utils` brings, by far the longest first.
PRELOADED = ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "scipy.optimize", "jinja2", "httpx")


@functools.cache
def _server() -> subprocess.Popen:
    """The server of this process. It ends when its standard input is closed: with this process at the latest."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *PRELOADED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(sys.executable).anchor,
        env=environment,
        text=True,
    )


def run_python(
    *command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess:
    """`python -c CODE ...`, `python -m MODULE ...` or `python FILE ...`, as `subprocess.run` with captured text.

    Unless `env` says otherwise, the program finds the package of this folder.
    """
    words = list(map(str, command))
    if words[0] not in ("-c", "-m"):
        words.insert(0, "file")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if env is None else dict(env)
    if not hasattr(os, "fork"):
        words = words[1:] if words[0] == "file" else words
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        for path, text in zip(files, (stdin, "", ""), strict=True):
            path.write_text(text)
        job = {"command": words, "cwd": str(cwd), "env": environment, "files": list(map(str, files))}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, "the server of forked programs ended"
        return subprocess.CompletedProcess(words, int(status), files[1].read_text(), files[2].read_text())
