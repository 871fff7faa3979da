"""Imports point one way, JAX stays above the data, and nothing needs TensorFlow."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
# A part, which is a package or a module, imports only what stands before it.
ORDER = (
    "version",
    "interrupts",
    "terminal",
    "errors",
    "faults",
    "files",
    "digests",
    "cli",
    "progress",
    "metrics",
    "labels",
    "audio",
    "data",
    "ops",
    "models",
    "runs",
    "train",
    "report",
    "scoring",
    "score",
    "experiments",
    "inference",
    "main",
    "embed",
    "nearest",
    "export",
    "import_weights",
    "demo",
    "benchmark",
    "hear",
)
FOR_PYTORCH = (  # users bring it
    "relabel_jax.inference.adapters.hear",
    "relabel_jax.inference.weight_files",
    "relabel_jax.labels.torch",
)
WITHOUT_JAX = (*ORDER[: ORDER.index("ops")], "scoring", "score")


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("relabel_jax", "data_prep")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """The imports of a module, anywhere in the file: modules of this project, and packages."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def part(module: str) -> str:
    return module.split(".")[1]


RELABEL_JAX = [module for module in MODULES if module.startswith("relabel_jax.")]


def test_the_parser_sees_imports():
    assert imports("relabel_jax.experiments.grid") >= {
        "relabel_jax.experiments.run",
        "ml_collections",
        "pathlib",
    }
    assert "relabel_jax.ops.toom_cook" in imports("relabel_jax.ops.convolution")
    assert "relabel_jax.experiments.grid" in imports("relabel_jax.main")


def test_every_part_has_its_place():
    assert {part(module) for module in RELABEL_JAX} == set(ORDER)


@pytest.mark.parametrize("module", RELABEL_JAX)
def test_imports_point_one_way(module):
    for imported in imports(module):
        assert imported.split(".")[0] != "data_prep"
        if not imported.startswith("relabel_jax."):
            continue
        if part(imported) != part(module):
            assert ORDER.index(part(imported)) < ORDER.index(part(module)), imported


def test_there_is_no_circle():
    graph = {module: imports(module) & MODULES.keys() for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_tensorflow_or_torch(module):
    found = {name.split(".")[0] for name in imports(module)} & {"tensorflow", "torch", "keras"}
    assert found == ({"torch"} if module in FOR_PYTORCH else set())


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_no_jax_below_the_hosts(name):
    names = {imported.split(".")[0] for imported in imports(f"relabel_jax.{name}")}
    assert not names & {"jax", "jaxlib", "flax", "optax", "orbax"}


def loaded_by(statement: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_jax_is_not_loaded_below_the_pipeline():
    """`data.pipeline` is exempt, because Grain loads JAX."""
    names = [name for name in WITHOUT_JAX if name != "pipeline"]
    loaded = loaded_by("import " + ", ".join(f"relabel_jax.{name}" for name in names))
    assert {f"relabel_jax.{name}" for name in names} <= loaded
    assert not loaded & {"jax", "jaxlib", "flax", "grain", "tensorflow", "torch"}


def test_the_package_itself_loads_nothing():
    loaded = loaded_by("import relabel_jax")
    assert not loaded & {"numpy", "jax", "relabel_jax.inference.embedder"}


@pytest.mark.slow
def test_tensorflow_is_not_loaded():
    loaded = loaded_by(
        "import relabel_jax.main, data_prep.build, data_prep.miniature, relabel_jax.embed, "
        "relabel_jax.export"
    )
    assert {"relabel_jax.train.loop", "data_prep.shards", "jax"} <= loaded
    assert not loaded & {"tensorflow", "torch", "keras"}
