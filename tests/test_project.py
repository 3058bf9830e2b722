"""What the project's own files promise each other."""

import ast
import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.data.datasets import DATASETS
from pipeline.models.conv_layers import CONV_LAYERS
from pipeline.models.placements import ARCHITECTURES
from pipeline.models.transforms import TRANSFORMS
from pipeline.params import RunParams, allowed_values
from pipeline.presets import resolve
from pipeline.tracking.vocabulary import Artifact
from tests.conftest import PROJECT

# The three tables name what may be imported. An entry that no import needs any longer fails the
# tests.

# package, or module beside the packages -> which of these, or which single modules of a package,
# it may import; see docs/development.md
MAY_KNOW = {
    "errors": set(),
    "grids": set(),
    "machine": {"tracking.vocabulary"},
    "params": {
        *("data.datasets", "errors"),
        *("models.conv_layers", "models.layer_sizes", "models.placements", "models.transforms"),
    },
    "presets": {"errors", "models.conv_layers", "params"},
    "names": {"data.datasets", "models.conv_layers", "params", "presets"},
    "data": {"errors", "grids"},
    "models": {"errors", "grids"},
    "figures": set(),
    "tracking": {"errors"},
    "training": {
        *("data", "errors", "figures", "machine", "models", "names", "params", "tracking"),
    },
    "comparison": {"data.datasets", "errors", "figures", "machine", "names", "params", "tracking"},
    "study": {
        *("comparison", "data.mnist", "errors", "models.conv_layers", "names", "params"),
        *("presets", "tracking", "training"),
    },
    "evaluate": {"data", "machine", "tracking", "training"},
    "predict": {"data", "errors", "figures", "tracking"},
    "cli": {
        *("comparison", "errors", "evaluate", "params", "predict", "presets", "study"),
        *("tracking", "training"),
    },
}
# what other packages may use, where that is not every module
OFFERED = {
    "models": {
        *("build", "conv_layers", "layer_class", "layer_sizes", "placements", "portable", "stn"),
        "transforms",
    },
    "training": {"checkpoint", "loop", "metrics", "network", "run"},
    "comparison": {"command", "looks", "page", "report", "sentences", "sequential"},
    "study": {"plan", "study"},
}
# within a package: module -> which others it may import
WITHIN = {
    "data.batches": {"datasets"},
    "data.canvas": {"datasets"},
    "data.distortions": {"canvas", "datasets"},
    "data.fixed_sets": {"datasets", "distortions", "mnist"},
    "models.coordconv": {"convolve"},
    "models.layer_class": {"conv_layers"},
    "models.convolve": {"pooled_product"},
    "models.layers": {"conv_layers", "layer_class"},
    "models.stn": {"transforms"},
    "models.build": {
        *("conv_layers", "layer_sizes", "layers", "placements", "stn", "transforms"),
    },
    "training.loop": {"optimization"},
    "training.checkpoint": {"loop"},
    "training.recorder": {"checkpoint", "loop", "poses"},
    "training.log_model": {"loop", "metrics", "pose_deviation", "poses"},
    "training.run": {
        *("checkpoint", "collapse", "log_model", "loop", "network", "optimization"),
        *("poses", "recorder", "unfinished"),
    },
    "training.unfinished": {"checkpoint"},
    "comparison.groups": {"plausible", "statistics"},
    "comparison.pairs": {"planning", "statistics"},
    "comparison.sequential": {"boundaries", "statistics"},
    "comparison.verdict": {"formats", "pairs", "sequential", "statistics"},
    "comparison.protocols": {"plausible"},
    "comparison.report": {
        *("groups", "pairs", "protocols", "sequential", "statistics", "verdict"),
    },
    "comparison.looks": {"formats", "plausible", "report", "sequential", "verdict"},
    "comparison.tables": {"formats", "groups", "report", "sequential", "statistics"},
    "comparison.sentences": {"formats", "report", "sequential", "tables"},
    "comparison.files": {"groups", "report", "sentences", "tables"},
    "comparison.page": {"files", "formats", "groups", "report", "sentences", "tables"},
    "comparison.command": {"formats", "looks", "page", "protocols", "report", "sequential"},
    "study.local_processes": {"executor"},
    "study.ray_tasks": {"executor"},
    "study.progress": {"executor"},
    "study.resume": {"executor", "plan"},
    "study.conclusion": {"plan"},
    "study.study": {
        *("conclusion", "executor", "local_processes", "plan", "progress", "ray_tasks", "resume"),
    },
    "tracking.experiments": {"links", "project_run", "store", "views", "vocabulary"},
    "tracking.lease": {"patience", "vocabulary"},
    "tracking.shared_checkpoints": {"patience", "vocabulary"},
    "tracking.links": {"credentials", "views"},
    "tracking.project_run": {"links", "store"},
    "tracking.histories": {"patience", "vocabulary"},
    "tracking.patience": {"store"},
    "tracking.recorded": {"links", "looks", "patience", "store", "vocabulary"},
    "tracking.registry": {"patience", "store", "vocabulary"},
    "tracking.runs": {
        *("experiments", "full_disk", "histories", "links", "patience", "project_run", "store"),
        "vocabulary",
    },
    "tracking.store": {"credentials", "full_disk"},
    "tracking.ui": {"experiments", "links", "store"},
    "tracking.views": {"vocabulary"},
}
PACKAGES = sorted(path.parent.name for path in (PROJECT / "pipeline").glob("*/__init__.py"))
MODULES = sorted(
    ".".join(path.relative_to(PROJECT / "pipeline").with_suffix("").parts)
    for path in (PROJECT / "pipeline").rglob("*.py")
    if not path.name.startswith("__")
)


