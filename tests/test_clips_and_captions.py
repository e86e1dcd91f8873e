"""What is measured and shown of clips and of captions: each number on cases whose answer is known."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.context import encode_texts
from zoo.data.captions import MNISTCaptions
from zoo.data.moving_digits import MovingDigits, drawn_motion, placed, shrunk
from zoo.diagnostics.clips import continuations, written_captions
from zoo.errors import ResultError
from zoo.evaluation.captions import caption_metrics, classes_asked, prompt_exact
from zoo.evaluation.clips import prediction_metrics, predicts
from zoo.families.video_diffusion import VideoDiffusion
from zoo.hub.staging import drawn_files
from zoo.metrics.clips import DigitClips, frame_consistency
from zoo.model import ImplicitModel
from zoo.nets.video_unet import VideoUNet


class Repeats(ImplicitModel):
    """Continue clips by an answer of its own: what came, or the last frame, with an error."""

    def __init__(self, frames: int = 6, shift: float = 0.0) -> None:
        super().__init__()
        self.shape, self.levels, self.shift = (1, frames, 32, 32), 256, shift
        self.truth: Tensor | None = None

    def draw(
        self, n: int, generator: torch.Generator, labels: Tensor | None, *, given: Any = None, known: Any = None
    ) -> Tensor:
        x = given.expand(n, *self.shape).clone() if self.truth is None else self.truth[:n].clone()
        if self.truth is None:
            x[:, :, known:] = x[:, :, known - 1 : known]
        x[:, :, known:] += self.shift
        return x


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    data = MovingDigits(frames=6)
    x, labels = data.read("train")
    moved, _ = data.moved(x[:120], torch.Generator().manual_seed(0))
    return data.to_float(moved), labels[:120]


def test_the_classifier_knows_digits_wherever_they_are(clips: tuple[Tensor, Tensor]) -> None:
    x, labels = clips
    seen = DigitClips()(x)
    assert seen["features"].shape == (120, 128) and seen["frames"].shape == (120, 6)
    assert (seen["logits"].argmax(1) == labels).float().mean() > 0.97
    assert frame_consistency(seen["frames"])[0] > 0.99
    still = DigitClips()(x[:, :, :1].expand(-1, -1, 6, -1, -1))["features"]
    assert still[:, 64:].abs().max() < 1e-5, "features of a still clip do not vary"
    with pytest.raises(ResultError, match="clips of shape"):
        DigitClips().check((1, 28, 28))


def test_frames_of_different_digits_are_inconsistent(clips: tuple[Tensor, Tensor]) -> None:
    x, labels = clips
    mixed = x.clone()
    for t in range(6):
        mixed[:, :, t] = x[:, :, t].roll(t, 0)  # every frame from another clip
    other = torch.stack([labels.roll(t) for t in range(6)], 1)
    expected = float((other[:, 1:] == other[:, :-1]).float().mean())
    found, error, _ = frame_consistency(DigitClips()(mixed)["frames"])
    assert found == pytest.approx(expected, abs=0.06) and found < 0.5 and error > 0
    assert frame_consistency(torch.tensor([[1, 1, 2], [3, 3, 3]]))[0] == 0.75


def test_prediction_is_compared_with_copying(clips: tuple[Tensor, Tensor]) -> None:
    x, labels = clips
    model, examples = Repeats(), lambda a, b: (x[a:b], labels[a:b])
    found = prediction_metrics(model, examples, 40, 0)
    assert found["prediction_error"].value == pytest.approx(found["prediction_error_copy"].value) != 0
    model.truth = x
    assert prediction_metrics(model, examples, 40, 0)["prediction_error"].value == 0
    model.shift = 0.5
    assert prediction_metrics(model, examples, 40, 0)["prediction_error"].value == pytest.approx(0.25)
    assert predicts(model) and not predicts(VideoDiffusionOf((1, 28, 28)))


class VideoDiffusionOf:
    """What `predicts` asks of a model of images."""

    generates = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def test_a_diagnosis_shows_what_came_and_what_was_drawn(clips: tuple[Tensor, Tensor]) -> None:
    found = continuations(Repeats(), *clips, n=3)
    summary = json.loads(json.dumps(found.summary()))
    assert summary["frames_given"] == 3 and len(summary["error_of_each_frame"]) == 3
    assert summary["error_of_each_frame"] == pytest.approx(summary["error_of_copying"])


def test_published_samples_of_clips_move() -> None:
    from PIL import Image

    torch.manual_seed(0)
    model = VideoDiffusion(VideoUNet(2, [8], embedding=8, heads=2, out_channels=1), (1, 3, 8, 8), table=20, steps=2)
    files = drawn_files(model.eval())
    assert set(files) == {"samples.png"} and files["samples.png"][:4] == b"\x89PNG"
    assert Image.open(io.BytesIO(files["samples.png"])).n_frames == 3


def test_clips_of_a_file_are_continued(
    clips: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoo._cli.main import main
    from zoo.images import animation_bytes, read_clips

    x, model = (clips[0][:3] * 255).round() / 255, Repeats()
    (tmp_path / "a.apng").write_bytes(animation_bytes(x, apng=True, scale=2))
    (tmp_path / "one.gif").write_bytes(animation_bytes(x[:1, :, :4], pad=0))
    assert torch.allclose(read_clips(tmp_path / "a.apng", model.shape, 3), x, atol=1e-6)
    cut = read_clips(tmp_path / "one.gif", model.shape, 4)
    assert torch.allclose(cut[:, :, :4], x[:1, :, :4], atol=2 / 255) and not cut[:, :, 4:].any()
    monkeypatch.setattr("zoo.hub.load", lambda *given, **more: model)
    monkeypatch.chdir(tmp_path)
    assert (
        main(["sample", "video_diffusion", "--given", "a.apng", "--frames", "2", "--out", "b.npz", "--seed", "0"]) == 0
    )
    drawn = torch.from_numpy(np.load("b.npz")["samples"])
    assert drawn.shape == (3, 1, 6, 32, 32) and torch.allclose(drawn[:, :, 2:], x[:, :, 1:2].expand(-1, -1, 4, -1, -1))
    assert main(["sample", "video_diffusion", "--given", "one.gif", "--out", "c.gif"]) == 0
    for words, said in (
        (["--given", "one.gif", "--frames", "5"], "has 4 frames, fewer than the 5"),
        (["--given", "a.apng", "--frames", "6"], "--frames must lie between 1 and 5"),
        (["--given", "a.apng", "--rows", "2"], "are of images"), (["--frames", "2"], "give the clip by --given"),
        (["--given", "a.apng", "-n", "9"], "holds 3 clips"), (["--given", "none.gif"], "there is no file none.gif"),
    ):  # fmt: skip
        assert main(["sample", "video_diffusion", *words, "--out", "d.gif"]) == 2
        assert said in capsys.readouterr().err and not Path("d.gif").exists()


# -- captions ---------------------------------------------------------------------------------------------------------


class Writes:
    """Write the captions that it was given."""

    alphabet, device = MNISTCaptions.alphabet, torch.device("cpu")
    num_classes, context = 0, MNISTCaptions.context

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.at = texts, 0

    def caption(self, x: Tensor) -> list[str]:
        found = self.texts[self.at : self.at + len(x)]
        self.at += len(x)
        return found

    def text_log_prob(self, texts: Tensor, *, given: Tensor | None = None) -> Tensor:
        return torch.full((len(texts),), -2.0 if given is None else -0.5)


def test_captions_count_only_where_every_letter_is_right() -> None:
    own = ["a thin three", "a one", "a bold seven slanted left", "a nine"]
    told, x = encode_texts(own, MNISTCaptions.alphabet, 26), torch.rand(4, 1, 28, 28)
    model = Writes([own[0], "a one ", own[2], "a nin"])
    found = caption_metrics(model, lambda a, b: (x[a:b], told[a:b]), 4)
    assert {name: metric.value for name, metric in found.items()} == {
        "caption_exact": 0.5, "caption_nats": 0.5, "text_nats": 2.0,
    }  # fmt: skip
    model.at = 0
    summary, picture = written_captions(model, x, told)
    assert summary["exact"] == 0.5 and summary["wrong"] == [["a one ", "a one"], ["a nin", "a nine"]]
    assert picture.ndim == 3


def test_images_of_captions_are_held_to_every_word() -> None:
    data = MNISTCaptions()
    x, told = (part[:200] for part in data.split("test"))
    digits = classes_asked(data, told)
    assert classes_asked(data, digits) is digits and classes_asked(data, None) is None
    assert classes_asked(MovingDigits(), told) is None
    pictures = x.double() / 255
    assert prompt_exact(data, pictures, digits, told)[0] == 1
    wrong = digits.clone()
    wrong[:50] = (wrong[:50] + 1) % 10
    assert prompt_exact(data, pictures, wrong, told)[0] == 0.75
    bolder = prompt_exact(data, (1.6 * pictures).clamp(max=1), digits, told)[0]
    assert bolder < 0.9, "ink is part of what was asked"


def test_windows_hold_the_digit_as_it_was() -> None:
    """A digit that was shrunk and moved is found again, close to what it was."""
    from zoo.data.mnist import read_mnist
    from zoo.metrics.clips import digit_windows

    images = read_mnist("t10k")[0][:50]
    clip = placed(shrunk(images), drawn_motion(50, torch.Generator().manual_seed(0)), 2)
    again = digit_windows(clip[:, :, 1].float() / 255)
    error = (again - images.float() / 255).square().mean()
    assert error < 0.25 * (images.float() / 255).square().mean()
