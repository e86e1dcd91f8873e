"""What a namespace of the Hub holds."""

from __future__ import annotations

import builtins
import re

from zoo.errors import InvalidNameError, OfflineError
from zoo.hub.session import Hub, offline
from zoo.names import check_repo_id

__all__ = ["list"]

_NAMESPACE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
LIBRARY = "generative-zoo"
MOST = 1000


def list(namespace: str, *, token: str | None = None, endpoint: str | None = None) -> builtins.list[str]:
    """Return the zoo's models of a user or organisation, as ``namespace/name``, at most 1000; none is downloaded.

    Args:
        namespace: a user or an organisation.
        token: of the Hub, for private models; HF_TOKEN or the login file if left out.
        endpoint: of the Hub; HF_ENDPOINT if left out.

    Raises:
        InvalidNameError: no name of a user or an organisation.
        OfflineError: the network must not be used.
        AuthError, HubUnavailableError: a wrong token, or a Hub that does not answer.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace) or ".." in namespace:
        raise InvalidNameError(f"{str(namespace)[:100]!r} is no namespace: give the name of a user or an organisation")
    if offline():
        raise OfflineError(
            f"the models of {namespace!r} cannot be listed: HF_HUB_OFFLINE forbids the network; unset it"
        )
    hub = Hub(namespace, token=token, endpoint=endpoint)
    found = hub.call(lambda: [*hub.api.list_models(author=namespace, filter=LIBRARY, limit=MOST)])
    return sorted({info.id for info in found if _is_ours(info.id, namespace)})


def _is_ours(repo_id: object, namespace: str) -> bool:
    """Tell whether the Hub's answer is a repository of the namespace, by a name that could be loaded."""
    try:
        return isinstance(repo_id, str) and check_repo_id(repo_id).startswith(f"{namespace}/")
    except InvalidNameError:
        return False