def imports_of(module: str) -> set[str]:
    """What a module imports; of the project, modules as they are in `MODULES`."""
    path = PROJECT / "pipeline" / (module.replace(".", "/") + ".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            origin = node.module.removeprefix("pipeline.")
            names = {f"{origin}.{alias.name}".removeprefix("pipeline.") for alias in node.names}
            found |= (names & set(MODULES)) or {origin}
    return found


def package_of(module: str) -> str:
    """The package of a module; a module beside the packages stands for itself."""
    return module.partition(".")[0]


def known_outside(package: str) -> set[str]:
    """The project's modules that a package imports, without its own."""
    known = {
        other for module in MODULES if package_of(module) == package for other in imports_of(module)
    }
    return {other for other in known & set(MODULES) if package_of(other) != package}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_whom_it_may_of_its_package(module):
    siblings = {
        other.partition(".")[2]
        for other in imports_of(module) & set(MODULES)
        if package_of(other) == package_of(module)
    }
    assert siblings == WITHIN.get(module, set())


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_imports_whom_it_may(package):
    known = known_outside(package)
    allowed = MAY_KNOW[package]
    assert {other for other in known if not {other, package_of(other)} & allowed} == set()
    assert allowed - known - {package_of(other) for other in known} == set(), "nobody imports these"


@pytest.mark.parametrize("package", OFFERED)
def test_other_packages_import_what_a_package_offers(package):
    used = {other for name in MAY_KNOW for other in known_outside(name)}
    names = {other.partition(".")[2] for other in used if package_of(other) == package}
    assert names == OFFERED[package]


def test_the_tables_of_imports_name_what_there_is():
    assert MAY_KNOW.keys() == {package_of(module) for module in MODULES}
    assert WITHIN.keys() <= set(MODULES)
    assert all(WITHIN.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_describes_its_modules_and_imports_nothing(package):
    (statement,) = ast.parse((PROJECT / f"pipeline/{package}/__init__.py").read_text()).body
    described = re.findall(r"^- `(\w+)`: ", ast.literal_eval(statement.value), re.MULTILINE)
    assert sorted(described) == [
        module.partition(".")[2] for module in MODULES if module.startswith(f"{package}.")
    ]


@pytest.mark.parametrize(
    ("parameter", "known"),
    [
        ("conv_layer", [*CONV_LAYERS, "module:Class"]),
        ("architecture", ARCHITECTURES),
        ("transform", TRANSFORMS),
        ("dataset", DATASETS),
    ],
)
def test_what_may_be_asked_for_is_what_there_is(parameter, known):
    assert allowed_values(parameter) == ", ".join(known)


@pytest.mark.parametrize("module", MODULES)
def test_only_tracking_imports_mlflow(module):
    uses_mlflow = any(name.split(".")[0] == "mlflow" for name in imports_of(module))
    assert module.startswith("tracking.") or not uses_mlflow


# what each of these must be given, so that it cannot run code that is in a file
SAFE = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "yaml.compose": {"Loader": "SafeLoader"},
    "mlflow.pytorch.log_model": {"serialization_format": "pt2"},
}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_unpickled(module):
    path = PROJECT / "pipeline" / (module.replace(".", "/") + ".py")
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not unsafe & {name.split(".")[0] for name in imports_of(module)}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        assert function not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        for name, value in SAFE.get(function, {}).items():
            given = keywords.get(name)
            given = given.attr if isinstance(given, ast.Attribute) else ast.literal_eval(given)
            assert given == value, f"{function} without {name}={value}"


@pytest.mark.parametrize("module", MODULES)
def test_names_of_tags_and_artifacts_are_spelled_in_the_vocabulary_only(module):
    if module == "tracking.vocabulary":
        return
    path = PROJECT / "pipeline" / (module.replace(".", "/") + ".py")
    texts = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    files = {value for name, value in vars(Artifact).items() if name.isupper()}
    assert not {text for text in texts if re.search(r"^stn\.|tags\.`stn\.", text)}
    assert not texts & files


def test_help_and_the_tables_of_names_need_no_heavy_package():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from pipeline.cli import main\n"
        "for arguments in [[], *([name] for name in main.commands)]:\n"
        "    assert CliRunner().invoke(main, [*arguments, '--help']).exit_code == 0\n"
        "import pipeline.models.conv_layers, pipeline.models.placements\n"
        "import pipeline.models.transforms, pipeline.params\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'loky', 'ray'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-ray"])
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


def test_mlproject_declares_no_default_that_would_override_a_preset():
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    assert {"main", "train", "study", "evaluate", "compare", "predict"} <= entry_points.keys()
    for name in ("main", "train", "study"):
        assert entry_points[name]["parameters"].keys() == {"preset"}
