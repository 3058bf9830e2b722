"""`python -m pipeline`, in the environment that has what it needs.

`.venv/bin/mlflow run . --env-manager local` starts whatever `python` comes first on the PATH,
which without `source .venv/bin/activate` is not the one in `.venv`.
"""

import importlib.util
import os
import sys
from pathlib import Path


def _open_closed_streams() -> None:
    """Drop what is written to an output that was closed, as `2>&-` does.

    Python itself has None in its place, which libraries write to, and the next file that is opened
    would get its descriptor.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # by worker processes, too
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _have_home() -> None:
    """Set HOME, which MLflow needs, for a user without a home, as Docker does."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _find_environment() -> None:
    needed = ("click", "mlflow", "torch")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return
    of_project = Path(__file__).parent.parent / ".venv/bin/python"
    if of_project.exists() and not os.path.samefile(sys.prefix, of_project.parent.parent):
        os.execv(of_project, [str(of_project), "-m", "pipeline", *sys.argv[1:]])
    sys.exit(
        f"Error: {sys.executable} has no {' and no '.join(missing)}; "
        "run `make setup`, or activate the environment that has the project's requirements"
    )


if __name__ == "__main__":
    _open_closed_streams()
    _have_home()
    try:
        _find_environment()
        from pipeline.cli import main

        main(prog_name="python -m pipeline")
    except KeyboardInterrupt:  # while it was loaded, before the command line heeds signals
        print("interrupted", file=sys.stderr)
        sys.exit(130)
