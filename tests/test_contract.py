"""Every name of the registry keeps the contract: build, train, sample, save, load, resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import warm

from zoo.abilities import HasEnergy, HasFeatures, has_likelihood, is_conditional
from zoo.errors import ConfigError, DataError
from zoo.hub import load_pretrained, save_pretrained
from zoo.model import FlowModel, GenerativeModel, ImplicitModel, ScoreModel
from zoo.registry import NAME, load_registry
from zoo.runs import load_run
from zoo.spec import build, from_public, to_public
from zoo.training.fit import Run


def _parts(node: Any) -> frozenset[Any]:
    """Return the class paths in a model's description, and whether it is told a class."""
    if isinstance(node, dict):
        own = {node["class_path"]} if "class_path" in node else set()
        return frozenset(own | ({"labels"} if node.get("num_classes") else set())).union(*map(_parts, node.values()))
    return frozenset().union(*map(_parts, node)) if isinstance(node, list) else frozenset()


NAMES = list(load_registry())
ONE_A_KIND = warm.one_of_each(lambda e: _parts(e.model))
ONE_A_CLASS = warm.one_of_each()
LONG = (
        "titok_tuned-mnist", "infinity-mnist", "mar-mnist", "edm-mnist", "pixelsnail-mnist", "pixelcnn_pp-mnist",
        "video_diffusion-moving_digits", "ebm_cond-mnist", "energy_matching_cd-mnist",
        "transformer_tokens-shakespeare", "rf_dit-mnist", "lsgan-mnist", "vqgan_prior-mnist", "biggan-mnist",
        "gated_pixelcnn_cond-mnist", "flow_matching_small-mnist", "diffflow-mnist", "dvae-shakespeare",
        "autoencoder_kl-mnist", "vae_small-mnist", "nice-mnist", "gq_vae-shakespeare", "ebm_drl-mnist", "r3gan-mnist",
        "gat-mnist", "s_jko_mmd-eight_gaussians", "mmd_generator-mnist", "spline_flow-mnist",
        "residual_flow-eight_gaussians", "row_lstm-mnist", "vampprior-mnist", "vq_vae2-mnist", "titok-mnist",
        "var_tokenizer-mnist", "softvq-mnist", "rq_vae-mnist", "wgan-mnist", "score_sde-mnist",
        "progressive_distillation-mnist", "controlnet-mnist", "adversarial_distillation-mnist",
        "stylegan-mnist", "stylegan3-mnist", "progan-mnist", "cosmos-moving_digits", "rectified_flow-mnist",
        "factor_vae-sprites", "hierarchical_vae-mnist", "vqgan-mnist", "wavenet-tones", "sn_gan_cond-mnist",
        "linear_transformer-shakespeare", "v_jepa-moving_digits", "m2-binary_mnist", "uotm-mnist",
        "vae_gan-mnist", "perceptual_vae-mnist",
)  # fmt: skip
"""Of close relatives, what takes longest to train; their laws are held in their own files."""


@pytest.fixture(scope="module", params=warm.long(ONE_A_KIND, (*warm.relatives(ONE_A_KIND), *LONG)))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, GenerativeModel, Path]:
    """One model of each make-up after its declared number of steps, with the weights it started from."""
    name = request.param
    folder = tmp_path_factory.mktemp("runs") / name
    model = load_registry().resolve(name).build_model()
    warm.train(name, str(folder), model.steps_to_move, 4, "--training.warmup", "0", pictures=True)
    return name, load_run(folder, ema=False), folder


def test_every_trainable_tensor_moves(trained: tuple[str, GenerativeModel, Path]) -> None:
    name, model, folder = trained
    arguments = [*warm.SMALL, "--trainer.max_steps", "1", "--data.batch_size", "4"]
    start = Run(warm.entry(name), arguments, folder=folder).model  # the same seed gives the same initial weights
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, dict(start.named_parameters())[n])}
    trainable = {n for n, p in start.named_parameters() if p.requires_grad}
    assert trainable - moved == set(model.never_updated), f"{name}: unmoved {sorted(trainable - moved)}"
    assert all(reason for reason in model.never_updated.values())


def test_samples_are_in_range_and_repeatable(trained: tuple[str, GenerativeModel, Path]) -> None:
    """Or, of a model that draws none: features are of the size that it says, and repeatable."""
    keeps_its_word(trained[1])


def keeps_its_word(model: GenerativeModel) -> None:
    """Check what every model says of its samples, or of its features."""
    if isinstance(model, HasFeatures):
        x = torch.rand(3, *model.shape)
        z, tokens = model.features(x), model.features(x, pool=None)
        assert z.shape == (3, model.feature_dim) and tokens.shape[::2] == (3, model.feature_dim)
        assert torch.isfinite(z).all() and torch.equal(z, model.features(x))
    if isinstance(model, HasEnergy):
        x, told = torch.rand(3, *model.shape), {"labels": model._labels(3, None)} if model.num_classes else {}
        assert (
            model.energy(x, **told).shape == (3,) and model.score(x, **told).shape == x.shape and model.temperature > 0
        )
    if not model.generates:
        assert isinstance(model, HasFeatures)
        with pytest.raises(ConfigError, match="features"):
            model.sample(3)
        return
    x = model.sample(3, seed=7)
    assert x.shape == (3, *model.shape) and x.dtype == torch.float32
    assert torch.isfinite(x).all() and (model.levels is None or (x.min() >= 0 and x.max() <= 1))
    assert torch.equal(x, model.sample(3, seed=torch.Generator().manual_seed(7)))
    assert not torch.equal(x, model.sample(3, seed=8))
    with pytest.raises(ConfigError, match="positive integer"):
        model.sample(0)
    with pytest.raises(ConfigError, match="no sampling option 'temperatur'"):
        model.sample(1, temperatur=1.0)
    assert json.loads(json.dumps(model.sampler({}), allow_nan=False)).keys() == model.sampling_options().keys()


