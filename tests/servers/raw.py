"""What no HTTP library would send: answers byte by byte, and certificates for encrypted ones."""

import contextlib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@contextlib.contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """Send one of `answers` to each connection in turn, then for ever the last; give the host."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        queue = list(answers)
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            with connection, contextlib.suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request and (read := connection.recv(65_536)):
                    request += read
                connection.sendall(queue.pop(0) if queue[1:] else queue[0])

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def certificate(folder: Path) -> Path:
    """Write a certificate of this machine's loopback, and its key, to one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + signed.public_bytes(pem))
    return path
