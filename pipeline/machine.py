"""What a run runs on: versions, CPU, threads and commit, as tags that reports compare.

Results repeat bit by bit on the same machine with the same versions, and only there.
"""

import hashlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline.tracking.vocabulary import Tag

PROJECT = Path(__file__).parent.parent
CPU_FILE = Path("/proc/cpuinfo")  # of Linux
# What tells CPUs of one name apart; a virtual machine may show no more than "AMD EPYC".
CPU_MODEL = ("cpu family", "model", "CPU implementer", "CPU part")

# The facts in which two runs may differ, and their tags; `Tag.DIRTY` belongs to the commit.
TAGS = {
    "versions of torch": Tag.TORCH,
    "versions of torchvision": Tag.TORCHVISION,
    "versions of MLflow": Tag.MLFLOW,
    "versions of numpy": Tag.NUMPY,
    "CPUs": Tag.CPU,
    "devices": Tag.DEVICE,
    "numbers of threads": Tag.THREADS,
    "commits": Tag.COMMIT,
}
UNCOMMITTED = " with uncommitted changes"  # after a commit among the facts


def machine_tags(device: str) -> dict[str, str]:
    """The tags of a run that this process trains on a torch device, `cpu` or `cuda`.

    `stn.commit` and `stn.dirty` (`true` or `false`: whether tracked files of the project have
    changes that are not committed) are left out where the project is in no Git repository.
    """
    import torch

    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    return {
        Tag.TORCH: str(torch.__version__),
        Tag.TORCHVISION: version("torchvision"),
        Tag.MLFLOW: version("mlflow"),
        Tag.NUMPY: version("numpy"),
        Tag.CPU: cpu(),
        Tag.DEVICE: device,
        Tag.THREADS: str(torch.get_num_threads()),
        **_commit(),
    }


def code_digest() -> str:
    """The first digits of a digest of the pipeline's Python files, committed or not."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def cpu() -> str:
    """The CPU's name and model, and the vector instructions that torch uses.

    Such as `AMD EPYC, cpu family 25, model 1 (AVX2)`.
    """
    import torch

    try:
        lines = re.findall(r"^([\w ]+?)\s*: (.*)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:
        lines = []
    known = dict(reversed(lines))  # of the first core
    name = known.get("model name") or platform.processor() or platform.machine()
    model = [f"{key} {known[key]}" for key in CPU_MODEL if key in known]
    return f"{', '.join([name, *model])} ({torch.backends.cpu.get_cpu_capability()})"


def continued(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """The machine tags of a run that goes on: both values where they differ, `1, then 2`."""
    tags = dict(now)
    for tag, value in now.items():
        if tag in before:
            same = before[tag].split(", then ")[-1] == value
            tags[tag] = before[tag] if same else f"{before[tag]}, then {value}"
    return tags


def ran_on(tags: dict[str, str]) -> dict[str, str]:
    """The facts that a run's tags record, by the keys of `TAGS`; others are left out."""
    facts = {fact: tags[tag] for fact, tag in TAGS.items() if tag in tags}
    if "commits" in facts:
        facts["commits"] = re.sub(r"(\w{10})\w*", r"\1", facts["commits"])
        if "true" in tags.get(Tag.DIRTY, ""):
            facts["commits"] += UNCOMMITTED
    return facts


@cache  # the code that runs is what this process has loaded
def _commit() -> dict[str, str]:
    commit = _git("rev-parse", "HEAD")
    if not commit or not _git("ls-files", "pipeline/__init__.py"):  # or a repository around it
        return {}
    # Untracked files, such as a log, change nothing: no committed code imports them, and a layer of
    # the user's own has the digest of its source in its name.
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no", "--", "."))
    return {Tag.COMMIT: commit, Tag.DIRTY: str(dirty).lower()}


def _git(*arguments: str) -> str:
    """What git prints; nothing where it fails or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(PROJECT), *arguments]
    # a Git hook has variables that name another repository
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
