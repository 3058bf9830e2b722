"""The loop that most people start from, as the yardstick for ours.

What PyTorch's spatial transformer tutorial does, written anew: torchvision's MNIST with ToTensor
and Normalize, a DataLoader with 4 workers, an eager network in torch's own layers and layout, and a
test pass after each epoch.
"""

import time
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST


class PlainCoordConv(nn.Module):
    """Appends row, column and radius to every image, then convolves."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 3, out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        row = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(n, 1, h, w)
        column = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(n, 1, h, w)
        radius = torch.sqrt((row - 0.5) ** 2 + (column - 0.5) ** 2)
        return self.conv(torch.cat([x, row, column, radius], dim=1))


class Network(nn.Module):
    def __init__(self, conv_layer: str) -> None:
        super().__init__()
        conv = PlainCoordConv if conv_layer == "coordconv2d" else nn.Conv2d
        self.localization = nn.Sequential(
            conv(1, 8, 7),
            nn.MaxPool2d(2),
            nn.ReLU(),
            conv(8, 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(90, 32),
            nn.ReLU(),
            nn.Linear(32, 6),
        )
        nn.init.zeros_(self.localization[-1].weight)
        self.localization[-1].bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.dropout = nn.Dropout2d()
        self.linear1, self.linear2 = nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.localization(x).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.dropout(self.conv2(x)), 2))
        x = F.dropout(F.relu(self.linear1(x.flatten(1))), training=self.training)
        return self.linear2(x)


def loaders(data_dir: str, augmented: bool, share: float) -> tuple[DataLoader, DataLoader]:
    """Batches of that share of the training and test set; augmented, PIL warps each image."""
    usual = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    warp = transforms.RandomAffine(15, translate=(0.1, 0.1), scale=(0.85, 1.15), shear=10)
    for_training = transforms.Compose([warp, *usual] if augmented else usual)
    # fork, as on Linux by default: the benchmark's own processes are spawned, and would hand down
    # that slower start to the workers
    settings = {"batch_size": 64, "shuffle": True, "num_workers": 4}
    settings["multiprocessing_context"] = "fork"
    warnings.filterwarnings("ignore", message="This DataLoader will create 4 worker processes")
    sets = (
        MNIST(data_dir, train=True, transform=for_training),
        MNIST(data_dir, train=False, transform=transforms.Compose(usual)),
    )
    training, test = (DataLoader(Subset(s, range(round(share * len(s)))), **settings) for s in sets)
    return training, test


def images_per_second(conv_layer: str, augmented: bool, data_dir: str, share: float) -> float:
    """Training images per second over one epoch with its test pass, or over a share of both."""
    training, test = loaders(data_dir, augmented, share)
    model = Network(conv_layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    start = time.perf_counter()

    model.train()
    for x, y in training:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    model.eval()
    loss_sum, correct = 0.0, 0
    with torch.no_grad():
        for x, y in test:
            logits = model(x)
            loss_sum += F.cross_entropy(logits, y, reduction="sum").item()
            correct += (logits.argmax(1) == y).sum().item()
    return len(training.dataset) / (time.perf_counter() - start)
