"""The client on a device: the same deltas as in process, and no bad input that gets further than its message."""

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.device import Description, DeviceClient
from dpaudit.device.container import MEMBER, pack, unpack
from dpaudit.device.order import local_batches
from dpaudit.errors import DataError, MissingDependency

tf = pytest.importorskip("tensorflow")


def in_process(made, x, y, *, key):
    """The delta of the in-process engine's own function, whose order of examples is written out here again."""
    training = made.training
    index, mask = [], []
    for epoch in range(training.local_epochs):
        order = [number for number in slow_order(key, epoch, 64) if number < len(x)]
        order += [0] * (-len(x) % training.local_batch_size)
        index += order
        mask += [1.0] * len(x) + [0.0] * (-len(x) % training.local_batch_size)
    shape = (1, -1, training.local_batch_size)
    return made.functions.local_updates(
        made.weights,
        made.functions.place(x, y),
        index=np.reshape(index, shape).astype(np.int32),
        mask=np.reshape(mask, shape).astype(np.float32),
        learning_rate=training.local_learning_rate,
        seed=(0, 0),
    )[0]


def slow_order(key, epoch, longest):
    """SplitMix64 in Python's whole numbers."""
    wrap = 2**64

    def mix(z):
        z = (z + 1) * 0x9E3779B97F4A7C15 % wrap
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % wrap
        return z ^ (z >> 31)

    return sorted(range(longest), key=lambda place: mix((mix(key) + (epoch << 32) + place) % wrap))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 21), st.integers(0, 2**31 - 2), st.integers(0, 5))
def test_deltas_equal_those_in_process_for_every_number_of_examples(small, n, key, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 4)).astype(np.float32), rng.integers(3, size=n).astype(np.int32)
    client = DeviceClient(small.file)
    twin = in_process(small, x, y, key=key)
    index, mask = local_batches(key, n, epochs=2, batch=4)
    delta, norm = client.train(small.weights.astype(np.float32), x, y, index=index, mask=mask, clip_norm=None)
    np.testing.assert_allclose(delta, twin, atol=1e-6)
    np.testing.assert_allclose(norm, np.linalg.norm(twin.astype(np.float64)), rtol=1e-5)
    inside, same = client.train(small.weights.astype(np.float32), x, y, index=index, mask=mask, clip_norm=0.07)
    np.testing.assert_allclose(inside, twin * min(1.0, 0.07 / norm), atol=1e-6)
    assert np.linalg.norm(inside.astype(np.float64)) <= 0.07
    assert same == norm
    update = client.update(small.weights, x, y, key=key)
    size = np.linalg.norm(update.delta.astype(np.float64))
    np.testing.assert_allclose(update.delta, twin * min(1.0, 0.1 / norm), atol=1e-6)
    assert size <= 0.1
    assert (update.examples, update.clip_norm) == (n, 0.1)


def test_the_clip_is_at_work(small):
    update = DeviceClient(small.file).update(small.weights, small.data.x, small.data.y, key=3)
    assert update.norm > 0.2
    assert 0.0999 < np.linalg.norm(update.delta) <= 0.1


def test_logits(small):
    found = DeviceClient(small.file).logits(small.weights, small.data.x[:7])
    np.testing.assert_allclose(found, np.asarray(small.model(small.data.x[:7])), atol=1e-6)


def test_nothing_is_kept_between_calls(small):
    client = DeviceClient(small.file)
    x, y = small.data.x, small.data.y
    first = client.update(small.weights, x[:9], y[:9], key=1)
    client.update(small.weights + 1.0, x, y, key=2)
    client.logits(small.weights, x[:1])
    np.testing.assert_array_equal(client.update(small.weights, x[:9], y[:9], key=1).delta, first.delta)
    assert np.abs(client.update(small.weights, x[:9], y[:9], key=2).delta - first.delta).max() > 0


