"""Takes the place of pip's `certifi.core`, in which Debian insists on the package ca-certificates.

The host's certificates come first, for they may include a company's own; a host that has none gets
those in pip's wheel.
"""

import os
from pathlib import Path

HOST = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
OWN = str(Path(__file__).with_name("cacert.pem"))


def where() -> str:
    """Path of the bundle of certificates."""
    return next((path for path in HOST if Path(path).is_file()), OWN)


def contents() -> str:
    """The bundle of certificates."""
    return Path(where()).read_text(encoding="ascii")


if where() == OWN:
    os.environ.setdefault("SSL_CERT_FILE", OWN)  # pip's other way asks OpenSSL, which finds nothing
