"""Metadata from a real server on the loopback interface that behaves as badly as servers do."""

import dataclasses
import gzip
import hashlib
import http.server
import os
import subprocess
import threading

import pytest

from data_prep.metadata import SOURCES, Source, main, metadata
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


@dataclasses.dataclass
class Fault:
    """What the server does to one request instead of answering it well."""

    kind: str
    num_bytes: int = 0  # sent before it happens


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; takes a fault from the front of `faults` for each segment file."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/ontology.json": ONTOLOGY, "/segments.csv": SEGMENTS}
        self.faults = []
        self.requests = []
        self.stop = threading.Event()

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def sources(self):
        return {
            "ontology.json": Source(self.address("/ontology.json")),
            "balanced_train_segments.csv": Source(self.address("/segments.csv")),
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        is_csv = self.path.startswith("/segments")
        fault = server.faults.pop(0) if is_csv and server.faults else Fault("none")
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if fault.kind == "status":
            return self.send_error(fault.num_bytes)
        self.send_response(200)
        body = content
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
    metadata(output_dir=tmp_path / "new", sources=server.sources(), retries=0)
    assert got(tmp_path / "new") == SEGMENTS
    assert (tmp_path / "new/ontology.json").read_bytes() == ONTOLOGY
    indices = (tmp_path / "new/class_labels_indices.csv").read_text()
    assert indices == 'index,mid,display_name\n0,/m/a,"A"\n1,/m/b,"B"\n'
    assert len(os.listdir(tmp_path / "new")) == 3
    log = capsys.readouterr().err
    assert "2,000 segments" in log
    assert f"relabel --segments={tmp_path}/new --output=labels.parquet" in log.splitlines()[-1]
    # A second time nothing is asked for.
    num_requests = len(server.requests)
    metadata(output_dir=tmp_path / "new", sources=server.sources(), retries=0)
    assert len(server.requests) == num_requests
    log = capsys.readouterr().err
    assert all(f"kept, {what}" in log for what in ("2,000 segments", "2 classes"))
    # Another list of classes is not replaced.
    (tmp_path / "new/class_labels_indices.csv").write_text(indices.replace("/m/b", "/m/c"))
    with pytest.raises(InputError, match="not those that the segment files use; remove the file"):
        metadata(output_dir=tmp_path / "new", sources=server.sources(), retries=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        [Fault("drop", 0), Fault("drop", 10_000)],
        [Fault("stall", 5_000), Fault("stall", 0)],
        [Fault("status", 500), Fault("status", 429)],
    ],
    ids=["drops", "stalls", "statuses"],
)
def test_a_bad_server(server, tmp_path, faults):
    """Each download breaks off twice; the third gives the whole file."""
    server.faults = list(faults)
    metadata(output_dir=tmp_path, sources=server.sources(), retries=2, timeout_s=0.3)
    assert got(tmp_path) == SEGMENTS
    assert server.requests.count("/segments.csv") == 3


@pytest.mark.parametrize("fault", [Fault("drop", 30_000), Fault("stall", 5), Fault("status", 503)])
def test_given_up_and_tried_later(server, tmp_path, fault):
    """Of an interrupted download nothing is left; files that were complete before it stay."""
    server.faults = [fault, fault]
    with pytest.raises(InputError, match=r"segments\.csv: given up after 2 attempts: ") as caught:
        metadata(output_dir=tmp_path, sources=server.sources(), retries=1, timeout_s=0.3)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["ontology.json"]
    metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
    assert got(tmp_path) == SEGMENTS
    assert server.requests.count("/ontology.json") == 1


