"""Two hosts and a server of files, each with a network of its own: Linux network namespaces, joined by a bridge.

Packets between them go through TCP as between machines; what they share is the file system, as a cluster's machines do,
and the cores. Needs root and `ip`, of iproute2.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Every host's interface.
INTERFACE = "net0"


@dataclass(frozen=True)
class Host:
    """A namespace.

    Attributes:
        name: of the namespace.
        address: of its interface.
    """

    name: str
    address: str

    def start(self, command: list[str], environment: dict[str, str], **options) -> subprocess.Popen:
        """A process on the host."""
        inside = ["ip", "netns", "exec", self.name, *command]
        return subprocess.Popen(inside, env={**os.environ, **environment}, cwd=ROOT, **options)

    def lose(self) -> None:
        """Cut the host's link, so that no peer sees its end, and kill its processes."""
        ip("-n", self.name, "link", "set", INTERFACE, "down")
        self.end()

    def end(self) -> None:
        """Kill all that runs on it."""
        for number in ip("netns", "pids", self.name).split():
            os.kill(int(number), signal.SIGKILL)

    def reconnect(self) -> None:
        """Plug the cable in again."""
        ip("-n", self.name, "link", "set", INTERFACE, "up")


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """So many hosts; the first one holds the bridge."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need Linux, root and iproute2")
    hosts = [Host(f"elmo-{os.getpid()}-{number}", f"10.77.0.{number + 1}") for number in range(count)]
    with ExitStack() as stack:
        for host in hosts:
            ip("netns", "add", host.name)
            stack.callback(ip, "netns", "del", host.name)
            stack.callback(host.end)
            ip("-n", host.name, "link", "set", "lo", "up")
            # What is never acknowledged is given up after about half a minute, in place of a quarter of an hour.
            host.start(["sh", "-c", "echo 5 > /proc/sys/net/ipv4/tcp_retries2"], {}).wait()
        first = hosts[0]
        ip("-n", first.name, "link", "add", INTERFACE, "type", "bridge")
        for number, host in enumerate(hosts[1:]):
            port = f"port{number}"
            peer = ("peer", "name", INTERFACE, "netns", host.name)
            ip("-n", first.name, "link", "add", port, "type", "veth", *peer)
            ip("-n", first.name, "link", "set", port, "master", INTERFACE, "up")
        for host in hosts:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            ip("-n", host.name, "link", "set", INTERFACE, "up")
        yield hosts


@contextmanager
def files_served(host: Host, folder: Path) -> Iterator[dict[str, str]]:
    """A folder's files on a host, in `s3://corpus/` and as the data set `owner/corpus`; what tells clients of them."""
    command = [sys.executable, "-m", "modeling_tests.cluster.serve", host.address, str(folder)]
    server = host.start(command, {}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())
    finally:
        server.communicate("", timeout=60)


def wait_until(true, seconds: float) -> None:
    """Wait for something to become true.

    Raises:
        AssertionError: it did not in time.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
