"""Linux's `/dev/full`, which has no room, and the file that is given up for a store."""

from pathlib import Path

import pytest
import sqlalchemy

from pipeline.errors import PipelineError
from pipeline.tracking.full_disk import is_full_disk, keep_reserve, with_reserve
from pipeline.tracking.store import plain_errors


def write_to_a_full_disk():
    Path("/dev/full").write_bytes(b"x")


def test_a_full_disk_is_named_with_its_place(store):
    with (
        pytest.raises(PipelineError, match=f"the disk is full: {store} has no room"),
        plain_errors(),
    ):
        write_to_a_full_disk()


def test_a_database_says_it_in_other_words(tmp_path):
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/small.db")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 2"))
        connection.execute(sqlalchemy.text("CREATE TABLE one (text)"))
        with pytest.raises(sqlalchemy.exc.OperationalError) as error:
            connection.execute(sqlalchemy.text("INSERT INTO one VALUES (zeroblob(100000))"))
    assert is_full_disk(error.value)
    assert not is_full_disk(OSError("no route"))


def test_the_reserve_is_given_up_in_parts_and_only_for_a_full_disk(tmp_path):
    store, reserve = tmp_path / "mlflow.db", tmp_path / "mlflow.db.reserve"
    keep_reserve(store)
    assert reserve.stat().st_size == 1024 * 1024

    def fail():
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        with_reserve(store, fail)
    assert reserve.stat().st_size == 1024 * 1024

    def close():  # another process takes the first part
        if reserve.stat().st_size > 768 * 1024:
            write_to_a_full_disk()

    with_reserve(store, close)
    assert reserve.stat().st_size == 768 * 1024
    with pytest.raises(OSError, match="No space left"):
        with_reserve(store, write_to_a_full_disk)
    assert not reserve.exists()
    keep_reserve(store)
    assert reserve.stat().st_size == 1024 * 1024
