"""SqueezeNet 1.1 as an ONNX file with random weights: 3 x 224 x 224 inputs, 1000 classes, 1.2 million weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_squeezenet(path: Path, seed: int = 0) -> None:
    """Write the network with a dynamic batch axis and logits as output."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(source: str, out: str, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> str:
        w = rng.standard_normal((outputs, inputs, kernel, kernel)) * np.sqrt(2.0 / (inputs * kernel * kernel))
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"{out}_w"))
        weights.append(numpy_helper.from_array(np.zeros(outputs, np.float32), f"{out}_b"))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        nodes.append(helper.make_node("Conv", [source, f"{out}_w", f"{out}_b"], [f"{out}_c"], **attributes))
        nodes.append(helper.make_node("Relu", [f"{out}_c"], [out]))
        return out

    def pool(source: str, out: str) -> str:
        nodes.append(helper.make_node("MaxPool", [source], [out], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
        return out

    def fire(source: str, out: str, inputs: int, squeeze: int, expand: int) -> str:
        thin = conv(source, f"{out}_s", inputs, squeeze, 1)
        sides = [conv(thin, f"{out}_e1", squeeze, expand, 1), conv(thin, f"{out}_e3", squeeze, expand, 3, pad=1)]
        nodes.append(helper.make_node("Concat", sides, [out], axis=1))
        return out

    x = pool(conv("x", "conv1", 3, 64, 3, stride=2), "pool1")
    x = fire(fire(x, "fire2", 64, 16, 64), "fire3", 128, 16, 64)
    x = fire(fire(pool(x, "pool3"), "fire4", 128, 32, 128), "fire5", 256, 32, 128)
    x = pool(x, "pool5")
    for name, inputs, squeeze, expand in (
        ("fire6", 256, 48, 192),
        ("fire7", 384, 48, 192),
        ("fire8", 384, 64, 256),
        ("fire9", 512, 64, 256),
    ):
        x = fire(x, name, inputs, squeeze, expand)
    x = conv(x, "conv10", 512, 1000, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "squeezenet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