class Test_bad_input:  # noqa: N801 - a heading
    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
    @pytest.mark.parametrize("where", ["weights", "x"])
    def test_numbers_that_are_none(self, small, value, where):
        given = {"weights": small.weights.copy(), "x": small.data.x.astype(np.float64)}
        given[where].flat[2] = value
        with pytest.raises(DataError, match=f"{where} must be finite in float32; 1 of"):
            DeviceClient(small.file).update(**given, y=small.data.y, key=1)

    @pytest.mark.parametrize("wrong", [np.zeros(42), np.zeros(44), np.zeros((43, 1)), "text", None])
    def test_weights_of_another_model(self, small, wrong):
        with pytest.raises(DataError, match="weights must be"):
            DeviceClient(small.file).update(wrong, small.data.x, small.data.y, key=1)

    @pytest.mark.parametrize("wrong", [np.zeros((0, 4)), np.zeros((3, 5)), np.zeros(4), np.zeros((2, 4, 1)), 1.0])
    def test_examples_of_another_shape_or_none(self, small, wrong):
        with pytest.raises(DataError, match=r"x must be \(n, 4\) with n >= 1"):
            DeviceClient(small.file).update(small.weights, wrong, np.zeros(len(np.atleast_1d(wrong)), int), key=1)

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            (np.zeros(3, int), "one label per example"),
            (np.zeros((4, 1), int), "one label per example"),
            (np.zeros(4), "whole numbers"),
            (np.array([0, 1, 2, 3]), r"0\.\.2; got 0\.\.3"),
            (np.array([0, -1, 2, 0]), r"0\.\.2; got -1\.\.2"),
        ],
    )
    def test_labels(self, small, wrong, told):
        with pytest.raises(DataError, match=told):
            DeviceClient(small.file).update(small.weights, small.data.x[:4], wrong, key=1)

    @pytest.mark.parametrize("key", [-1, 2**64, 1.5, True, "1", None])
    def test_keys(self, small, key):
        with pytest.raises(DataError, match="key must be a whole number"):
            DeviceClient(small.file).update(small.weights, small.data.x, small.data.y, key=key)

    def test_training_that_diverges_sends_nothing(self, small):
        huge = 3e38 * np.sign(small.data.x[:5])
        with pytest.raises(DataError, match="diverged"):
            DeviceClient(small.file).update(small.weights, huge, np.zeros(5, int), key=1)

    def test_large_but_finite_updates_are_clipped_and_not_lost(self, small):
        update = DeviceClient(small.file).update(small.weights, 1e12 * small.data.x[:4], small.data.y[:4], key=1)
        assert update.norm > 1e9
        assert 0.0999 < np.linalg.norm(update.delta) <= 0.1


class Test_files:  # noqa: N801 - a heading
    def test_the_description_cannot_be_lost_and_is_readable_by_unzip(self, small, tmp_path):
        path = tmp_path / "client.tflite"
        path.write_bytes(small.file)
        body = json.loads(zipfile.ZipFile(path).read(MEMBER))
        assert body["parameters"] == 43
        assert body["model_sha256"] == hashlib.sha256(small.file[: body["model_bytes"]]).hexdigest()
        from ai_edge_litert.interpreter import Interpreter

        assert set(Interpreter(model_path=str(path)).get_signature_list()) == {"logits", "update"}
        assert DeviceClient(path).description == DeviceClient(small.file).description

    def test_packing_is_deterministic_and_undone_by_unpacking(self, small):
        model, about = unpack(small.file)
        assert pack(model, about) == small.file

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1, -30, -200])
    def test_cut_off(self, small, kept):
        data = small.file[: int(kept * len(small.file)) if isinstance(kept, float) else kept]
        with pytest.raises(DataError, match=r"cut off|changed"):
            DeviceClient(data)

    def test_every_byte_of_the_description_and_some_of_the_model(self, small):
        """A changed byte is told, or (in fields of the archive that say nothing) changes nothing."""
        model, about = unpack(small.file)
        rng = np.random.default_rng(1)
        for place in [*range(len(model), len(small.file)), *rng.integers(len(model), size=100)]:
            changed = bytearray(small.file)
            changed[place] ^= 1 << int(rng.integers(8))
            try:
                assert unpack(bytes(changed)) == (model, about)
            except DataError:
                continue
            assert place >= len(model)

    def test_foreign_files(self, small, tmp_path):
        model, _ = unpack(small.file)
        other = tmp_path / "other.zip"
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("readme.txt", "hello")
        for data in (b"", b"not a model", model, other.read_bytes()):
            with pytest.raises(DataError, match="dpaudit export-device"):
                DeviceClient(data)
        with pytest.raises(DataError, match="cannot read"):
            DeviceClient(tmp_path / "none.tflite")

    def test_a_whole_file_around_something_that_is_no_model(self, small):
        _, about = unpack(small.file)
        with pytest.raises(DataError, match="cannot be loaded"):
            DeviceClient(pack(b"not a flatbuffer" * 10, about))

    def test_another_run_s_client_is_refused(self, small):
        mine = DeviceClient(small.file).description.identity
        DeviceClient(small.file, expected_identity=mine)
        with pytest.raises(DataError, match="another model"):
            DeviceClient(small.file, expected_identity="0" * 64)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"parameters": 0}, {"parameters": True}, {"epochs": 1.5}, {"input_shape": (4, 0)}, {"learning_rate": 0.0},
            {"clip_norm": float("inf")}, {"clip_norm": "1"}, {"identity": None},
        ],
    )  # fmt: skip
    def test_a_description_is_checked(self, small, wrong):
        about = asdict(DeviceClient(small.file).description)
        with pytest.raises(DataError, match=next(iter(wrong))):
            Description(**{**about, **wrong})

    def test_without_litert(self, small, monkeypatch):
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        with pytest.raises(MissingDependency, match="ai-edge-litert"):
            DeviceClient(small.file)


