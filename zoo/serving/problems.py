"""Refusals: a status, a code for programs, a sentence for people; never what was sent."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["Problem", "error_body"]

_LONGEST = 1000


class Problem(Exception):
    """A request that gets no result.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: one sentence: what is wrong and what to do, without any of the request's own text.
        retry_after: seconds after which to try again.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message[:_LONGEST], retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after)} if self.retry_after is not None else {}


def error_body(code: str, message: str, details: list[dict[str, Any]] | None = None) -> bytes:
    """Return the JSON of a refusal, at most 4 KiB."""
    content: dict[str, Any] = {"error": {"code": code, "message": message[:_LONGEST]}}
    if details:
        content["error"]["details"] = details[:5]
    return json.dumps(content).encode()
