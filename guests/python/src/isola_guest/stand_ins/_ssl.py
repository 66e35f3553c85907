"""A replacement for OpenSSL, which this interpreter was built without.

Many packages create and configure a context when they are imported, or for connections
that they never open. So contexts can be configured, and keep their settings. What needs
OpenSSL fails: a connection, and reading a certificate. The constants `HAS_...` say that
no protocol exists.
"""

import errno as _errno
import os as _os

_UNAVAILABLE = (
    "TLS is not available in this guest: use sandbox.http, urllib.request, requests or httpx"
    " for HTTPS"
)

# The interface is that of this version, which packages compare with their minimum.
OPENSSL_VERSION = "OpenSSL 3.0.0 (its interface only: this guest has no TLS)"
OPENSSL_VERSION_INFO = _OPENSSL_API_VERSION = (3, 0, 0, 0, 0)
OPENSSL_VERSION_NUMBER = 0x30000000

HAS_SNI = HAS_ECDH = HAS_NPN = HAS_ALPN = HAS_TLS_UNIQUE = HAS_PSK = HAS_PHA = False
HAS_SSLv2 = HAS_SSLv3 = HAS_TLSv1 = HAS_TLSv1_1 = HAS_TLSv1_2 = HAS_TLSv1_3 = False

_DEFAULT_CIPHERS = (
    "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
)

# The values are those of the library's headers and of the standards.
PROTOCOL_TLS = PROTOCOL_SSLv23 = 2
PROTOCOL_TLSv1, PROTOCOL_TLSv1_1, PROTOCOL_TLSv1_2 = 3, 4, 5
PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER = 16, 17
PROTO_MINIMUM_SUPPORTED, PROTO_MAXIMUM_SUPPORTED = -2, -1
PROTO_SSLv3, PROTO_TLSv1, PROTO_TLSv1_1, PROTO_TLSv1_2, PROTO_TLSv1_3 = range(0x300, 0x305)

CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED = range(3)
ENCODING_PEM, ENCODING_DER = 1, 2

SSL_ERROR_SSL, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE = 1, 2, 3
SSL_ERROR_WANT_X509_LOOKUP, SSL_ERROR_SYSCALL, SSL_ERROR_ZERO_RETURN = 4, 5, 6
SSL_ERROR_WANT_CONNECT, SSL_ERROR_EOF, SSL_ERROR_INVALID_ERROR_CODE = 7, 8, 10

VERIFY_DEFAULT, VERIFY_CRL_CHECK_LEAF, VERIFY_CRL_CHECK_CHAIN = 0, 0x4, 0xC
VERIFY_X509_STRICT, VERIFY_ALLOW_PROXY_CERTS = 0x20, 0x40
VERIFY_X509_TRUSTED_FIRST, VERIFY_X509_PARTIAL_CHAIN = 0x8000, 0x80000

OP_ALL, OP_IGNORE_UNEXPECTED_EOF, OP_ENABLE_KTLS = 0x80000050, 0x80, 0x8
OP_NO_SSLv2, OP_NO_SSLv3, OP_NO_TLSv1 = 0, 0x2000000, 0x4000000
OP_NO_TLSv1_1, OP_NO_TLSv1_2, OP_NO_TLSv1_3 = 0x10000000, 0x8000000, 0x20000000
OP_NO_COMPRESSION, OP_NO_RENEGOTIATION, OP_NO_TICKET = 0x20000, 0x40000000, 0x4000
OP_CIPHER_SERVER_PREFERENCE, OP_ENABLE_MIDDLEBOX_COMPAT = 0x400000, 0x100000
OP_LEGACY_SERVER_CONNECT, OP_SINGLE_DH_USE, OP_SINGLE_ECDH_USE = 0x4, 0, 0

HOSTFLAG_ALWAYS_CHECK_SUBJECT, HOSTFLAG_NO_WILDCARDS = 0x1, 0x2
HOSTFLAG_NO_PARTIAL_WILDCARDS, HOSTFLAG_MULTI_LABEL_WILDCARDS = 0x4, 0x8
HOSTFLAG_SINGLE_LABEL_SUBDOMAINS, HOSTFLAG_NEVER_CHECK_SUBJECT = 0x10, 0x20

