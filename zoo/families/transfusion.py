"""Transfusion: one Transformer that writes text and denoises images, each in view of the other.

    L = L_LM + lambda L_DDPM,
    L_LM = mean of -log p(symbol | symbols before, image before),   L_DDPM = mean of |eps(x_t, t, text before) - eps|^2

Most training pairs have the caption first: the text is learnt, then the image of it. In the others the image comes
first, at no more than part of the noise, so that its caption can be read off it. Sampling writes letters until the mark
that an image begins, denoises the image in view of them, and goes on: text to image, image to text, or both.

References:
    C. Zhou, L. Yu, A. Babu, K. Tirumala, M. Yasunaga, L. Shamis, J. Kahn, X. Ma, L. Zettlemoyer, O. Levy, Transfusion:
    Predict the Next Token and Diffuse Images with One Multi-Modal Model, 2024, arXiv:2408.11039.
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checking import examples_of, option_of
from zoo.context import PAD, Words, decode_texts
from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.denoising import Denoise
from zoo.families.diffusion import Diffusion
from zoo.maths.conversions import input_scale
from zoo.maths.decoding import Decoding
from zoo.maths.guidance import guide
from zoo.maths.noise import rand
from zoo.model import Batch, seeded
from zoo.sampling import Labels
from zoo.signature import default_of

__all__ = ["Transfusion"]


class Transfusion(DDPM):
    """A model of pairs of an image and a text, told texts of its ``alphabet`` where it draws images.

    Args:
        network: such as `zoo.nets.transfusion.TransfusionNet`.
        shape: of an image, (C, H, W).
        alphabet: the letters of the texts.
        vocabulary: the words of all texts, where the network is to read and write whole words, as the paper's reads
            pieces of words; none for letters. Texts stay texts of letters for those who ask.
        image_weight: lambda.
        image_first: share of the training pairs in which the image comes before its text.
        image_first_noise: the largest noise of those images, as a share of the way to pure noise; the paper's is half.
        text_dropout: share of the others whose text is hidden, for guidance.
        text_length: letters of a text at most, the network's if left out, which a vocabulary does not allow.
        guidance_scale: default of sampling, 1 for none.

    The other arguments are those of `zoo.families.ddpm.DDPM`.

    Raises:
        ConfigError: an alphabet that is not the network's, shares out of range, or options of classes.
    """

    takes_examples = ("caption",)
    family = "multimodal"

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        alphabet: str,
        image_weight: float = 5.0,
        image_first: float = 0.2,
        image_first_noise: float = 0.5,
        text_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        text_length: int | None = None,
        vocabulary: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, **kwargs)
        length = text_length or network.length
        if vocabulary is None and length != network.length:
            raise ConfigError(f"the network is made for texts of {network.length} letters, got {text_length}")
        if vocabulary is not None and text_length is None:
            raise ConfigError("the network reads words: say by text_length how many letters a text has at most")
        symbols = vocabulary if vocabulary is not None else alphabet
        if len(set(alphabet)) != len(alphabet) or len(symbols) != network.letters:
            raise ConfigError(
                f"an alphabet has each letter once, and the network is made for {network.letters} symbols, got "
                f"{symbols!r}"
            )
        shares = (image_first, image_first_noise)
        if not (all(0 <= share <= 1 for share in shares) and 0 <= text_dropout < 1 and image_weight >= 0):
            raise ConfigError(
                f"image_first, image_first_noise and text_dropout are shares, and image_weight is not negative, got "
                f"{image_first}, {image_first_noise}, {text_dropout} and {image_weight}"
            )
        of_classes = self.num_classes or self.label_dropout != default_of(DDPM, "label_dropout")
        if of_classes or self.weak is not None or self.variance == "learned":
            raise ConfigError(
                "Transfusion is told texts: it has no classes, no weak network and no learned variance; leave "
                "num_classes, label_dropout, weak_batches and variance as they are, and hide texts by text_dropout"
            )
        self.alphabet, self.context = alphabet, (length,)
        self.words = Words(vocabulary, alphabet, length, network.length) if vocabulary is not None else None
        self.image_weight, self.image_first, self.text_dropout = image_weight, image_first, text_dropout
        self.image_first_noise = image_first_noise
        self.guidance_scale = guidance_scale

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: their letters and their images; see `zoo.fitting`."""
        own = dict(arguments["network"].get("init_args") or {})
        length = arguments.get("text_length") or own["length"]
        if arguments.get("vocabulary") and arguments["alphabet"] == before["alphabet"]:
            own_shape = {**arguments["network"], "init_args": {**own, "shape": arguments["shape"]}}
            return {**arguments, "network": own_shape}
        if not arguments["alphabet"]:
            raise ConfigError(f"{cls.__name__} learns images with their texts, and the data have none; choose others")
        changed = {**own, "letters": len(arguments["alphabet"]), "length": length, "shape": arguments["shape"]}
        arguments = {k: v for k, v in arguments.items() if k != "text_length" or k in before}
        arguments |= {"vocabulary": None} if arguments.get("vocabulary") else {}  # other texts have other words
        return {**arguments, "network": {**arguments["network"], "init_args": changed}}

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: `fitted_to` says what the network is for; see `zoo.fitting`."""
        return {}

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``mse`` of the noise's prediction per dimension, and ``text``, nats a symbol.

        Both parts are means over the examples, whose text counts nothing where it is hidden.
        """
        x, texts = batch[0], self._symbols(batch[1])
        first = self.rand(len(x)) < self.image_first
        hidden = (self.rand(len(x)) < self.text_dropout) & ~first
        u = self.even(len(x))
        log_snr = self.training_levels(torch.where(first, u * self.image_first_noise, u))
        x_0, column = self.centre(x), log_snr.view(-1, 1, 1, 1)
        alpha, sigma = self.schedule.coefficients(column)
        x_t = alpha * x_0 + sigma * self.randn(*x.shape)
        shown = texts.masked_fill(hidden[:, None], PAD)
        out, logits = self.network(self._scaled(x_t, column), log_snr.to(self.dtype), shown, first)
        mse = self.errors(out.to(x.dtype), x_0, x_t, log_snr).mean()
        text = self.symbol_nats(logits, shown, first).mean()
        return {"loss": text + self.image_weight * mse, "mse": mse, "text": text}

    def targets(self, texts: Tensor, image_first: Tensor) -> Tensor:
        """Return the symbol that follows start, each letter, and EOI: (B, T), bool (B,) -> int64 (B, T + 2).

        -1 where nothing that is to be learnt follows: where the order says that an image does, and after the text.
        """
        net, T = self.network, texts.shape[1]
        m, first = (texts >= 0).sum(1, keepdim=True), image_first[:, None]
        i = torch.arange(T + 1, device=texts.device)
        last = torch.where(first, net.END, net.BOI)
        following = torch.where(i == m, last, F.pad(texts, (0, 1), value=PAD))  # after start and i letters
        start = torch.where(first | (m == 0), PAD, following[:, :1])
        after = torch.where(first, following[:, :1], torch.where(m == 0, PAD, net.END))
        return torch.cat([start, following[:, 1:], after], 1)

    def symbol_nats(self, logits: Tensor, texts: Tensor, image_first: Tensor) -> Tensor:
        """Return each example's mean of -log p over its symbols, (B,); 0 where it has none."""
        targets = self.targets(texts, image_first)
        counted = (targets >= 0).sum(1)
        return self._nats(logits, targets) / counted.clamp(min=1)

    def _nats(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of -log p of targets, -1 for none: (B, S, V), int64 (B, S) -> (B,)."""
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=PAD)
        return nats.view(targets.shape).sum(1)

    # -- the denoiser -------------------------------------------------------------------------------------------------

    def _scaled(self, x: Tensor, column: Tensor) -> Tensor:
        alpha, sigma = self.schedule.coefficients(column)
        return (x * input_scale(self.predict, alpha, sigma, self.sigma_data)).to(self.dtype)

    def _texts_or_none(self, n: int, labels: Tensor | None) -> Tensor:
        if labels is None:
            return torch.full((n, self.network.length), PAD, device=self.device)
        return self._symbols(labels)

    def _symbols(self, texts: Tensor) -> Tensor:
        """Return what the network reads for texts of letters, (B, T) -> (B, K)."""
        return texts if self.words is None else self.words.read(texts)

    def _texts(self, n: int, texts: Any) -> Tensor | None:
        found = super()._texts(n, texts)
        if self.words is not None and found is not None:
            self.words.check(found)
        return found

    def accepts_condition(self, labels: Tensor) -> None:
        super().accepts_condition(labels)
        if self.words is not None:
            self.words.check(labels)

    def output(
        self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None, network: nn.Module | None = None
    ) -> Tensor:
        """Return what the network gives for noisy images after texts, int64 (B, T), or after none."""
        scaled = self._scaled(x, log_snr.view(-1, 1, 1, 1))
        return self.network(scaled, log_snr.to(self.dtype), self._texts_or_none(len(x), labels))[0].to(x.dtype)

    def denoiser(self, labels: Tensor | None, scale: float, clip: bool, known: tuple[Tensor, Tensor] | None) -> Denoise:
        return Remembering(self, labels, scale, clip, known)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        prompt: str | None = None,
        temperature: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """Draw ``n`` images, of texts or of such as are written first.

        Args:
            n: how many.
            generator: of all noise.
            labels: texts int64 (n, T); written by the model if left out.
            prompt: the text of all images, in the place of labels.
            temperature: of the letters that are written.
            options: those of `zoo.families.diffusion.Diffusion.draw`.

        Raises:
            ConfigError: both labels and a prompt, a prompt with other letters, or what `Diffusion.draw` refuses.
        """
        if prompt is not None:
            if labels is not None:
                raise ConfigError("a prompt is the text of all images; give either labels or a prompt")
            labels = self._texts(n, prompt)
        if labels is None:
            labels = self.written(n, generator, None, Decoding(temperature))
        return super().draw(n, generator, labels, **options)

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        of_diffusion = list(inspect.signature(Diffusion.draw).parameters.items())[4:]
        return {**super().option_parameters(), **dict(of_diffusion)}

    @torch.no_grad()
    def written(self, n: int, generator: torch.Generator, images: Tensor | None, choose: Decoding) -> Tensor:
        """Write n texts, about images (n, *shape) in data range or about none: int64 (n, T), padded with -1."""
        state = self.network.beginning(n, None if images is None else self._clean(images))
        symbols = torch.empty(n, 0, dtype=torch.int64, device=self.device)
        for u in rand((self.network.length, n), generator, self.device, self.dtype):
            symbols = torch.cat([symbols, choose(state.logits, u)[:, None]], 1)
            state.put(symbols[:, -1])
        over = (symbols >= self.network.letters).cumsum(1) > 0
        symbols = symbols.masked_fill(over, PAD)
        return symbols if self.words is None else self.words.write(symbols)

    def _clean(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return images as the network reads them, with as little noise as it knows, and their lambdas."""
        log_snr = self.log_snrs[:1].to(self.dtype).expand(len(images))
        alpha = self.schedule.coefficients(log_snr.view(-1, 1, 1, 1))[0]
        return self._scaled(alpha * self.centre(images), log_snr.view(-1, 1, 1, 1)), log_snr

    @torch.no_grad()
    def caption(
        self, x: Tensor, *, temperature: float | None = None, seed: int | torch.Generator | None = None
    ) -> list[str]:
        """Return a text for each image: (B, *shape) in data range -> B strings.

        Args:
            x: images.
            temperature: of the letters, which are drawn; the most probable ones, letter by letter, if left out.
            seed: of the draws.
        """
        temperature = option_of("temperature", temperature, "float | None", "Transfusion.caption")
        choose = Decoding(greedy=True) if temperature is None else Decoding(temperature)
        return decode_texts(self.written(len(x), seeded(seed), x, choose), self.alphabet)

    @torch.no_grad()
    def joint(
        self, n: int, *, seed: int | torch.Generator | None = None, temperature: float = 1.0, **options: Any
    ) -> tuple[list[str], Tensor]:
        """Draw n texts and an image of each: n strings, (n, *shape) in data range.

        The images are those of `sample` with the same seed and no labels.
        """
        choose = Decoding(option_of("temperature", temperature, "float", "Transfusion.joint"))
        generator = seeded(seed)
        training = self.training
        texts = self.eval().written(n, generator, None, choose)
        self.train(training)
        return decode_texts(texts, self.alphabet), self.sample(n, seed=generator, labels=texts, **options)

    # -- likelihoods --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def text_log_prob(self, texts: Labels, *, given: Tensor | None = None) -> Tensor:
        """Return log p(text), or log p(text | image), in nats, exactly: B strings or int64 (B, T) -> (B,).

        The first is that of the letters and of the mark that an image follows, the second that of the letters and of
        the end.

        Args:
            texts: one, or as many as there are images.
            given: images in data range, (B, *shape).

        Raises:
            ConfigError: letters that there are none of, or another number of texts than of images.
        """
        if given is not None:
            given = examples_of(self, given, "text_log_prob's given")
        if not isinstance(texts, (str, list, tuple, Tensor)) or not len(texts):
            raise ConfigError("text_log_prob takes a text, a list of texts or their tensor of int64, one at least")
        n = len(given) if given is not None else 1 if isinstance(texts, str) else len(texts)
        letters = self._texts(n, texts)
        symbols = None if letters is None else self._symbols(letters)
        if symbols is None or not bool((symbols >= 0).any(1).all()):
            raise ConfigError("text_log_prob is that of texts of one letter at least; give such")
        first = torch.full((n,), given is not None, device=self.device)
        if given is None:
            targets = self.targets(symbols, first)[:, :-1]
            m = int((symbols >= 0).sum(1).max()) + 1
            return -self._nats(self.network.text_logits(targets[:, :m].clamp(min=0)), targets[:, :m])
        logits = self.network(*self._clean(given.to(self.device, self.dtype)), symbols, first)[1]
        return -self._nats(logits, self.targets(symbols, first))

    def text_likelihood(self) -> str:
        """Say what `text_log_prob` is; `likelihood` says it of the image."""
        return "exact"


class Remembering(Denoise):
    """The model as samplers see it, which reads a text once for all steps."""

    def __init__(
        self,
        model: Transfusion,
        labels: Tensor | None,
        scale: float,
        clip: bool,
        known: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__(model, labels, scale, clip, known)
        memories: dict[bool, Any] = {}

        def output(x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
            guided = labels is not None
            if guided not in memories:
                memories[guided] = model.network.remember(model._texts_or_none(len(x), labels))
            scaled = model._scaled(x, log_snr.view(-1, 1, 1, 1))
            return model.network.denoise(scaled, log_snr.to(model.dtype), memories[guided]).to(x.dtype)

        self.field = guide(output, scale, labels, None)
