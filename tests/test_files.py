"""A file under its final name is complete."""

import errno
import fcntl
import json
import os

import pytest

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, left_behind, only_process, write_json


def test_a_name_comes_with_the_last_byte(tmp_path):
    path = tmp_path / "new" / "x"

    def stop_half_way():
        with complete_file(path) as temporary:
            temporary.write_bytes(b"half")
            assert not path.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_half_way()
    assert list(path.parent.iterdir()) == []
    with complete_file(path) as temporary:
        temporary.write_bytes(b"all")
    assert path.read_bytes() == b"all"
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert path.read_bytes() == b"all"
    write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}
    assert list(path.parent.iterdir()) == [path]


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_where_files_cannot_be_locked(tmp_path, monkeypatch):
    """Like Lustre mounted without flock."""
    descriptors = []

    def flock(descriptor, operation):
        descriptors.append(descriptor)
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"^{tmp_path}: files cannot be locked there: Function not implemented; mount it so"
    with (
        pytest.raises(InputError, match=message),
        only_process(tmp_path / "lock", tmp_path, "busy"),
    ):
        pass
    (descriptor,) = descriptors
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_where_no_file_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/x: cannot write: "),
        complete_file(tmp_path / "file" / "x"),
    ):
        pass


def test_what_a_killed_process_left_is_found(tmp_path):
    names = [f"{name}.0123abcd.tmp" for name in (".a[1].csv", ".a1.csv", ".b.a[1].csv")]
    for name in names:
        (tmp_path / name).touch()
    assert left_behind(tmp_path / "a[1].csv") == [tmp_path / names[0]]
