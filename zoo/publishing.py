"""What `zoo.load`, `zoo.push` and `zoo.hub.save_pretrained` do, as methods of every model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
