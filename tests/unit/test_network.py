"""Nothing is fetched but what is asked for: no import and no test reaches beyond this machine."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "import pkgutil, importlib, farzi\n"
        "for found in pkgutil.walk_packages(farzi.__path__, 'farzi.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)",
        "from farzi.cli import main; main(['sources']); main(['doctor'])",
    ],
    ids=["every module", "doctor"],
)
def test_no_import_opens_a_socket(code: str) -> None:
    watched = (
        "import sys\n"
        "def watch(event, arguments):\n"
        # urllib3 asks for a port of this machine to see whether it has IPv6.
        "    here = event == 'socket.bind' and arguments[1][0] in ('127.0.0.1', '::1')\n"
        "    names = ('socket.connect', 'socket.getaddrinfo', 'socket.bind')\n"
        "    if event in names and not here:\n"
        "        print('network:', event, arguments, file=sys.stderr)\n"
        "        sys.stderr.flush(); import os; os._exit(9)\n"
        "sys.addaudithook(watch)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", watched + code], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr[-2000:]


def test_the_suite_cannot_reach_the_network() -> None:
    with socket.socket() as out, pytest.raises(ConnectionRefusedError, match="no test"):
        out.connect(("192.0.2.1", 80))
    with pytest.raises(ConnectionRefusedError, match="no test"):
        socket.getaddrinfo("example.org", 80)


def test_this_machine_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
