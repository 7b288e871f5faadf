"""One model in four file formats gives the same outputs and the same attack; broken files are told."""

import sys
import warnings

import numpy as np
import pytest

from dpaudit.attacks.targets import load_target, needs_tensorflow
from dpaudit.cli.main import run as dpaudit
from dpaudit.errors import DataError, MissingDependency, UsageError

keras = pytest.importorskip("keras")
X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import tensorflow as tf

    out = tmp_path_factory.mktemp("formats")
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    model.save(out / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(out / "saved", verbose=False)

        class Signed(tf.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            @tf.function(input_signature=[tf.TensorSpec([None, 6])])
            def __call__(self, x):
                return {"logits": self.model(x)}

        module = Signed()
        tf.saved_model.save(module, out / "signed", signatures={"serving_default": module.__call__})
        (out / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(out / "saved")).convert())
        quantised = tf.lite.TFLiteConverter.from_saved_model(str(out / "saved"))
        quantised.optimizations = [tf.lite.Optimize.DEFAULT]
        quantised.representative_dataset = lambda: ([X[i : i + 1]] for i in range(50))
        quantised.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        quantised.inference_input_type = quantised.inference_output_type = tf.int8
        (out / "int8.tflite").write_bytes(quantised.convert())
    return out, np.asarray(model(X))


@pytest.mark.parametrize("name", ["m.keras", "saved", "signed", "m.tflite"])
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_every_format_gives_the_outputs_of_the_model(folder, name, batch_size):
    out, expected = folder
    np.testing.assert_allclose(load_target(str(out / name), batch_size=batch_size)(X), expected, rtol=1e-4, atol=1e-5)
    assert needs_tensorflow(str(out / name)) == (name != "m.tflite")


@pytest.mark.parametrize("without", ["tensorflow", "ai_edge_litert.interpreter"])
def test_litert_files_need_only_one_of_the_two_interpreters(folder, monkeypatch, without):
    pytest.importorskip("ai_edge_litert")
    out, expected = folder
    monkeypatch.setitem(sys.modules, without, None)
    np.testing.assert_allclose(load_target(str(out / "m.tflite"))(X), expected, rtol=1e-4, atol=1e-5)


def test_quantised_models_are_translated(folder):
    out, expected = folder
    found = load_target(str(out / "int8.tflite"))(X)
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert len(np.unique(found)) > 20


def test_the_command_line_attacks_a_litert_file(folder, tmp_path, capsys):
    out, _ = folder
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=X, y=np.arange(50) % 3)
    files = ["--members", str(tmp_path / "a.npz"), "--non-members", str(tmp_path / "b.npz"), "--no-control"]
    for name in ("m.tflite", "saved", "m.keras"):
        assert dpaudit(["attack", str(out / name), *files]) == 0
    assert capsys.readouterr().out.count("loss: AUC 0.5000") == 3
    np.savez(tmp_path / "b.npz", x=X[:, :4], y=np.arange(50) % 3)
    np.savez(tmp_path / "a.npz", x=X[:, :4], y=np.arange(50) % 3)
    for name in ("m.tflite", "saved", "m.keras"):
        assert dpaudit(["attack", str(out / name), *files]) == 2
        assert "the model failed" in capsys.readouterr().err


def test_onnx(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    w = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["z"]), onnx.helper.make_node("ArgMax", ["z"], ["k"], axis=1)],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [None, 6])],
        [value("k", onnx.TensorProto.INT64, None), value("z", onnx.TensorProto.FLOAT, [None, 3])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(load_target(str(tmp_path / "m.onnx"), batch_size=8)(X), X @ w, rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match=r"(?i)invalid"):
        load_target(str(tmp_path / "m.onnx"))(X[:, :4])
    for side, rows in (("a", slice(0, 25)), ("b", slice(25, 50))):
        np.savez(tmp_path / f"{side}.npz", x=X[rows], y=np.arange(25) % 3)
        np.savez(tmp_path / f"{side}4.npz", x=X[rows, :4], y=np.arange(25) % 3)
    attack = ["attack", str(tmp_path / "m.onnx"), "--no-control"]
    assert dpaudit([*attack, "--members", str(tmp_path / "a.npz"), "--non-members", str(tmp_path / "b.npz")]) == 0
    assert "loss: AUC 0." in capsys.readouterr().out
    assert dpaudit([*attack, "--members", str(tmp_path / "a4.npz"), "--non-members", str(tmp_path / "b4.npz")]) == 2
    assert "the model failed" in capsys.readouterr().err
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_target(str(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("m.onnx", "onnxruntime", "dpaudit\\[onnx\\]"), ("m.keras", "keras", "dpaudit\\[train\\]")],
)
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, name, module, extra):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=extra):
        load_target(str(tmp_path / name))


def test_litert_without_any_interpreter(tmp_path, monkeypatch):
    (tmp_path / "m.tflite").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingDependency, match="dpaudit\\[litert\\]"):
        load_target(str(tmp_path / "m.tflite"))


def test_broken_files_are_told(tmp_path):
    for name in ("m.tflite", "m.keras"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(DataError, match="cannot be loaded"):
            load_target(str(tmp_path / name))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="SavedModel"):
        load_target(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="no model file"):
        load_target(str(tmp_path / "none.onnx"))
    with pytest.raises(UsageError, match="must be a"):
        load_target("model.pt")