ALERT_DESCRIPTION_CLOSE_NOTIFY = 0
ALERT_DESCRIPTION_UNEXPECTED_MESSAGE = 10
ALERT_DESCRIPTION_BAD_RECORD_MAC = 20
ALERT_DESCRIPTION_RECORD_OVERFLOW = 22
ALERT_DESCRIPTION_DECOMPRESSION_FAILURE = 30
ALERT_DESCRIPTION_HANDSHAKE_FAILURE = 40
ALERT_DESCRIPTION_BAD_CERTIFICATE = 42
ALERT_DESCRIPTION_UNSUPPORTED_CERTIFICATE = 43
ALERT_DESCRIPTION_CERTIFICATE_REVOKED = 44
ALERT_DESCRIPTION_CERTIFICATE_EXPIRED = 45
ALERT_DESCRIPTION_CERTIFICATE_UNKNOWN = 46
ALERT_DESCRIPTION_ILLEGAL_PARAMETER = 47
ALERT_DESCRIPTION_UNKNOWN_CA = 48
ALERT_DESCRIPTION_ACCESS_DENIED = 49
ALERT_DESCRIPTION_DECODE_ERROR = 50
ALERT_DESCRIPTION_DECRYPT_ERROR = 51
ALERT_DESCRIPTION_PROTOCOL_VERSION = 70
ALERT_DESCRIPTION_INSUFFICIENT_SECURITY = 71
ALERT_DESCRIPTION_INTERNAL_ERROR = 80
ALERT_DESCRIPTION_USER_CANCELLED = 90
ALERT_DESCRIPTION_NO_RENEGOTIATION = 100
ALERT_DESCRIPTION_UNSUPPORTED_EXTENSION = 110
ALERT_DESCRIPTION_CERTIFICATE_UNOBTAINABLE = 111
ALERT_DESCRIPTION_UNRECOGNIZED_NAME = 112
ALERT_DESCRIPTION_BAD_CERTIFICATE_STATUS_RESPONSE = 113
ALERT_DESCRIPTION_BAD_CERTIFICATE_HASH_VALUE = 114
ALERT_DESCRIPTION_UNKNOWN_PSK_IDENTITY = 115

# The object identifiers that the library itself looks up: number, names and identifier.
_OBJECTS = (
    (129, "serverAuth", "TLS Web Server Authentication", "1.3.6.1.5.5.7.3.1"),
    (130, "clientAuth", "TLS Web Client Authentication", "1.3.6.1.5.5.7.3.2"),
)


class SSLError(OSError):
    """An error of TLS."""

    __module__ = "ssl"
    reason = library = None

    def __str__(self):
        return self.strerror if isinstance(self.strerror, str) else super().__str__()


class SSLZeroReturnError(SSLError):
    """The connection was closed in order."""

    __module__ = "ssl"


class SSLWantReadError(SSLError):
    """More data must be received before the operation can continue."""

    __module__ = "ssl"


class SSLWantWriteError(SSLError):
    """Data must be sent before the operation can continue."""

    __module__ = "ssl"


class SSLSyscallError(SSLError):
    """A system call failed."""

    __module__ = "ssl"


class SSLEOFError(SSLError):
    """The connection was closed in violation of the protocol."""

    __module__ = "ssl"


class SSLCertVerificationError(SSLError, ValueError):
    """A certificate could not be verified."""

    __module__ = "ssl"


def _refuse():
    raise SSLError(SSL_ERROR_SSL, _UNAVAILABLE)


class SSLSession:
    """A session, of which none can exist."""

    __module__ = "ssl"

    def __new__(cls):
        raise TypeError("cannot create '_ssl.SSLSession' instances")


class Certificate:
    """A certificate, of which none can exist."""

    def __new__(cls):
        raise TypeError("cannot create '_ssl.Certificate' instances")


class MemoryBIO:
    """A buffer that would carry the data of a connection."""

    __module__ = "ssl"

    def __init__(self):
        self._data = bytearray()
        self._is_ended = False

    @property
    def pending(self):
        return len(self._data)

    @property
    def eof(self):
        return self._is_ended and not self._data

    def read(self, size=-1, /):
        data = bytes(self._data if size < 0 else self._data[:size])
        del self._data[: len(data)]
        return data

    def write(self, b, /):
        data = memoryview(b).cast("B")
        if self._is_ended:
            raise SSLError(SSL_ERROR_SSL, "cannot write() after write_eof()")
        self._data += data
        return len(data)

    def write_eof(self):
        self._is_ended = True


