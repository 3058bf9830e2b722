"""A real tracking server on PostgreSQL, for tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT


class RunningServer:
    """`python -m server` with one worker; it answers once it has been created or started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.uri = folder, f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "server", "--folder", str(folder)]
        self._command += ["--port", str(port), "--workers", "1"]
        self.start()

    def start(self, *options: str) -> None:
        """Start the server, which must not be running, with further options."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self.log = self.folder / "output.txt"
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                cwd=PROJECT,
                env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("the server is ready"):
                return
        raise AssertionError(self.log.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the server with a signal, and return its exit code."""
        self._process.send_signal(number)
        code = self._process.wait(60)
        assert self._process.stdout
        self._process.stdout.close()
        return code