class Test_local_dp:  # noqa: N801 - a heading
    def test_a_file_of_local_dp_has_no_step_without_noise(self, private):
        from ai_edge_litert.interpreter import Interpreter

        model, _ = unpack(private.file)
        assert set(Interpreter(model_content=model).get_signature_list()) == {"logits", "private_step"}

    def test_a_step_clips_every_example_and_leaves_padding_out(self, private):
        client, weights = DeviceClient(private.file), private.weights.astype(np.float32)
        x, y = private.data.x[:4], private.data.y[:4]
        rows = private.functions.per_example_gradients(
            private.weights, tf.constant(x), tf.constant(y), np.arange(4), seed=(0, 0)
        ).astype(np.float64)
        clipped = rows * np.minimum(1.0, 0.2 / np.linalg.norm(rows, axis=1))[:, None]
        assert (np.linalg.norm(rows, axis=1) > 0.2).any()
        noise = np.random.default_rng(0).standard_normal(weights.size).astype(np.float32)
        for mask in ([1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]):
            present = np.array(mask, np.float32)
            step = client.private_step(weights, x, y, mask=present, noise=noise) - weights
            expected = -0.1 / 4 * (present @ clipped + noise)
            np.testing.assert_allclose(step, expected, atol=1e-6)

    @pytest.mark.parametrize("stretch", [1.0, 30.0])
    def test_one_example_moves_a_step_by_at_most_the_clip_norm(self, private, stretch):
        client, weights = DeviceClient(private.file), (stretch * private.weights).astype(np.float32)
        x, y, quiet = private.data.x[:4].copy(), private.data.y[:4], np.zeros(weights.size, np.float32)
        for scale in (1e-3, 1.0, 1e3, 1e5, 1e9, 1e18, 1e25, 1e38):
            x[1] = scale * private.data.x[9]
            with_it, without = (
                client.private_step(weights, x, y, mask=np.array([1, m, 1, 1], np.float32), noise=quiet) for m in (1, 0)
            )
            moved = np.linalg.norm((with_it - without).astype(np.float64)) * 4 / 0.1
            assert moved <= 0.2 * (1 + 1e-4) + 1e-4 * stretch, scale

    def test_an_example_that_overflows_is_left_out_and_the_device_answers_all_the_same(self, private):
        """Else a server could choose weights with which only a certain example makes a device fall silent."""
        client, weights = DeviceClient(private.file), private.weights.astype(np.float32)
        x, y, mask = private.data.x[:4].copy(), private.data.y[:4], np.array([1, 1, 1, 0], np.float32)
        noise = np.random.default_rng(0).standard_normal(weights.size).astype(np.float32)
        without = client.private_step(weights, x, y, mask=np.array([1, 0, 1, 0], np.float32), noise=noise)
        x[1] = 3e38 * np.sign(x[1])
        np.testing.assert_array_equal(client.private_step(weights, x, y, mask=mask, noise=noise), without)
        for scale in (1e7, 1e19, 1e30):
            x[1] = scale * private.data.x[1]
            np.testing.assert_array_equal(client.private_step(weights, x, y, mask=mask, noise=noise), without)
        everyone = 3e38 * np.sign(private.data.x[:9])
        assert np.isfinite(client.update(private.weights, everyone, private.data.y[:9], key=1).delta).all()
        for broken in (1e20, 3e38):  # weights that a curious server could send
            assert np.isfinite(client.private_step(broken * np.sign(weights), x, y, mask=mask, noise=noise)).all()

    def test_noise_is_fresh_and_of_the_promised_size(self, private):
        """Six steps of noise 1.5 x 0.2, times 0.1 / 4: the mean of the squares, 2,150 of them, within 6 deviations."""
        client, x, y = DeviceClient(private.file), private.data.x[:10], private.data.y[:10]
        deltas = np.array([client.update(private.weights, x, y, key=1).delta for _ in range(50)], np.float64)
        spread = deltas - deltas.mean(axis=0)
        one_step = (1.5 * 0.2 * 0.1 / 4) ** 2
        measured = (spread**2).sum() / (49 * spread.shape[1]) / one_step
        assert 6 * 0.8 < measured < 6 * 1.25
        assert len({row.tobytes() for row in deltas}) == 50

    def test_the_step_belongs_to_files_of_local_dp(self, small):
        with pytest.raises(DataError, match="--local-dp"):
            DeviceClient(small.file).private_step(
                small.weights.astype(np.float32), small.data.x[:4], small.data.y[:4],
                mask=np.ones(4, np.float32), noise=np.zeros(43, np.float32),
            )  # fmt: skip


