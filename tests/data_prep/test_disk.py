"""Full or read-only disks, folders without permission: one line, and nothing half-written."""

import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import subprocess

import pytest
from building import command, contents, make_inputs

from data_prep.build import build, main
from data_prep.plan import Plan
from data_prep.shards import write_shard
from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import Rejected

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Arguments and the undisturbed data set."""
    folder = tmp_path_factory.mktemp("disk")
    arguments = make_inputs(folder, 24) | {"clips_per_shard": 2}
    (folder / "splits.csv").write_text("clip_id,split\n-clip000,test\n")
    arguments["splits"] = folder / "splits.csv"
    build(**arguments, output_dir=folder / "undisturbed", num_workers=1)
    return arguments, folder / "undisturbed"


@pytest.fixture
def disk(tmp_path):
    """A small disk for this test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", os.fspath(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", os.fspath(folder)], check=True)


def leave_room(disk: pathlib.Path, num_pages: int) -> None:
    """Makes the disk so small that only this much space is left."""
    gc.collect()  # a mapped plan occupies its space until then
    status = os.statvfs(disk)
    size = (status.f_blocks - status.f_bfree + num_pages) * status.f_bsize
    subprocess.run(["mount", "-o", f"remount,size={size}", os.fspath(disk)], check=True)


def stopped(arguments: dict, data_dir: pathlib.Path, capfd) -> str:
    """The error line of a build that stops, "" if it does not; nothing is half-written."""
    is_stopped = main(command(arguments, data_dir, num_workers=1)[3:])
    lines = [line for line in capfd.readouterr().err.splitlines() if "%|" not in line and line]
    assert not list(data_dir.rglob("*.tmp"))
    assert not (data_dir / ".build" / "metadata").exists()
    if not is_stopped:
        return ""
    (line,) = lines
    assert line.startswith("error: ")
    assert not (data_dir / "clips.parquet").exists()
    return line


def test_no_room_for_the_plan(inputs, disk, capfd):
    arguments, undisturbed = inputs
    data_dir = disk / "set"
    for num_free_pages in range(1, 100, 2):  # a tmpfs of size 0 has no limit
        leave_room(disk, num_free_pages)
        line = stopped(arguments, data_dir, capfd)
        if "plan.arrow" not in line:
            break
        assert "No space left on device" in line
        assert contents(data_dir) == {}
    assert num_free_pages > 3
    assert "No space left on device" in line  # of a worker
    leave_room(disk, 1_000)
    assert not stopped(arguments, data_dir, capfd)
    assert contents(data_dir) == contents(undisturbed)


def test_no_room_for_the_shards(inputs, disk, capfd):
    arguments, undisturbed = inputs
    data_dir = disk / "set"
    expected = contents(undisturbed)
    leave_room(disk, 100)  # for some of 14
    line = stopped(arguments, data_dir, capfd)
    assert "cannot write" in line
    assert "No space left on device" in line
    assert "finished shards are kept, so mend this and run the same command again" in line
    written = contents(data_dir)
    assert 1 <= len(written) < 14
    assert written.items() <= expected.items()
    leave_room(disk, 1_000)
    assert not stopped(arguments, data_dir, capfd)
    assert contents(data_dir) == expected


@pytest.mark.release
def test_no_room_for_what_describes_the_shards(inputs, disk, capfd):
    arguments, undisturbed = inputs
    data_dir = disk / "set"
    expected = contents(undisturbed)
    stopped_at = set()
    for num_free_pages in range(100):
        shutil.rmtree(data_dir, ignore_errors=True)
        leave_room(disk, 1_000)
        shutil.copytree(undisturbed, data_dir, copy_function=shutil.copy)
        for name in expected:
            if "array_record" not in name:
                (data_dir / name).unlink()
        leave_room(disk, num_free_pages)
        line = stopped(arguments, data_dir, capfd)
        assert contents(data_dir).items() <= expected.items()
        if not line:
            break
        assert "No space left on device" in line
        stopped_at.add(line.split(": ")[1].rpartition("/")[2])
        if num_free_pages % 4 == 0:
            leave_room(disk, 1_000)
            assert not stopped(arguments, data_dir, capfd)
            assert contents(data_dir) == expected
    assert contents(data_dir) == expected
    assert {"rejects.csv", "ontology.json", "features.json", "clips.parquet"} <= stopped_at


