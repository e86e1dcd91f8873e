"""What `zoo.load`, `zoo.push` and `zoo.hub.save_pretrained` do, as methods of every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

    from zoo.hub import PushResult

__all__ = ["Publishing"]


class Publishing:
    """Mixin of `zoo.model.GenerativeModel`: from a name and back to the Hub, without a further import."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """Return a model by name, as `zoo.load` does, that is one of this class: ``VAE.from_pretrained("vae-mnist")``.

        Args:
            name: what `zoo.load` takes: a registered name, ``namespace/name[@revision]``, a model or a run folder.
            options: of `zoo.load`: revision, device, dtype, token, local_files_only, endpoint, verify.

        Raises:
            ConfigError: the model by this name is of another class.
            ZooError: what `zoo.load` raises.
        """
        import zoo

        model = zoo.load(name, **options)
        if not isinstance(model, cls):
            raise ConfigError(
                f"{name} is a {type(model).__name__}, not a {cls.__name__}; load it by "
                f"{type(model).__name__}.from_pretrained or by zoo.load"
            )
        return model

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool = True,
        weights_only: bool | None = None,
        **arguments: Any,
    ) -> Self:
        """Return the model of a checkpoint that a Trainer wrote, or ``zoo fit``: what it is built of is in there.

        Of a run of ``zoo fit`` these are the averaged weights, as in `zoo.load`. Lightning's method of this name wants
        the arguments of the constructor; given, they are what the model is built of.

        Args:
            checkpoint_path: a local file.
            map_location: where the model is to be; on the CPU by default.
            hparams_file: none: a checkpoint has them.
            strict: False leaves out tensors whose names differ, where ``arguments`` are given.
            weights_only: True or left out: nothing but tensors and plain data is read.
            arguments: of the constructor, all that it needs, in place of what the checkpoint says.

        Raises:
            CheckpointError: unreadable or damaged, it does not say what its model is built of, or does not fit it.
            ConfigError: it is of another class, names one that is not allowed, or is to be read otherwise.
        """
        from zoo.hub import load_checkpoint

        if hparams_file is not None or weights_only is False:
            raise ConfigError("checkpoints hold tensors and plain data only; leave hparams_file and weights_only out")
        if not arguments and not strict:
            raise ConfigError("strict=False is for other arguments than the checkpoint's; give those, or leave it out")
        model: Any = cls(**arguments) if arguments else None
        model = load_checkpoint(
            checkpoint_path, into=model, strict=strict, allow=[f"{cls.__module__}.{cls.__qualname__}"]
        )
        if not isinstance(model, cls):
            raise ConfigError(
                f"{checkpoint_path} is of a {type(model).__name__}, not of a {cls.__name__}; load it by "
                f"{type(model).__name__}.load_from_checkpoint"
            )
        return model if map_location is None else cast(Any, model).to(map_location)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model as a folder that `from_pretrained` reads: weights, configuration, card and their sha256.

        Args:
            folder: to write, whole or not at all.
            options: of `zoo.hub.save_pretrained`: card, results, samples, overwrite.

        Raises:
            ZooError: what `zoo.hub.save_pretrained` raises; the folder exists, or the model has no plain description.
        """
        from zoo.hub import save_pretrained

        return save_pretrained(self, folder, **options)  # type: ignore[arg-type]

    def push_to_hub(self, repo_id: str, **options: Any) -> PushResult:
        """Publish the model as one commit, as `zoo.push` does: ``model.push_to_hub("me/vae-mnist", private=True)``.

        Args:
            repo_id: ``namespace/name``; created if need be.
            options: of `zoo.push`: token, private, revision, tag, endpoint, dry_run, progress, show.

        Raises:
            ZooError: what `zoo.push` raises.
        """
        import zoo

        return zoo.push(self, repo_id, **options)  # type: ignore[arg-type]
