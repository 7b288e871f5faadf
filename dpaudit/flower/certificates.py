"""Certificates and keys of a federation: our own authority, the server's certificate, a key pair for every node.

    ca.crt      what nodes check the server by; hand it to every node
    ca.key      the authority's key: keep it offline, it is needed only to make further certificates
    server.crt  server.key
    nodes/NAME  nodes/NAME.pub   a node's key pair: the first file goes to that node and nowhere else

Elliptic curves throughout (P-256 for TLS; P-384 for nodes, in OpenSSH's format, as Flower wants them).
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpaudit import serialize
from dpaudit.errors import DataError, MissingDependency, OutputExists

CA, CA_KEY, SERVER, SERVER_KEY, NODES = "ca.crt", "ca.key", "server.crt", "server.key", "nodes"
_SKEW = dt.timedelta(minutes=5)


def write_certificates(out: Path, *, hosts: Sequence[str], nodes: Sequence[str], days: int = 365) -> None:
    """Make the files of a federation in a new or empty folder; private keys are readable by the owner only.

    Args:
        out: the folder.
        hosts: names and addresses by which nodes reach the server.
        nodes: names of the nodes, as in the shards.
        days: how long the certificates are valid.

    Raises: MissingDependency without the package cryptography; OutputExists.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec

    if out.is_dir() and any(out.iterdir()):
        raise OutputExists(f"{out} already holds something. Choose another folder; keys are never overwritten.")
    (out / NODES).mkdir(parents=True, mode=0o700)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate(_name("dpaudit federation"), authority, issuer=None, signer=authority, days=days)
    leaf = _certificate(_name(hosts[0]), server, issuer=root, signer=authority, days=days, hosts=hosts)
    for name, certificate in ((CA, root), (SERVER, leaf)):
        serialize.write_atomic(out / name, _pem(certificate))
    for name, key in ((CA_KEY, authority), (SERVER_KEY, server)):
        serialize.write_atomic(out / name, _private(key), mode=0o600)
    for node in nodes:
        write_node_key(out / NODES / node)


def write_node_key(path: Path) -> None:
    """Make a node's key pair: `path` and `path`.pub. Raises: OutputExists when there is one."""
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        raise OutputExists(f"{path} already holds a key.")
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    serialize.write_atomic(path, private, mode=0o600)
    serialize.write_atomic(path.with_name(path.name + ".pub"), public + b"\n")


def read_node_key(path: Path) -> bytes:
    """Return a node's public key in the form in which Flower names it (PEM). Raises: DataError."""
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = form.load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable OpenSSH public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DataError(f"{path} must be an elliptic-curve key, as `dpaudit federation certificates` makes them.")
    return bytes(key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependency("certificates need the package cryptography: pip install 'dpaudit[flower]'") from error


def _name(text: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _certificate(name: Any, key: Any, *, issuer: Any, signer: Any, days: int, hosts: Sequence[str] = ()) -> Any:
    """Return a certificate for a key: the authority's own without an issuer, else a server's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )
    for extension, critical in _extensions(key, issuer, signer, hosts):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _extensions(key: Any, issuer: Any, signer: Any, hosts: Sequence[str]) -> list[tuple[Any, bool]]:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = issuer is None
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    found = [
        (x509.BasicConstraints(ca=authority, path_length=0 if authority else None), True),
        (x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    if not authority:
        found.append((x509.SubjectAlternativeName([_host(host) for host in hosts]), False))
        found.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False))
    return found


def _host(text: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return bytes(certificate.public_bytes(form.Encoding.PEM))


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
