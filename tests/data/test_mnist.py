import functools
import hashlib
import http.server
import resource
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from pipeline.data.mnist import CHECKSUMS, load_mnist, split_validation
from pipeline.errors import PipelineError
from tests.conftest import PROJECT

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def raw(tmp_path):
    """A fresh copy of the shipped archives; returns MNIST/raw under tmp_path."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in CHECKSUMS:
        shutil.copy(PROJECT / "data/MNIST/raw" / f"{name}.gz", folder)
    return folder


def assert_whole(raw):
    for name, checksum in CHECKSUMS.items():
        assert hashlib.md5((raw / name).read_bytes()).hexdigest() == checksum
    assert not list(raw.glob("*.tmp"))


def test_the_shipped_data_are_mnist(mnist):
    train, test = mnist
    assert train.images.shape == (60_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_archives_unpack_on_first_use(raw):
    load_mnist(raw.parent.parent)
    assert_whole(raw)


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty"])
def test_a_damaged_file_is_named_and_repaired(raw, damage, caplog):
    load_mnist(raw.parent.parent)
    content = bytearray((raw / IMAGES).read_bytes())
    if damage == "truncated":
        content = content[:1000]
    elif damage == "empty":
        content = bytearray()
    else:
        content[5000] ^= 1
    (raw / IMAGES).write_bytes(content)
    load_mnist(raw.parent.parent)
    assert IMAGES in caplog.text
    assert_whole(raw)


@pytest.mark.parametrize("damage", ["truncated", "no gzip", "one byte"])
def test_a_damaged_archive_ends_in_a_line_that_names_it_and_leaves_nothing(raw, damage):
    archive = raw / f"{LABELS}.gz"
    content = bytearray(archive.read_bytes())
    if damage == "truncated":
        content = content[:100]
    elif damage == "no gzip":
        content = bytearray(b"hello")
    else:
        content[2000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(PipelineError, match=f"{LABELS}.gz is damaged; restore it"):
        load_mnist(raw.parent.parent)
    assert not (raw / LABELS).exists()
    assert not list(raw.glob("*.tmp"))


def test_without_room_to_unpack_a_line_says_how_much_it_takes(raw):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))  # bytes in one file
    try:
        with pytest.raises(PipelineError, match=r"File too large.*55 MB.*data_dir"):
            load_mnist(raw.parent.parent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert sorted(path.suffix for path in raw.iterdir()) == [".gz"] * 4


def test_a_missing_archive_ends_in_a_line_that_says_where_to_put_it(raw):
    (raw / f"{LABELS}.gz").unlink()
    with pytest.raises(PipelineError, match=f"{LABELS} is missing or damaged.*put the four"):
        load_mnist(raw.parent.parent)


def test_two_processes_that_unpack_at_once_do_not_harm_each_other(raw):
    folder = str(raw.parent.parent)
    code = (
        "from pathlib import Path; from pipeline.data.mnist import verify_files; "
        f"verify_files(Path({folder!r}))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    assert_whole(raw)


def test_where_there_is_no_mnist_it_is_downloaded(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    shipped = PROJECT / "data/MNIST/raw"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=shipped)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(
        MNIST,
        "resources",
        [
            (f"{name}.gz", hashlib.md5((shipped / f"{name}.gz").read_bytes()).hexdigest())
            for name in CHECKSUMS
        ],
    )
    load_mnist(tmp_path / "new")
    server.shutdown()
    assert_whole(tmp_path / "new/MNIST/raw")


def test_without_a_network_the_error_says_where_to_put_the_files(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(PipelineError, match=r"could not be downloaded.*put train-images.*gz"):
        load_mnist(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_validation_split_is_stratified_disjoint_and_seeded(mnist):
    train, _ = mnist
    kept, held = split_validation(train, 10_000, seed=1)
    assert (len(kept.labels), len(held.labels)) == (50_000, 10_000)
    shares = torch.bincount(train.labels) / 6
    assert (torch.bincount(held.labels) - shares).abs().max() < 1
    both = torch.cat([kept.images, held.images]).flatten(1).long().sum(1).sort().values
    assert torch.equal(both, train.images.flatten(1).long().sum(1).sort().values)
    assert torch.equal(split_validation(train, 10_000, seed=1)[1].images, held.images)
    assert not torch.equal(split_validation(train, 10_000, seed=2)[1].images, held.images)
