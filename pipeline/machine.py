"""What a run runs on: versions, CPU, threads and commit, as tags that reports compare.

Results repeat bit by bit on the same machine with the same versions, and only there.
"""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).parent.parent
CPU_FILE = Path("/proc/cpuinfo")  # of Linux

# What two runs may differ in, and the tag that says it; `stn.dirty` belongs to the commit.
TAGS = {
    "versions of torch": "stn.torch",
    "versions of torchvision": "stn.torchvision",
    "versions of MLflow": "stn.mlflow",
    "versions of numpy": "stn.numpy",
    "CPUs": "stn.cpu",
    "devices": "stn.device",
    "numbers of threads": "stn.threads",
    "commits": "stn.commit",
}


def machine_tags(device: str) -> dict[str, str]:
    """The tags of a run that this process trains on a torch device, `cpu` or `cuda`.

    `stn.commit` and `stn.dirty` (`true` or `false`: whether the project's folder has changes that
    are not committed) are left out where the project is in no Git repository.
    """
    import torch

    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    return {
        "stn.torch": str(torch.__version__),
        **{f"stn.{name}": version(name) for name in ("torchvision", "mlflow", "numpy")},
        "stn.cpu": cpu(),
        "stn.device": device,
        "stn.threads": str(torch.get_num_threads()),
        **_commit(),
    }


def cpu() -> str:
    """The CPU's name, and the vector instructions that torch uses: `AMD EPYC (AVX2)`."""
    import torch

    try:
        known = re.search(r"^model name\s*: (.*)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:
        known = None
    name = known[1] if known else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def ran_on(tags: dict[str, str]) -> dict[str, str]:
    """What a run's tags say, by the keys of `TAGS`; what they do not say is left out."""
    facts = {fact: tags[tag] for fact, tag in TAGS.items() if tag in tags}
    if tags.get("stn.dirty") == "true":
        facts["commits"] += " with uncommitted changes"
    return facts


def _commit() -> dict[str, str]:
    if not _git("ls-files", "pipeline/__init__.py"):  # no repository, or one around the project
        return {}
    dirty = bool(_git("status", "--porcelain", "--", "."))
    return {"stn.commit": _git("rev-parse", "HEAD"), "stn.dirty": str(dirty).lower()}


def _git(*arguments: str) -> str:
    """What git prints; nothing where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
