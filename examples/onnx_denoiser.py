"""Sample from an exported denoiser (DDIM) or velocity (midpoint rule) with ONNX Runtime alone.

zoo export ddpm-mnist --format onnx && python examples/onnx_denoiser.py ddpm-mnist.onnx 16 0
"""

import json
import sys

import numpy as np
import onnxruntime

path, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
assert facts["kind"] in ("denoiser", "velocity"), "this file holds another part of a model"

x = np.random.default_rng(seed).standard_normal((n, *facts["shape"])).astype(np.float32)
more = {"labels": np.arange(n) % facts["classes"]} if facts["classes"] else {}
if "guidance_scale" in facts:
    more["guidance_scale"] = np.array(facts["guidance_scale"], np.float32)
if facts["kind"] == "denoiser":
    levels = [np.full(n, level, np.float32) for level in facts["log_snr"]]
    x = x * np.float32(facts["start"])
    for level, following in zip(levels, levels[1:] + levels[-1:], strict=True):
        x, data = session.run(None, {"x": x, "log_snr": level, "next_log_snr": following, **more})
else:
    dt = np.float32(facts["end"] / facts["steps"])
    for i in range(facts["steps"]):
        v = session.run(None, {"x": x, "t": np.full(n, i * dt, np.float32), **more})[0]
        v = session.run(None, {"x": x + dt / 2 * v, "t": np.full(n, (i + 0.5) * dt, np.float32), **more})[0]
        x = x + dt * v
    data = x if facts["levels"] is None else np.clip((x + 1) / 2, 0, 1)
np.save("samples.npy", data)
print(f"samples.npy: {data.shape}, mean {data.mean():.3f}")
