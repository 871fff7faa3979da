"""The page answers this machine alone: real HTTP requests with the headers that browsers send."""

import http.client
import pathlib
import socket
import subprocess
import sys

import pytest

from relabel_jax.errors import InputError
from relabel_jax.inference.serving import HOST, serving

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

# A process of its own, because Gradio leaves event loops and sockets to the garbage collector.
_PROGRAM = """
import sys
import gradio
from relabel_jax.inference.serving import serving
with gradio.Blocks(analytics_enabled=False) as page:
    gradio.HTML("<p>hello</p>")
with serving(page, None) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def port():
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        cwd=pathlib.Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield int(server.stdout.readline().strip().removesuffix("/").rpartition(":")[2])
        server.stdin.close()
        assert server.wait(timeout=30) == 0


def ask(port, method, path, headers):
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value.format(port=port))
        connection.endheaders()
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


HERE = {"Host": "127.0.0.1:{port}"}


@pytest.mark.parametrize(
    "headers",
    [
        HERE,
        {"Host": "localhost:{port}"},
        {"Host": "LOCALHOST:{port}"},
        HERE | {"Origin": "http://127.0.0.1:{port}"},
        {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/config"])
def test_the_page_itself(port, headers, path):
    answer, content = ask(port, "GET", path, headers)
    assert answer.status == 200
    assert b"hello" in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        HERE | {"Origin": "http://evil.example"},
        HERE | {"Origin": "https://127.0.0.1:{port}"},
        HERE | {"Origin": "http://127.0.0.1:1"},
        HERE | {"Origin": "null"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/upload"), ("OPTIONS", "/")],
)
def test_others(port, headers, method, path):
    preflight = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
    answer, content = ask(port, method, path, headers | preflight)
    assert (answer.status, content) == (403, b"only for this machine\n")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_a_port_that_is_taken():
    with (
        socket.create_server((HOST, 0)) as other,
        pytest.raises(InputError, match="is taken or not allowed"),
        serving(None, other.getsockname()[1]),
    ):
        pass
