"""What needs no running Ray; whole studies on Ray are in `tests/end_to_end`."""

import importlib.util

import pytest
from click.testing import CliRunner
from selenium.webdriver.common.utils import free_port

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.study.ray_tasks import RayTasks


def study(*options):
    return CliRunner().invoke(main, ["study", "--epochs", "1", *options])


def test_without_ray_one_line_says_how_to_install_it(store, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name)
    )
    done = study("--executor", "ray")
    assert done.exit_code == 1
    (line,) = done.output.splitlines()
    assert line.startswith("Error: executor: got 'ray', which is not installed")
    assert "make setup RAY=1" in line


@pytest.mark.parametrize("option", ["--ray_address=auto", "--cpus_per_run=2", "--gpus-per-run=0.5"])
def test_what_only_ray_understands_is_refused_without_it(option):
    done = study(option)
    assert done.exit_code == 1
    assert "needs executor=ray" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(("before", "shown"), [("", ""), ("ray://me:secret@", "ray://")])
def test_a_cluster_that_cannot_be_reached_is_one_line_without_a_password(before, shown):
    pytest.importorskip("ray")
    place = f"127.0.0.1:{free_port()}"
    with pytest.raises(PipelineError, match=f"ray_address: got '{shown}{place}': ") as caught:
        RayTasks([], workers=0, on_start=print, on_end=print, address=before + place)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
