"""What is built is what is promised: two wheels, five commands, and an edge that carries nothing it does not need."""

from __future__ import annotations

import email
import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import edge_runtime

ROOT = Path(__file__).parent.parent
PACKAGES = {"coordinator", "device_sim", "edge_runtime", "loadtest", "model_export"}
EDGE_NEEDS = {"numpy<2,>=1.26", "cryptography>=45", "httpx<1,>=0.28"}


def project(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = tomllib.loads(path.read_text())["project"]
    return found


def wheel_of(source: Path, out: Path) -> zipfile.ZipFile:
    """Build with what is installed; the network is not needed."""
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", script, str(out)], cwd=source, capture_output=True, text=True, check=True
    )
    return zipfile.ZipFile(out / built.stdout.split()[-1])


def needed_always(wheel: zipfile.ZipFile) -> set[str]:
    name = next(entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
    requirements = email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist") or []
    return {requirement for requirement in requirements if "extra ==" not in requirement}


def test_the_edge_wheel_holds_the_edge_alone_and_needs_three_packages(tmp_path: Path) -> None:
    with wheel_of(ROOT / "edge_runtime", tmp_path) as wheel:
        tops = {name.split("/")[0] for name in wheel.namelist()}
        assert tops == {"edge_runtime", "edgewise_edge-0.1.0.dist-info"}
        assert needed_always(wheel) == {"numpy>=1.26", "cryptography>=42", "httpx<1,>=0.28"}
        ours = {str(path.relative_to(ROOT)) for path in (ROOT / "edge_runtime").rglob("*.py")}
        assert {name for name in wheel.namelist() if name.endswith(".py")} == ours
        assert "edge_runtime/py.typed" in wheel.namelist()


def test_the_whole_wheel_holds_the_five_packages_and_what_they_read(tmp_path: Path) -> None:
    with wheel_of(ROOT, tmp_path) as wheel:
        names = set(wheel.namelist())
        assert {name.split("/")[0] for name in names} == {*PACKAGES, "edgewise-0.1.0.dist-info"}
        assert needed_always(wheel) == EDGE_NEEDS
        for package in PACKAGES:
            read_at_run_time = {
                str(path.relative_to(ROOT))
                for path in (ROOT / package).rglob("*")
                if path.is_file() and "__pycache__" not in path.parts and path.name != "pyproject.toml"
            }
            assert read_at_run_time <= names


def test_the_edge_alone_needs_what_the_whole_needs_of_it_and_admits_more_versions() -> None:
    """Phones bring their own Python, numpy and cryptography; a board or a laptop installs the whole."""
    whole, edge = project(ROOT / "pyproject.toml"), project(ROOT / "edge_runtime" / "pyproject.toml")
    assert whole["version"] == edge["version"]
    assert SpecifierSet(edge["requires-python"]).contains("3.11.0")
    narrow = {one.name: one for one in map(Requirement, whole["dependencies"])}
    wide = {one.name: one for one in map(Requirement, edge["dependencies"])}
    assert narrow.keys() == wide.keys()
    for name, requirement in narrow.items():
        installed = importlib.metadata.version(name)
        assert requirement.specifier.contains(installed)
        assert wide[name].specifier.contains(installed)
    assert "numpy<2" in edge["optional-dependencies"]["tflite"]


@pytest.mark.parametrize("command", ["coordinator", "export", "device", "sim", "loadtest"])
def test_every_command_teaches_its_use(command: str) -> None:
    answer = subprocess.run(
        [str(Path(sys.executable).parent / f"edgewise-{command}"), "--help"], capture_output=True, text=True
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Usage" in answer.stdout


def test_the_names_of_the_edge_are_loaded_on_first_use() -> None:
    assert len(edge_runtime.__all__) <= 16
    for name in edge_runtime.__all__:
        home = importlib.import_module(f"edge_runtime.{edge_runtime._HOMES[name]}")
        assert getattr(edge_runtime, name) is getattr(home, name)
    assert set(edge_runtime.__all__) <= set(dir(edge_runtime))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edge_runtime.__getattr__("nothing")


def test_every_pinned_version_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    assert {"torch==2.13.0", "tensorflow_cpu==2.21.0", "numpy==1.26.4"} <= set(lines)
