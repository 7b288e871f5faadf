"""The file of a device client: a LiteRT model with a description that cannot be separated from it by accident.

The file is the model's flatbuffer followed by a .zip archive with one member, the way in which TensorFlow Lite packs
"associated files": any LiteRT runtime opens it, and `unzip -p client.tflite dpaudit-device.json` shows what it is. The
description holds the digest of the flatbuffer, which is checked before the runtime, a C++ program, sees a byte.
"""

import hashlib
import io
import json
import math
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

from dpaudit.errors import DataError

FORMAT = "dpaudit.device-client/v1"
MEMBER = "dpaudit-device.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LONGEST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDp:
    """Local DP-SGD: every step adds noise of standard deviation noise_multiplier x clip_norm to a clipped sum."""

    noise_multiplier: float
    clip_norm: float

    def __post_init__(self) -> None:
        _positive(noise_multiplier=self.noise_multiplier, clip_norm=self.clip_norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a device must know of the training that it takes part in.

    `parameters` is the length of the weight vector, `input_shape` that of one example. With a `vocabulary` its numbers
    are tokens below it: LiteRT does not check them, and would read what lies behind the table. With a `clip_norm` the
    update is clipped on the device (None: by the server alone). `identity` names model and local training: server and
    device compare it.
    """

    parameters: int
    input_shape: tuple[int, ...]
    vocabulary: int | None
    classes: int
    batch_size: int
    epochs: int
    learning_rate: float
    clip_norm: float | None
    local_dp: LocalDp | None
    identity: str
    made_by: str

    def __post_init__(self) -> None:
        counts = {
            "parameters": self.parameters,
            "classes": self.classes,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary}),
            **{f"input_shape[{axis}]": size for axis, size in enumerate(self.input_shape)},
        }
        for name, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DataError(f"{name} must be a whole number of at least 1; got {value!r}.")
        _positive(learning_rate=self.learning_rate)
        if self.clip_norm is not None:
            _positive(clip_norm=self.clip_norm)
        if not isinstance(self.identity, str) or not isinstance(self.made_by, str):
            raise DataError("identity and made_by must be text.")


def _positive(**values: float) -> None:
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise DataError(f"{name} must be finite and greater than 0; got {value!r}.")


def pack(model: bytes, description: Description) -> bytes:
    """Return the bytes of a device client's file; the same arguments give the same bytes."""
    body = {
        "format": FORMAT,
        "model_bytes": len(model),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        **asdict(description),
    }
    out = io.BytesIO(model)
    with zipfile.ZipFile(out, "a") as archive:
        text = json.dumps(body, indent=2, sort_keys=True, allow_nan=False)
        archive.writestr(zipfile.ZipInfo(MEMBER, date_time=_EPOCH), text)
    return out.getvalue()


def unpack(data: bytes, *, name: str = "the file") -> tuple[bytes, Description]:
    """Return the LiteRT model and the description that `pack` put together.

    Raises: DataError for a file that is cut off, changed, or something else.
    """
    body = _body(data, name)
    if body.pop("format", None) != FORMAT:
        raise DataError(f"{name} is not of the format {FORMAT}. Export it again with this version of dpaudit.")
    size, digest = body.pop("model_bytes", None), body.pop("model_sha256", None)
    model = data[:size] if isinstance(size, int) and size > 0 else b""
    if hashlib.sha256(model).hexdigest() != digest:
        raise DataError(f"{name} was changed or cut off: the model in it does not have the recorded digest.")
    try:
        body["input_shape"] = tuple(body["input_shape"])
        body["local_dp"] = None if body["local_dp"] is None else LocalDp(**body["local_dp"])
        return model, Description(**body)
    except (TypeError, KeyError, DataError) as error:
        raise DataError(f"{name} has a description that cannot be understood: {error}") from error


def _body(data: bytes, name: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(MEMBER).file_size > _LONGEST:
                raise DataError(f"{name} has a description of more than {_LONGEST} bytes.")
            body = json.loads(archive.read(MEMBER))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise DataError(
            f"{name} is not the file of a device client, or was cut off ({error}). Make one with: "
            "dpaudit export-device CONFIG -o client.tflite"
        ) from error
    if not isinstance(body, dict):
        raise DataError(f"{name} has a description that is not an object.")
    return body
