"""The functions of `hashlib` that derive keys, which CPython takes from OpenSSL."""

from operator import index

import _isola_kdf
from isola_guest import own_builtins as __builtins__  # noqa: A004

# The hash functions of the native module, by their names without hyphens.
_NATIVE = {"sha1", "sha224", "sha256", "sha384", "sha512"}

_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1

# The memory that scrypt may use if `maxmem` is 0, as in OpenSSL.
_DEFAULT_MAXMEM = 32 << 20


def _integer(value):
    value = index(value)
    if not -_LONG_MAX <= value <= _LONG_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return value


def pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """Derives a key from a password, with the function PBKDF2 of RFC 8018 and HMAC."""
    if not isinstance(hash_name, str):
        name = type(hash_name).__name__
        raise TypeError(f"pbkdf2_hmac() argument 'hash_name' must be str, not {name}")
    native = hash_name.lower().replace("-", "")
    digest_size = None if native in _NATIVE and dklen is not None else _digest_size(hash_name)
    iterations = _integer(iterations)
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    if iterations > _INT_MAX:
        raise OverflowError("iteration value is too great.")
    dklen = digest_size if dklen is None else _integer(dklen)
    if dklen < 1:
        raise ValueError("key length must be greater than 0.")
    if dklen > _INT_MAX:
        raise OverflowError("key length is too great.")
    if native in _NATIVE:
        return _isola_kdf.pbkdf2(native, password, salt, iterations, dklen)
    return _pbkdf2(hash_name, password, salt, iterations, dklen)


def _digest_size(hash_name):
    import hashlib

    try:
        size = hashlib.new(hash_name).digest_size
    except ValueError:
        size = 0
    # The functions without a fixed size are not supported by HMAC.
    if not size:
        raise ValueError(f"unsupported hash type {hash_name}")
    return size


def _pbkdf2(hash_name, password, salt, iterations, dklen):
    """PBKDF2 with one of the other hash functions."""
    import hmac

    with memoryview(password) as password, memoryview(salt) as salt:
        keyed = hmac.new(password.tobytes(), digestmod=hash_name)
        salt = salt.tobytes()
    size = keyed.digest_size
    parts = []
    for number in range(1, -(-dklen // size) + 1):
        mac = keyed.copy()
        mac.update(salt + number.to_bytes(4))
        block = mac.digest()
        total = int.from_bytes(block)
        for _ in range(iterations - 1):
            mac = keyed.copy()
            mac.update(block)
            block = mac.digest()
            total ^= int.from_bytes(block)
        parts.append(total.to_bytes(size))
    return b"".join(parts)[:dklen]


def scrypt(password, *, salt, n, r, p, maxmem=0, dklen=64):
    """Derives a key from a password, with the function scrypt of RFC 7914."""
    for data in (password, salt):
        with memoryview(data):
            pass
    n, r, p = _integer(n), _integer(r), _integer(p)
    maxmem, dklen = _integer(maxmem), _integer(dklen)
    if n < 2 or n & (n - 1):
        raise ValueError("n must be a power of 2.")
    if r < 1:
        raise ValueError("r must be positive.")
    if p < 1:
        raise ValueError("p must be positive.")
    if not 0 <= maxmem <= _INT_MAX:
        raise ValueError(f"maxmem must be positive and smaller than {_INT_MAX}")
    if not 1 <= dklen <= _INT_MAX:
        raise ValueError(f"dklen must be greater than 0 and smaller than {_INT_MAX}")
    # The limits of RFC 7914.
    if p * r >= 1 << 30 or (r < 4 and n >= 1 << (16 * r)):
        raise ValueError("Invalid parameter combination for n, r, p, maxmem.")
    if 128 * r * (n + 2 + p) > (maxmem or _DEFAULT_MAXMEM):
        raise ValueError("memory limit exceeded")
    return _isola_kdf.scrypt(password, salt, n, r, p, dklen)
