"""DSSE envelopes: a payload, its type, and signatures over both (Dead Simple Signing Envelope, v1.0.2).

The signature is over PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload, so that nothing
of the JSON around it has to be canonical.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from dpaudit import serialize
from dpaudit.attestation import keys
from dpaudit.errors import DataError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_BYTES = 16 << 20
_MAX_SIGNATURES = 64


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(statement: Mapping[str, Any], key: keys.Key) -> str:
    """Return the envelope of a statement, signed with a private key, as JSON text."""
    payload = serialize.dumps(statement).encode()
    signature = keys.sign(key, pae(PAYLOAD_TYPE, payload))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": keys.key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    return serialize.dumps(envelope) + "\n"


def open_envelope(data: bytes, trusted: Mapping[str, keys.Key]) -> tuple[dict[str, Any], str | None]:
    """Return the statement in an envelope and the name of the trusted key that signed it; None if none did.

    The key id in the envelope is only a hint and is not looked at: every signature is tried with every trusted key.

    Raises: DataError if the bytes are no DSSE envelope around an in-toto statement.
    """
    payload, signatures = _parse(data)
    signed = pae(PAYLOAD_TYPE, payload)
    signer = next(
        (name for name, key in trusted.items() for sig in signatures if keys.verifies(key, sig, signed)), None
    )
    statement = serialize.loads(payload)
    if not isinstance(statement, dict) or statement.get("_type") != "https://in-toto.io/Statement/v1":
        raise DataError("the envelope does not hold an in-toto statement of version 1.")
    return statement, signer


def _parse(data: bytes) -> tuple[bytes, list[bytes]]:
    if len(data) > MAX_BYTES:
        raise DataError(f"an attestation has at most {MAX_BYTES} bytes; this has {len(data)}.")
    envelope = serialize.loads(data)
    if not isinstance(envelope, dict) or envelope.get("payloadType") != PAYLOAD_TYPE:
        raise DataError(f"not a DSSE envelope with the payload type {PAYLOAD_TYPE}.")
    listed = envelope.get("signatures")
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_SIGNATURES:
        raise DataError(f"a DSSE envelope holds between 1 and {_MAX_SIGNATURES} signatures.")
    return _decoded(envelope.get("payload")), [_decoded(s.get("sig") if isinstance(s, dict) else None) for s in listed]


def _decoded(text: object) -> bytes:
    try:
        if not isinstance(text, str):
            raise DataError("payload and signatures of an envelope must be base64 text.")
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"payload and signatures of an envelope must be base64: {error}") from error
    if base64.b64encode(decoded).decode() != text:
        raise DataError("payload and signatures of an envelope must be base64 in its one canonical form.")
    return decoded
