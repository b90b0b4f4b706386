"""How does a test have an API server with a certificate? Its own authority, and a proxy that ends TLS before the stand-in."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudsched.testing.kubeapi import KubeApi


@dataclass(frozen=True)
class Authority:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: bytes


def authority(name: str) -> Authority:
    key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                          key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                          decipher_only=False)
    basic = x509.BasicConstraints(ca=True, path_length=None)
    made = (_draft(subject, subject, key.public_key()).add_extension(basic, critical=True)
            .add_extension(usage, critical=True).sign(key, hashes.SHA256()))
    return Authority(subject, key, made.public_bytes(serialization.Encoding.PEM))


def pair(by: Authority, name: str) -> tuple[bytes, bytes]:
    """A certificate for the loopback address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = _draft(_name(name), by.name, key.public_key()).add_extension(names, critical=False).sign(by.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@contextmanager
def serving_tls(kube: KubeApi, by: Authority, folder: Path) -> Iterator[str]:
    """The stand-in behind TLS, for clients with a certificate of the same authority."""
    folder.mkdir()
    (folder / "server.pem").write_bytes(b"".join(pair(by, "server")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(cadata=by.certificate.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, urlsplit(kube.url).port), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int | None) -> None:
    with suppress(OSError):
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=_relay, args=(raw, context, port), daemon=True).start()


def _relay(raw: socket.socket, context: ssl.SSLContext, port: int | None) -> None:
    with (suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as near,
          socket.create_connection(("127.0.0.1", port or 0)) as far):
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _draft(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1)))
