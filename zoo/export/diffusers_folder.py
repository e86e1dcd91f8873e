"""A diffusion model of the zoo as a pipeline folder of the library diffusers, and back.

    from zoo.export import from_diffusers, to_diffusers
    to_diffusers("ddpm-mnist", "pipeline")                        # or: zoo export ddpm-mnist --format diffusers
    pipe = diffusers.DDIMPipeline.from_pretrained("pipeline")     # its own schedulers, ours in the place of a U-Net
    model = from_diffusers("pipeline")                            # the same weights, bit for bit

The folder holds a scheduler with the noise levels of the model's T steps, alpha_t^2 = sigmoid(lambda_t), and a
`ZooUNet`, which gives x_0 for (x_t, t), so that every scheduler that takes predictions of x_0 works with it. Where both
go through the same levels, DDIM here and there differ by rounding only. Guidance and classes are set by
`ZooUNet.condition`. Back, no class is imported by a name that the folder says: its configuration goes through the
same list of registered names as a download, and its weights are safetensors, held to their sha256.

References:
    P. von Platen and others, Diffusers, 2022, https://github.com/huggingface/diffusers.
    J. Song, C. Meng, S. Ermon, Denoising Diffusion Implicit Models, 2020, arXiv:2010.02502.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import ConfigMixin, DDIMPipeline, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from zoo.abilities import NoisyView
from zoo.errors import ConfigError, CorruptWeightsError, ModelFolderError, WeightsMismatchError
from zoo.hub.folder import built, load_files
from zoo.hub.layout import CONFIG, LIMITS, WEIGHTS, check_header, read_file, sha256
from zoo.hub.saving import save_pretrained, weights_file
from zoo.model import GenerativeModel, Source

__all__ = ["ZooUNet", "from_diffusers", "to_diffusers"]

_UNET, _TENSORS, _PREFIX = "unet", "diffusion_pytorch_model.safetensors", "model."


@runtime_checkable
class StepsThroughNoise(Protocol):
    """A model that sees data through the noise of T steps, whose log signal-to-noise, falling, is ``log_snrs`` (T,)."""

    log_snrs: Tensor

    def noisy_view(self, labels: Tensor | None, guidance_scale: float | None = None) -> NoisyView: ...


class ZooUNet(ModelMixin, ConfigMixin):
    """A denoiser of the zoo where a pipeline has its U-Net: (x_t (B, C, H, W), t) -> x_0 (B, C, H, W).

    Args:
        zoo_config: the published configuration of the model, of registered names and plain data.
        in_channels, out_channels: C.
        sample_size: H and W.
        num_class_embeds: classes that it can be told, None for none.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        zoo_config: dict[str, Any],
        in_channels: int = 1,
        out_channels: int = 1,
        sample_size: tuple[int, int] = (28, 28),
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = built(zoo_config, "the pipeline").eval()
        self._labels: Any = None
        self._guidance: float | None = None

    def condition(self, labels: Any = None, guidance_scale: float | None = None) -> ZooUNet:
        """Tell classes, and how strongly, from now on; without any, none and the model's own. Returns itself.

        Args:
            labels: one class for all, or one an example.
            guidance_scale: w of (1 - w) unconditional + w conditional, the model's own if left out.
        """
        self._labels, self._guidance = labels, guidance_scale
        return self

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Return x_0, cut to the data's range as the zoo's samplers do.

        Args:
            sample: x_t, (B, C, H, W).
            timestep: 0 to T - 1, one for all.
            class_labels: int64 (B,), instead of those of `condition`.
            return_dict: an object with the attribute ``sample``, or a tuple.
        """
        t = torch.as_tensor(timestep).flatten()[0].round().long().clamp(0, len(self.model.log_snrs) - 1)
        given = self._labels if class_labels is None else class_labels
        labels = None if given is None else self.model._labels(len(sample), given)
        scale = self.model.guidance_scale if self._guidance is None else self._guidance
        view = self.model.noisy_view(labels, scale if labels is not None else 1.0)
        x_0 = view.denoise(sample, self.model.log_snrs[t].to(sample.dtype))
        x_0 = x_0.clamp(-1, 1) if self.model.levels is not None else x_0
        return UNet2DOutput(sample=x_0) if return_dict else (x_0,)


def to_diffusers(model: Any, folder: str | Path) -> Path:
    """Write a model as the folder of a pipeline, which `diffusers.DDIMPipeline.from_pretrained` reads.

    Args:
        model: a diffusion model of images in T steps (`ddpm`, `dit` and their like), or what `zoo.load` takes.
        folder: to write, a new or an empty one.

    Raises:
        ConfigError: another kind of model.
        ModelFolderError: there is something in the folder.
    """
    if isinstance(model, (str, Path)):
        from zoo.hub import load

        model = load(model)
    if not isinstance(model, StepsThroughNoise) or not isinstance(model, GenerativeModel) or len(model.shape) != 3:
        raise ConfigError(
            f"{type(model).__name__} does not go through the noise of a table of steps; a pipeline of diffusers is for "
            f"models such as ddpm-mnist and dit-mnist"
        )
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFolderError(f"{folder} is there and not empty; name a new folder")
    with tempfile.TemporaryDirectory() as place:
        saved = save_pretrained(model, Path(place) / "model")
        config = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
        tensors = load_tensors((saved / WEIGHTS).read_bytes())
    channels, height, width = model.shape
    unet = ZooUNet(
        zoo_config=config, in_channels=channels, out_channels=channels, sample_size=(height, width),
        num_class_embeds=model.num_classes or None,
    )  # fmt: skip
    unet.load_state_dict({f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()})
    pipeline = DDIMPipeline(unet=unet.to(model.dtype), scheduler=scheduler_of(model.log_snrs))
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def scheduler_of(log_snrs: Tensor) -> DDIMScheduler:
    """Return a scheduler with these noise levels: falling log signal-to-noise ratios, (T,)."""
    kept = torch.sigmoid(log_snrs.double())  # alpha_t^2, the products of 1 - beta
    before = torch.cat([torch.ones(1, dtype=torch.float64, device=kept.device), kept[:-1]])
    betas = (1 - kept / before).tolist()
    return DDIMScheduler(
        num_train_timesteps=len(betas), trained_betas=betas, prediction_type="sample", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="leading", steps_offset=0,
    )  # fmt: skip


def from_diffusers(folder: str | Path, *, verify: bool = True) -> GenerativeModel:
    """Return the model of a folder that `to_diffusers` wrote, in eval mode.

    Args:
        folder: of the pipeline.
        verify: hold the weights to the sha256 that they had; False for a pipeline that was trained further.

    Raises:
        ModelFolderError: no pipeline that holds a model of the zoo.
        CorruptWeightsError, WeightsMismatchError: weights that cannot be read, or are others.
    """
    folder = Path(folder).expanduser()
    place = folder / _UNET
    try:
        config = json.loads(read_file(place / "config.json"))["zoo_config"]
    except (ModelFolderError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFolderError(
            f"{folder} holds no {_UNET}/config.json of a pipeline that zoo.export.to_diffusers wrote"
        ) from error
    raw = read_file(place / _TENSORS, limit=LIMITS[WEIGHTS])
    check_header(raw, str(place))
    try:
        tensors = load_tensors(raw)
    except SafetensorError as error:
        raise CorruptWeightsError(f"{place / _TENSORS} cannot be read: {str(error)[:200]}") from error
    bare = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    files = {CONFIG: json.dumps(config).encode(), WEIGHTS: save_tensors(bare, {"format": "pt"})}
    model = load_files(files, str(folder), Source("folder", path=str(folder)), verify=False)
    digest, known = sha256(weights_file(model)), (config.get("weights") or {}).get("sha256")
    if verify and digest != known:
        raise WeightsMismatchError(
            f"{folder}: the weights are not those that were exported: their sha256 is {digest}, not {known}; pass "
            f"verify=False for a pipeline that was trained further"
        )
    model.source = replace(model.source, sha256=digest)
    return model
