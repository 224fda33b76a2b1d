"""A server of files for other hosts: `python -m modeling_tests.cluster.serve ADDRESS FOLDER`, until its input ends.

The files of the folder lie in an object store, `s3://corpus/`, and in a data set of a Hub, `owner/corpus`. The one line
that it prints is the environment of the clients.
"""

import json
import os
import sys
from pathlib import Path

import fsspec

from modeling_tests.cluster.object_store import object_store
from modeling_tests.hub_server import running_hub


def main() -> None:
    address, folder = sys.argv[1], Path(sys.argv[2])
    with object_store(address) as bucket, running_hub(address) as hub:
        os.environ.update(bucket.environment)
        for path in folder.iterdir():
            fsspec.filesystem("s3").put_file(str(path), f"{bucket.url}/{path.name}")
        hub.put("owner/corpus", {path.name: path.read_bytes() for path in folder.iterdir()})
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        print(json.dumps({**bucket.environment, **online}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