def test_a_read_only_disk(inputs, disk, capfd):
    arguments, undisturbed = inputs

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", os.fspath(disk)], check=True)

    remount("ro")
    assert "set: cannot write there: Read-only file system" in stopped(
        arguments, disk / "set", capfd
    )
    remount("rw")
    shutil.copytree(undisturbed, disk / "set")
    (disk / "set" / "clips.parquet").unlink()
    remount("ro")
    assert "set: cannot write there: Read-only file system" in stopped(
        arguments, disk / "set", capfd
    )
    remount("rw")
    assert not stopped(arguments, disk / "set", capfd)
    assert contents(disk / "set") == contents(undisturbed)


@pytest.fixture
def plain_user():
    """A context in which permissions also apply to root: without two of its capabilities."""
    if os.geteuid():
        return contextlib.nullcontext
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "capset"):
        pytest.skip("runs as root and cannot give up its rights")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    # effective, permitted and inheritable for the lower 32 capabilities, the same for the upper
    state = (ctypes.c_uint32 * 6)()

    def set_effective(value):
        state[0] = value
        assert libc.capset(header, state) == 0, os.strerror(ctypes.get_errno())

    @contextlib.contextmanager
    def without():
        assert libc.capget(header, state) == 0
        before = state[0]
        set_effective(before & ~0b110)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        try:
            yield
        finally:
            set_effective(before)

    return without


@contextlib.contextmanager
def mode(path: pathlib.Path, bits: int):
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize("what", ["audio", "audio/below", "ontology", "segments", "splits"])
def test_inputs_without_permission(inputs, plain_user, tmp_path, capfd, what):
    arguments, _ = inputs
    (arguments["audio"] / "below").mkdir(exist_ok=True)
    flag, _, below = what.partition("/")
    path = arguments[flag][0] if flag == "segments" else arguments[flag] / below
    with plain_user(), mode(path, 0o000):
        line = stopped(arguments, tmp_path / "set", capfd)
    assert line.startswith(f"error: {path}: cannot ")
    assert "Permission denied" in line


@pytest.mark.parametrize("bits", [0o000, 0o444, 0o555])
def test_outputs_without_permission(inputs, plain_user, tmp_path, capfd, bits):
    arguments, undisturbed = inputs
    data_dir = tmp_path / "set"
    shutil.copytree(undisturbed, data_dir)
    (data_dir / "clips.parquet").unlink()
    for folder in (data_dir, data_dir / ".build"):
        with plain_user():
            with mode(folder, bits):
                line = main(command(arguments, data_dir)[3:]) and capfd.readouterr().err
            if line:
                assert line.startswith(f"error: {data_dir}")
                assert line.count("\n") == 1
                assert "Permission denied" in line
            else:  # the folder for scratch files is not always needed
                assert (folder.name, bits) == (".build", 0o555)
    build(**arguments, output_dir=data_dir, num_workers=1)
    assert contents(data_dir) == contents(undisturbed)


def test_a_damaged_recording_in_a_folder_that_cannot_be_listed(tmp_path, plain_user):
    """The disk is there, so nothing is lost."""
    arguments = make_inputs(tmp_path, 6)
    audio = arguments.pop("audio")
    (audio / "-clip000.flac").write_bytes(b"no audio")
    rows = "-clip000,audio/-clip000.flac\n-clip004,audio/-clip004.flac\n"
    (tmp_path / "paths.csv").write_text(f"clip_id,path\n{rows}")
    build(**arguments, paths=tmp_path / "paths.csv", output_dir=tmp_path / "set", num_workers=1)
    plan = Plan.open(tmp_path / "set")
    with plain_user(), mode(audio, 0o311):
        with pytest.raises(PermissionError):
            os.listdir(audio)
        outcomes = [write_shard(plan, s, on_clip=lambda _: None, fatal={}) for s in plan.shards]
    assert sum(outcome.num_records for outcome in outcomes) == 1
    assert [r[1] for outcome in outcomes for r in outcome.rejects] == ["unreadable"]


def test_a_recording_without_permission(inputs, plain_user):
    path = next(inputs[0]["audio"].glob("*.flac"))
    with plain_user(), mode(path, 0o000), pytest.raises(Rejected) as rejected:
        read_waveform(os.fspath(path), PAPER_FORMAT)
    assert rejected.value.reason == "unreadable"
