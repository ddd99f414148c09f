"""HW10: a network that takes attacks out of photos: an autoencoder beside a shortcut.

It learns from photos that were attacked against `image_classifier`, and is judged by what that network says of the
rebuilt ones rather than by their pixels alone, as a difference too small to see is what attacks are made of (Liao et
al., "Defense Against Adversarial Attacks Using High-Level Representation Guided Denoiser", 2018). An attack that knows
of it passes it: it is a defence against attacks that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, ImagePreprocessing, Limits, Metric
from lectern.client import Client
from lectern.methods import evaluated_attack
from training import measures
from training.data import cifar10
from training.data.cifar10 import Cifar10, Split
from training.export.onnx import round_to_bytes, served_graph
from training.measures import Evaluation
from training.methods.adversarial import EPSILON, first_of_each_class, labelled_files, pgd
from training.methods.photos import augmented, learning_rate
from training.recipes.image_classifier import restore as image_classifier_of
from training.run import EXPORTED, Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS = {"guide": "image_classifier"}
MEMORY = 4
SHIPPED = True
MEASURED_STEPS = 10
SERVED_SECONDS = 3_600
LIMITS = Limits(
    intended="Photos before image_classifier that may have been attacked by somebody who does not know of it.",
    failures=(
        "An attack that knows of it passes it.",
        "Its figures are of 200 photos, hence the wide intervals.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        steps: of the attacks that are learned from; their sizes are drawn up to 1.5 times the usual one.
        pixels: weight of the mean distance of pixels, beside that of logits.
    """

    epochs: int = 3
    batch_size: int = 128
    width: int = 32
    learning_rate: float = 2e-3
    steps: int = 2
    pixels: float = 0.02
    translate: int = 2


FULL = Settings()
FAST = Settings(epochs=1, batch_size=24, width=8)


class ImagePurifier(nn.Module):
    """Photos uint8 or float [N, 32, 32, 3] with values 0..255 -> the same without attacks, float32 0..255."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.coarse = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 3, padding=1) for _ in range(2))
        self.up = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, photos: Tensor) -> Tensor:
        fine = F.relu(self.fine(photos.permute(0, 3, 1, 2) / 255 - 0.5))
        x = F.relu(self.down(fine))
        for layer in self.coarse:
            x = x + F.relu(layer(x))
        x = fine + F.pixel_shuffle(self.up(x), 2)
        rebuilt: Tensor = photos + 255 * self.last(F.relu(x)).permute(0, 2, 3, 1)
        return rebuilt.clamp(0, 255)


def train(run: Run) -> Trained:
    """Train, round the weights to 8 bits, and measure exactly that network."""
    settings = FAST if run.fast else FULL
    data = cifar10.load_sliver(run.sliver.with_name("image_classifier.npz")) if run.fast else cifar10.load()
    guide = image_classifier_of(served_graph(EXPORTED / NEEDS["guide"])).requires_grad_(False)
    net, device = fit(run, settings, data, guide)
    round_to_bytes(net)
    test = first_of_each_class(data.test)
    accuracies = measure(net, guide, test)
    return Trained(
        title="Purifier of photos",
        lecture="HW10",
        capability="defend",
        task="image purification",
        description="Rebuilds 32 x 32 colour photos without what attacks added to them.",
        graphs={"forward": Graph(net, {"images": torch.from_numpy(test.images[:8])}, ("purified",))},
        preprocessing=ImagePreprocessing(height=32, width=32, channels=3, resample="box"),
        limits=LIMITS,
        metrics=metrics(accuracies["clean"], accuracies["pgd"], len(test)),
        baselines=(
            Baseline(name="not purified", metric="clean_accuracy", value=accuracies["bare_clean"]),
            Baseline(name="not purified", metric="pgd10_accuracy", value=accuracies["bare_pgd"]),
        ),
        data=(cifar10.SOURCE.entry_of(data),),
        device=device,
        parameters=sum(p.numel() for p in net.parameters()),
    )


def fit(run: Run, settings: Settings, data: Cifar10, guide: nn.Module) -> tuple[ImagePurifier, str]:
    """Train on the train split; the validation split is only watched. Returns the network and the device's name."""
    fabric = run.fabric("bf16-mixed")
    net = ImagePurifier(settings.width)
    guide = fabric.to_device(guide)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate)
    model, optimizer = fabric.setup(net.to(memory_format=torch.channels_last), optimizer)  # type: ignore[call-overload]

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
        random = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        for batch in augmented(data.train, settings.batch_size, settings.translate, run.seed, epoch):
            yield batch.photos, batch.labels, random

    def loss(batch: tuple[Tensor, Tensor, torch.Generator]) -> Tensor:
        photos, labels, random = batch
        epsilon = 1.5 * EPSILON * float(torch.rand((), generator=random))
        with fabric.autocast():
            attacked = pgd(guide, photos, labels, settings.steps, random, epsilon, epsilon / settings.steps)
            with torch.no_grad():
                clean_logits = guide(photos).float()
        # Half of each batch is left as it was: most photos are not attacked.
        half = len(photos) // 2
        rebuilt = model(torch.cat([photos[:half], attacked[half:]]))
        with fabric.autocast():
            logits = guide(rebuilt).float()
        return F.l1_loss(logits, clean_logits) + settings.pixels * F.l1_loss(rebuilt, photos)

    def watch() -> dict[str, float]:
        with fabric.autocast():
            accuracies = measure(net, guide, data.validation[:500])
        return {"validation_clean": accuracies["clean"], "validation_pgd": accuracies["pgd"]}

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        loss,
        epochs=settings.epochs,
        settings=settings,
        count=len(data.train) // settings.batch_size,
        rate=learning_rate,
        watch=watch,
    )
    return net.eval().cpu(), device_name(fabric)


def measure(net: nn.Module, guide: nn.Module, split: Split) -> dict[str, float]:
    """Accuracy of `image_classifier` on photos and under PGD against it alone, with the purifier before it and bare."""
    net.eval()
    device = next(net.parameters()).device
    photos, labels = (torch.from_numpy(array).to(device) for array in (split.images, split.labels))
    attacked = pgd(guide, photos.float(), labels, MEASURED_STEPS, torch.Generator().manual_seed(0))
    accuracies = {}
    with torch.no_grad():
        for name, images in (("clean", photos), ("pgd", attacked.round())):
            accuracies[name] = float((guide(net(images)).argmax(1) == labels).float().mean())
            accuracies[f"bare_{name}"] = float((guide(images).argmax(1) == labels).float().mean())
    return accuracies


def evaluate(client: Client, track: Track) -> Evaluation:
    """What `image_classifier` gets right behind it, of 20 test photos of each class, as they are and under PGD."""
    test = first_of_each_class(cifar10.load().test)
    attacks = [evaluated_attack("pgd", steps=MEASURED_STEPS, step_size=2 / 255)]
    cells = client.evaluate_robustness(
        labelled_files(test), attacks, ["autoencoder"], "image_classifier", timeout=SERVED_SECONDS
    )
    clean, attacked = (cell.accuracy for cell in track(cells, 4) if cell.defence != "none")
    return Evaluation(metrics(clean, attacked, len(test)))


def metrics(clean: float, attacked: float, n: int) -> tuple[Metric, ...]:
    """Accuracies behind it."""
    return measures.share("clean_accuracy", clean, n), measures.share("pgd10_accuracy", attacked, n)
