"""Every code block of the documents is run, or at least parsed against what it calls."""

import doctest
import math
import os
import pathlib
import re

import pyarrow.parquet as pq
import pytest
from documents import BLOCKS, DOCS, DOCUMENTS, EXAMPLES, check_command, command_lines, resolve_names

from data_prep.relabel import relabel_files
from relabel_jax import cli, embed
from relabel_jax.errors import InputError

SHELL = [block for block in BLOCKS if block.language == "sh"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
PAGES = {
    path: [block for block in PYTHON if block.path == path and block.is_run]
    for path in dict.fromkeys(block.path for block in PYTHON if block.is_run)
}
TRAINED = ("W/base", "embeddings.parquet")
LANGUAGES = ("sh", "python", "text", "json", "bibtex", "html")
DIRECTIVES = ("toctree", "literalinclude", "command-help", "eval-rst")


def test_the_documents_have_blocks():
    assert len(SHELL) > 30
    assert len(PYTHON) > 5
    assert {block.path.name for block in SHELL} >= {"README.md", "labels.md", "training.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_has_a_known_language(path):
    for block in BLOCKS:
        if block.path.name == path.name:
            directive = re.fullmatch(r"\{([\w-]+)\}", block.language)
            known = directive[1] in DIRECTIVES if directive else block.language in LANGUAGES
            assert known, f"{block}: {block.language!r} is not checked by any test"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_command_lines_parse(block, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    for words in command_lines(block.text):
        check_command(words, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "python -m data_prep.relabel --segments=a.csv --out=labels.parquet",
        "python -m data_prep.relabel --segments=a.csv --output=b --format=xml",
        "python -m data_prep.rename --output=b",
        "relabel-jax trane --workdir=W",
        "relabel-jax train --config=base_human --workdir=W --config.learning_rat=1",
        "relabel-jax train --config=base_human --workdir=W --config.labeling=pl",
        "relabel-jax train --config=base_humans --workdir=W",
        "relabel-jax train --config=base_human --wokdir=W",
        "python benchmarks/main_rate.py --datadir=DATA",
        "python benchmarks/none.py",
        "make everything",
        "make test EXTRA=torch",
        "pip install 'relabel-jax[everything]'",
        "pip install .[everything]",
        "curl https://example.org",
    ],
)
def test_wrong_command_lines_do_not(line, monkeypatch):
    (words,) = command_lines(line)
    monkeypatch.chdir(DOCS.parent)
    with pytest.raises((AssertionError, InputError, KeyError, OSError)):
        check_command(words, monkeypatch)


@pytest.mark.parametrize("block", [b for b in PYTHON if not b.is_run], ids=str)
def test_python_that_is_not_run_names_what_exists(block):
    compile(block.text, str(block), "exec")
    try:
        resolve_names(block.text)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("relabel_jax", "data_prep")):
            raise
        pytest.skip(f"needs {error.name}")


def test_a_name_that_does_not_exist_is_found():
    resolve_names("import relabel_jax\nrelabel_jax.Embedder.load")
    with pytest.raises(AttributeError):
        resolve_names("import relabel_jax\nrelabel_jax.Embedder.lode")


@pytest.fixture(scope="module")
def labels_dir(segments_sample, tmp_path_factory):
    """The folder of a reader who has segment files and re-labelled them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "META").mkdir()
    for name in ("balanced_train", "eval"):
        os.symlink(segments_sample, folder / "META" / f"{name}_segments.csv")
    for name, form in (
        ("labels.parquet", "parquet"),
        ("labels.npz", "torch"),
        ("matrices.npz", "npz"),
    ):
        relabel_files(segments=[segments_sample], output=folder / name, format=form)
    return folder


@pytest.fixture(scope="module")
def trained_dir(labels_dir, miniature_data, small_base):
    """The same, who also has a data set, a trained base and an embedded folder."""
    os.symlink(miniature_data, labels_dir / "DATA")
    os.symlink(miniature_data.parent / "mini", labels_dir / "MINI")
    (labels_dir / "W").mkdir()
    os.symlink(small_base, labels_dir / "W" / "base")
    recordings = sorted((labels_dir / "MINI" / "audio").iterdir())[:3]
    (labels_dir / "RECORDINGS").mkdir()
    os.symlink(recordings[0], labels_dir / "RECORDINGS" / "sound.wav")
    output = labels_dir / "embeddings.parquet"
    flags = [f"--checkpoint={small_base}", f"--audio={','.join(map(str, recordings))}"]
    assert embed.main([*flags, f"--output={output}", "--scores"]) == 0
    return labels_dir


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            path,
            id=path.name,
            marks=[pytest.mark.slow] if any(t in b.text for b in blocks for t in TRAINED) else [],
        )
        for path, blocks in PAGES.items()
    ],
)
def test_the_python_of_a_page_runs(page, request, monkeypatch):
    """All blocks of a page, in their order, in one namespace."""
    needs_training = any(word in block.text for block in PAGES[page] for word in TRAINED)
    folder = request.getfixturevalue("trained_dir" if needs_training else "labels_dir")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(EXAMPLES)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in PAGES[page]:
        try:
            _run(block, names)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(("relabel_jax", "data_prep")):
                raise
            pytest.skip(f"{block}: needs {error.name}")


@pytest.mark.extra
@pytest.mark.parametrize(
    "block", [b for b in PYTHON if "labels.torch" in b.text and "loader" in b.text], ids=str
)
def test_the_pytorch_loops_run(block, labels_dir, monkeypatch):
    """The loops of the documents, with the reader's own loader and model."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(labels_dir)
    table = pq.read_table("labels.parquet")
    used = sorted({mid for row in table["ol"].to_pylist() for mid in row})
    rows = "".join(f'{i},{mid},"{mid}"\n' for i, mid in enumerate(used))
    pathlib.Path("META/class_labels_indices.csv").write_text(f"index,mid,display_name\n{rows}")
    clips = [(torch.zeros(8), clip_id) for clip_id in table["clip_id"].to_pylist()[:6]]
    names = {
        "loader": torch.utils.data.DataLoader(clips, batch_size=3),
        "model": torch.nn.Linear(8, len(used)),
        "device": "cpu",
    }
    exec(compile(block.text, str(block), "exec"), names)
    assert float(names["loss"].detach()) == pytest.approx(math.log(2), rel=0.3)


def _run(block, names: dict[str, object]) -> None:
    """Runs a block; where it is an interactive session, its output must be that of the page."""
    if ">>> " not in block.text:
        exec(compile(block.text, str(block), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, str(block), None, block.line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    failed = runner.run(test, out=report.append, clear_globs=False).failed
    assert not failed, "".join(report)
    names.update(test.globs)


def test_every_command_has_its_help_in_the_documentation():
    shown = [b.info.split()[1] for b in BLOCKS if b.language == "{command-help}"]
    assert sorted(shown) == sorted(cli.VERBS)
