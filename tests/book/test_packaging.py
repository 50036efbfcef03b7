"""The files that name packages, versions and addresses agree with each other."""

import ast
import csv
import hashlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import readme_figure
import repository
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def test_conda_has_the_same_bounds():
    # PyPI's pybullet 3.2.5 is 3.25 on conda-forge, where it has builds for every Python.
    conda_names = {"torch": "pytorch"}
    expected = {conda_names.get(r.name, r.name): str(r.specifier) for r in requirements() if not r.marker}
    expected |= {"pybullet": ">=3.25", "pip": ""}
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    found = {r.name: str(r.specifier) for r in map(Requirement, [*conda, *pip["pip"]])}
    assert found.pop("python").split(",")[-1] == PROJECT["requires-python"]
    assert found == expected
    (bullet, fork) = (Requirement(line) for line in PROJECT["optional-dependencies"]["bullet"])
    assert (str(bullet.specifier), fork.name) == (">=3.2.5", "pybullet-arm64")


PYTHONS = ("3.11", "3.12", "3.13")
LOCK = re.split(r" \\\n(?! )|\n(?! )", "\n".join(lines("requirements.lock")))  # a package each, with its hashes


def pins(python: str) -> dict[str, str]:
    """The versions on Linux with that Python, by name: of the lock, and of what it leaves to pip."""
    found = {}
    for line in [*(entry.split(" \\")[0] for entry in LOCK), *lines("constraints.txt")]:
        requirement = Requirement(line)
        version = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
        if not requirement.marker or requirement.marker.evaluate(version):
            (pin,) = requirement.specifier
            assert pin.operator == "==" and "+" not in pin.version
            assert found.setdefault(canonicalize_name(requirement.name), pin.version) == pin.version, line
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_is_pinned_within_its_bounds(python):
    pinned = pins(python)
    for requirement in [*requirements(), *map(Requirement, lines("requirements-no-deps.txt"))]:
        if requirement.name == "triton":  # torch's build for CUDA brings a version of its own
            assert "triton" not in pinned
        elif not requirement.marker or requirement.marker.evaluate({"python_version": python}):
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_python_3_13_has_colabs_versions():
    assert {name: pins("3.13")[name] for name in ("torch", "numpy", "pandas", "gymnasium")} == {
        **dict(torch="2.11.0", numpy="2.1.3", pandas="2.2.3"),
        "gymnasium": "1.4.0",
    }


def test_each_package_of_the_lock_has_hashes():
    assert len(LOCK) > 150
    for entry in LOCK:
        assert re.fullmatch(r"\S+==\S+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry[:80]


def test_each_package_has_a_licence():
    rows = list(csv.DictReader((ROOT / "licences.csv").read_text().splitlines()))
    found = {canonicalize_name(row["Name"]): row["Version"].removesuffix("+cpu") for row in rows}
    assert found == pins("3.11"), "run: make audit"
    assert not [row for row in rows if row["License"] in ("", "UNKNOWN")]


def test_workflows_take_actions_by_commit():
    text = "".join(path.read_text() for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")))
    uses = re.findall(r"uses: (.*)", text)
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line) for line in uses)
    assert len(set(uses)) == len({line.split("@")[0] for line in uses}), "an action in two versions"


def test_the_workflows_run_the_tested_pythons():
    (tests,) = (
        yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]["tests"] for name in ["tests.yml"]
    )
    assert tuple(tests["strategy"]["matrix"]["python"]) == PYTHONS


@pytest.mark.slow
def test_the_same_commit_gives_the_same_wheel(tmp_path):
    """In two clones, made with other permissions; one has files of an earlier build."""
    digests = set()
    for name, mask in (("one", "022"), ("another", "077")):
        folder = tmp_path / name
        clone = f"umask {mask} && git clone --quiet {shlex.quote(str(ROOT))} {folder}"
        subprocess.run(["bash", "-c", clone], check=True)
        if name == "another":
            (folder / "build" / "lib" / "trac").mkdir(parents=True)
            (folder / "build" / "lib" / "trac" / "old.py").write_text("")
        make = f"umask {mask} && make -C {folder} wheel PYTHON={shlex.quote(sys.executable)}"
        subprocess.run(["bash", "-c", make], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = (folder / "dist").iterdir()
        digests.add((wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()))
    assert len(digests) == 1


def test_the_environment_of_other_simulators_has_what_trac_needs():
    pins = {canonicalize_name(r.name): r for r in map(Requirement, lines("requirements-safety.txt"))}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), f"{requirement} against {pin}"
    # What Safety-Gymnasium 0.4.0 runs with: it fails on newer ones.
    assert {str(pins[name]) for name in ("gymnasium", "mujoco", "numpy")} == {
        *("gymnasium==0.28.1", "mujoco==2.3.3", "numpy==1.26.4")
    }


