import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipeline.data.mnist import Digits, load_mnist
from pipeline.names import protocol_label
from pipeline.presets import resolve

PROJECT = Path(__file__).parent.parent

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def poses_file(size: int = 28, output_size: int = 28, warps_image: bool = True) -> bytes:
    """A `poses.npz` as a run holds it: eight images, outlined by a square of half their side."""
    steps = np.linspace(-0.5, 0.5, 3)[:-1]
    edge = np.full(2, 0.5)
    outline = np.concatenate(
        [
            np.stack([steps, -edge], axis=1),
            np.stack([edge, steps], axis=1),
            np.stack([-steps, edge], axis=1),
            np.stack([-edge, -steps], axis=1),
        ]
    )
    file = BytesIO()
    np.savez_compressed(
        file,
        before=np.full((8, size, size), 50, dtype=np.uint8),
        after=np.full((8, output_size, output_size), 200, dtype=np.uint8),
        outline=np.tile(outline, (8, 1, 1)).astype(np.float32),
        warps_image=warps_image,
    )
    return file.getvalue()


@pytest.fixture(scope="session")
def mnist() -> tuple[Digits, Digits]:
    """The real training and test set, as stored."""
    return load_mnist(PROJECT / "data")


@pytest.fixture(scope="session")
def some_digits(mnist) -> tuple[Digits, Digits]:
    """The first 2,000 training and 1,000 test images, as stored."""
    train, test = mnist
    return (
        Digits(train.images[:2000], train.labels[:2000]),
        Digits(test.images[:1000], test.labels[:1000]),
    )


@pytest.fixture(scope="session")
def ink() -> Image.Image:
    """A seven, far from the centre: white on black, mode L."""
    image = Image.new("L", (200, 160))
    ImageDraw.Draw(image).line([(40, 30), (90, 30), (60, 120)], fill=255, width=9, joint="curve")
    return image


@pytest.fixture
def save_image(tmp_path) -> Callable[..., Path]:
    """Saves an image in a new file and returns its path."""

    def save(image: Image.Image, name: str = "image.png", **settings) -> Path:
        image.save(tmp_path / name, **settings)
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An SQLite store with MLflow's tables and nothing in them; to create them takes seconds."""
    import mlflow  # slow to import, and few tests need it

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}")
    client.search_experiments()
    client.search_registered_models()
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store) -> Path:
    """A folder with an empty SQLite tracking store in it, as working directory."""
    shutil.copy(empty_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def folder_for_a_server() -> Iterator[Path]:
    """A folder for PostgreSQL; the test is skipped where that is not installed.

    It is not below pytest's folders, which no other user may enter.
    """
    from server.postgres import find_programs

    if find_programs() is None and "CI" not in os.environ:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="server-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def server_folder() -> Iterator[Path]:
    with folder_for_a_server() as folder:
        yield folder


def pytest_collection_modifyitems(items):
    for item in items:
        if "server_folder" in item.fixturenames:
            item.add_marker("postgres")


def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get("passed", ())
    postgres = [report for report in passed if report.keywords.get("postgres")]
    terminalreporter.write_line(f"{len(postgres)} tests ran on PostgreSQL")
    ray = {dict(report.user_properties).get("ray") for report in passed} - {None}
    terminalreporter.write_line(
        f"studies ran on Ray {', '.join(ray)}" if ray else "no study ran on Ray"
    )


@pytest.fixture
def log_run(store) -> Callable[..., str]:
    """A function that logs a training run into the store, as `training/run.py` does, in a moment.

    It takes the accuracy as a fraction, or an error to end with, and parameters; `curves`, each
    metric's values over the epochs; `metrics`, further ones of the selected model; `files`, the
    artifacts; `tags`, further ones; and `study`.
    """
    from pipeline.tracking.runs import open_run  # slow to import, too

    def log(
        accuracy=0.9,
        error=None,
        curves=None,
        metrics=None,
        files=None,
        tags=None,
        study=None,
        **given,
    ) -> str:
        params = resolve({key: str(value) for key, value in given.items()})
        tags = {
            "stn.protocol": protocol_label(params),
            "stn.selection": params.selection,
            "stn.data_digest": "d",
            **(tags or {}),
        }
        with (
            suppress(ValueError, KeyboardInterrupt),
            open_run(
                f"{params.conv_layer} seed={params.seed}",
                "",
                params=params.model_dump(exclude_none=True),
                tags=tags | ({"stn.study": study} if study else {}),
            ) as run,
        ):
            if error:
                raise error
            for name, values in (curves or {}).items():
                for epoch, value in enumerate(values, start=1):
                    run.log_metrics({name: value}, step=epoch)
            run.log_artifacts(files or {})
            run.log_metrics(
                {
                    "best_test_accuracy": accuracy,
                    "best_test_f1": accuracy - 0.001,
                    "best_test_loss": 0.03,
                    "best_epoch": 2,
                    **(metrics or {}),
                }
            )
        return run.run_id

    return log


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a window. Where it is missing, tests are skipped, and fail under CI."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "chromium is not installed; `make browser` installs it"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1500,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


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
