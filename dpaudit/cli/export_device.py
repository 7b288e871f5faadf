"""`dpaudit export-device CONFIG -o FILE`: what a device runs, as a LiteRT file."""

from pathlib import Path
from typing import Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import held_back_stderr, load_tensorflow
from dpaudit.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=_PATH)
@click.option("-o", "--out", required=True, type=_PATH, help="File to write; its name ends in .tflite.")
@click.option("--run", "run", type=_PATH, help="Write the trained model of this run instead, for inference.")
@click.option("--local-dp", type=float, metavar="Z", help="Local DP-SGD with noise multiplier Z in every step.")
@click.option("--local-clip-norm", type=float, default=1.0, show_default=True, help="Of every example's gradient.")
@json_option
def command(
    config: Path, out: Path, run: Path | None, local_dp: float | None, local_clip_norm: float, as_json: bool
) -> None:
    """Write the client of CONFIG for devices: local training by LiteRT, without TensorFlow.

    A device runs the file with `dpaudit.device.DeviceClient` or `python -m dpaudit.device`. Every converted function is
    compared with TensorFlow's before the file is written. With --run the trained model is written, which `dpaudit
    attack` takes. See docs/devices.md.
    """
    from dpaudit import config as configuration

    if out.suffix != ".tflite":
        raise UsageError(f"the name of a LiteRT file ends in .tflite; got {out}.")
    if run is not None and local_dp is not None:
        raise UsageError("--run writes a trained model and --local-dp a client that trains; choose one.")
    settings = configuration.load(config)
    load_tensorflow()
    from dpaudit.device import LocalDp
    from dpaudit.federated import device_export

    with held_back_stderr():  # the converter tells the story of its life
        if run is not None:
            device_export.export_model(settings, run, out)
            emit("export-device", {"written": out, "kind": "model"}, f"trained model: {out}", as_json=as_json)
            return
        private = None if local_dp is None else LocalDp(noise_multiplier=local_dp, clip_norm=local_clip_norm)
        about = device_export.export_client(settings, out, local_dp=private)
    size = out.stat().st_size
    payload: dict[str, Any] = {"written": out, "kind": "client", "bytes": size, "description": about}
    emit("export-device", payload, _text(about, out, size), as_json=as_json)


def _text(about: Any, out: Path, size: int) -> str:
    shape = " x ".join(map(str, about.input_shape))
    clip = "the server alone clips" if about.clip_norm is None else f"clipped to {about.clip_norm:g} on the device"
    rate = f"learning rate {about.learning_rate:g}; {clip}"
    lines = [
        f"{out}: {size} bytes, {about.parameters} parameters, input {shape}, {about.classes} classes",
        f"local training: {about.epochs} epoch(s) of batches of {about.batch_size}, {rate}",
        f"identity: {about.identity}",
    ]
    if about.local_dp is not None:
        noise = f"noise multiplier {about.local_dp.noise_multiplier:g}, clip norm {about.local_dp.clip_norm:g}"
        lines.insert(2, f"local DP-SGD: {noise}; epsilon per device: see docs/devices.md")
    return "\n".join(lines)
