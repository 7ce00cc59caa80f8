"""Exported networks run in onnxruntime and come back bit for bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from dhhpc.zoo import create

generator = np.random.default_rng(11)


def trained(name, shape, classes, loss, **options):
    net = create(name, shape, classes, **options)
    net.build(eddl.Adam(0.01), [loss], seed=4)
    x = generator.normal(size=(4, *shape)).astype(np.float32)
    target = generator.random((4, *net.outputs[0].shape)) > 0.5
    if classes > 1:
        target = np.eye(classes)[generator.integers(0, classes, 4)]
    for _ in range(3):
        net.train_batch([x], [target.astype(np.float32)])
    return net, x


CASES = [
    ("unet", (1, 16, 24), 1, "binary_cross_entropy", {"channels": [4, 8, 8]}),
    ("unet", (2, 16, 16), 1, "dice", {"channels": [4, 8], "upsampling": "bilinear"}),
    ("unet", (1, 16, 16), 1, "dice", {"channels": [4, 8], "upsampling": "nearest", "normalization": False}),
    ("resnet18", (3, 64, 64), 5, "categorical_cross_entropy", {"width": 8}),
    ("convnet", (1, 28, 28), 10, "categorical_cross_entropy", {"channels": [8, 8], "normalization": True}),
]


@pytest.mark.parametrize(("name", "shape", "classes", "loss", "options"), CASES)
def test_onnxruntime_agrees_and_the_import_is_identical(tmp_path, name, shape, classes, loss, options):
    net, x = trained(name, shape, classes, loss, **options)
    path = tmp_path / "net.onnx"
    eddl.export_onnx(net, path)
    onnx.checker.check_model(str(path), full_check=True)
    ours = net.predict([x])[0]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
    assert np.abs(ours - theirs).max() < 1e-4
    again = eddl.import_onnx(path)
    again.build(seed=None)
    assert [layer.shape for layer in again.layers] == [layer.shape for layer in net.layers]
    assert np.array_equal(again.predict([x])[0], ours)
    eddl.export_onnx(again, tmp_path / "again.onnx")
    assert again.parameters().keys() == net.parameters().keys()


def test_an_exported_unet_takes_images_of_another_size(tmp_path):
    net, _ = trained("unet", (1, 16, 16), 1, "dice", channels=[4, 8])
    eddl.export_onnx(net, tmp_path / "net.onnx")
    x = generator.normal(size=(2, 1, 40, 24)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"image": x})
    assert np.abs(net.predict([x])[0] - theirs).max() < 1e-4


def test_every_layer_goes_through_onnx(tmp_path):
    x = eddl.Input((4, 12, 12))
    y = eddl.Conv2D(x, 6, (3, 2), (2, 1), (1, 0), (2, 1), groups=2)
    y = eddl.ReLU(eddl.ConvTranspose2D(y, 4, 3, 2, 1, groups=2, output_padding=1))
    y = eddl.Add([y, eddl.Sigmoid(y), eddl.AveragePool2D(y, 3, 1, 1)])
    y = eddl.Concat([eddl.MaxPool2D(y, 3, 2, 1), eddl.AveragePool2D(y, 3, 2, 1)])
    y = eddl.Dense(eddl.Flatten(eddl.GlobalAveragePool2D(eddl.BatchNormalization(y))), 3)
    net = eddl.Model([x], [eddl.Softmax(y)])
    net.build(seed=5)
    eddl.export_onnx(net, tmp_path / "net.onnx")
    data = generator.normal(size=(3, 4, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    ours = net.predict([data])[0]
    assert np.abs(ours - theirs).max() < 1e-5
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert np.array_equal(again.predict([data])[0], ours)


def test_bad_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    for name, message in (("noise.onnx", "not a valid ONNX model"), ("missing.onnx", "no such file")):
        with pytest.raises(DhhpcError, match=message) as caught:
            eddl.import_onnx(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_an_unknown_operator_is_named(tmp_path):
    helper = onnx.helper
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "erf.onnx")
    )
    with pytest.raises(DhhpcError, match="operator Erf is not supported"):
        eddl.import_onnx(tmp_path / "erf.onnx")


def test_weights_in_the_other_order_are_read(tmp_path):
    # Gemm without transB, as other exporters write it.
    helper, weight = onnx.helper, generator.normal(size=(4, 3)).astype(np.float32)
    value = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", k]) for n, k in (("x", 4), ("y", 3))
    ]
    initializer = onnx.numpy_helper.from_array(weight, "w")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], "g", value[:1], value[1:], [initializer]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "gemm.onnx"))
    net = eddl.import_onnx(tmp_path / "gemm.onnx")
    net.build(seed=None)
    x = generator.normal(size=(5, 4)).astype(np.float32)
    expected = torch.tensor(x) @ torch.tensor(weight)
    assert np.allclose(net.predict([x])[0], expected.numpy(), atol=1e-5)
