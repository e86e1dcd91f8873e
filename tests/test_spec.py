"""Laws of specs: what passes its arguments on is as complete, as checked and as rebuildable as what names them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from zoo.errors import ConfigError
from zoo.registry import load_registry
from zoo.spec import Recorded, build, class_of, class_paths

ALLOW = (__name__,)


class Base(Recorded):
    """Base.

    Args:
        width: of it all.
        depth: how deep.
        kind: which.
        rate: how fast.
    """

    def __init__(self, width: int, depth: int = 2, kind: str = "a", *, rate: float | None = None) -> None:
        self.set = {"width": width, "depth": depth, "kind": kind, "rate": rate}


class Variant(Base):
    """Variant.

    Args:
        depth: how deep, here.
    """

    def __init__(self, *args: Any, depth: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, depth=depth, kind="b", **kwargs)


class OfVariant(Variant):
    def __init__(self, extra: int, width: int, *args: Any, **kwargs: Any) -> None:
        self.extra = extra
        super().__init__(width, *args, **kwargs)


class Silent(Base):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Changing(Base):
    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("depth", 9)
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("made", "arguments"),
    [
        (lambda: Variant(4), {"width": 4, "depth": 3, "rate": None}),
        (lambda: Variant(width=4, depth=5, rate=0.5), {"width": 4, "depth": 5, "rate": 0.5}),
        (lambda: OfVariant(1, 4, rate=2.0), {"extra": 1, "width": 4, "depth": 3, "rate": 2.0}),
        (lambda: Silent(width=4), {"width": 4, "depth": 2, "kind": "a", "rate": None}),
        (lambda: Changing(width=4, kind="c"), {"width": 4, "kind": "c"}),  # as told: nobody sees the rest
    ],
)
def test_a_spec_names_all_that_is_passed_on_and_rebuilds_an_equal_object(made: Any, arguments: dict[str, Any]) -> None:
    thing = made()
    assert thing.spec["init_args"] == arguments
    again = build(thing.spec, ALLOW)
    assert again.spec == thing.spec and again.set == thing.set


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Variant", {"width": 4, "rat": 1.0}, "Variant has no argument 'rat'.* Did you mean 'rate'"),
        ("Variant", {"width": 4, "kind": "a"}, "Variant has no argument 'kind'"),  # it sets that itself
        ("Variant", {"width": "4"}, "argument 'width' must be of type int, got '4'"),
        ("OfVariant", {"extra": True, "width": 4}, "argument 'extra' must be of type int, got True"),
        ("OfVariant", {"extra": 1}, "OfVariant needs the argument 'width'"),
        ("Changing", {"width": 4, "rat": 1.0}, "Changing has no argument 'rat'"),
    ],
)
def test_arguments_that_are_passed_on_are_checked(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"class_path": f"{__name__}.{name}", "init_args": arguments}, ALLOW)


def test_the_signature_is_python_s_own() -> None:
    assert str(inspect.signature(OfVariant)).startswith("(extra: 'int', width: 'int', *, depth: int = 3, rate:")
    for wrong in ({"kind": "a"}, {"rat": 1}):
        with pytest.raises(TypeError):
            Variant(4, **wrong)
    with pytest.raises(TypeError):
        Variant(4, 5)  # the second position is that of depth, which it names itself
    assert "width" in inspect.signature(Silent).parameters and "kwargs" in inspect.signature(Changing).parameters


def test_a_parser_sees_what_is_passed_on_with_defaults_and_docs() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(OfVariant, "it")
    told = " ".join(parser.format_help().split())
    assert "--it.depth DEPTH how deep, here. (type: int, default: 3)" in told
    assert "--it.rate RATE how fast. (type: float | null, default: null)" in told and "--it.kind" not in told


def test_every_registered_class_says_all_that_it_takes() -> None:
    for entry in load_registry().values():
        for path in class_paths(dict(entry.model)):
            cls = class_of(path)
            if not issubclass(cls, Recorded):
                continue
            parameters = inspect.signature(cls).parameters.values()
            assert not [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)], path
            assert not [p for p in parameters if isinstance(p.annotation, type(p.empty)) and p.annotation is p.empty]


def test_a_built_model_of_passed_on_arguments_is_the_same_model() -> None:
    entry = load_registry().resolve("wgan_gp-mnist")
    torch.manual_seed(0)
    model = build(entry.model)
    torch.manual_seed(0)
    again = build(model.spec)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
