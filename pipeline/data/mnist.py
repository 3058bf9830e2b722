"""MNIST as two pairs of tensors, from files whose checksums are verified.

The repository contains the four gzipped files in `data/MNIST/raw/`. They are unpacked into the same
folder on first use, which is the layout that `torchvision.datasets.MNIST` reads.
"""

import gzip
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import PipelineError

log = logging.getLogger(__name__)

# MD5 of the unpacked files, as published
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
DIGEST = hashlib.md5("".join(CHECKSUMS.values()).encode()).hexdigest()[:8]


class Digits(NamedTuple):
    """Images of digits and their labels.

    Attributes:
        images: uint8 `(N, 1, S, S)` in [0, 255], white ink on black; as stored, S is 28.
        labels: int64 `(N,)` in [0, 9].
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Digits":
        """The same images and labels on another device."""
        return Digits(self.images.to(device), self.labels.to(device))


def load_mnist(data_dir: str | Path) -> tuple[Digits, Digits]:
    """The 60,000 training and the 10,000 test images.

    Args:
        data_dir: folder that holds `MNIST/raw/`. Files that are missing or damaged there are
            unpacked from their `.gz`. If neither files nor archives exist, MNIST is downloaded.

    Returns:
        Training and test images, as stored, on the CPU.

    Raises:
        PipelineError: if the files are damaged and cannot be repaired, if the download fails, or if
            there is no space or no permission to unpack them.
    """
    from torchvision.datasets import MNIST

    try:
        verify_files(Path(data_dir))
    except OSError as error:
        raise PipelineError(
            f"MNIST could not be read from {data_dir}/MNIST/raw or unpacked there "
            f"({error.strerror}); unpacked it takes 55 MB: make room for it, or point data_dir to "
            "another folder"
        ) from error
    sets = (MNIST(data_dir, train=True), MNIST(data_dir, train=False))
    train, test = (Digits(s.data.unsqueeze(1), s.targets) for s in sets)
    return train, test


def split_validation(train: Digits, size: int, seed: int) -> tuple[Digits, Digits]:
    """Hold out `size` images, stratified by digit.

    Returns:
        The remaining and the held-out images; the same seed gives the same split.
    """
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(
        torch.arange(len(train.labels)).numpy(),
        test_size=size,
        random_state=seed,
        stratify=train.labels.numpy(),
    )
    return (
        Digits(train.images[kept], train.labels[kept]),
        Digits(train.images[held], train.labels[held]),
    )


def verify_files(data_dir: Path) -> None:
    """Verify the four unpacked files under `data_dir`, and unpack those that need it.

    Raises:
        PipelineError: as `load_mnist`.
        OSError: if a file cannot be read or written.
    """
    raw = data_dir / "MNIST" / "raw"
    if not any((raw / name).exists() or _archive(raw / name).exists() for name in CHECKSUMS):
        _download(raw)
    for name, checksum in CHECKSUMS.items():
        path = raw / name
        if path.exists():
            if _md5(path) == checksum:
                continue
            log.warning("%s is damaged; unpacking it again", path)
        _unpack(path, checksum)


def _archive(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _unpack(path: Path, checksum: str) -> None:
    archive = _archive(path)
    if not archive.exists():
        raise PipelineError(
            f"{path} is missing or damaged, and there is no {archive.name} beside it to repair it "
            f"from; put the four MNIST files there, or remove {path.parent} to download them"
        )
    # Written under a temporary name and then renamed: neither a second process that unpacks at the
    # same time nor one that is killed leaves a partial file under the real name.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        try:
            with gzip.open(archive) as source, os.fdopen(descriptor, "wb") as target:
                shutil.copyfileobj(source, target)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            intact = False
        else:
            intact = _md5(Path(temporary)) == checksum
        if not intact:
            raise PipelineError(
                f"{archive} is damaged; restore it (git checkout -- {archive}), "
                f"or remove {path.parent} to download MNIST again"
            )
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _download(raw: Path) -> None:
    from torchvision.datasets import MNIST

    with tempfile.TemporaryDirectory() as folder:
        try:
            MNIST(folder, download=True)
        except (OSError, RuntimeError) as error:
            names = ", ".join(f"{name}.gz" for name in CHECKSUMS)
            reason = " ".join(str(error).split())
            raise PipelineError(
                f"there is no MNIST in {raw} and it could not be downloaded ({reason}); "
                f"put {names} there, or point data_dir to a folder that has MNIST/raw"
            ) from None
        raw.mkdir(parents=True, exist_ok=True)
        for name in CHECKSUMS:
            archive = _archive(raw / name)
            partial = archive.with_name(f"{archive.name}.{os.getpid()}.tmp")
            shutil.copyfile(_archive(Path(folder) / "MNIST" / "raw" / name), partial)
            os.replace(partial, archive)
