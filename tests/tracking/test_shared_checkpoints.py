"""On a real SQLite store with its folder of artifacts; on a server in `test_scale_out`."""

from pathlib import Path

import mlflow
import pytest

from pipeline.tracking.recorded import recorded_run
from pipeline.tracking.runs import open_run
from pipeline.tracking.shared_checkpoints import (
    fetch_shared,
    has_shared,
    move_into_artifacts,
    move_out_of_artifacts,
    remove_shared,
    save_shared,
)


@pytest.fixture
def run_id(store) -> str:
    with open_run("name", "") as run:
        pass
    return run.run_id


def stored(run_id):
    folder = Path(recorded_run(run_id).tags.get("none", mlflow.get_run(run_id).info.artifact_uri))
    return sorted((folder / "checkpoint").glob("*.pt"))


def test_the_last_checkpoint_is_kept_and_fetched(run_id, tmp_path):
    saved, fetched = tmp_path / "saved.pt", tmp_path / "new folder" / "fetched.pt"
    assert not has_shared(run_id)
    assert not fetch_shared(run_id, fetched)
    for content in (b"first", b"second"):
        saved.write_bytes(content)
        save_shared(run_id, saved)
    assert len(stored(run_id)) == 1
    assert has_shared(run_id)
    assert fetch_shared(run_id, fetched)
    assert fetched.read_bytes() == b"second"
    remove_shared(run_id)
    remove_shared(run_id)
    assert not has_shared(run_id)


def test_one_that_was_cut_off_does_not_count(run_id, tmp_path):
    saved, fetched = tmp_path / "saved.pt", tmp_path / "fetched.pt"
    saved.write_bytes(b"first")
    save_shared(run_id, saved)
    (first,) = stored(run_id)
    cut_off = first.with_name("000002-0123456789abcdef.pt")
    cut_off.write_bytes(b"sec")
    assert fetch_shared(run_id, fetched)
    assert fetched.read_bytes() == b"first"
    saved.write_bytes(b"third")
    save_shared(run_id, saved)
    assert len(stored(run_id)) == 1
    assert fetch_shared(run_id, fetched)
    assert fetched.read_bytes() == b"third"


def test_a_checkpoint_moves_into_the_artifacts_and_back(run_id, tmp_path):
    file = tmp_path / "checkpoints" / "1.pt"
    move_into_artifacts(run_id, file)  # there is none yet
    assert recorded_run(run_id).checkpoint_folder is None
    file.parent.mkdir()
    file.write_bytes(b"content")
    move_into_artifacts(run_id, file)
    assert not file.exists()
    assert has_shared(run_id)
    move_out_of_artifacts(run_id, file)
    assert file.read_bytes() == b"content"
    assert recorded_run(run_id).checkpoint_folder == file.parent
    assert not has_shared(run_id)
