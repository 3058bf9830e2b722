import subprocess

import mlflow
import numpy
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
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit():
        tags = machine.machine_tags("cpu")
        return tags.get("stn.commit"), tags.get("stn.dirty")

    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    assert commit() == (None, None)
    git("init", "--quiet")
    code = tmp_path / "pipeline/__init__.py"
    code.parent.mkdir()
    code.write_text("")
    assert commit() == (None, None)  # a repository, but the project is not in it
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert commit() == (git("rev-parse", "HEAD"), "false")
    code.write_text("changed = True")
    assert commit() == (git("rev-parse", "HEAD"), "true")


def test_a_machine_without_git_or_cpuinfo_is_described_all_the_same(tmp_path, monkeypatch):
    def absent(*arguments, **settings):
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine.subprocess, "run", absent)
    monkeypatch.setattr(machine, "CPU_FILE", tmp_path / "cpuinfo")
    tags = machine.machine_tags("cpu")
    assert "stn.commit" not in tags
    assert tags["stn.cpu"]
