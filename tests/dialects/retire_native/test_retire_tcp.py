"""Can a peer of the native port hold up or break the others?"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.app import native_tcp
from cloudsched.app.native_tcp import NativeServer, listen
from cloudsched.dialects.retire_cluster.frames import FrameError
from cloudsched.dialects.retire_cluster.native import Reply

settled: list[bool] = []


def echo(request: bytes | FrameError, address: str) -> Reply:
    if isinstance(request, FrameError):
        return Reply(json.dumps({"error": str(request)}).encode())
    if b"boom" in request:
        raise RuntimeError("boom")
    if b"big" in request:
        return Reply(b"y" * 5_000_000, settled.append)
    return Reply(request + address.encode(), settled.append)


@pytest.fixture
def server() -> Iterator[tuple[NativeServer, int]]:
    settled.clear()
    sock = listen("127.0.0.1", 0)
    made = NativeServer(sock, echo, most=lambda: 20, request_limit_s=1.0)
    made.start()
    yield made, sock.getsockname()[1]
    made.stop()
    sock.close()


def ask(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause_s)
        return _all(sock)


def _all(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def wait_for(check: object, limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not check():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_exchange_for_each_connection(server: tuple[NativeServer, int]) -> None:
    _, port = server
    assert ask(port, b'{"a": 1}') == b'{"a": 1}127.0.0.1'
    assert ask(port, b'{"a"', b": 1", b"}\n", pause_s=0.02) == b'{"a": 1}127.0.0.1'
    wait_for(lambda: settled == [True, True])


def test_bad_peers_leave_it_healthy(server: tuple[NativeServer, int]) -> None:
    made, port = server
    assert b"begins with" in ask(port, b"\x00\xff garbage")
    assert b"one JSON object" in ask(port, b'{"a":1}{"b":2}')
    assert ask(port, b'{"boom": 1}') == b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert _all(sock) == b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b'{"half":')
        sock.shutdown(socket.SHUT_WR)
        assert b"ends before" in _all(sock)
    assert ask(port, b'{"x": "' + b"z" * 6000 + b'"}').startswith(b'{"x": "zzz')
    assert b"longer" in ask(port, b'{"x": "' + b"z" * (1 << 20))
    wait_for(lambda: made.connections == 0)
    assert ask(port, b"{}") == b"{}127.0.0.1"


def test_slow_and_silent_peers_are_closed_and_hold_up_nobody(server: tuple[NativeServer, int]) -> None:
    made, port = server
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(15)]
    silent[0].sendall(b"{")
    assert ask(port, b"{}") == b"{}127.0.0.1"
    wait_for(lambda: made.connections == 0)
    for sock in silent:
        sock.close()


def test_more_than_the_limit_are_turned_away_and_room_comes_back(server: tuple[NativeServer, int]) -> None:
    made, port = server
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    wait_for(lambda: made.connections == 20)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as extra:
        assert _all(extra) == b""
    for sock in held:
        sock.close()
    wait_for(lambda: made.connections == 0)
    assert ask(port, b"{}") == b"{}127.0.0.1"


def test_a_reply_nobody_reads_is_told_as_lost(server: tuple[NativeServer, int]) -> None:
    _, port = server
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b'{"big": 1}')
    time.sleep(0.1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
    wait_for(lambda: settled == [False])


def test_many_at_once(server: tuple[NativeServer, int]) -> None:
    _, port = server
    answers: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(20):
            answers.append(ask(port, json.dumps({"n": number, "t": turn}).encode()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 160
    assert all(item.endswith(b"}127.0.0.1") for item in answers)


def test_tls(tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    sock = listen("127.0.0.1", 0)
    made = NativeServer(sock, echo, most=lambda: 20, tls=context, request_limit_s=2.0)
    made.start()
    try:
        port = sock.getsockname()[1]
        client = ssl.create_default_context(cafile=str(cert))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, \
                client.wrap_socket(raw, server_hostname="localhost") as safe:
            safe.sendall(b'{"a": "' + b"x" * 100_000 + b'"}')
            assert safe.recv(10) == b'{"a": "xxx'
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(b'{"plain": 1}\n' * 3)
            assert b"plain" not in _quiet(raw)
    finally:
        made.stop()
        sock.close()


def _quiet(sock: socket.socket) -> bytes:
    try:
        return _all(sock)
    except ConnectionError:
        return b""


def _certificate(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256()))
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return cert_file, key_file


def test_a_port_that_is_taken_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    old = listen("127.0.0.1", 0)
    port = old.getsockname()[1]
    monkeypatch.setattr(native_tcp.time, "sleep", lambda _: old.close())
    native_tcp._listen_patiently("127.0.0.1", port).close()
    with listen("127.0.0.1", port):
        monkeypatch.setattr(native_tcp, "BIND_LIMIT_S", 0.0)
        monkeypatch.setattr(native_tcp.time, "sleep", lambda _: None)
        with pytest.raises(OSError, match="in use"):
            native_tcp._listen_patiently("127.0.0.1", port)


def test_nobody_waits_in_the_queue_of_a_server_that_stops(server: tuple[NativeServer, int]) -> None:
    made, port = server
    assert ask(port, b"{}") == b"{}127.0.0.1"
    made.stop_soon()
    made._thread.join(20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)
