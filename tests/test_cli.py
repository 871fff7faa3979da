"""`relabel-jax VERB`: every verb, its help, exit codes, one-line errors, the cost of a start."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import relabel_jax
from relabel_jax import cli
from relabel_jax.errors import InputError, Interrupted

CHECKOUT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def as_script(monkeypatch):
    """Runs the script `relabel-jax` in this process; returns the exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/relabel-jax", *arguments])
        try:
            return cli.main()
        except SystemExit as exiting:
            return exiting.code

    return call


def test_every_command_has_a_verb():
    commands = {
        ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for package in ("data_prep", "relabel_jax")
        for path in (CHECKOUT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert {module for module, _ in cli.VERBS.values()} == commands


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_names_the_verb(verb, as_script, capsys):
    assert as_script(verb, "--help") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith(f"usage: relabel-jax {verb} ")


def test_the_help_of_a_module_names_the_module():
    module = [sys.executable, "-m", "relabel_jax.report", "--help"]
    output = subprocess.run(module, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert output.stdout.startswith("usage: python -m relabel_jax.report ")


def test_examples_call_the_command_as_the_user_did(as_script, capsys):
    assert as_script("miniature", "--help") == 0
    assert "  relabel-jax build --ontology=" in capsys.readouterr().out
    module = [sys.executable, "-m", "data_prep.miniature", "--help"]
    output = subprocess.run(module, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "  python -m data_prep.build --ontology=" in output.stdout


def test_help_lists_the_verbs(as_script, capsys):
    assert as_script("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for verb, (_, what) in cli.VERBS.items():
        assert f"  {verb:10} {what}" in lines


def test_version(as_script, capsys):
    assert as_script("--version") == 0
    assert capsys.readouterr().out == f"relabel-jax {relabel_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["tarin"], "'tarin' is not a verb; did you mean train"),
        (["embedd", "--help"], "'embedd' is not a verb; did you mean embed"),
        (["--verbose"], "'--verbose' is not a verb"),
        ([], "expected a verb"),
    ],
)
def test_an_unknown_verb_is_wrong_usage(arguments, problem, as_script, capsys):
    assert as_script(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: {problem}; relabel-jax --help lists the verbs\n"


def test_an_unknown_flag_is_wrong_usage(as_script, capsys):
    assert as_script("report", "--workdirs=W") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("relabel-jax report: error: ")


def test_a_wrong_input_is_one_line(as_script, capsys, tmp_path):
    assert as_script("report", f"--workdir={tmp_path / 'absent'}") == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == (
        "",
        f"error: --workdir={tmp_path / 'absent'}: does not exist\n",
    )


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("--audio=~/x", "--audio=/home/me/x"),
        ("--audio=~/x,~/y", "--audio=/home/me/x,/home/me/y"),
        ("--output_dir=~", "--output_dir=/home/me"),
        ("~/x", "/home/me/x"),
        ("--config.labeling_files=a=~/a.csv,b=~/b.csv", None),
        ("--audio=~nobody-of-this-name/x", "--audio=~nobody-of-this-name/x"),
        ("--audio=/data/~/x~", "--audio=/data/~/x~"),
        ("--base_url=https://example.org/~me/x", "--base_url=https://example.org/~me/x"),
    ],
)
def test_home_folders(argument, expanded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.expand_home(argument) == (expanded or argument.replace("~", "/home/me"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--workdir=~/absent"),
        ("relabel", "--segments=~/absent,~/b", "--output=~/labels.parquet"),
        ("build", "--audio=~/absent", "--segments=~/absent", "--output_dir=~/DATA"),
        ("verify", "--data_dir=~/absent"),
    ],
)
def test_commands_expand_home_folders(arguments, as_script, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert as_script(*arguments) == 1
    assert str(tmp_path / "absent") in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--workdir=~/W", "--config.data_dir=~/absent"),
        ("--workdir", "~/W", "--config.data_dir", "~/absent"),
    ],
)
def test_training_expands_home_folders(flags, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "relabel_jax.main", "--config=quickstart", *flags],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert str(tmp_path / "absent") in run.stderr
    assert not (tmp_path / "~").exists()


def test_exit_codes(capsys):
    def wrong():
        raise InputError("a.csv: row 3 has no label")

    def terminated():
        raise Interrupted("stopped by SIGTERM; saved")

    def interrupted():
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)

    assert cli.run(lambda: None) == 0
    assert cli.run(lambda: 1) == 1
    assert cli.run(wrong) == 1
    assert cli.run(terminated) == 143
    assert cli.run(interrupted) == 130
    assert cli.run(interrupted, stopped=cli.RESUMES) == 130
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "error: a.csv: row 3 has no label",
        "stopped by SIGTERM; saved",
        "stopped",
        "stopped; the same command continues from here",
    ]


def test_what_is_no_mistake_of_the_user_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


LIGHT = {
    "import": ["-c", "import relabel_jax"],
    "relabel": ["-m", "data_prep.relabel", "--help"],
    "report": ["-m", "relabel_jax.report", "--help"],
    "script": ["-c", "import sys; from relabel_jax.cli import main; sys.exit(main(['--help']))"],
}


@pytest.mark.parametrize("case", LIGHT)
def test_light_commands_load_no_jax(case):
    command = [sys.executable, "-X", "importtime", *LIGHT[case]]
    output = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"\| +(\S+)$", output.stderr, re.MULTILINE))
    assert "relabel_jax" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "grain", "tensorflow_datasets"}


def cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("case", LIGHT)
def test_light_commands_start_in_little_cpu_time(case):
    """Under 1 s, which a busy machine can double. JAX alone takes 2 s on an idle one."""
    assert min(cpu_seconds([sys.executable, *LIGHT[case]]) for _ in range(3)) < 2
