"""Recurrent layers and embeddings in a model: against PyTorch, through ONNX, and wrong use."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl import torch_reference

generator = np.random.default_rng(17)


def stack():
    """Every kind on top of the other, between an embedding and a classifier."""
    x = eddl.Input((7,), name="words")
    y = eddl.Embedding(x, 13, 5, name="embedded")
    y = eddl.GRU(eddl.LSTM(y, 6, return_sequences=True), 4, return_sequences=True)
    y = eddl.RNN(eddl.RNN(y, 5, return_sequences=True), 4, return_sequences=True, activation="relu")
    last = eddl.LSTM(y, 6, name="last")
    both = eddl.Concat([last, eddl.GRU(y, 3)])
    return eddl.Model([x], [eddl.Softmax(eddl.Dense(both, 3))])


def words(count):
    return generator.integers(0, 13, (count, 7)).astype(np.float32)


def built(optimizer=None, memory="full"):
    net = stack()
    net.build(optimizer or eddl.SGD(0.1), ["categorical_cross_entropy"], seed=3, memory=memory)
    # Biases start at 0.
    noise = np.random.default_rng(3).normal(size=net.parameter_count)
    net.parameter_vector += (0.1 * noise).astype(np.float32)
    return net


def test_a_training_step_equals_pytorch():
    net, x, target = built(), words(4), np.eye(3, dtype=np.float32)[[0, 2, 1, 1]]
    (output,), leaves = torch_reference.run(net, [x])
    expected = torch_reference.loss("categorical_cross_entropy", output, torch.tensor(target))
    expected.backward()
    gradients = net.gradients([x], [target])
    assert gradients.keys() == leaves.keys()
    for name, gradient in gradients.items():
        theirs = leaves[name].grad.numpy()
        assert np.abs(gradient - theirs).max() <= 2e-5 * np.abs(theirs).max(), name
    assert np.abs(net.predict([x])[0] - output.detach().numpy()).max() < 1e-6


def test_it_learns_what_only_the_first_step_tells():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(200, 6, 2)).astype(np.float32)
    target = (x[:, 0, 0] > 0).astype(np.float32)[:, None]
    for layer in (eddl.LSTM, eddl.GRU, eddl.RNN):
        inputs = eddl.Input((6, 2))
        net = eddl.Model([inputs], [eddl.Sigmoid(eddl.Dense(layer(inputs, 12), 1))])
        net.build(eddl.Adam(0.02), ["binary_cross_entropy"], ["accuracy"], seed=2)
        history = net.fit([x], [target], batch_size=20, epochs=15)
        assert history[-1]["accuracy"] > 0.9, layer.__name__


def test_low_memory_changes_no_bit():
    vectors = []
    for memory in ("full", "low"):
        net = built(eddl.Adam(0.01), memory)
        draw = np.random.default_rng(5)
        for _ in range(3):
            net.train_batch([draw.integers(0, 13, (4, 7))], [draw.integers(0, 3, 4)])
        vectors.append(net.parameter_vector.tobytes())
    assert vectors[0] == vectors[1]


def test_onnxruntime_agrees_and_the_import_is_identical(tmp_path):
    net = built()
    net.train_batch([words(5)], [np.array([0, 1, 2, 1, 0])])
    path = tmp_path / "net.onnx"
    eddl.export_onnx(net, path)
    x = words(4)
    ours = net.predict([x])[0]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"words": x})
    assert np.abs(ours - theirs).max() < 1e-6
    again = eddl.import_onnx(path)
    again.build(seed=None)
    assert again.predict([x])[0].tobytes() == ours.tobytes()
    assert again.parameters().keys() == net.parameters().keys()
    assert [layer.configuration() for layer in again.layers] == [
        layer.configuration() for layer in net.layers
    ]


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("result", ["steps", "last step"])
@pytest.mark.filterwarnings("ignore")
def test_a_network_exported_by_pytorch(tmp_path, kind, result):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 5)
            self.recurrent = kind(5, 6, 2, batch_first=True)
            self.dense = torch.nn.Linear(6, 3)

        def forward(self, x):
            steps, _ = self.recurrent(self.embedding(x))
            return steps if result == "steps" else self.dense(steps[:, -1])

    torch.manual_seed(0)
    network, x = Network().eval(), torch.randint(0, 11, (2, 7))
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(network, (x,), path, dynamo=False, opset_version=18, input_names=["x"])
    net = eddl.import_onnx(path)
    net.build(seed=None)
    expected = network(x).detach().numpy()
    assert np.abs(net.predict([x.numpy()])[0] - expected).max() < 1e-6


def node(operator="GRU", inputs=("t", "w", "r"), outputs=("y",), **attributes):
    return onnx.helper.make_node(operator, inputs, outputs, hidden_size=2, **attributes)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(inputs=("x", "w", "r"))], "input x is not turned from samples first; export with batch_first"),
        ([node()], "only linear_before_reset=1 is supported"),
        ([node("LSTM", clip=1.0)], "clip and input_forget are not supported"),
        ([node("LSTM", direction="reverse")], "only the direction forward is supported"),
        ([node("RNN", activations=["Sigmoid"])], "activation Sigmoid is not supported"),
        ([node("LSTM", activations=["Relu", "Tanh", "Tanh"])], "only the usual activations are supported"),
        (
            [node("LSTM", inputs=("t", "w", "r", "", "", "one"))],
            "sequence lengths and initial states are",
        ),
        ([node("LSTM", inputs=("t", "t", "r"))], "weights t, r are not all constant"),
        ([node("LSTM", outputs=("y", "last")), onnx.helper.make_node("Relu", ["last"], ["z"])], "not both"),
    ],
)
def test_what_the_layers_do_not_have_is_refused(tmp_path, nodes, message):
    helper = onnx.helper
    rows = {"GRU": 6, "LSTM": 8, "RNN": 2}[nodes[0].op_type]
    constants = {
        "w": np.zeros((1, rows, 3), np.float32),
        "r": np.zeros((1, rows, 2), np.float32),
        "one": np.ones((1, 1, 2), np.float32),
    }
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 1, 1, 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(DhhpcError, match=re.escape(message)) as caught:
        eddl.import_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda x: eddl.LSTM(eddl.Flatten(x), 3, name="r"), "r: input of shape (20,) where (time, features)"),
        (lambda x: eddl.GRU(x, 0, name="r"), "r: units 0 must be at least 1"),
        (lambda x: eddl.RNN(x, 3, activation="sine", name="r"), "r: activation 'sine' is unknown"),
        (lambda x: eddl.Embedding(x, 0, 4, name="e"), "e: vocabulary 0 must lie in 1 to"),
    ],
)
def test_wrong_options_are_refused(build, line):
    with pytest.raises(DhhpcError, match=re.escape(line)):
        build(eddl.Input((4, 5)))


@pytest.mark.parametrize("value", [13, -1, 2.5, np.nan, np.inf])
def test_a_value_that_is_no_row_of_the_table_is_refused(value):
    net, x = built(), words(2)
    x[1, 3] = value
    line = f"embedded: value {np.float32(value):g} is no whole number from 0 to 12"
    with pytest.raises(DhhpcError, match=re.escape(line)):
        net.predict([x])


def test_another_number_of_features_is_refused():
    x = eddl.Input((4, 5), name="signal")
    net = eddl.Model([x], [eddl.LSTM(x, 3)])
    net.build()
    with pytest.raises(DhhpcError, match=re.escape("input of shape (4, 6) where its weights take (4, 5)")):
        net.predict([np.zeros((2, 4, 6), np.float32)])
