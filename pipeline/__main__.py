"""`python -m pipeline`, in the environment that has what it needs.

`.venv/bin/mlflow run . --env-manager local` starts whatever `python` comes first on the PATH,
which without `source .venv/bin/activate` is not the one in `.venv`.
"""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

missing = [name for name in ("mlflow", "torch") if importlib.util.find_spec(name) is None]
if missing:
    of_project = Path(__file__).parent.parent / ".venv/bin/python"
    if of_project.exists() and not os.path.samefile(sys.prefix, of_project.parent.parent):
        os.execv(of_project, [str(of_project), "-m", "pipeline", *sys.argv[1:]])
    sys.exit(
        f"Error: {sys.executable} has no {' and no '.join(missing)}; "
        "run `make setup`, or activate the environment that has the project's requirements"
    )

runpy.run_module("pipeline.cli", run_name="__main__")