def test_known_hashes(server, tmp_path):
    sources = server.sources()
    url = server.address("/segments.csv")
    wrong = hashlib.sha256(SEGMENTS + b"more").hexdigest()
    sources["balanced_train_segments.csv"] = Source(url, wrong)
    with pytest.raises(InputError, match=rf"segments\.csv: its SHA-256 is not {wrong}"):
        metadata(output_dir=tmp_path, sources=sources, retries=0)
    assert os.listdir(tmp_path) == ["ontology.json"]
    sources["balanced_train_segments.csv"] = Source(url, hashlib.sha256(SEGMENTS).hexdigest())
    metadata(output_dir=tmp_path, sources=sources, retries=0)
    assert got(tmp_path) == SEGMENTS


def test_known_hashes_are_audiosets(audioset_dir):
    for name, source in SOURCES.items():
        path = audioset_dir / name
        with open(path, "rb") if path.exists() else gzip.open(f"{path}.gz") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == source.sha256, name


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
        metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
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
        metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
    assert os.listdir(tmp_path) == []


def test_truncated_without_a_sign(server, tmp_path):
    """The length in the header is that of half the file."""
    server.faults = [Fault("truncate", len(SEGMENTS) // 2)]
    with pytest.raises(InputError, match=r"segments\.csv: "):
        metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
    assert os.listdir(tmp_path) == ["ontology.json"]


def test_not_found_is_not_tried_again(server, tmp_path):
    del server.files["/segments.csv"]
    with pytest.raises(InputError, match="the server answers 404"):
        metadata(output_dir=tmp_path, sources=server.sources(), retries=3)
    assert server.requests.count("/segments.csv") == 1


def test_nobody_listens(tmp_path):
    sources = {"ontology.json": Source("http://127.0.0.1:9/ontology.json")}
    with pytest.raises(InputError, match="given up after 2 attempts") as caught:
        metadata(output_dir=tmp_path, sources=sources, retries=1)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"retries": -1}, "--retries=-1: expected 0 or more"),
        ({"timeout_s": 0}, "--timeout_s=0: expected more than 0"),
    ],
)
def test_senseless_patience(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        metadata(output_dir=tmp_path, **flags)


def test_an_address_without_a_scheme(tmp_path):
    sources = {"ontology.json": Source("mirror.example/ontology.json")}
    with pytest.raises(InputError, match=r"mirror.example/ontology.json: .*; expected https://"):
        metadata(output_dir=tmp_path, sources=sources, retries=0)


def test_a_changed_file_is_not_replaced_in_silence(server, tmp_path):
    (tmp_path / "ontology.json").write_bytes(b"[]")
    with pytest.raises(InputError, match="remove the file to get it again"):
        metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
    assert (tmp_path / "ontology.json").read_bytes() == b"[]"


def test_a_mirror_with_gzip(server, tmp_path):
    server.files["/segments.csv.gz"] = gzip.compress(SEGMENTS)
    sources = server.sources()
    sources["balanced_train_segments.csv"] = Source(server.address("/segments.csv.gz"))
    metadata(output_dir=tmp_path, sources=sources, retries=0)
    assert gzip.decompress((tmp_path / "balanced_train_segments.csv.gz").read_bytes()) == SEGMENTS


def test_command_line(server, tmp_path, capsys):
    flags = [f"--output_dir={tmp_path}", f"--ontology_url={server.address('/ontology.json')}"]
    for number, name in enumerate(("balanced_train", "eval", "unbalanced_train")):
        path = f"/segments{number}.csv"
        server.files[path] = SEGMENTS.replace(b"clip00", b"clip%d0" % number)
        flags.append(f"--{name}_segments_url={server.address(path)}")
    assert main(flags) == 0
    assert len(os.listdir(tmp_path)) == 5
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


@pytest.mark.slow
def test_audioset_from_a_folder(audioset_dir, tmp_path, capsys):
    """AudioSet's own files are what their headers say."""
    metadata(output_dir=tmp_path, from_dir=audioset_dir)
    name = "class_labels_indices.csv"
    assert (tmp_path / name).read_bytes() == (audioset_dir / name).read_bytes()
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
            metadata(output_dir=tmp_path, sources=server.sources(), retries=0)
        assert not (tmp_path / "balanced_train_segments.csv").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
