"""Sample from an exported decoder or generator with ONNX Runtime alone.

zoo export vae-mnist --format onnx && python examples/onnx_decoder.py vae-mnist.onnx 16 0
"""

import json
import sys

import numpy as np
import onnxruntime

path, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
assert facts["kind"] == "decoder", "this file holds another part of a model"

rng, feed = np.random.default_rng(seed), {}
for node in session.get_inputs():
    shape = (n, *node.shape[1:])
    if node.name == "labels":  # each class in turn
        feed["labels"] = np.arange(n) % facts["classes"]
    elif node.name == "codes":  # uniform; a prior draws better ones, see onnx_autoregressive.py
        feed["codes"] = rng.integers(facts["codes"], size=shape)
    else:
        feed[node.name] = rng.standard_normal(shape).astype(np.float32)

x = session.run(None, feed)[0]  # (n, C, H, W) in [0, 1]
pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
np.save("samples.npy", pixels)
print(f"samples.npy: {pixels.shape}, mean grey level {pixels.mean():.1f}")