class Test_command_line:  # noqa: N801 - a heading
    @pytest.fixture
    def folder(self, small, tmp_path):
        (tmp_path / "c.tflite").write_bytes(small.file)
        np.savez(tmp_path / "d.npz", weights=small.weights, x=small.data.x[:9], y=small.data.y[:9])
        return tmp_path

    def test_in_a_fresh_process_without_tensorflow(self, folder, small):
        """The promise of the package: what is imported, and less than 60 MB of memory."""
        code = f"""
import sys
from dpaudit.device.__main__ import run
code = run([{str(folder / "c.tflite")!r}, {str(folder / "d.npz")!r}, "-o", {str(folder / "delta.npy")!r}, "--key", "5"])
status = open("/proc/self/status").read() if sys.platform == "linux" else "VmHWM: 0 kB"
heavy = ("tensorflow", "keras", "scipy", "pydantic", "dp_accounting", "click", "rich", "flwr", "matplotlib")
print([name for name in heavy if name in sys.modules], code, file=sys.stderr)
print(int(status.split("VmHWM:")[1].split()[0]) / 1024, file=sys.stderr)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        body = json.loads(done.stdout)
        told = done.stderr.splitlines()
        assert told[-2] == "[] 0"
        assert float(told[-1]) < 60
        assert (body["schema"], body["examples"]) == ("dpaudit.device/v1", 9)
        expected = DeviceClient(small.file).update(small.weights, small.data.x[:9], small.data.y[:9], key=5)
        np.testing.assert_array_equal(np.load(folder / "delta.npy"), expected.delta)

    def test_errors_have_a_message_and_code_2(self, folder, capsys):
        from dpaudit.device.__main__ import run

        client, data = str(folder / "c.tflite"), str(folder / "d.npz")
        (folder / "bad.npz").write_bytes(b"nothing")
        np.savez(folder / "less.npz", x=np.zeros(3))
        np.savez(folder / "pickle.npz", weights=np.array([{}], object), x=0, y=0)
        cases = [
            ([client, data], "-o DELTA.npy"),
            ([data, data, "-o", "x"], "not the file of a device client"),
            ([client, str(folder / "bad.npz"), "-o", "x"], "cannot read"),
            ([client, str(folder / "less.npz"), "-o", "x"], "must hold weights"),
            ([client, str(folder / "pickle.npz"), "-o", "x"], "cannot read"),
            ([client, data, "-o", str(folder / "none" / "x.npy")], "cannot write"),
            ([client, data, "-o", "x", "--identity", "me"], "another model"),
        ]
        for options, told in cases:
            assert run(options) == 2, options
            captured = capsys.readouterr()
            assert told in captured.err
            assert captured.out == ""

    def test_without_data_the_client_is_described(self, folder, capsys):
        from dpaudit.device.__main__ import run

        assert run([str(folder / "c.tflite")]) == 0
        assert json.loads(capsys.readouterr().out)["description"]["parameters"] == 43
