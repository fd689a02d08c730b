"""Throwaway OpenPGP keys and detached signatures (RFC 4880), for mirrors that exist only in tests.

apt's verifiers (gpgv, sqv) are on every Debian host; a program that signs is not. Nothing here is
secret or strong.
"""

import base64
import functools
import hashlib
import random
from dataclasses import dataclass

_RSA, _SHA256 = 1, 8
_CREATED = 1577836800  # 2020-01-01, before any test runs


@functools.cache
def _prime(bits: int, seed: str) -> int:
    rng = random.Random(seed)
    while True:
        n = rng.getrandbits(bits) | 3 << bits - 2 | 1
        fit = all(n % p for p in (3, 5, 7, 11, 13, 17, 19, 23)) and n % 65537 != 1
        if fit and all(pow(rng.randrange(2, n - 1), n - 1, n) == 1 for _ in range(5)):
            return n


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def _mpi(n: int) -> bytes:
    return n.bit_length().to_bytes(2, "big") + n.to_bytes((n.bit_length() + 7) // 8, "big")


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([len(body) + 1, kind]) + body


def _crc24(data: bytes) -> bytes:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc.to_bytes(3, "big")


@dataclass(frozen=True)
class Key:
    """An RSA key of 2048 bits made from `name`: the same name gives the same key."""

    name: str

    @property
    def _numbers(self) -> tuple[int, int, int]:
        p, q = _prime(1024, self.name + "p"), _prime(1024, self.name + "q")
        return p * q, 65537, pow(65537, -1, (p - 1) * (q - 1))

    @property
    def _public(self) -> bytes:
        n, e, _ = self._numbers
        return bytes([4]) + _CREATED.to_bytes(4, "big") + bytes([_RSA]) + _mpi(n) + _mpi(e)

    @property
    def _fingerprint(self) -> bytes:
        return hashlib.sha1(b"\x99" + len(self._public).to_bytes(2, "big") + self._public).digest()

    def _signature(self, kind: int, data: bytes) -> bytes:
        hashed = _subpacket(2, _CREATED.to_bytes(4, "big")) + _subpacket(27, b"\x03")
        hashed += _subpacket(33, b"\x04" + self._fingerprint)
        head = bytes([4, kind, _RSA, _SHA256]) + len(hashed).to_bytes(2, "big") + hashed
        digest = hashlib.sha256(data + head + b"\x04\xff" + len(head).to_bytes(4, "big")).digest()
        n, _, d = self._numbers
        info = bytes.fromhex("3031300d060960864801650304020105000420") + digest  # PKCS #1 v1.5
        padded = b"\x00\x01" + b"\xff" * (256 - 3 - len(info)) + b"\x00" + info
        unhashed = _subpacket(16, self._fingerprint[-8:])
        body = head + len(unhashed).to_bytes(2, "big") + unhashed + digest[:2]
        return _packet(2, body + _mpi(pow(int.from_bytes(padded, "big"), d, n)))

    def public(self) -> bytes:
        """A binary keyring that holds this key alone."""
        user = self.name.encode() + b" <test@example.invalid>"
        certified = b"\x99" + len(self._public).to_bytes(2, "big") + self._public
        certified += b"\xb4" + len(user).to_bytes(4, "big") + user
        return _packet(6, self._public) + _packet(13, user) + self._signature(0x13, certified)

    def sign(self, data: bytes) -> bytes:
        """A detached signature over `data`, as armored text."""
        raw = self._signature(0x00, data)
        lines = [base64.b64encode(raw[i : i + 48]) for i in range(0, len(raw), 48)]
        lines.append(b"=" + base64.b64encode(_crc24(raw)))
        return (
            b"-----BEGIN PGP SIGNATURE-----\n\n"
            + b"\n".join(lines)
            + b"\n-----END PGP SIGNATURE-----\n"
        )
