"""Metadata from a real server on the loopback interface that behaves as badly as servers do."""

import dataclasses
import gzip
import http.server
import os
import subprocess
import threading
import time

import pytest

from data_prep import metadata as module
from data_prep.metadata import Patience, main, metadata
from relabel_jax.errors import InputError

ONTOLOGY = (
    b'[{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]},'
    b' {"id": "/m/b", "name": "B", "child_ids": []}]'
)
SEGMENTS = (
    b"# Segments csv created Sun Mar  5 10:54:31 2017\n"
    b"# num_ytids=2000, num_segs=2000, num_unique_labels=2, num_positive_labels=3000\n"
    b"# YTID, start_seconds, end_seconds, positive_labels\n"
) + b"".join(
    b'clip%07d, 30.000, 40.000, "/m/a%s"\n' % (i, b",/m/b" if i % 2 else b"") for i in range(2000)
)
PATIENCE = Patience(retries=3, timeout_s=0.3, first_pause_s=0.01)


@dataclasses.dataclass
class Fault:
    """What the server does to one request instead of answering it well."""

    kind: str
    num_bytes: int = 0  # sent before it happens


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path with ranges; takes a fault from the front of `faults` each time."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/ontology.json": ONTOLOGY, "/segments.csv": SEGMENTS}
        self.faults = []
        self.requests = []
        self.ranges_work = True
        self.stop = threading.Event()

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def addresses(self):
        return {
            "ontology.json": self.address("/ontology.json"),
            "balanced_train_segments.csv": self.address("/segments.csv"),
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        range_header = self.headers.get("Range")
        server.requests.append((self.path, range_header))
        is_csv = self.path.startswith("/segments")
        fault = server.faults.pop(0) if is_csv and server.faults else Fault("none")
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if fault.kind == "status":
            return self.send_error(fault.num_bytes)
        first = 0
        if range_header and server.ranges_work:
            first = int(range_header.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            shown = first if fault.kind != "wrong_range" else 0
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[first:]
        if fault.kind == "truncate":  # a length that is too short, and no sign of it
            body = body[: fault.num_bytes]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.kind in ("drop", "stall"):
            self.wfile.write(body[: fault.num_bytes])
            self.wfile.flush()
            if fault.kind == "stall":
                server.stop.wait(5)
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


def got(folder):
    return (folder / "balanced_train_segments.csv").read_bytes()


def test_a_good_server(server, tmp_path, capsys):
    metadata(output_dir=tmp_path / "new", addresses=server.addresses(), patience=PATIENCE)
    assert got(tmp_path / "new") == SEGMENTS
    assert (tmp_path / "new/ontology.json").read_bytes() == ONTOLOGY
    assert sorted(os.listdir(tmp_path / "new")) == ["balanced_train_segments.csv", "ontology.json"]
    assert "2,000 segments" in capsys.readouterr().err
    # A second time nothing is asked for.
    num_requests = len(server.requests)
    metadata(output_dir=tmp_path / "new", addresses=server.addresses(), patience=PATIENCE)
    assert len(server.requests) == num_requests
    assert "kept, 2,000 segments" in capsys.readouterr().err


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("drop", 0), Fault("drop", 10_000), Fault("drop", 1)],
        [Fault("stall", 5_000), Fault("stall", 0)],
        [Fault("status", 500), Fault("status", 503), Fault("status", 429)],
        [Fault("status", 500), Fault("drop", 40_000), Fault("stall", 3), Fault("status", 502)],
        [Fault("drop", 1_000)] * 20,  # more than the retries, but each brings something
        [Fault("drop", 40_000), Fault("wrong_range")],
    ],
    ids=["drops", "stalls", "500", "all", "many", "wrong_range"],
)
def test_a_bad_server(server, tmp_path, faults):
    server.faults = list(faults)
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert got(tmp_path) == SEGMENTS
    assert not server.faults


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    server.faults = [Fault("drop", 30_000), Fault("drop", 20_000)]
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    ranges = [asked for path, asked in server.requests if path == "/segments.csv"]
    assert ranges == [None, "bytes=30000-", "bytes=50000-"]
    assert got(tmp_path) == SEGMENTS


def test_a_server_without_ranges(server, tmp_path):
    server.ranges_work = False
    server.faults = [Fault("drop", 30_000)]
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert got(tmp_path) == SEGMENTS


def test_given_up_and_taken_up_again(server, tmp_path):
    server.faults = [Fault("drop", 30_000), *[Fault("status", 500)] * 4]
    with pytest.raises(InputError, match=r"segments\.csv: given up after 4 attempts .*500"):
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert not (tmp_path / "balanced_train_segments.csv").exists()
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert server.requests[-1] == ("/segments.csv", "bytes=30000-")
    assert got(tmp_path) == SEGMENTS


@pytest.mark.parametrize("length", [len(SEGMENTS), len(SEGMENTS) + 5])
def test_killed_before_the_last_step(server, tmp_path, length):
    """All bytes are there, or more than there should be, but not under the name."""
    part = tmp_path / ".part.balanced_train_segments.csv"
    part.write_bytes((SEGMENTS + b"12345")[:length])
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert got(tmp_path) == SEGMENTS


