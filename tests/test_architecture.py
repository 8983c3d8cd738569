"""How the house is built: imports point one way, modules stay small, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("data", "training", "serving")
MAY_IMPORT = {"data": {"data"}, "training": {"training", "data"}, "serving": {"serving"}}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            names.add(str(node.module))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "model").glob("*.py")), ids=lambda path: path.name)
def test_the_code_that_travels_with_a_model_imports_nothing_else_of_ours(path: Path) -> None:
    ours = {name for name in imported(path) if name.split(".")[0] in PACKAGES}
    assert all(name.startswith("training.model.") for name in ours)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_what_it_knows_and_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 300


def test_importing_does_nothing_outside_the_process(tmp_path: Path) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if path.name != "__init__.py"]
    left_out = {"training.model.entry", "training.tune", "training.export"}  # MLflow's script; the extra `finetune`
    names = [name for name in names if name not in left_out]
    code = f"import sys, importlib; sys.path.insert(0, {str(ROOT)!r})\nfor n in {names!r}: importlib.import_module(n)"
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "mlflow.db" in path.name]
    assert not left
