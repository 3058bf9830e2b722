"""README.md and the pages of docs/ and results/: links, commands and tables are true."""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from pipeline import cli
from pipeline.errors import PipelineError
from pipeline.models.transforms import TRANSFORMS
from pipeline.params import RunParams, StudyParams, allowed_values
from pipeline.presets import resolve
from pipeline.study.plan import resolve_study
from pipeline.tracking.vocabulary import Artifact, Metric, Tag, VersionTag
from tests.conftest import PROJECT

README = PROJECT / "README.md"
GUIDES = [README, *sorted((PROJECT / "docs").glob("*.md"))]
# end-to-end tests carry out what these pages show, in a copy of the project that they change
CARRIED_OUT = {"extending.md", "your-own-layer.md"}
CHECKED = [page for page in GUIDES if page.name not in CARRIED_OUT]
PAGES = [*GUIDES, *sorted((PROJECT / "results").glob("*.md")), PROJECT / "data/README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
IN_PROJECT = re.compile(r"(pipeline|tests|benchmarks|params|docs|results)/[\w./-]+")


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@cache
def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        numbered = [slug, *(f"{slug}-{number}" for number in range(1, 100))]
        found.add(next(anchor for anchor in numbered if anchor not in found))
    return found


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next heading."""
    (text,) = re.findall(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page.read_text(), re.M | re.S
    )
    return text


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its header."""
    table = re.search(r"(^\|.*\n)+", text, re.MULTILINE)
    assert table, "there is no table"
    return [
        [cell.strip() for cell in line[1:-1].split(" | ")] for line in table[0].splitlines()[2:]
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_resolve(page):
    for link in (first or second for first, second in LINK.findall(prose(page))):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{link}: there is no such file"
        assert path.is_relative_to(PROJECT.resolve()), f"{link} leads out of the project"
        if anchor:
            assert anchor in anchors(path), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_project_that_are_named_exist(page):
    named = [span for span in SPAN.findall(prose(page)) if IN_PROJECT.fullmatch(span)]
    created = re.findall(r"In a new file `([^`]+)`:", page.read_text())  # by an example
    assert [name for name in named if not (PROJECT / name).exists() and name not in created] == []


@pytest.mark.parametrize(("index", "folder"), [(README, "docs"), ("results/README.md", "results")])
def test_the_index_links_every_page(index, folder):
    index = PROJECT / index
    linked = {(index.parent / target).resolve() for target, _ in LINK.findall(prose(index))}
    pages = {page.resolve() for page in (PROJECT / folder).glob("*.md")}
    assert pages - {index.resolve()} <= linked


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


class Command(NamedTuple):
    """A command in a page.

    in_prose: it stands within a sentence, where arguments may be left out.
    error: the line that it ends with, where the page shows an error.
    """

    page: str
    text: str
    in_prose: bool = False
    error: str = ""


def commands(page: Path) -> list[Command]:
    """The commands of make, MLflow and Python modules in a page."""
    found = [Command(name_of(page), span, in_prose=True) for span in SPAN.findall(prose(page))]
    for language, block in FENCE.findall(page.read_text()):
        lines = block.splitlines() if language in ("", "sh", "console") else []
        for line, after in zip_longest(lines, lines[1:], fillvalue=""):
            error = after if after.startswith("Error: ") else ""
            text = line.removeprefix("$ ").partition("  #")[0].rstrip()
            found.append(Command(name_of(page), text, error=error))
    start = re.compile(r"make \w|(\S*/)?mlflow run |(\S*/)?python -m ")
    return [command for command in found if start.match(command.text)]


COMMANDS = sorted({command for page in CHECKED for command in commands(page)})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}")
def test_commands_exist_and_take_these_options(command, monkeypatch):
    monkeypatch.chdir(PROJECT)
    words = shlex.split(command.text)
    if command.error:
        with pytest.raises(PipelineError) as raised:
            check(words)
        assert command.error == f"Error: {raised.value}"
    elif command.in_prose:
        with suppress(click.MissingParameter):
            check(words)
    else:
        check(words)


def check(words: list[str]) -> None:
    """Have a command read by what it would start, without starting it.

    Raises:
        PipelineError: for parameters that a training or a study refuses.
        click.UsageError: for an option that a command does not have, or an argument that it lacks.
    """
    program, arguments = Path(words[0]).name, words[1:]
    if program == "make":
        for line in made(arguments):
            check(line)
    elif program == "mlflow":
        check(started_by_mlflow(arguments[1:]))
    elif program == "python":
        module, *arguments = arguments[1:]
        assert importlib.util.find_spec(module), f"there is no module {module}"
        missing = [file for file in arguments if file[:6] == "tests/" and not Path(file).exists()]
        assert missing == []
        if module == "pipeline" and arguments and "--help" not in arguments:
            check_pipeline(arguments)


def check_pipeline(arguments: list[str]) -> None:
    name, given = arguments[0], values_of(arguments)
    given = {parameter: value for parameter, value in given.items() if value is not None}
    if name == "train":
        resolve(given)
    elif name == "study":
        resolve_study(given)


def values_of(arguments: list[str]) -> dict[str, Any]:
    """The values that a command of the pipeline reads, by parameter."""
    name, *rest = arguments
    assert name in cli.main.commands, f"there is no command {name}"
    return cli.main.commands[name].make_context(name, rest).params


def made(arguments: list[str]) -> list[list[str]]:
    """The commands of MLflow and of the pipeline that make would start."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"\S+/mlflow run .*", lines)] + [
        shlex.split(line) for line in re.findall(r"\S+/python -m pipeline .*", lines)
    ]


def started_by_mlflow(arguments: list[str]) -> list[str]:
    """The command that `mlflow run` starts; only the options that the project uses are known."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("uri", nargs="?")
    parser.add_argument("-e", dest="entry_point", default="main")
    parser.add_argument("-P", dest="given", action="append", default=[])
    parser.add_argument("--env-manager", choices=["local", "uv"])
    parser.add_argument("--experiment-name")
    options = parser.parse_args(arguments)
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    assert options.entry_point in entry_points, "MLproject has no such entry point"
    entry_point = entry_points[options.entry_point]
    values = dict(value.split("=", 1) for value in options.given)
    declared = {
        name: values.pop(name, settings.get("default", name))
        for name, settings in entry_point.get("parameters", {}).items()
    }
    others = [word for name, value in values.items() for word in (f"--{name}", value)]
    return [*shlex.split(entry_point["command"].format(**declared)), *others]


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_python_code_compiles(page):
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            compile(block, name_of(page), "exec")


PARAMETERS = PROJECT / "docs/parameters.md"


@pytest.mark.parametrize(("model", "of"), [(RunParams, "training"), (StudyParams, "study")])
def test_the_tables_of_parameters_are_those_of_the_code(model, of):
    expected = [
        f"| `{name}` | {'' if field.default is None else f'`{field.default}`'} | "
        f"{allowed_values(name, model)} | {field.description} |"
        for name, field in model.model_fields.items()
    ]
    text = section(PARAMETERS, f"Parameters of a {of}")
    assert [line for line in text.splitlines() if line.startswith("| `")] == expected


def test_the_options_of_the_other_commands_are_those_of_the_code():
    expected = {
        (name, parameter, "" if default is None else f"`{default}`")
        for name in cli.main.commands.keys() - {"train", "study", "predict"}
        for parameter, default in values_of([name]).items()
    }
    expected |= {("predict", "image", ""), ("predict", "show", "")}
    expected |= {("predict", "model_uri", f"`{values_of(['predict', 'image'])['model_uri']}`")}
    table = rows(section(PARAMETERS, "Parameters of the other commands"))
    documented = {
        (command, parameter.strip("`"), default)
        for names, parameter, default, _ in table
        for command in SPAN.findall(names)
    }
    assert documented == expected


def test_every_entry_point_and_every_preset_is_listed():
    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    listed = [
        name for row in rows(section(PARAMETERS, "Entry points")) for name in SPAN.findall(row[0])
    ]
    assert sorted(listed) == sorted(entry_points)
    presets = [re.findall(r"\[(.*)\]", row[0])[0] for row in rows(section(PARAMETERS, "Presets"))]
    assert sorted(presets) == sorted(name_of(path) for path in (PROJECT / "params").glob("*.yaml"))


FAMILY = PROJECT / "docs/family.md"


@pytest.mark.parametrize(
    ("heading", "parameter"),
    [("Placements", "architecture"), ("Transformations", "transform"), ("Data sets", "dataset")],
)
def test_the_tables_of_the_family_have_every_member(heading, parameter):
    members = [row[0].strip("`") for row in rows(section(FAMILY, heading))]
    assert ", ".join(members) == allowed_values(parameter)


def test_the_table_of_transformations_counts_their_parameters():
    counts = {row[0].strip("`"): int(row[1]) for row in rows(section(FAMILY, "Transformations"))}
    assert counts == {name: len(kind.identity) for name, kind in TRANSFORMS.items()}


@pytest.mark.parametrize("names", [Tag, VersionTag, Metric, Artifact])
def test_the_glossary_has_every_name_in_mlflow(names):
    pages = [PROJECT / "docs/glossary.md", PROJECT / "docs/statistics.md"]
    documented = {span for page in pages for span in SPAN.findall(prose(page))}
    used = {value for name, value in vars(names).items() if name.isupper()}
    assert used <= documented