def test_a_file_that_changed_since(server, tmp_path):
    """A beginning of another version: the check fails once, and all is taken anew."""
    (tmp_path / ".part.balanced_train_segments.csv").write_bytes(
        SEGMENTS[:20_000].replace(b"/m/a", b"/m/z")
    )
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert got(tmp_path) == SEGMENTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SEGMENTS[: SEGMENTS.rindex(b"clip")], "says num_segs=2000, but it has 1999"),
        (SEGMENTS.replace(b"labels=2,", b"labels=3,"), "says num_unique_labels=3, but it has 2"),
        (SEGMENTS.replace(b"=3000", b"=3001"), "says num_positive_labels=3001, but it has 3000"),
        (SEGMENTS.partition(b"positive_labels\n")[2], "does not say num_segs"),
        (SEGMENTS.replace(b"/m/b", b"/m/z"), "1 mids are not in the ontology (/m/z)"),
        (b"<html>404</html>\n", "malformed rows"),
    ],
)
def test_what_fails_the_check(server, tmp_path, content, message):
    server.files["/segments.csv"] = content
    with pytest.raises(InputError) as caught:
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert str(caught.value).startswith(server.address("/segments.csv"))
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == ["ontology.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ONTOLOGY.replace(b'"child_ids": []', b'"child_ids": ["/m/a"]'), "form a cycle"),
        (ONTOLOGY.replace(b'"child_ids": []', b'"child_ids": ["/m/q"]'), "not in the file"),
        (ONTOLOGY[:40], "not JSON"),
        (b"{}", "expected a non-empty JSON list"),
    ],
)
def test_an_ontology_that_fails_the_check(server, tmp_path, content, message):
    server.files["/ontology.json"] = content
    with pytest.raises(InputError, match=message):
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert os.listdir(tmp_path) == []


def test_truncated_without_a_sign(server, tmp_path):
    """The length in the header is that of half the file."""
    server.faults = [Fault("truncate", len(SEGMENTS) // 2)]
    with pytest.raises(InputError, match=r"segments\.csv: "):
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert os.listdir(tmp_path) == ["ontology.json"]


def test_not_found_is_not_tried_again(server, tmp_path):
    del server.files["/segments.csv"]
    with pytest.raises(InputError, match="the server answers 404"):
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert len([path for path, _ in server.requests if path == "/segments.csv"]) == 1


def test_nobody_listens(tmp_path):
    with pytest.raises(InputError, match="given up after 4 attempts"):
        metadata(
            output_dir=tmp_path,
            addresses={"ontology.json": "http://127.0.0.1:9/ontology.json"},
            patience=PATIENCE,
        )


def test_an_address_without_a_scheme(tmp_path):
    addresses = {"ontology.json": "mirror.example/ontology.json"}
    with pytest.raises(InputError, match=r"mirror.example/ontology.json: .*; expected https://"):
        metadata(output_dir=tmp_path, addresses=addresses, patience=PATIENCE)


def test_a_changed_file_is_not_replaced_in_silence(server, tmp_path):
    (tmp_path / "ontology.json").write_bytes(b"[]")
    with pytest.raises(InputError, match="remove the file to get it anew"):
        metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
    assert (tmp_path / "ontology.json").read_bytes() == b"[]"


def test_a_mirror_with_gzip(server, tmp_path):
    server.files["/segments.csv.gz"] = gzip.compress(SEGMENTS)
    addresses = server.addresses()
    addresses["balanced_train_segments.csv"] = server.address("/segments.csv.gz")
    metadata(output_dir=tmp_path, addresses=addresses, patience=PATIENCE)
    assert gzip.decompress((tmp_path / "balanced_train_segments.csv.gz").read_bytes()) == SEGMENTS


def test_command_line(server, tmp_path, capsys):
    flags = [f"--output_dir={tmp_path}", f"--ontology_url={server.address('/ontology.json')}"]
    for number, name in enumerate(("balanced_train", "eval", "unbalanced_train")):
        path = f"/segments{number}.csv"
        server.files[path] = SEGMENTS.replace(b"clip00", b"clip%d0" % number)
        flags.append(f"--{name}_segments_url={server.address(path)}")
    assert main(flags) == 0
    assert len(os.listdir(tmp_path)) == 4
    (tmp_path / "eval_segments.csv").write_bytes(b"")
    assert main(flags) == 1
    assert "error: " in capsys.readouterr().err


def test_from_a_folder(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    (source / "ontology.json").write_bytes(ONTOLOGY)
    for name in ("balanced_train", "eval"):
        (source / f"{name}_segments.csv").write_bytes(SEGMENTS)
    flags = [f"--output_dir={tmp_path / 'meta'}", f"--from_dir={source}"]
    assert main(flags) == 1
    assert "has neither unbalanced_train_segments.csv nor" in capsys.readouterr().err
    (source / "unbalanced_train_segments.csv.gz").write_bytes(gzip.compress(SEGMENTS))
    assert main(flags) == 0
    assert (tmp_path / "meta/unbalanced_train_segments.csv.gz").exists()


def test_audioset_from_a_folder(audioset_dir, tmp_path, capsys):
    """AudioSet's own files are what their headers say."""
    metadata(output_dir=tmp_path, from_dir=audioset_dir)
    log = capsys.readouterr().err
    for found in ("632 classes", "22,160 segments", "20,371 segments", "2,041,789 segments"):
        assert found in log


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk(server, tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        with pytest.raises(InputError, match="cannot write: No space left on device"):
            metadata(output_dir=tmp_path, addresses=server.addresses(), patience=PATIENCE)
        assert not (tmp_path / "balanced_train_segments.csv").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_pauses_grow(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    server.faults = [Fault("status", 500)] * 3
    patience = dataclasses.replace(PATIENCE, first_pause_s=20)
    began = time.monotonic()
    metadata(output_dir=tmp_path, addresses=server.addresses(), patience=patience)
    assert time.monotonic() - began < 5
    assert pauses == [20, 40, 60]
