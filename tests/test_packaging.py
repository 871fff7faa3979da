"""The wheel has every file of the packages, the configs, the licences and the console script."""

import configparser
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

CHECKOUT = pathlib.Path(__file__).parents[1]
# Prints, for each config, the path that its name is found at and the method it trains.
READ_CONFIGS = """
import json, runpy
from relabel_jax.experiments.config_files import configs_folder, find_config
found = {path.stem: find_config(path.stem) for path in configs_folder().glob("*.py")}
for name, path in found.items():
    runpy.run_path(str(path))["get_config"]()
print(json.dumps({name: str(path) for name, path in found.items()}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, unpacked."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling, which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    build += ["--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(CHECKOUT)]
    subprocess.run(build, check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def files_below(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_all_files_of_the_packages(wheel):
    packaged = files_below(wheel / "relabel_jax")
    configs = {name: packaged.pop(name) for name in list(packaged) if name.startswith("configs/")}
    assert packaged == files_below(CHECKOUT / "relabel_jax")
    assert {"report/page.html", "report/paper_tables.json", "inference/demo.css"} <= set(packaged)
    assert configs == {
        f"configs/{name}": content for name, content in files_below(CHECKOUT / "configs").items()
    }
    assert files_below(wheel / "data_prep") == files_below(CHECKOUT / "data_prep")


def test_the_wheel_takes_no_other_top_level_name(wheel):
    (info,) = wheel.glob("relabel_jax-*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"relabel_jax", "data_prep", info.name}


def test_the_wheel_has_the_licences(wheel):
    (info,) = wheel.glob("relabel_jax-*.dist-info")
    for path in (CHECKOUT / "LICENSE", CHECKOUT / "NOTICE"):
        assert (info / "licenses" / path.name).read_bytes() == path.read_bytes()


def test_the_wheel_has_the_console_script(wheel):
    (info,) = wheel.glob("relabel_jax-*.dist-info")
    entry_points = configparser.ConfigParser()
    entry_points.read(info / "entry_points.txt")
    assert dict(entry_points["console_scripts"]) == {"relabel-jax": "relabel_jax.cli:main"}


@pytest.mark.slow
def test_the_configs_of_the_wheel_are_found_by_name_and_load(wheel, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"}
    reading = subprocess.run(
        [sys.executable, "-c", READ_CONFIGS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = wheel / "relabel_jax" / "configs"
    names = [path.stem for path in (CHECKOUT / "configs").glob("*.py")]
    assert json.loads(reading.stdout) == {name: str(folder / f"{name}.py") for name in names}
