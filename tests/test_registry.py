"""Names to entries to objects: inheritance, overlays, deprecations, and classes that may not be named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import zoo
from zoo.errors import ConfigError, RegistryError, UnknownModelError
from zoo.registry import Registry, load_registry
from zoo.spec import ALLOWED, MOVED, allowed, build, class_of, from_public, plain, to_public

VAE = "zoo.families.vae.VAE"


def _overlay(tmp_path: Path, text: str) -> Registry:
    path = tmp_path / "overlay.yaml"
    path.write_text(text, encoding="utf-8")
    return load_registry(path)


def test_bare_names_mean_their_default_data_set() -> None:
    registry = load_registry()
    assert (
        registry.resolve("vae").name == "vae-mnist" and registry.resolve("vae-binary_mnist").dataset == "binary_mnist"
    )
    assert {e.model_name for e in registry.values()} <= set(registry.aliases)
    with pytest.raises(UnknownModelError, match=r"'vea'\. Did you mean .*'vae'.*zoo\.list\(\)"):
        registry.resolve("vea")


def test_bare_names_of_an_overlay_need_no_alias(tmp_path: Path) -> None:
    one, two = "mine-points: {extends: vae-mnist}", "mine-mnist: {extends: vae-mnist}"
    assert _overlay(tmp_path, f"models: {{{one}}}").resolve("mine").name == "mine-points"
    both = f"models: {{{one}, {two}}}"
    with pytest.raises(UnknownModelError, match="'mine' may be any of mine-points, mine-mnist"):
        _overlay(tmp_path, both + "  # two").resolve("mine")
    told = _overlay(tmp_path, f"{both}\naliases: {{mine: mine-mnist}}")
    assert told.resolve("mine").name == "mine-mnist"
    old = _overlay(tmp_path, "models: {old-points: {extends: vae-mnist}}\ndeprecated: {old: vae-mnist}")
    with pytest.warns(DeprecationWarning, match="'vae-mnist'"):
        assert old.resolve("old").name == "vae-mnist"
    assert _overlay(tmp_path, "models: {vae-mine: {extends: vae-mnist}}").resolve("vae").name == "vae-mnist"


@pytest.mark.parametrize("allow", ["", "allow: [other]\n"])
def test_a_missing_allow_is_told_with_what_to_add_and_that_suffices(allow: str, tmp_path: Path) -> None:
    model, data = "{class_path: my_models.Mine}", "{class_path: zoo.data.toys.EightGaussians}"
    entry = f"models: {{mine-points: {{family: vae, model: {model}, data: {data}}}}}\n"
    add = "my_models.Mine to the list 'allow' of" if allow else "the line `allow: [my_models.Mine]` to"
    with pytest.raises(RegistryError) as told:
        _overlay(tmp_path, allow + entry)
    assert str(told.value).endswith(f"if you trust it, add {add} {tmp_path / 'overlay.yaml'}")
    mended = "allow: [other, my_models.Mine]\n" if allow else "allow: [my_models.Mine]\n"
    assert _overlay(tmp_path, mended + entry).resolve("mine").allow[-1] == "my_models.Mine"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no module 'own_faulty'; .*PYTHONPATH"),
        ("x = 1", "no attribute 'Mine'; define Mine in own_faulty"),
        ("def f(:", "SyntaxError.*mend own_faulty"),
        ("1 / 0", "ZeroDivisionError: division by zero; mend own_faulty"),
        ("import no_such_package", "No module named 'no_such_package'; mend own_faulty"),
    ],
)
def test_own_class_that_cannot_be_imported_is_one_sentence(
    content: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "own_faulty.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_faulty", raising=False)
    with pytest.raises(ConfigError, match=rf"class 'own_faulty\.Mine' cannot be imported: .*{says}"):
        class_of("own_faulty.Mine", ["own_faulty"])
    sys.modules.pop("own_faulty", None)


def test_variants_are_entries_of_the_same_class() -> None:
    registry = load_registry()
    base, variant = registry["vae-mnist"], registry["beta_vae-mnist"]
    assert base.model["class_path"] == variant.model["class_path"] == VAE
    changed = {k for k, v in variant.model["init_args"].items() if base.model["init_args"].get(k) != v}
    assert changed == {"beta"}
    assert variant.weights != base.weights and variant.expected != base.expected  # never inherited
    assert "arxiv" not in variant.paper  # a paper is inherited whole or not at all


def test_listing_filters() -> None:
    assert zoo.list("pixelcnn-*") == ["pixelcnn-mnist", "pixelcnn-mnist.gpu"]
    assert zoo.list(dataset="binary_mnist") == [n for n in zoo.list() if "-binary_mnist" in n]
    assert zoo.list("*mnist*", pretrained=True) == [n for n in zoo.list("*mnist*") if load_registry()[n].weights]
    assert zoo.list(family="no such family") == []


def test_create_replaces_constructor_arguments() -> None:
    model = zoo.create("wgan_gp", lr=2e-4)
    assert model.lr == 2e-4 and model.source.name == "wgan_gp-mnist"
    with pytest.raises(ConfigError, match=r"no argument .lrr.\. Did you mean .lr."):
        zoo.create("wgan_gp", lrr=2e-4)
    with pytest.raises(ConfigError, match="'lr' must be of type float, got 'fast'"):
        zoo.create("wgan_gp", lr="fast")


def test_networks_follow_what_create_is_told_and_sizes_have_ends() -> None:
    assert zoo.create("vae", latent_dim=7).sample(2, seed=0).shape == (2, 1, 28, 28)
    before = zoo.create("vae").spec["init_args"]
    assert zoo.create("vae", lr=0.5).spec["init_args"] == {**before, "lr": 0.5}
    for name, options in (
        ("vae", {"latent_dim": 10**18}), ("pixelcnn", {"depth": 10**9}), ("pixelcnn", {"width": 10**8}),
        ("residual_flow", {"depth": 10**9}), ("residual_flow", {"width": 10**400}), ("v_jepa", {"depth": 10**9}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"must be at most [\d,]+, got|must be below 2\*\*63"):
            zoo.create(name, **options)


def test_deprecated_names_still_load(tmp_path: Path) -> None:
    registry = _overlay(tmp_path, "deprecated: {old_vae-mnist: vae-mnist}\n")
    with pytest.warns(DeprecationWarning, match="now called 'vae-mnist'"):
        assert registry.resolve("old_vae-mnist").name == "vae-mnist"


def test_an_overlay_of_another_class_inherits_no_arguments(tmp_path: Path) -> None:
    model = "{class_path: zoo.families.pixelcnn.PixelCNN, init_args: {depth: 1}}"
    text = f"models: {{mine-mnist: {{extends: vae-mnist, model: {model}}}}}"
    assert _overlay(tmp_path, text)["mine-mnist"].model["init_args"] == {"depth": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {Bad Name: {}}", "must match"),
        ("models: {../x: {}}", "must match"),
        ("models: {a-b: {familly: x}}", "Did you mean 'family'"),
        ("models: {a-b: {extends: nothing}}", "does not exist"),
        ("models: {a-b: {extends: a-b}}", "extends it in turn"),
        ("models: {a-b: {family: x}}", "lacks 'model'"),
        ("aliases: {x: nowhere}", "does not exist"),
        ("format: 2", "newer than this zoo"),
        ("- a list", "expected a mapping"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("models: {a-b: {family: x, data: {class_path: zoo.data.X.Y}, model: {class_path: os.X}}}", "allow-list"),
    ],
)  # fmt: skip
def test_bad_registries_are_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RegistryError, match=said) as caught:
        _overlay(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_missing_registry_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"nowhere\.yaml cannot be read"):
        load_registry(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "path",
    [
        *("os.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.nn.Module", "zoo", ""),
        *("zoo.registry.yaml", "zoo.families.vae.torch.load", "zoo.hub.load", "zoo.families..VAE", "zoo.families.vae"),
        "zoo.families.vae.VAE.__init__",
    ],
)
def test_classes_outside_the_allow_list_are_refused(path: str) -> None:
    assert not allowed(path)
    with pytest.raises(ConfigError, match="allow-list"):
        class_of(path)
    with pytest.raises(ConfigError, match="allow-list"):
        build({"class_path": VAE, "init_args": {"encoder": {"class_path": path, "init_args": {}}}})


def test_a_users_overlay_may_widen_the_list_for_that_user() -> None:
    assert allowed("my_models.vae.Mine", ["my_models"]) and not allowed("my_models_evil.x.Y", ["my_models"])
    assert all(allowed(path) for path in ALLOWED)


def test_published_forms_name_registered_classes_only() -> None:
    names = load_registry().classes()
    spec = load_registry()["vae-mnist"].build_model().spec
    public = to_public(spec, names)
    assert public["name"] == "VAE" and public["args"]["encoder"]["name"] == "MLP"
    assert from_public(public, names) == spec
    for bad in ({"name": "Popen", "args": {}}, {"name": "VAE", "args": {"encoder": {"name": "os.system", "args": {}}}}):
        with pytest.raises(ConfigError, match="not registered"):
            from_public(bad, names)
    with pytest.raises(ConfigError, match="import path"):
        from_public({"name": "VAE", "args": {"encoder": {"class_path": "os.system", "init_args": {}}}}, names)
    with pytest.raises(ConfigError, match="not mentioned by the registry"):
        to_public({"class_path": "zoo.nets.other.Other", "init_args": {}}, names)


def test_values_that_are_no_plain_data_are_named() -> None:
    with pytest.raises(ConfigError, match=r"builtins\.object"):
        plain({"a": [object()]})
    assert plain((1, 2.5, None, "x", True)) == [1, 2.5, None, "x", True]


def test_moved_classes_are_found_where_they_are_now() -> None:
    for old, new in MOVED.items():
        assert class_of(old) is class_of(new)
        assert f"{class_of(old).__module__}.{class_of(old).__qualname__}" == new


def test_every_name_has_weights_or_says_why_not() -> None:
    both = [entry.name for entry in load_registry().values() if bool(entry.weights) == bool(entry.untrained)]
    assert both == [], "weights, or `untrained` with the reason, and not both"
