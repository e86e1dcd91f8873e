"""Errors of the zoo: one base class, so that callers can catch everything that is the user's to mend.

Each message says what was asked, what is wrong and what to do. The command line prints it as one line and exits
with code 2; from Python it is raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "AccessNotGrantedError",
    "AuthError",
    "CacheError",
    "CardError",
    "CheckpointError",
    "ConfigError",
    "CorruptWeightsError",
    "DataError",
    "DivergedError",
    "DownloadError",
    "HubUnavailableError",
    "InvalidNameError",
    "ModelFolderError",
    "NotAGenerativeModelError",
    "NotAZooModelError",
    "OfflineError",
    "PushConflictError",
    "PushError",
    "PushForbiddenError",
    "RegistryError",
    "RenamedWarning",
    "RepoNotAccessibleError",
    "ResultError",
    "RevisionNotFoundError",
    "RunError",
    "UnknownModelError",
    "UnsafeWeightsError",
    "WeightsMismatchError",
    "ZooError",
    "check_choice",
    "close_matches",
]


MOST = 2000
"""Characters of a message; foreign text can make no more of them."""


class ZooError(Exception):
    """Base of all errors that the zoo raises on purpose.

    Attributes:
        exit_code: of a command that ends by it: 2 for what the user can mend, 1 for what came out otherwise.
    """

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(_cut(arg) if isinstance(arg, str) else arg for arg in args))


class RenamedWarning(DeprecationWarning):
    """A name of before, which still means what it meant, and what it is called now."""


class DivergedError(ZooError):
    """A training whose loss or weights are not finite any more."""

    exit_code = 1


class RegistryError(ZooError):
    """A registry file that cannot be read, or an entry in it that is wrong."""


class UnknownModelError(RegistryError):
    """A name that no registry holds."""


class InvalidNameError(ZooError):
    """A name, repository id or path that breaks the naming rule."""


class ConfigError(ZooError):
    """An option or argument that does not exist, has the wrong type, or does not fit the rest."""


class NotAGenerativeModelError(ConfigError):
    """A class that is no `zoo.model.GenerativeModel`, such as a plain LightningModule, where one is wanted.

    Attributes:
        example: ten lines that show what to write instead.
    """

    example = """\
class Mine(zoo.GenerativeModel):
    shape = (1, 28, 28)  # of one example, in [0, 1]

    def __init__(self, network: torch.nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def loss(self, batch):  # (x, labels) -> named terms, "loss" among them
        return {"loss": ...}

    def draw(self, n, generator, labels):  # -> (n, *shape)
        return ..."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is no generative model of the zoo, which does not know its loss nor how it samples; subclass "
            f"zoo.GenerativeModel with a loss and a draw, as shown, or train it with lightning.Trainer alone"
        )

    def __str__(self) -> str:
        return f"{super().__str__()}:\n\n{self.example}"


class DataError(ZooError):
    """A data set that is missing, damaged, or does not fit the model."""


class RunError(ZooError):
    """A run folder that exists, is missing, or cannot be continued."""


class CheckpointError(RunError):
    """A checkpoint that is damaged, or could not be written."""


class ResultError(ZooError):
    """A result that breaks the schema, or cannot be compared."""


class ModelFolderError(ZooError):
    """A folder that does not hold a saved model."""


class WeightsMismatchError(ZooError):
    """Weights whose names or shapes do not fit the model."""


class CorruptWeightsError(ZooError):
    """A file whose sha256 is not the recorded one."""


class UnsafeWeightsError(ZooError):
    """Weights in a format that can run code when loaded, or that break the safety limits."""


class CardError(ZooError):
    """A model card that cannot be written or read."""


class CacheError(ZooError):
    """The local cache cannot be written."""


class NotAZooModelError(ZooError):
    """A repository that holds no model of this zoo, or one of a newer format."""


class RepoNotAccessibleError(ZooError):
    """A repository that is missing, or private and not visible to this user."""


class AuthError(ZooError):
    """A token that the Hub rejected."""


class AccessNotGrantedError(ZooError):
    """A gated repository to which this user has no access yet."""


class RevisionNotFoundError(ZooError):
    """A branch, tag or commit that the repository does not have."""


class DownloadError(ZooError):
    """A download that ended early or brought something else than the file."""


class HubUnavailableError(ZooError):
    """The Hub does not answer, or answers with server errors only."""


class OfflineError(ZooError):
    """A file that is not in the local cache while the network must not be used."""


class PushError(ZooError):
    """An upload that failed."""


class PushForbiddenError(PushError):
    """The token may not write to the repository."""


class PushConflictError(PushError):
    """The remote repository moved while the upload was under way."""


def _cut(message: str) -> str:
    """Return a message without the middle of what is too long, so that the end, what to do, is still there."""
    if len(message) <= MOST:
        return message
    return f"{message[: MOST - 600]} ... [{len(message) - MOST + 100} characters] ... {message[-400:]}"


def check_choice(what: str, value: Any, known: Iterable[str]) -> None:
    """Raise `ConfigError`, with the nearest words, where a value is none of the known words for what it says."""
    known = list(known)
    if value not in known:
        raise ConfigError(f"unknown {what} {value!r}.{close_matches(str(value), known)} There are: {', '.join(known)}")


def close_matches(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return `` Did you mean 'a' or 'b'?`` for the known words nearest to ``word``, or an empty string."""
    near = difflib.get_close_matches(word[:200], list(known), n=limit, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
