"""Laws of the autoencoder whose class is a latent wherever it is not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from closed_forms import net
from torch.distributions import MultivariateNormal

from zoo.data.mnist import BinaryMNIST, FewLabelsBinaryMNIST
from zoo.errors import ConfigError
from zoo.evaluation.classification import class_metrics, tells_classes
from zoo.families.cvae import CVAE
from zoo.families.semi_supervised_vae import SemiSupervisedVAE
from zoo.families.vae import VAE
from zoo.nets.mlp import MLP


def _m2(args: Mapping[str, Any]) -> float:
    """Encoder and decoder once for each class, and the classifier."""
    enc, dec, tell = (net(args[k]) for k in ("encoder", "decoder", "classifier"))
    return 2.0 * (args["num_classes"] * (3 * (sum(enc) + sum(dec)) - enc[0]) + 3 * sum(tell) - tell[0])


STEP_FLOPS: dict[str, Callable[[Mapping[str, Any]], float]] = {"SemiSupervisedVAE": _m2}
K = 3


pytestmark = pytest.mark.usefixtures("double_precision")


def exact() -> tuple[SemiSupervisedVAE, list[MultivariateNormal]]:
    """A linear Gaussian model of three classes whose q(z | x, y) and q(y | x) are the true ones."""
    size, latent = 4, 2
    model = SemiSupervisedVAE(
        MLP([size + K, 2 * latent]), MLP([latent + K, size]), MLP([size, K]), [size], latent, K,
        likelihood="gaussian", scale="shared",
    )  # fmt: skip
    encoder, decoder, tell = model.encoder.layers[0], model.decoder.layers[0], model.classifier.layers[0]
    with torch.no_grad():
        W = torch.linalg.qr(torch.randn(size, latent)).Q * torch.tensor([0.7, 1.6])  # orthogonal columns
        decoder.weight[:, :latent] = W
        decoder.weight[:, latent:] = torch.randn(size, K)
        means = (decoder.weight[:, latent:] + decoder.bias[:, None]).T  # (K, size), E[x | y]
        s2 = (2 * model.observation(torch.zeros(1, latent), torch.zeros(1).long()).log_scale).exp().reshape(())
        precision = 1 + W.square().sum(0) / s2
        gain = W.T / s2 / precision[:, None]
        encoder.weight.zero_()
        encoder.weight[:latent, :size] = gain
        encoder.weight[:latent, size:] = -gain @ means.T
        encoder.bias.copy_(torch.cat([torch.zeros(latent), -precision.log()]))
        covariance = W @ W.T + s2 * torch.eye(size)
        tell.weight.copy_(torch.linalg.solve(covariance, means.T).T)
        tell.bias.copy_(-0.5 * (means * tell.weight).sum(1))
    return model, [MultivariateNormal(m, covariance) for m in means]


def test_the_unlabelled_bound_is_the_likelihood_where_all_posteriors_are_true():
    model, truth = exact()
    x = torch.cat([p.sample((2,)) for p in truth])
    joint = torch.stack([p.log_prob(x) for p in truth], 1) - math.log(K)  # log p(x, y)
    marginal, posterior = joint.logsumexp(1), joint.log_softmax(1)
    assert torch.allclose(model.class_log_probs(x), posterior, atol=1e-9)
    assert torch.allclose(model.marginal_log_prob(x, k=2, seed=0), marginal, atol=1e-9)
    with torch.no_grad():
        many = x.repeat(500, 1)
        unknown = torch.full((len(many),), -1)
        found = torch.stack([model.loss((many, unknown))["unlabelled"] for _ in range(20)])
        error = found.std() / math.sqrt(len(found))
        assert (found.mean() + marginal.mean()).abs() < 4 * error
        entropy = -(posterior.exp() * posterior).sum(1).mean()  # which the look-alike forgets
        assert entropy > 20 * error


def test_a_wrong_classifier_loses_its_divergence_from_the_true_one():
    model, truth = exact()
    x = truth[0].sample((3,))
    joint = torch.stack([p.log_prob(x) for p in truth], 1) - math.log(K)
    with torch.no_grad():
        model.classifier.layers[0].bias.add_(torch.tensor([0.5, -0.3, 0.0]))
        log_q = model.class_log_probs(x)
        gap = (log_q.exp() * (log_q - joint.log_softmax(1))).sum(1).mean()
        many = x.repeat(1000, 1)
        unknown = torch.full((len(many),), -1)
        found = torch.stack([model.loss((many, unknown))["unlabelled"] for _ in range(20)])
    lost = found.mean() + joint.logsumexp(1).mean()
    assert (lost - gap).abs() < 4 * found.std() / math.sqrt(20) < gap


def digits(**options: Any) -> SemiSupervisedVAE:
    return SemiSupervisedVAE(MLP([4 + K, 4]), MLP([2 + K, 4]), MLP([4, K]), [1, 2, 2], 2, K, **options)


def batch(labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    x = (torch.rand(len(labels), 1, 2, 2) > 0.5).double()
    return x, torch.tensor(labels)


def test_labelled_examples_have_the_conditional_bound_and_the_prior_of_their_class():
    model = digits(labelled_share=0.3, alpha=0.7)
    x, y = batch([0, 2, 1])
    with torch.no_grad():
        many = x.repeat(200, 1, 1, 1), y.repeat(200)
        terms = [model.loss(many) for _ in range(20)]
        found = torch.stack([t["labelled"] for t in terms])
        bound = torch.stack([model.log_prob(many[0], labels=many[1], seed=s).mean() for s in range(20)])
        error = (found.var() / 20 + bound.var() / 20).sqrt()
        assert (found.mean() - (math.log(K) - bound.mean())).abs() < 4 * error
        told = -model.class_log_probs(x).gather(1, y[:, None]).mean()
        assert torch.allclose(terms[0]["classification"], told)
        assert torch.allclose(terms[0]["loss"], terms[0]["labelled"] + 0.7 * told)  # no unlabelled ones here


def test_weights_are_those_of_the_data_whatever_the_batch_has():
    model = digits(labelled_share=0.01, alpha=0.0)
    for labels in ([0, -1, -1, 2], [1, 1, 1, -1], [-1, -1, 0, -1, -1]):
        terms = model.loss(batch(labels))
        mixed = 0.01 * terms["labelled"] + 0.99 * terms["unlabelled"]
        assert torch.allclose(terms["loss"], mixed) and terms["labelled"] > 0 and terms["unlabelled"] > 0
    alone = model.loss(batch([-1, -1]))
    assert torch.equal(alone["loss"], alone["unlabelled"]) and alone["classification"] == 0


def test_unlabelled_examples_teach_the_classifier():
    model = digits()
    model.loss(batch([-1] * 5))["loss"].backward()
    assert all(p.grad.abs().max() > 0 for p in model.classifier.parameters())


def test_a_step_costs_the_same_whatever_is_known():
    from zoo.training.compute import flops_per_step

    model = digits()
    counts = {flops_per_step(model, batch(labels))[0] for labels in ([0, 1, 2, 0], [-1] * 4, [0, -1, -1, -1])}
    assert len(counts) == 1


# -- the data and the measure ------------------------------------------------------------------------------------------


def test_a_hundred_digits_have_labels_ten_of_each_class_and_all_others_none():
    data, whole = FewLabelsBinaryMNIST(labelled=100, share=0.01), BinaryMNIST()
    x, y = data.split("train")
    known = y >= 0
    assert len(torch.unique(x[known].flatten(1), dim=0)) == 100
    assert known.double().mean().item() == pytest.approx(0.01, abs=1e-4) and (~known).sum() == 55_000 - 100
    of = dict(zip(map(tuple, x[known].flatten(1).tolist()), y[known].tolist(), strict=True))
    assert [list(of.values()).count(c) for c in range(10)] == [10] * 10
    full, labels = whole.split("train")
    where = data.known()
    assert torch.equal(torch.sort(labels[where]).values, torch.arange(10).repeat_interleave(10))
    pairs = zip(full[where], labels[where].tolist(), strict=True)
    assert all(of[tuple(image.flatten().tolist())] == c for image, c in pairs)
    for split in ("validation", "test"):
        assert all(torch.equal(a, b) for a, b in zip(data.split(split), whole.split(split), strict=True))
    few = FewLabelsBinaryMNIST(limit=40).split("train")[1]
    assert (few >= 0).sum() == 20 and len(few[few >= 0].unique()) == 10
    for wrong in ({"labelled": 15}, {"labelled": 0}, {"share": 1.0}):
        with pytest.raises(ConfigError, match="multiple of 10"):
            FewLabelsBinaryMNIST(**wrong)


class Answers:
    """Data of three classes, as an evaluation reads them."""

    num_classes = K

    def __init__(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.x, self.labels = x, labels

    def split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x, self.labels

    def to_float(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return x.to(dtype)


def test_an_evaluation_counts_the_classes_that_are_told():
    model = digits()
    x = torch.cat([batch([0] * 8)[0], batch([0] * 8)[0]])
    own = model.classify(x).argmax(1)
    labels = own.clone()
    labels[:4] = (own[:4] + 1) % K
    assert tells_classes(model, Answers(x, labels))
    assert class_metrics(model, Answers(x, labels), "test", 16)["class_accuracy"].value == pytest.approx(0.75)
    plain = VAE(MLP([4, 4]), MLP([2, 4]), [1, 2, 2], 2)
    told = CVAE(MLP([4 + K, 4]), MLP([2 + K, 4]), [1, 2, 2], 2, K)
    assert not tells_classes(plain, Answers(x, labels)) and not tells_classes(told, Answers(x, labels))


@pytest.mark.parametrize("wrong", [{"labelled_share": 1.5}, {"alpha": -1.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match="labelled_share lie in"):
        digits(**wrong)