def test_saved_and_loaded_model_gives_equal_samples(trained: tuple[str, GenerativeModel, Path], tmp_path: Path) -> None:
    _, model, _ = trained
    again = load_pretrained(save_pretrained(model, tmp_path / "folder"))
    assert type(again) is type(model) and again.spec == model.released().spec
    if model.generates:
        assert torch.equal(model.sample(2, seed=0), again.sample(2, seed=0))
    else:
        x = torch.rand(2, *model.shape)
        assert torch.equal(model.features(x), again.features(x))


def test_losses_and_likelihoods_are_finite_and_in_nats(trained: tuple[str, GenerativeModel, Path]) -> None:
    name, model, _ = trained
    data = load_registry().resolve(name).build_data()
    x, labels = data.split("test")
    x, labels = data.to_float(x[:4]), labels[:4]
    model.accepts_condition(labels)
    terms = model.loss((x, labels))
    assert "loss" in terms and all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    if has_likelihood(model):
        with torch.no_grad():
            p = model.log_prob(x, labels=labels if is_conditional(model) else None, seed=0)
        assert p.shape == (4,) and torch.isfinite(p).all() and (model.levels is None or (p < 0).all())
        assert model.likelihood().split("+")[0].split("-")[0] in ("exact", "elbo", "iwae", "vlb", "ode", "ais", "nce")
    else:
        assert isinstance(model, (ImplicitModel, FlowModel, ScoreModel, HasFeatures))


def test_loss_of_training_is_the_loss_of_validation(trained: tuple[str, GenerativeModel, Path]) -> None:
    _, model, _ = trained
    x = (torch.rand(2, *model.shape) > 0.5).float()
    noise = [torch.Generator(), torch.Generator()]
    values = []
    for generator in noise:
        generator.manual_seed(3)
        model.set_noise([generator])
        values.append(model.loss((x, torch.zeros(2, *model.context, dtype=torch.long)))["loss"])
    assert torch.equal(*values)


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_well_formed(name: str) -> None:
    registry = load_registry()
    entry = registry[name]
    assert NAME.match(name) and entry.dataset in registry.data
    assert {"title", "authors", "year"} <= set(entry.paper) and ({"arxiv", "url"} & set(entry.paper))
    model, data = entry.build_model(), entry.build_data()
    model.accepts(data.shape, data.levels)
    assert data.name == entry.dataset and entry.summary
    public = to_public(model.spec, registry.classes())
    assert "class_path" not in str(public)
    assert build(from_public(public, registry.classes())).spec == model.spec
    assert all(low <= high for low, high in entry.expected.values())


@pytest.mark.parametrize("name", NAMES)
def test_wrong_data_are_refused(name: str) -> None:
    model = load_registry()[name].build_model()
    with pytest.raises(DataError, match="shape"):
        model.accepts((3, 5, 5), model.levels)


@pytest.mark.parametrize("name", warm.one_a_class(warm.DEAR_TOGETHER))
def test_stopped_run_goes_on_to_the_same_weights(name: str, tmp_path: Path, run_forked) -> None:
    """One stop by SIGTERM in the middle of an epoch, in a process of its own; the slow test has many."""
    _one_stop(name, tmp_path, run_forked, steps=7, stop=4, sig="SIGTERM")


STEPS = ("--training.checkpoint_every", "3", "--data.limit", "20", "--training.warmup", "2")


def _one_stop(name: str, tmp_path: Path, run_forked, *, steps: int, stop: int, sig: str, batch: int = 4) -> None:
    """Compare a run that was stopped and resumed with one that was not, which is made once in ``tmp_path``."""
    whole, cut = str(tmp_path / "whole"), str(tmp_path / f"cut-{stop}-{sig}")
    if not Path(whole).exists():
        run_forked(warm.train, name, whole, steps, batch, *STEPS)
    said = run_forked(warm.train_and_kill, name, cut, steps, batch, stop, sig, *STEPS)
    assert said == ("killed" if sig == "SIGKILL" else f"stopped by {sig} after {stop}")
    run_forked(warm.resume, name, cut, steps, batch, *STEPS)
    assert warm.difference(whole, cut) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_twenty_stops_leave_no_trace(name: str, tmp_path: Path, run_forked) -> None:
    stops = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:20].tolist()
    for stop in stops:  # an epoch has 5 batches; each of the 12 steps is met by either signal
        _one_stop(name, tmp_path, run_forked, steps=12, stop=stop % 12 + 1, sig=("SIGKILL", "SIGTERM")[stop // 12])
    print(f"{name}: {len(stops)} stops, difference 0")


def test_spec_of_a_model_made_in_python() -> None:
    from zoo.families.pixelcnn import PixelCNN

    model = PixelCNN(shape=(1, 4, 4), levels=2, width=8, depth=1)
    assert model.spec["class_path"] == "zoo.families.pixelcnn.PixelCNN" and model.spec["init_args"]["levels"] == 2
    assert dataclasses.is_dataclass(model.source) and model.source.kind == "new"
