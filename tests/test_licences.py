"""Licences: what the project is made of is listed as installed, and no committed file points at a package registry."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from data.codebook import load_codebook

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
]
LISTED = {
    name: (version, licence)
    for name, version, licence in re.findall(
        r"^\| ([\w.-]+) \| (\d[\w.]*) \| ([^|]+) \|", (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8"), re.M
    )
}
# In two halves each, so that this file names none of them.
REGISTRIES = [
    first + second
    for first, second in (
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("ana", "conda.org"),
        ("npm", "js.org"),
        ("crates", ".io"),
        ("download.py", "torch.org"),
        ("--index", "-url"),
        ("--extra", "-index-url"),
        ("--find", "-links"),
    )
]


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def installed(requirement: str) -> str | None:
    """The version that is installed: the lock's, or the one asked for by an extra that is not locked."""
    name = re.escape(name_of(requirement))
    found = re.search(rf"^{name}==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    return found[1] if found else requirement.partition("==")[2]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_dependency_is_listed_with_its_locked_version(requirement: str) -> None:
    assert name_of(requirement) in LISTED, "add it to THIRD_PARTY.md"
    assert LISTED[name_of(requirement)][0] == installed(requirement)


def test_nothing_is_listed_that_is_no_dependency() -> None:
    assert set(LISTED) == {name_of(requirement) for requirement in REQUIREMENTS}


@pytest.mark.parametrize("name", sorted(LISTED))
def test_each_licence_is_what_the_installed_metadata_says(name: str) -> None:
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        pytest.skip(f"{name} belongs to an extra that is not installed")
    classifiers = [line for line in metadata.get_all("Classifier", []) if line.startswith("License :: ")]
    classified = [line.removeprefix("License :: ").removeprefix("OSI Approved :: ") for line in classifiers]
    text = metadata.get("License", "")  # some packages put the whole licence there
    short = [text] if text and "\n" not in text else []
    expression = metadata.get("License-Expression")
    said = [expression] if expression else short or classified
    if not said:  # its licence file alone says it
        files = [file for file in distribution(name).files or () if "LICENSE" in file.name.upper()]
        said = [LISTED[name][1]] if f"{LISTED[name][1]} License" in files[0].read_text(encoding="utf-8") else []
    assert LISTED[name][1] in said


def test_nothing_that_is_needed_directly_is_under_the_gpl() -> None:
    assert not {name for name, (_, licence) in LISTED.items() if re.match("A?GPL", licence)}
    needed = {name_of(one) for one in PROJECT["dependencies"]}
    assert not {name for name in needed if LISTED[name][1].startswith("LGPL")}


def test_the_licence_of_the_code_is_the_whole_apache_licence() -> None:
    installed = [file for file in distribution("datasets").files or () if file.name == "LICENSE"]
    assert PROJECT["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").split() == installed[0].read_text(encoding="utf-8").split()


def test_the_data_come_with_their_licence() -> None:
    licence = (ROOT / "data" / "LICENSE.md").read_text(encoding="utf-8")
    assert "CC-BY-4.0" in licence and "https://creativecommons.org/licenses/by/4.0/legalcode" in licence
    assert f"codebook version {load_codebook().version}, licensed under CC BY 4.0" in licence


def registries(content: bytes) -> list[str]:
    """The hosts of package registries, and options that would name one, which a file's content holds."""
    return [name for name in REGISTRIES if name.encode() in content.lower()]


@pytest.mark.parametrize("name", REGISTRIES)
def test_the_name_of_a_registry_is_found_wherever_it_stands(name: str) -> None:
    assert registries(f"# see HTTPS://{name.upper()}/simple\n".encode()) == [name]


def test_no_committed_file_names_a_package_registry() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there is nothing committed to look through")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert ROOT / "requirements.lock" in paths
    found = {str(path.relative_to(ROOT)): registries(path.read_bytes()) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}
