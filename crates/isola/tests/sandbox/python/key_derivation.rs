//! The functions of `hashlib` that derive keys.

use isola::{Runtime, args};

use crate::fixture::started;

const SCRIPT: &str = "
import hashlib
from hashlib import pbkdf2_hmac, scrypt
def attempt(expression):
    try:
        value = eval(expression)
        return value.hex() if isinstance(value, bytes) else repr(value)
    except Exception as error:
        return f'{type(error).__name__}: {error}'
def main(expressions):
    return [attempt(expression) for expression in expressions]
";

/// Evaluates expressions, and compares the starts of their values or errors.
async fn expect(rows: &[(&str, &str)]) {
    let sandbox = started(Runtime::Python).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    let expressions: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let seen = sandbox.run("main", args![expressions]).await.unwrap();
    let seen: Vec<String> = seen.to().unwrap();
    for ((expression, expected), seen) in rows.iter().zip(seen) {
        assert!(seen.starts_with(expected), "{expression}: {seen}");
    }
}

#[tokio::test]
async fn keys_are_those_of_the_standards() {
    expect(&[
        // RFC 6070.
        (
            "pbkdf2_hmac('sha1', b'password', b'salt', 1)",
            "0c60c80f961f0e71f3a9b524af6012062fe037a6",
        ),
        (
            "pbkdf2_hmac('sha1', b'password', b'salt', 4096)",
            "4b007901b765489abead49d926f721d065a429c1",
        ),
        (
            "pbkdf2_hmac('sha1', b'passwordPASSWORDpassword', b'salt' + b'SALTsalt' * 4, 4096, 25)",
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
        ),
        (
            "pbkdf2_hmac('sha1', b'pass\\0word', b'sa\\0lt', 4096, 16)",
            "56fa6aa75548099dcc37d7f03425e0c3",
        ),
        // RFC 7914, section 11.
        (
            "pbkdf2_hmac('sha256', b'passwd', b'salt', 1, 64)",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        (
            "pbkdf2_hmac('sha256', b'Password', b'NaCl', 80000, 64)",
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56\
             a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d",
        ),
        // RFC 7914, section 12.
        (
            "scrypt(b'', salt=b'', n=16, r=1, p=1)",
            "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442\
             fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
        ),
        (
            "scrypt(b'password', salt=b'NaCl', n=1024, r=8, p=16)",
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162\
             2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
        ),
        (
            "scrypt(b'pleaseletmein', salt=b'SodiumChloride', n=16384, r=8, p=1)",
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2\
             d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
        ),
    ])
    .await;
}

#[tokio::test]
async fn all_hash_functions_are_supported() {
    // Natively, and with the objects of `hmac`: the results are equal.
    expect(&[
        (
            "[pbkdf2_hmac(name, b'p' * 200, b's' * n, 3, n) == key_derivation._pbkdf2(name, \
             b'p' * 200, b's' * n, 3, n) for key_derivation in [__import__('isola_guest.\
             key_derivation').key_derivation] for n in (1, 51, 56, 64, 112, 130) for name in \
             ('sha1', 'sha224', 'SHA256', 'sha384', 'sha512')] == [True] * 30",
            "True",
        ),
        ("len(pbkdf2_hmac('sha3_256', bytearray(1), memoryview(b''), 2))", "32"),
        ("pbkdf2_hmac('md5', b'p', b's', 2, 100).hex()", "'"),
        ("pbkdf2_hmac('shake_128', b'p', b's', 2)", "ValueError: unsupported hash type"),
        ("pbkdf2_hmac('unknown', b'p', b's', 2)", "ValueError: unsupported hash type unknown"),
    ])
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_refused() {
    expect(&[
        ("pbkdf2_hmac(b'sha1', b'p', b's', 1)", "TypeError: pbkdf2_hmac() argument 'hash_name'"),
        ("pbkdf2_hmac('sha1', 'p', b's', 1)", "TypeError: a bytes-like object is required"),
        ("pbkdf2_hmac('sha1', b'p', b's', 0)", "ValueError: iteration value must be greater"),
        ("pbkdf2_hmac('sha1', b'p', b's', 1 << 40)", "OverflowError: iteration value is too"),
        ("pbkdf2_hmac('sha1', b'p', b's', 1, 0)", "ValueError: key length must be greater"),
        ("scrypt(b'p', salt=b's', n=3, r=8, p=1)", "ValueError: n must be a power of 2."),
        ("scrypt('p', salt=b's', n=2, r=8, p=1)", "TypeError: "),
        ("scrypt(b'p', salt=b's', n=2, r=8, p=1, dklen=0)", "ValueError: dklen must be"),
        ("scrypt(b'p', salt=b's', n=2, r=8, p=1, maxmem=-1)", "ValueError: maxmem must be"),
        ("scrypt(b'p', salt=b's', n=1 << 20, r=8, p=1)", "ValueError: memory limit exceeded"),
        ("scrypt(b'p', salt=b's', n=1 << 20, r=8, p=1, maxmem=(1 << 31) - 1)", "MemoryError"),
    ])
    .await;
}
