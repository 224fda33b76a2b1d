"""Small untrusted files: read completely, or refused at once with their name."""

import json
import os
import time

import pytest

from hub_upload import CheckpointError
from hub_upload.allennlp.reader import read_archive_config
from hub_upload.common import content
from hub_upload.common.content import read_content
from hub_upload.common.options import OptionsReader, read_json


def refused(read, path):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("read", [read_content, read_json, read_archive_config])
def test_only_regular_files_are_opened(read, tmp_path):
    """A pipe without a writer blocks forever, and a device never ends."""
    os.mkfifo(tmp_path / "options.json")
    for path in (tmp_path / "options.json", "/dev/zero", tmp_path):
        assert "not a regular file" in refused(read, type(tmp_path)(path))
    assert "no such file" in refused(read, tmp_path / "absent")


def test_a_file_that_is_far_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "LARGEST_CONTENT", 10)
    (tmp_path / "a.json").write_text(json.dumps({"a": "x" * 10}))
    assert "expected at most 10" in refused(read_json, tmp_path / "a.json")


@pytest.mark.parametrize("read", [read_json, read_archive_config])
@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, '{"a":' * 150 + "1" + "}" * 150, '{"a": ' + "9" * 5000 + "}", "[1]", "", "\xff"],
    ids=["lists", "objects", "150 deep", "digits", "list", "empty", "no UTF-8"],
)
def test_invalid_json(read, text, tmp_path):
    path = tmp_path / "options.json"
    path.write_bytes(text.encode("latin-1"))
    refused(read, path)


@pytest.mark.slow
@pytest.mark.parametrize("part", ['\\"', '"\\', "/*", "/* *", '"//', ",\n", ", ", "\\", "# ", '"', "'"])
def test_jsonnet_takes_time_in_proportion_to_its_length(part, tmp_path):
    """Unclosed strings and comments are scanned in linear time."""
    path = tmp_path / "config.json"
    start = time.perf_counter()
    for first in ("{", '{"'):
        path.write_text(first + part * (300_000 // len(part)))
        refused(read_archive_config, path)
    assert time.perf_counter() - start < 20  # quadratic: hours


def test_jsonnet_is_still_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": "/* no // comment, ]", /* one, } */ "b": [1, 2, ], // two\n "c\\"": 3, # three\n}')
    assert read_archive_config(path) == {"a": "/* no // comment, ]", "b": [1, 2], 'c"': 3}


@pytest.mark.parametrize("value", [10**30, 10**400, 2**31, True, 1.5, "1", None, -1])
def test_invalid_sizes_and_bounds(value):
    reader = OptionsReader({"n": value, "filters": [[1, value]]}, "options.json")
    for read in (reader.size, reader.filters):
        with pytest.raises(CheckpointError, match="options.json"):
            read("n" if read == reader.size else "filters")
    if value not in (True, None, 1.5, 10**30, 2**31):
        with pytest.raises(CheckpointError, match="options.json"):
            reader.clip("n", [])
