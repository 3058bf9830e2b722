import re
import socket

import pytest

from pipeline.errors import PipelineError
from pipeline.tracking import ui


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    """Fail where a server would be started in place of this process."""

    def refuse(*arguments):
        raise AssertionError("a server was started")

    monkeypatch.setattr(ui.os, "execv", refuse)


def test_a_port_in_use_is_refused_after_the_address_of_the_runs(store, monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"http://127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setattr(ui, "LOCAL_UI", address)
        monkeypatch.setattr(ui, "ui_address", lambda: address)
        with pytest.raises(PipelineError, match=f"{address[7:]} is in use, .*; stop it first"):
            ui.serve_ui("digits")
    assert re.match(r"the runs are at http://\S+/experiments/1/runs\?", capsys.readouterr().out)


def test_of_a_tracking_server_only_the_address_is_printed(store, monkeypatch, capsys):
    monkeypatch.setattr(ui, "ui_address", lambda: "http://tracking.example.org")
    ui.serve_ui("digits")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the runs are at ")
