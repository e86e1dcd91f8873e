"""Sample from an exported autoregressive step, value by value, with ONNX Runtime alone.

zoo export transformer-shakespeare --format onnx
python examples/onnx_autoregressive.py transformer-shakespeare.onnx 1 0
"""

import json
import sys

import numpy as np
import onnxruntime

path, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
assert facts["kind"] == "step", "this file holds another part of a model"

rng, shape = np.random.default_rng(seed), facts["shape"]
T = int(sys.argv[4]) if len(sys.argv) > 4 else int(np.prod(shape))
feed = {"values": np.zeros((n, int(np.prod(shape))), np.int64), "temperature": np.array(1, np.float32)}
if facts["classes"]:
    feed["labels"] = np.arange(n) % facts["classes"]
for place in range(T):
    feed |= {"place": np.array(place), "u": rng.random(n, np.float32)}
    feed["values"] = session.run(["next_values"], feed)[0]

if "alphabet" in facts:
    print("\n---\n".join("".join(facts["alphabet"][k] for k in row[:T]) for row in feed["values"]))
np.save("samples.npy", feed["values"])
print(f"samples.npy: {feed['values'].shape}, {facts['levels']} levels, examples of shape {shape}")