@pytest.mark.parametrize("name", ["book/colab_setup.py", "trac/envs/bullet.py"])
def test_packages_without_dependencies_have_one_version(name):
    text = (ROOT / name).read_text()
    for line in lines("requirements-no-deps.txt"):
        assert line in text


def test_conda_and_readme_use_the_file():
    for name in ("README.md", "environment.yml", "Makefile"):
        assert "requirements-no-deps.txt" in (ROOT / name).read_text()


def test_a_wheel_has_the_data():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = {path for path in project_files() if path.is_relative_to(ROOT / "trac") and path.suffix != ".py"}
    assert data == {path for pattern in tool["package-data"]["trac"] for path in (ROOT / "trac").glob(pattern)}
    assert {path.suffix for path in data} == {".hdf5", ".csv", ".typed"}


def test_the_module_imports_what_it_requires():
    required = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    required.add("triton")  # of two modules that are imported for a GPU alone, and torch brings it there
    owners = packages_distributions()
    for path in sorted((ROOT / "trac").rglob("*.py")):
        # Imports inside functions are of packages that one can do without.
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for root in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"trac"}:
                assert required & set(map(canonicalize_name, owners[root])), f"{path.relative_to(ROOT)}: {root}"


def test_the_address_is_the_same_everywhere():
    address = re.escape(repository.address())
    for name in repository.COPIES:
        text = (ROOT / name).read_text()
        assert re.search(address + r"\b", text), name
    named = re.findall(
        r"https://github\.com/[\w.-]+/trac-book", "".join((ROOT / n).read_text() for n in repository.COPIES)
    )
    assert set(named) <= {repository.address()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_the_set_up_cell(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if "setup" in c.metadata.get("tags", [])]
    assert [cell.source for cell in cells] == [repository.setup_cell()], "run: python book/repository.py"
    assert "hide-input" in cells[0].metadata.tags and not cells[0].outputs


def test_workflows_readme_and_ci_call_targets_that_exist():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    commands = "\n".join(
        step.get("run", "")
        for path in workflows
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
    )
    commands += (ROOT / "README.md").read_text()
    called = set(re.findall(r"(?:^|`|; |\|\| )make ([a-z][\w-]+)", commands, re.MULTILINE))
    in_ci = set(re.findall(r"(?<![\w-])(?:test(?:-\w+)*|lint)(?![\w-])", (ROOT / ".ci" / "run").read_text()))
    assert len(workflows) == 3 and {"book", "test", "test-browser"} < called <= targets
    assert {"test", "test-exercises", "test-notebooks", "lint"} < in_ci <= targets


@pytest.mark.parametrize("copy", readme_figure.FIGURES)
def test_the_readme_shows_the_chapters_figure(copy):
    assert (ROOT / "book" / "figures" / copy).read_bytes() == readme_figure.figure(copy), "python book/readme_figure.py"
    assert f"book/figures/{copy}" in (ROOT / "README.md").read_text()


def project_files() -> list[Path]:
    """What git tracks or would add; without git, the folders that are tracked."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        folders = ("trac", "book", "notebooks", "tests", ".ci")
        return [p for f in folders for p in (ROOT / f).rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def test_no_file_names_a_machine():
    # Put together from pieces, so that this file passes too.
    folders = "|".join(["work", "root", "home/" + r"\w+", "tmp/bash", "Users"])
    paths = re.compile(rf"""(?<![\w.~/-])/({folders})/""")
    hosts = re.compile(
        "|".join([r"\bpypi" + r"\.org", "python" + "hosted", r"debian" + r"\.org", r"npmjs" + r"\.(org|com)"])
    )
    found = []
    for path in project_files():
        if path.suffix in {".hdf5", ".png", ".gif", ".ico", ".safetensors"}:
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = json.dumps(json.loads(text), ensure_ascii=False)
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for regex in (paths, hosts) for m in regex.finditer(text)]
    assert not found


def test_every_module_is_on_the_page_of_the_api():
    found = re.findall(r"automodule:: trac\.(\S+)", (ROOT / "book/api.md").read_text())
    modules = {
        ".".join(path.relative_to(ROOT / "trac").with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "trac").rglob("*.py")
    }
    assert sorted(found) == sorted(modules - {"__init__", "__main__"})
