"""What the project's own files promise each other."""

import ast
import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.data.warps import IMAGE_SIZES
from pipeline.grids import TRANSFORMS
from pipeline.models.stn import ARCHITECTURES
from pipeline.params import RunParams, StudyParams, allowed_values, resolve
from tests.conftest import PROJECT

# module -> what it may import of the project; design.md's picture
MAY_KNOW = {
    "errors": set(),
    "params": {"errors"},
    "grids": set(),
    "data.mnist": {"errors"},
    "data.batches": set(),
    "data.warps": {"grids"},
    "data.distorted": {"data.mnist", "data.warps"},
    "models.pooled": set(),
    "models.coordconv": {"models.pooled"},
    "models.layers": {"models.coordconv", "models.pooled"},
    "models.stn": {"errors", "grids", "models.layers"},
    "models.portable": set(),
    "machine": set(),
    "metrics": set(),
    "statistics": set(),
    "figures": {"metrics", "statistics"},
    "tracking": {"errors"},
    "train": {
        "data.batches",
        "data.distorted",
        "data.mnist",
        "data.warps",
        "errors",
        "models.stn",
        "params",
    },
    "gallery": {"data.distorted", "data.mnist", "figures", "models.stn", "params"},
    "run": {
        "data",
        "data.distorted",
        "data.mnist",
        "data.warps",
        "grids",
        "errors",
        "figures",
        "gallery",
        "machine",
        "metrics",
        "models.portable",
        "models.stn",
        "params",
        "tracking",
        "train",
    },
    "evaluate": {
        "data",
        "data.distorted",
        "data.mnist",
        "figures",
        "machine",
        "metrics",
        "tracking",
    },
    "report": {"errors", "machine", "params", "statistics", "tracking"},
    "tables": {"report", "statistics"},
    "page": {"figures", "report", "tables"},
    "compare": {"errors", "page", "report", "statistics", "tables", "tracking"},
    "workers": {"errors", "params", "tracking", "run"},
    "progress": {"tracking", "workers"},
    "study": {
        "data",
        "data.mnist",
        "errors",
        "page",
        "params",
        "progress",
        "report",
        "run",
        "tables",
        "tracking",
        "workers",
    },
    "predict": {"data.warps", "errors", "figures", "tracking"},
    "cli": {"errors", "params", "tracking", "run", "study", "evaluate", "compare", "predict"},
}
MODULES = sorted(
    ".".join(path.relative_to(PROJECT / "pipeline").with_suffix("").parts)
    for path in (PROJECT / "pipeline").rglob("*.py")
    if not path.name.startswith("__")
)


def imports_of(module: str) -> set[str]:
    path = PROJECT / "pipeline" / (module.replace(".", "/") + ".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {f"pipeline.{name}" for name in [*MODULES, "data", "models"]}
            found |= (submodules & known) or {node.module}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_only_whom_it_may(module):
    project = {
        name.removeprefix("pipeline.")
        for name in imports_of(module)
        if name.startswith("pipeline.")
    }
    assert project <= MAY_KNOW[module]


@pytest.mark.parametrize(
    ("parameter", "known"),
    [("architecture", ARCHITECTURES), ("transform", TRANSFORMS), ("dataset", IMAGE_SIZES)],
)
def test_what_may_be_asked_for_is_what_there_is(parameter, known):
    assert allowed_values(parameter) == ", ".join(known)


@pytest.mark.parametrize("module", MODULES)
def test_only_tracking_imports_mlflow(module):
    uses_mlflow = any(name.split(".")[0] == "mlflow" for name in imports_of(module))
    assert uses_mlflow == (module == "tracking")


def test_the_replication_preset_is_the_defaults():
    preset = resolve({"preset": str(PROJECT / "params/replication.yaml")})
    assert preset.protocol == RunParams().protocol


def lines_of(name):
    """A requirements file's lines, without comments, hashes and options."""
    lines = (PROJECT / name).read_text().splitlines()
    lines = [re.sub(r"\s+(#.*|\\)$", "", line) for line in lines]
    return [line for line in lines if re.match(r"[a-zA-Z0-9]", line)]


def locked_versions(name: str) -> dict[str, set[str]]:
    """By package, its versions in a lock: one, or one for each range of Python versions."""
    versions: dict[str, set[str]] = {}
    for requirement in map(Requirement, lines_of(name)):
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        versions.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return versions


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_has_a_version_of_each_requirement_and_hashes_of_all(name):
    locked = locked_versions(f"{name}.lock")
    for requirement in map(Requirement, lines_of(f"{name}.txt")):
        assert any(bound.operator == ">=" for bound in requirement.specifier), "no lowest version"
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions)
    text = (PROJECT / f"{name}.lock").read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)
    direct = {package.split("==")[0] for package in packages if f"-r {name}.txt" in package}
    assert direct == {canonicalize_name(Requirement(line).name) for line in lines_of(f"{name}.txt")}


def test_both_locks_and_conda_agree():
    locked = locked_versions("requirements.lock")
    assert locked.items() <= locked_versions("requirements-dev.lock").items()
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert pip == lines_of("requirements.lock")


def test_the_readme_lists_every_parameter_as_it_is():
    readme = (PROJECT / "README.md").read_text()
    for model in (RunParams, StudyParams):
        for name, field in model.model_fields.items():
            default = "" if field.default is None else f"`{field.default}`"
            allowed = allowed_values(name, model)
            assert f"| `{name}` | {default} | {allowed} | {field.description} |" in readme


def test_mlproject_declares_no_default_that_would_override_a_preset():
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    assert {"main", "train", "study", "evaluate", "compare", "predict"} <= entry_points.keys()
    for name in ("main", "train", "study"):
        assert entry_points[name]["parameters"].keys() == {"preset"}
