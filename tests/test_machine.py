import os
import subprocess

import mlflow
import numpy
import pytest
import torch
import torchvision

from pipeline import machine


def test_the_tags_are_those_of_this_process():
    tags = machine.machine_tags("cpu")
    assert tags["stn.torch"] == torch.__version__
    assert tags["stn.mlflow"] == mlflow.__version__
    assert tags["stn.numpy"] == numpy.__version__
    assert torchvision.__version__.startswith(tags["stn.torchvision"])
    assert tags["stn.device"] == "cpu"
    assert tags["stn.threads"] == str(torch.get_num_threads())
    assert tags["stn.cpu"].endswith(f" ({torch.backends.cpu.get_cpu_capability()})")


def test_the_commit_is_that_of_the_projects_folder(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b")
        # without the variables of a hook, which name another repository
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", *settings, *arguments],
            cwd=tmp_path,
            env={**own, "GIT_CONFIG_GLOBAL": os.devnull},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit():
        machine._commit.cache_clear()
        tags = machine.machine_tags("cpu")
        return tags.get("stn.commit"), tags.get("stn.dirty")

    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_DIR", str(machine.PROJECT / ".git"))  # as in a hook
    assert commit() == (None, None)
    git("init", "--quiet")
    assert commit() == (None, None)  # there is none yet
    code = tmp_path / "pipeline/__init__.py"
    code.parent.mkdir()
    code.write_text("")
    assert commit() == (None, None)  # a repository, but the project is not in it
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert commit() == (git("rev-parse", "HEAD"), "false")
    (tmp_path / "train.log").write_text("a file that is no part of the project")
    assert commit() == (git("rev-parse", "HEAD"), "false")
    code.write_text("changed = True")
    assert commit() == (git("rev-parse", "HEAD"), "true")
    machine._commit.cache_clear()


def test_a_run_that_goes_on_elsewhere_has_both_values():
    first = {"stn.torch": "2.14.1", "stn.threads": "2", "stn.dirty": "false", "other": "x"}
    second = {"stn.torch": "2.15.0", "stn.threads": "2", "stn.dirty": "true"}
    tags = machine.continued(first, second)
    assert tags == {
        "stn.torch": "2.14.1, then 2.15.0",
        "stn.threads": "2",
        "stn.dirty": "false, then true",
    }
    assert machine.continued(tags, second) == tags
    assert machine.continued({}, second) == second


def test_commits_are_short_and_say_of_changes():
    commits = {"stn.commit": f"{'a' * 40}, then {'b' * 40}", "stn.dirty": "false, then true"}
    assert machine.ran_on(commits) == {
        "commits": "aaaaaaaaaa, then bbbbbbbbbb with uncommitted changes"
    }


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("model name\t: A\ncpu family\t: 25\nmodel\t\t: 1\n", "A, cpu family 25, model 1 ("),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "CPU implementer 0x41, CPU part 0xd0c ("),
    ],
)
def test_cpus_of_one_name_are_told_apart(tmp_path, monkeypatch, lines, name):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{lines}\nprocessor\t: 1\n{lines}")
    monkeypatch.setattr(machine, "CPU_FILE", tmp_path / "cpuinfo")
    assert name in machine.cpu()


def test_a_machine_without_git_or_cpuinfo_is_described_all_the_same(tmp_path, monkeypatch):
    def absent(*arguments, **settings):
        raise FileNotFoundError("git")

    machine._commit.cache_clear()
    monkeypatch.setattr(machine.subprocess, "run", absent)
    monkeypatch.setattr(machine, "CPU_FILE", tmp_path / "cpuinfo")
    tags = machine.machine_tags("cpu")
    assert "stn.commit" not in tags
    machine._commit.cache_clear()
    assert tags["stn.cpu"]
