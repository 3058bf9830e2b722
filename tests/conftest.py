import os
from pathlib import Path

import pytest
import torch

from pipeline.data.mnist import Digits, load_mnist, normalize

PROJECT = Path(__file__).parent.parent

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="session")
def mnist() -> tuple[Digits, Digits]:
    """The real training and test set, as stored."""
    return load_mnist(PROJECT / "data")


@pytest.fixture(scope="session")
def some_digits(mnist) -> tuple[Digits, Digits]:
    """The first 2,000 training and 1,000 test images, normalized."""
    train, test = mnist
    return (
        Digits(normalize(train.images[:2000]), train.labels[:2000]),
        Digits(normalize(test.images[:1000]), test.labels[:1000]),
    )


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """An empty folder with a fresh SQLite tracking store in it, as working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors gain nothing from threads, and lose much where the cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads():
    """Restore the number of torch threads afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
