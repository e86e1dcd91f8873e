"""The server's application, in process: right pixels, limits, refusals, and what it never does."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm

import zoo
from zoo.errors import ConfigError
from zoo.images import png_bytes
from zoo.registry import load_registry
from zoo.sampling import Draw, Interruptible, NoiseStreams

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx")

from zoo.serving.app import build
from zoo.serving.engine import SamplingEngine, Served, Work
from zoo.serving.metrics import Meters, sweep
from zoo.serving.middleware import BODY_BYTES
from zoo.serving.problems import Problem
from zoo.serving.service import Service
from zoo.serving.settings import Settings, is_loopback

BUNDLED = warm.drawing(entry.name for entry in load_registry().find(pretrained=True))
SHORT = {"length": 24}


def _mlp(*features: int) -> Any:
    from zoo.nets.mlp import MLP

    return MLP(list(features))


def tiny_models() -> dict[str, Any]:
    """Return untrained models of each medium, and a conditional one."""
    from zoo.families.cvae import CVAE
    from zoo.families.pixelcnn import PixelCNN
    from zoo.families.transformer import Transformer
    from zoo.families.vae import VAE
    from zoo.families.wavenet import WaveNet

    torch.manual_seed(0)
    D, logistic = 16, {"likelihood": "discretized_logistic"}
    return {
        "images": VAE(_mlp(D, 8, 4), _mlp(2, 8, 2 * D), [1, 4, 4], 2, **logistic).eval(),
        "digits": CVAE(_mlp(D + 3, 8, 4), _mlp(5, 8, 2 * D), [1, 4, 4], 2, 3, **logistic).eval(),
        "pixels": PixelCNN([1, 4, 4], levels=2, width=4, depth=1, first_kernel=3).eval(),
        "text": Transformer([12], 5, width=8, depth=1, heads=2, alphabet="abcde").eval(),
        "sound": WaveNet([16], 256, width=4, skip=4, stacks=1, depth=2, rate=8000).eval(),
    }


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    found = Service(tiny_models(), Settings(models=("vae-mnist",), deadline=60.0, queue=8, hosts=("testserver",)))
    yield found
    found.close()


@pytest.fixture(scope="module")
def app(service: Service) -> Any:
    return build(service)


def calls(app: Any, *requests: tuple[str, str, Any], headers: dict[str, str] | None = None) -> list[Any]:
    """Send requests, all at once, and return the answers."""
    import httpx

    async def send() -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:

            async def one(method: str, path: str, content: Any) -> Any:
                raw = isinstance(content, bytes)
                kind = {"content-type": "application/json"} if raw else {}
                given = {"content": content} if raw else {"json": content} if content is not None else {}
                return await client.request(method, path, headers={**kind, **(headers or {})}, **given)

            return await asyncio.gather(*(one(*r) for r in requests))

    return asyncio.run(send())


def post(app: Any, path: str, content: Any, **more: Any) -> Any:
    return calls(app, ("POST", path, content), **more)[0]


# -- the batched sampler ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", warm.long(BUNDLED, (*warm.SLOW_SAMPLERS, "transfusion", "dit", "nce", *warm.relatives(BUNDLED)))
)
def test_rows_side_by_side_are_the_rows_alone(name: str) -> None:
    """Each of several requests computed at once has the 8-bit pixels of `sample` alone, whatever stands beside it."""
    model, rng = zoo.load(name), random.Random(name)
    options = SHORT if "length" in model.sampling_options() else {}
    draws = [Draw(rng.randint(1, 16), rng.randrange(2**40), None, options) for _ in range(4)]
    start = time.perf_counter()
    first = model.sample(draws[0].n, seed=draws[0].seed, **options)
    dear = time.perf_counter() - start > 0.5
    found = model.sample_many(draws[:2] if dear else draws)
    assert torch.equal((found[0] * 255).round(), (first * 255).round())
    for draw, x in zip(draws[1:], () if dear else found[1:], strict=False):
        alone = model.sample(draw.n, seed=draw.seed, **options)
        assert torch.equal((x * 255).round(), (alone * 255).round()), (draw.n, draw.seed)


def _assert_law(model: Any, sizes: list[int], options: dict[str, Any], rng: random.Random) -> None:
    draws = [Draw(n, rng.randrange(2**40), None, options) for n in sizes]
    for draw, x in zip(draws, model.sample_many(draws), strict=True):
        alone = model.sample(draw.n, seed=draw.seed, **options)
        assert torch.equal((x * 255).round(), (alone * 255).round()), (draw.n, draw.seed)


@pytest.mark.slow
def test_a_thousand_requests_in_random_mixes() -> None:
    """1,000 requests, n from 1 to 16, over all bundled models; those that take long get fewer of them."""
    rng, left = random.Random(0), 1000
    models = {name: zoo.load(name) for name in BUNDLED}
    slow = {n: 2 for n, m in models.items() if m.calls({}) > 100 and "length" not in m.sampling_options()}
    while left > 0:
        for name, model in models.items():
            sizes = [rng.randint(1, 16) for _ in range(slow.get(name, 8))]
            _assert_law(model, sizes, SHORT if "length" in model.sampling_options() else {}, rng)
            left -= len(sizes)


def test_streams_refuse_noise_that_they_cannot_tell_apart() -> None:
    token = torch.Generator()
    with NoiseStreams([1, 2], [torch.Generator(), torch.Generator()], 16, token):
        with pytest.raises(ConfigError, match="not that of 16 rows"):
            torch.randn(7, 16, generator=token)
        with pytest.raises(ConfigError, match="cannot be told apart"):
            torch.randperm(16, generator=token)
        assert torch.randn(16, 3, generator=token).shape == (16, 3)


@pytest.mark.parametrize("kind", ["images", "pixels", "text", "sound"])
def test_work_ends_between_rows_tokens_and_operations(kind: str) -> None:
    model, asked = tiny_models()[kind], 0

    class Enough(Exception):
        pass

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Enough

    with pytest.raises(Enough):
        model.sample_many([Draw(2, 0), Draw(3, 1)], check=check)
    assert asked == 5
    assert model.sample(2, seed=0).shape[0] == 2  # nothing is left behind
    with Interruptible(None):
        assert torch.ones(1).item() == 1


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_have_the_pixels_of_the_model(app: Any, service: Service) -> None:
    rng, asked = random.Random(0), []
    for _ in range(60):
        name = rng.choice(["images", "digits", "pixels", "text", "sound"])
        body: dict[str, Any] = {"n": rng.randint(1, 16), "seed": rng.randrange(2**40)}
        if name == "digits" and rng.random() < 0.7:
            body["labels"] = rng.randrange(3)
        if rng.random() < 0.4:
            body["options"] = {"temperature": rng.choice([0.5, 0.8])}
        asked.append((name, body))
    service.engine.queue = 100
    answers = calls(app, *(("POST", f"/v1/models/{name}/sample", body) for name, body in asked))
    service.engine.queue = 8
    for (name, body), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        model = service.served[name].model
        x = model.sample(body["n"], seed=body["seed"], labels=body.get("labels"), **body.get("options", {}))
        content = answer.json()
        assert content["seed"] == body["seed"] == int(answer.headers["x-seed"])
        if name == "text":
            assert content["texts"] == model.text(x)
        else:
            got = np.array(content.get("pixels", content.get("codes")))
            assert np.array_equal(got, (x * 255).round().numpy().astype(int))
    rows = service.meters.registry.get_sample_value("zoo_batch_rows_count", {"model": "pixels"})
    assert rows < sum(name == "pixels" for name, _ in asked)  # some were computed side by side


def test_a_drawn_seed_repeats_the_request(app: Any) -> None:
    first = post(app, "/v1/models/images/sample", {"n": 3})
    again = post(app, "/v1/models/images/sample", {"n": 3, "seed": first.json()["seed"]})
    assert first.json() == again.json()


def test_formats(app: Any, service: Service) -> None:
    png = post(app, "/v1/models/images/sample", {"n": 5, "seed": 1, "format": "png", "scale": 2})
    model = service.served["images"].model
    from PIL import Image

    shown = np.array(Image.open(io.BytesIO(png.content)))
    assert np.array_equal(shown, np.array(Image.open(io.BytesIO(png_bytes(model.sample(5, seed=1), scale=2)))))
    npz = np.load(io.BytesIO(post(app, "/v1/models/images/sample", {"n": 5, "seed": 1, "format": "npz"}).content))
    assert np.array_equal(npz["samples"], model.sample(5, seed=1).numpy())
    assert npz["seed"] == 1
    wav = post(app, "/v1/models/sound/sample", {"format": "wav"})
    assert wav.content[:4] == b"RIFF" and wav.headers["content-type"] == "audio/wav"
    text = post(app, "/v1/models/text/sample", {"format": "text", "options": {"prompt": "ab", "length": 6}})
    assert text.text.startswith("ab") and len(text.text) == 7
    assert post(app, "/v1/models/text/sample", {"format": "png"}).status_code == 422


def test_completing_an_image(app: Any) -> None:
    given = np.zeros((4, 4), dtype=np.uint8)
    given[:2] = 255
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(given).save(stream, format="PNG")
    options = {"given": base64.b64encode(stream.getvalue()).decode(), "known": 2}
    answer = post(app, "/v1/models/pixels/sample", {"n": 3, "seed": 0, "options": options})
    assert (np.array(answer.json()["pixels"])[:, 0, :2] == 255).all()


def test_log_likelihoods_of_posted_images(app: Any, service: Service) -> None:
    model = service.served["digits"].model
    x = (model.sample(4, seed=0, labels=[0, 1, 2, 0]) * 255).round() / 255
    pixels = (x * 255).round().int().tolist()
    body = {"pixels": pixels, "labels": [0, 1, 2, 0], "k": 3, "seed": 5}
    answer = post(app, "/v1/models/digits/log_prob", body).json()
    assert answer["log_prob"] == pytest.approx(model.log_prob(x, labels=[0, 1, 2, 0], k=3, seed=5).tolist())
    assert answer["likelihood"] == model.likelihood(3)
    from PIL import Image

    files = []
    for image in np.array(pixels, dtype=np.uint8)[:, 0]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        files.append(base64.b64encode(stream.getvalue()).decode())
    same = post(app, "/v1/models/digits/log_prob", {**body, "pixels": None, "images": files}).json()
    assert same == answer
    for wrong in ({"pixels": pixels}, {"pixels": pixels * 5, "labels": 0}, {"images": ["AAAA"], "labels": 0}, {}):
        assert post(app, "/v1/models/digits/log_prob", wrong).status_code == 422


def test_pages_and_descriptions(app: Any) -> None:
    paths = ["/", "/page.js", "/page.css", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models"]
    answers = calls(app, *(("GET", path, None) for path in paths))
    assert [a.status_code for a in answers] == [200] * len(paths)
    listed = {m["name"]: m for m in answers[-1].json()["models"]}
    assert listed["digits"]["classes"] == 3 and "temperature" in listed["digits"]["options"]
    assert b"zoo_waiting" in answers[5].content
    assert all("content-security-policy" in a.headers for a in answers)


def test_a_bundled_model_has_its_card() -> None:
    name = next(n for n in BUNDLED if n.startswith("vae"))
    service = Service({name: zoo.load(name)}, Settings(models=(name,)))
    answer = calls(build(service), ("GET", f"/v1/models/{name}/card", None))[0]
    service.close()
    assert answer.status_code == 200 and name in answer.text


# -- hostile requests -------------------------------------------------------------------------------------------------

P = "/v1/models/images/sample"
HOSTILE: list[tuple[str, Any]] = [
    (P, b'{"n": NaN}'), (P, b'{"n": Infinity}'), (P, b'{"n": 1e400}'), (P, b'{"options": {"temperature": 1e400}}'),
    (P, b'{"options": {"temperature": NaN}}'), (P, {"n": -1}), (P, {"n": 0}), (P, {"n": 1e9}), (P, {"n": 10**9}),
    (P, {"n": 2.5}), (P, {"n": True}), (P, {"n": "5"}), (P, {"n": [1]}), (P, {"seed": -1}), (P, {"seed": 2**63}),
    (P, b'{"n": ' + b"9" * 5000 + b"}"), (P, {"secret-canary": 1}), (P, {"format": "secret-canary"}),
    (P, {"options": {"secret-canary": 1}}), (P, {"options": {"observe": "secret-canary"}}), (P, {"labels": 1}),
    (P, b"[" * 100_000), (P, b"[" * 50_000), (P, b'{"a":' * 300 + b"1" + b"}" * 300), (P, b"\xff\xfe{}"), (P, b""),
    (P, b"secret-canary"), (P, b"5"), (P, b"x" * 5_000_000), ("/v1/models/secret-canary/sample", {"n": 1}),
    ("/v1/models/digits/sample", {"labels": 99}), ("/v1/models/digits/sample", {"n": 2, "labels": [1, 1, 1]}),
    ("/v1/models/text/sample", {"options": {"prompt": "secret-canary"}}),
    ("/v1/models/text/sample", {"options": {"length": 10**6}}), ("/v1/models/text/sample", {"options": {"length": -3}}),
    ("/v1/models/text/sample", {"options": {"top_p": 7.0}}), ("/v1/models/pixels/sample", {"options": {"top_k": -1}}),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_requests_are_refused(app: Any, case: int) -> None:
    path, content = HOSTILE[case]
    answer = post(app, path, content)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) <= 4096 and b"canary" not in answer.content
    assert json.loads(answer.content)["error"]["message"]


def test_head_of_a_request_is_checked(app: Any, service: Service) -> None:
    ok = {"n": 1, "seed": 0}
    assert post(app, P, ok, headers={"host": "evil.example"}).status_code == 421
    assert post(app, P, b'{"n": 1}', headers={"content-type": "text/plain"}).status_code == 415
    assert post(app, P, ok, headers={"x-zoo-deadline": "soon"}).status_code == 400
    assert post(app, P, ok, headers={"x-zoo-deadline": "1000"}).status_code == 504
    assert calls(app, ("GET", P, None))[0].status_code == 405
    late = str(int(1000 * (time.time() + 30)))
    assert post(app, P, ok, headers={"x-zoo-deadline": late}).status_code == 200
    assert BODY_BYTES == 65536


def test_key(service: Service, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="API key"):
        Settings(models=("vae-mnist",), host="0.0.0.0")
    file = tmp_path / "key"
    file.write_text("correct horse battery\n")
    settings = Settings(models=("vae-mnist",), host="0.0.0.0", key_file=str(file), hosts=("localhost",))
    other = Service(tiny_models(), settings, warm=False)
    guarded = build(other)
    assert post(guarded, P, {"n": 1}).status_code == 401
    assert post(guarded, P, {"n": 1}, headers={"authorization": "Bearer wrong"}).status_code == 401
    for good in ({"authorization": "Bearer correct horse battery"}, {"x-api-key": "correct horse battery"}):
        assert post(guarded, P, {"n": 1}, headers=good).status_code == 200
    assert calls(guarded, ("GET", "/healthz", None))[0].status_code == 200
    assert calls(guarded, ("GET", "/metrics", None))[0].status_code == 401
    other.close()
    monkeypatch.setenv("ZOO_API_KEY", "short")
    with pytest.raises(ConfigError, match="16 characters"):
        Settings(models=("vae-mnist",), host="0.0.0.0")
    if Path("/dev/zero").exists():
        with pytest.raises(ConfigError, match="at most 1024 characters"):
            Settings(models=("vae-mnist",), host="0.0.0.0", key_file="/dev/zero")
    assert is_loopback("::1") and is_loopback("127.0.0.9") and not is_loopback("10.0.0.1")


def test_models_that_cannot_be_served_are_refused_before_anything_starts() -> None:
    without = next(e.name for e in load_registry().values() if not e.pretrained)
    for names in ((), (without,), ("no-such-model",), ("vae-mnist", "vae")):
        with pytest.raises(zoo.ZooError):
            Settings(models=names)


# -- the engine -------------------------------------------------------------------------------------------------------


class Slow:
    """A model whose draws wait until they are let go."""

    def __init__(self, side_by_side: int = 0) -> None:
        self.go, self.begun, self.batches, self.size = threading.Event(), threading.Event(), [], side_by_side

    def granule(self, options: Any) -> int:
        return self.size

    def calls(self, options: Any) -> float:
        return 1.0

    def sample_many(self, draws: Any, check: Any) -> Any:
        self.batches.append([draw.n for draw in draws])
        self.begun.set()
        while not self.go.wait(0.005):
            check()
        return [torch.zeros(draw.n, 1) for draw in draws]


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Meters:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    return Meters()


def test_queue_deadline_and_batches(meters: Meters) -> None:
    slow = Slow(side_by_side=1)
    engine, served = SamplingEngine(meters, queue=3, max_rows=8), Served("slow", slow)

    async def scene() -> None:
        def ask(n: int, seconds: float) -> Any:
            return asyncio.ensure_future(engine.do(Work(served, time.monotonic() + seconds, Draw(n, 0))))

        first = ask(1, 60)
        assert await asyncio.to_thread(slow.begun.wait, 60)
        waiting = [ask(n, 60) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await ask(1, 60)
        assert refused.value.status == 503 and refused.value.retry_after >= 1
        slow.go.set()
        assert [len(x) for x in await asyncio.gather(first, *waiting)] == [1, 2, 3, 4]
        assert slow.batches == [[1], [2, 3], [4]]  # at most 8 rows at once
        slow.go.clear()
        start = time.monotonic()
        with pytest.raises(Problem) as late:
            await ask(1, 0.2)
        assert late.value.status == 504 and time.monotonic() - start < 30
        slow.go.set()
        assert len(await ask(5, 60)) == 5  # the thread is free again

    asyncio.run(scene())
    engine.close()


def test_work_of_a_client_that_went_away_is_given_up(meters: Meters) -> None:
    slow = Slow()
    engine, served = SamplingEngine(meters), Served("slow", slow)

    async def scene() -> None:
        gone = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(engine.do(Work(served, time.monotonic() + 60, Draw(1, 0)), gone))
        assert await asyncio.to_thread(slow.begun.wait, 60)
        gone.set_result(None)
        with pytest.raises(Problem) as left:
            await task
        assert left.value.status == 499
        slow.begun.clear()
        other = asyncio.ensure_future(engine.do(Work(served, time.monotonic() + 60, Draw(2, 0))))
        assert await asyncio.to_thread(slow.begun.wait, 60)  # though the first draw was never let go
        slow.go.set()
        assert len(await other) == 2

    asyncio.run(scene())
    assert meters.registry.get_sample_value("zoo_abandoned_total") == 1
    engine.close()


def test_what_is_dearer_than_its_deadline_is_refused_at_once(meters: Meters) -> None:
    slow = Slow()
    slow.go.set()
    engine, served = SamplingEngine(meters), Served("slow", slow)
    served.samples.learn(1, 1.0, 1.0)  # a second an example

    async def scene() -> None:
        with pytest.raises(Problem) as dear:
            await engine.do(Work(served, time.monotonic() + 10, Draw(64, 0)))
        assert dear.value.status == 422 and dear.value.code == "too_dear"
        with pytest.raises(Problem) as delayed:  # it would have fitted, had it not spent its time on the way here
            await engine.do(Work(served, time.monotonic() + 3, Draw(5, 0)))
        assert delayed.value.status == 504 and delayed.value.code == "late"
        assert not slow.batches
        assert len(await engine.do(Work(served, time.monotonic() + 60, Draw(2, 0)))) == 2

    asyncio.run(scene())
    engine.close()


def test_counts_of_dead_workers_are_kept_and_their_files_swept(tmp_path: Any) -> None:
    count = "from zoo.serving.metrics import Meters; m = Meters(); m.batch('m', 3, 0.1); m.waiting.inc()"
    for _ in range(2):
        _python(count, tmp_path)
    told = _python("from zoo.serving.metrics import Meters; print(Meters().text().decode())", tmp_path)
    assert 'zoo_examples_total{model="m"} 6.0' in told
    sweep(str(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("*.db")) == ["counter_gone.db", "histogram_gone.db"]


def _python(code: str, folder: Any) -> str:
    """Run code in a process that shares its counts with others."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- fuzz -------------------------------------------------------------------------------------------------------------


def _fuzz(app: Any, cases: int) -> int:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    description = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"})
    operations = [result.ok() for result in description.get_all_operations()]
    posts = [o for o in operations if o.method.upper() == "POST"]
    sent = 0

    def fuzz(operation: Any, share: int) -> None:
        from schemathesis import GenerationMode

        both = [
            operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]

        @settings(
            max_examples=share, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=both[0] | both[1])
        def send(case: Any) -> None:
            nonlocal sent
            sent += 1
            answer = case.call(headers={"host": "localhost"})
            assert answer.status_code < 500 or answer.status_code in (503, 504), (case.body, answer.text)
            assert answer.status_code == 200 or len(answer.content) <= 4096

        send()

    for operation in operations:
        fuzz(operation, max(2, cases * 8 // 10 // len(posts)) if operation in posts else 2)
    while sent < cases:
        fuzz(posts[sent % len(posts)], min(50, cases - sent))
    return sent


def test_fuzzed_requests_never_break_the_server(app: Any) -> None:
    assert _fuzz(app, 100) >= 100


@pytest.mark.slow
def test_a_thousand_fuzzed_requests(app: Any) -> None:
    assert _fuzz(app, 1000) >= 1000
