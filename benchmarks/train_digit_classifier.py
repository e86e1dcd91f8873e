"""Train the digit classifier whose features FID, KID and the rest are computed with.

Only the 55,000 training digits are learnt from; the epoch is chosen on the 5,000 validation digits; the test digits
are looked at once, at the end. One thread, about ten minutes::

    python benchmarks/train_digit_classifier.py

New weights change every such number: update `zoo.metrics.classifier.SHA256` and evaluate all models again.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

import zoo.metrics
from zoo.data.mnist import MNIST
from zoo.metrics.classifier import DigitClassifier

ASSET = Path(zoo.metrics.__file__).parent / "assets" / "digit_classifier.safetensors"


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 15 degrees, scale by up to 10 %, shear by up to 0.15, shift by up to 2 pixels: (B, 1, 28, 28)."""
    u = 2 * torch.rand(len(x), 5, generator=generator) - 1
    angle, scale, shear, shift = u[:, 0] * 0.26, 1 + 0.1 * u[:, 1], 0.15 * u[:, 2], u[:, 3:] * (2 / 14)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([cos, shear - sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)  # (B, 28, 28, 2)
    return F.grid_sample(x, grid, align_corners=False)


@torch.no_grad()
def accuracy(model: DigitClassifier, x: Tensor, labels: Tensor) -> float:
    """Return the share of correctly classified uint8 images (N, 1, 28, 28)."""
    model.eval()
    right = sum(
        int((model(a / 255)[1].argmax(1) == b).sum()) for a, b in zip(x.split(500), labels.split(500), strict=True)
    )
    return right / len(x)


def train(epochs: int, lr: float, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Return the weights of the epoch that did best on the validation digits."""
    torch.manual_seed(seed)
    data = MNIST()
    (x, labels), validation = data.split("train"), data.split("validation")
    model = DigitClassifier()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    steps = epochs * (len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    best, weights = -1.0, {}
    for epoch in range(epochs):
        model.train()
        begin, total = time.process_time(), 0.0
        order = torch.randperm(len(x), generator=generator)
        for index in order[: len(x) // batch_size * batch_size].split(batch_size):
            loss = F.cross_entropy(model(jitter(x[index] / 255, generator))[1], labels[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item()
        score = accuracy(model, *validation)
        if score >= best:
            best, weights = score, {k: v.clone() for k, v in model.state_dict().items()}
        mean, cpu = total / (len(x) // batch_size), time.process_time() - begin
        print(f"epoch {epoch + 1}: loss {mean:.4f}, validation {score:.4f}, {cpu:.0f} s of CPU", flush=True)
    return weights


def main() -> None:
    """Train, write the asset, print its digest and its accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    weights = train(args.epochs, args.lr, args.batch_size, args.seed)
    raw = save(weights)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(raw)
    model = DigitClassifier()
    model.load_state_dict(weights)
    data = MNIST()
    for split in ("validation", "test"):
        print(f"{split} accuracy {accuracy(model, *data.split(split)):.4f}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(raw):,} bytes")
    print(f"sha256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    main()