class _SSLContext:
    """The settings of connections. None can be opened."""

    def __new__(cls, protocol, /):
        if protocol not in (*range(2, 6), PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER):
            raise ValueError("invalid or unsupported protocol version")
        self = super().__new__(cls)
        is_client = protocol == PROTOCOL_TLS_CLIENT
        self._protocol = protocol
        self._options = (
            OP_ALL & ~OP_IGNORE_UNEXPECTED_EOF
            | OP_NO_SSLv3
            | OP_NO_COMPRESSION
            | OP_CIPHER_SERVER_PREFERENCE
            | OP_ENABLE_MIDDLEBOX_COMPAT
            | OP_IGNORE_UNEXPECTED_EOF
        )
        self._verify_mode = CERT_REQUIRED if is_client else CERT_NONE
        self._check_hostname = is_client
        self._verify_flags = VERIFY_X509_TRUSTED_FIRST
        self._versions = [PROTO_MINIMUM_SUPPORTED, PROTO_MAXIMUM_SUPPORTED]
        self._host_flags = HOSTFLAG_NO_PARTIAL_WILDCARDS
        self._callback = None
        self.keylog_filename = None
        self.num_tickets = 2
        self.post_handshake_auth = False
        self.security_level = 2
        self.sni_callback = None
        return self

    protocol = property(lambda self: self._protocol)

    def _set_options(self, value):
        self._options = _unsigned(value)

    options = property(lambda self: self._options, _set_options)

    def _set_verify_flags(self, value):
        self._verify_flags = _unsigned(value)

    verify_flags = property(lambda self: self._verify_flags, _set_verify_flags)

    def _set_verify_mode(self, value):
        if value not in (CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED):
            raise ValueError("invalid value for verify_mode")
        if value == CERT_NONE and self._check_hostname:
            raise ValueError("Cannot set verify_mode to CERT_NONE when check_hostname is enabled.")
        self._verify_mode = int(value)

    verify_mode = property(lambda self: self._verify_mode, _set_verify_mode)

    def _set_check_hostname(self, value):
        self._check_hostname = bool(value)
        if self._check_hostname and self._verify_mode == CERT_NONE:
            self._verify_mode = CERT_REQUIRED

    check_hostname = property(lambda self: self._check_hostname, _set_check_hostname)

    def _set_minimum_version(self, value):
        self._versions[0] = _version(value)

    minimum_version = property(lambda self: self._versions[0], _set_minimum_version)

    def _set_maximum_version(self, value):
        self._versions[1] = _version(value)

    maximum_version = property(lambda self: self._versions[1], _set_maximum_version)

    def _set_msg_callback(self, value):
        self._callback = value

    _msg_callback = property(lambda self: self._callback, _set_msg_callback)

    def set_ciphers(self, cipherlist, /):
        if not isinstance(cipherlist, str):
            raise TypeError(f"set_ciphers() argument must be str, not {type(cipherlist).__name__}")

    def get_ciphers(self):
        return []

    def _set_alpn_protocols(self, protos, /):
        pass

    def set_ecdh_curve(self, name, /):
        pass

    def set_default_verify_paths(self):
        """Does nothing: there are no default certificates."""

    def load_verify_locations(self, cafile=None, capath=None, cadata=None):
        """Checks that the files exist. Their certificates are not read."""
        if cafile is None and capath is None and cadata is None:
            raise TypeError("cafile, capath and cadata cannot be all omitted")
        if cadata is not None and not isinstance(cadata, str):
            memoryview(cadata)
        for path in (cafile, capath):
            if path is not None:
                _os.stat(path)

    def load_cert_chain(self, certfile, keyfile=None, password=None):
        _os.stat(certfile)
        _refuse()

    def load_dh_params(self, path, /):
        _os.stat(path)
        _refuse()

    def cert_store_stats(self):
        return {"x509": 0, "x509_ca": 0, "crl": 0}

    def get_ca_certs(self, binary_form=False):
        return []

    def session_stats(self):
        names = "number connect connect_good connect_renegotiate accept accept_good"
        names = f"{names} accept_renegotiate hits misses timeouts cache_full"
        return dict.fromkeys(names.split(), 0)

    def set_psk_client_callback(self, callback):
        raise NotImplementedError("TLS-PSK is not supported by your OpenSSL version.")

    def set_psk_server_callback(self, callback, identity_hint=None):
        raise NotImplementedError("TLS-PSK is not supported by your OpenSSL version.")

    def _wrap_socket(self, sock, server_side, server_hostname=None, *, owner=None, session=None):
        _refuse()

    def _wrap_bio(
        self, incoming, outgoing, server_side, server_hostname=None, *, owner=None, session=None
    ):
        _refuse()


def _unsigned(value):
    if not isinstance(value, int):
        raise TypeError(f"an integer is required, not {type(value).__name__}")
    if not 0 <= value < 1 << 64:
        raise OverflowError("can't convert negative value to unsigned int")
    return int(value)


def _version(value):
    if value not in (*range(-2, 0), *range(PROTO_SSLv3, PROTO_TLSv1_3 + 1)):
        raise ValueError(f"Unsupported TLS/SSL version {value:#x}")
    return int(value)


def txt2obj(txt, name=False):
    for found in _OBJECTS:
        if txt == found[3] or (name and txt in found):
            return found
    raise ValueError(f"unknown object '{txt[:100]}'")


def nid2obj(nid, /):
    for found in _OBJECTS:
        if nid == found[0]:
            return found
    raise ValueError(f"unknown NID {nid}")


def get_default_verify_paths():
    return "SSL_CERT_FILE", "/etc/ssl/cert.pem", "SSL_CERT_DIR", "/etc/ssl/certs"


def RAND_bytes(n, /):  # noqa: N802
    if n < 0:
        raise ValueError("num must be positive")
    return _os.urandom(n)


def RAND_status():  # noqa: N802
    return True


def RAND_add(string, entropy, /):  # noqa: N802
    """Does nothing: the host provides random numbers."""


def _test_decode_cert(path, /):
    raise OSError(_errno.ENOTSUP, _UNAVAILABLE, path)
