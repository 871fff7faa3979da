"""Metadata from a server or a folder that means harm."""

import os

import pytest
from test_metadata import ONTOLOGY, SEGMENTS, server  # noqa: F401  (a fixture)

from data_prep.metadata import Source, main, metadata
from relabel_jax.errors import InputError


@pytest.mark.parametrize(
    "name",
    [
        "ontology.json",
        "ontology.json.gz",
        "balanced_train_segments.csv",
        "class_labels_indices.csv",
    ],
)
@pytest.mark.parametrize("is_dangling", [True, False])
def test_a_planted_link_is_not_followed(server, tmp_path, name, is_dangling):  # noqa: F811
    target, folder = tmp_path / "target", tmp_path / "META"
    folder.mkdir()
    if not is_dangling:
        target.write_bytes(ONTOLOGY)
    (folder / name).symlink_to(target)
    with pytest.raises(InputError, match=f"{name}: is a symbolic link; remove it"):
        metadata(output_dir=folder, sources=server.sources(), retries=0)
    assert os.listdir(folder) == [name]
    assert target.exists() != is_dangling


def test_a_pipe_is_not_waited_for(server, tmp_path):  # noqa: F811
    os.mkfifo(tmp_path / "ontology.json")
    with pytest.raises(InputError, match="is not a file"):
        metadata(output_dir=tmp_path, sources=server.sources(), retries=0)


def test_an_endless_download(server, tmp_path):  # noqa: F811
    server.files["/segments.csv"] = SEGMENTS + bytes(1 << 21)
    with pytest.raises(InputError, match="answers with more than 1,048,576 bytes"):
        metadata(output_dir=tmp_path, sources=server.sources(), max_bytes=1 << 20)
    assert sorted(os.listdir(tmp_path)) == ["ontology.json"]


@pytest.mark.parametrize("url", ["http://[/x", "http://a..b/x", "ftp://a/x", "http:///x"])
def test_no_address(tmp_path, url):
    with pytest.raises(InputError, match="not a web address"):
        metadata(output_dir=tmp_path, sources={"ontology.json": Source(url)})


@pytest.mark.parametrize("patience", ["nan", "inf", "-1", "1e300"])
def test_senseless_times(tmp_path, capsys, patience):
    assert main([f"--output_dir={tmp_path}", f"--timeout_s={patience}"]) == 1
    assert capsys.readouterr().err.startswith("error: --timeout_s=")
