"""What reaches the terminal: no control characters, and one line after Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.progress import write_line
from relabel_jax.terminal import one_line, printable, printable_output

CHECKOUT = pathlib.Path(__file__).parents[1]
HARM = "a\x1b[2J\x07\r\x9b1m\u202eb\u2028\udcffc"
SHOWN = r"a\x1b[2J\x07\r\x9b1m\u202eb\u2028\udcffc"


def test_control_characters_are_escapes():
    assert printable(HARM) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("Ä\tß\n日本 \u200d") == "Ä\tß\n日本 \u200d"
    assert one_line("a\nb") == "a\\nb"


def test_what_commands_print(capsys):
    def command():
        print(HARM)
        print(HARM, file=sys.stderr)
        write_line(HARM)
        raise InputError(f"{HARM}\nerror: another line")

    assert cli.run(command) == 1
    output = capsys.readouterr()
    assert output.out == f"{SHOWN}\n"
    assert output.err == f"{SHOWN}\n{SHOWN}\nerror: {SHOWN}\\nerror: another line\n"


def test_the_streams_are_as_before_afterwards():
    before = sys.stdout, sys.stderr
    with printable_output(), printable_output():
        assert sys.stdout.encoding == before[0].encoding
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x"), MemoryError()])
def test_failures_of_the_system_are_one_line(error, capsys):
    def command():
        raise error

    assert cli.run(command) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_full_disk_behind_stdout():
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-c", "from relabel_jax import cli; cli.run(lambda: print(1))"],
            cwd=CHECKOUT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert run.stderr == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("module", "imports"),
    [("data_prep.relabel", "numpy"), ("relabel_jax.embed", "jax"), ("relabel_jax.report", "numpy")],
)
def test_ctrl_c_while_importing(module, imports, tmp_path):
    """A package of this name that takes long stands first in the path."""
    (tmp_path / f"{imports}.py").write_text(
        "print('here', flush=True)\nimport time; time.sleep(60)"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", module, "--help"],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(tmp_path)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == "here\n"
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    output, messages = run.communicate(timeout=30)
    assert (run.returncode, output, messages) == (130, "", "stopped\n")


def test_importing_the_package_changes_no_handler():
    check = "import signal, relabel_jax; assert signal.getsignal(2) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", check], cwd=CHECKOUT, check=True)
