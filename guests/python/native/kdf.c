/* The module `_isola_kdf`: PBKDF2 with HMAC (RFC 8018) and scrypt (RFC 7914).
 *
 * The hash functions of the interpreter can only be called through objects, which takes
 * longer than a round. So the module has those of FIPS 180-4 that keys are derived
 * with. `key_derivation.py` checks the arguments. */

#include <string.h>

#include "python.h"

#define MAX_BLOCK 128
#define MAX_DIGEST 64

/* A chaining value: up to eight words of 32 or 64 bits. */
union chain {
    uint32_t narrow[8];
    uint64_t wide[8];
};

struct hash {
    const char *name;
    size_t block_size;
    size_t digest_size;
    union chain initial;
    /* Mixes a block into the chaining value. */
    void (*compress)(union chain *chain, const uint8_t *block);
    /* Writes the digest. */
    void (*write)(const union chain *chain, uint8_t *digest, size_t size);
};

static uint32_t read32(const uint8_t *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return __builtin_bswap32(word);
}

static uint64_t read64(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return __builtin_bswap64(word);
}

static void write32(const union chain *chain, uint8_t *digest, size_t size)
{
    for (size_t at = 0; at < size / 4; at++) {
        uint32_t word = __builtin_bswap32(chain->narrow[at]);
        memcpy(digest + 4 * at, &word, sizeof word);
    }
}

static void write64(const union chain *chain, uint8_t *digest, size_t size)
{
    for (size_t at = 0; at < size / 8; at++) {
        uint64_t word = __builtin_bswap64(chain->wide[at]);
        memcpy(digest + 8 * at, &word, sizeof word);
    }
}

static uint32_t left32(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static uint32_t right32(uint32_t word, int bits)
{
    return word >> bits | word << (32 - bits);
}

static uint64_t right64(uint64_t word, int bits)
{
    return word >> bits | word << (64 - bits);
}

/* The functions of FIPS 180-4, section 4.1. */
#define CHOOSE(x, y, z) (((x) & (y)) ^ (~(x) & (z)))
#define MAJORITY(x, y, z) (((x) & (y)) ^ ((x) & (z)) ^ ((y) & (z)))
#define PARITY(x, y, z) ((x) ^ (y) ^ (z))

static void compress_sha1(union chain *chain, const uint8_t *block)
{
    uint32_t w[80];
    for (int t = 0; t < 16; t++)
        w[t] = read32(block + 4 * t);
    for (int t = 16; t < 80; t++)
        w[t] = left32(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    uint32_t *h = chain->narrow;
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
#define ROUNDS(first, function, constant)                                              \
    for (int t = (first); t < (first) + 20; t++) {                                     \
        uint32_t next = left32(a, 5) + function(b, c, d) + e + (constant) + w[t];      \
        e = d, d = c, c = left32(b, 30), b = a, a = next;                              \
    }
    ROUNDS(0, CHOOSE, 0x5a827999)
    ROUNDS(20, PARITY, 0x6ed9eba1)
    ROUNDS(40, MAJORITY, 0x8f1bbcdc)
    ROUNDS(60, PARITY, 0xca62c1d6)
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* The constants of SHA-512. The upper halves of the first 64 are those of SHA-256. */
static const uint64_t K[80] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
    0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
    0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
    0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
    0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
    0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
    0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
    0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
    0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
    0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
    0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
    0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
    0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
    0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
    0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
    0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
    0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

/* A round, with the names of the variables rotated instead of their values. */
#define ROUND(a, b, c, d, e, f, g, h, constant, word)                                  \
    h += SUM1(e) + CHOOSE(e, f, g) + (constant) + (word);                              \
    d += h;                                                                            \
    h += SUM0(a) + MAJORITY(a, b, c);

#define EIGHT_ROUNDS(constant, word)                                                   \
    ROUND(a, b, c, d, e, f, g, h, constant(0), word(0))                                \
    ROUND(h, a, b, c, d, e, f, g, constant(1), word(1))                                \
    ROUND(g, h, a, b, c, d, e, f, constant(2), word(2))                                \
    ROUND(f, g, h, a, b, c, d, e, constant(3), word(3))                                \
    ROUND(e, f, g, h, a, b, c, d, constant(4), word(4))                                \
    ROUND(d, e, f, g, h, a, b, c, constant(5), word(5))                                \
    ROUND(c, d, e, f, g, h, a, b, constant(6), word(6))                                \
    ROUND(b, c, d, e, f, g, h, a, constant(7), word(7))

static void compress_sha256(union chain *chain, const uint8_t *block)
{
    uint32_t w[64];
    for (int t = 0; t < 16; t++)
        w[t] = read32(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (right32(x, 7) ^ right32(x, 18) ^ x >> 3) + w[t - 7] +
               (right32(y, 17) ^ right32(y, 19) ^ y >> 10);
    }
    uint32_t *v = chain->narrow;
    uint32_t a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
#define SUM0(x) (right32(x, 2) ^ right32(x, 13) ^ right32(x, 22))
#define SUM1(x) (right32(x, 6) ^ right32(x, 11) ^ right32(x, 25))
#define CONSTANT(i) (uint32_t)(K[t + (i)] >> 32)
#define WORD(i) w[t + (i)]
    for (int t = 0; t < 64; t += 8) {
        EIGHT_ROUNDS(CONSTANT, WORD)
    }
#undef SUM0
#undef SUM1
#undef CONSTANT
    v[0] += a, v[1] += b, v[2] += c, v[3] += d, v[4] += e, v[5] += f, v[6] += g, v[7] += h;
}

static void compress_sha512(union chain *chain, const uint8_t *block)
{
    uint64_t w[80];
    for (int t = 0; t < 16; t++)
        w[t] = read64(block + 8 * t);
    for (int t = 16; t < 80; t++) {
        uint64_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (right64(x, 1) ^ right64(x, 8) ^ x >> 7) + w[t - 7] +
               (right64(y, 19) ^ right64(y, 61) ^ y >> 6);
    }
    uint64_t *v = chain->wide;
    uint64_t a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
#define SUM0(x) (right64(x, 28) ^ right64(x, 34) ^ right64(x, 39))
#define SUM1(x) (right64(x, 14) ^ right64(x, 18) ^ right64(x, 41))
#define CONSTANT(i) K[t + (i)]
    for (int t = 0; t < 80; t += 8) {
        EIGHT_ROUNDS(CONSTANT, WORD)
    }
    v[0] += a, v[1] += b, v[2] += c, v[3] += d, v[4] += e, v[5] += f, v[6] += g, v[7] += h;
}

static const struct hash HASHES[] = {
    {"sha1", 64, 20,
     {.narrow = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}},
     compress_sha1, write32},
    {"sha224", 64, 28,
     {.narrow = {0xc1059ed8, 0x367cd507, 0x3070dd17, 0xf70e5939, 0xffc00b31, 0x68581511,
                 0x64f98fa7, 0xbefa4fa4}},
     compress_sha256, write32},
    {"sha256", 64, 32,
     {.narrow = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                 0x1f83d9ab, 0x5be0cd19}},
     compress_sha256, write32},
    {"sha384", 128, 48,
     {.wide = {0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939,
               0x67332667ffc00b31, 0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4}},
     compress_sha512, write64},
    {"sha512", 128, 64,
     {.wide = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
               0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179}},
     compress_sha512, write64},
};

static const struct hash *hash_named(const char *name)
{
    for (size_t at = 0; at < sizeof HASHES / sizeof *HASHES; at++)
        if (!strcmp(HASHES[at].name, name))
            return &HASHES[at];
    return NULL;
}

/* Hashes data after `before` bytes that are in the chaining value already. */
static void finish_hash(const struct hash *hash, union chain *chain, size_t before,
                        const uint8_t *data, size_t size, uint8_t *digest)
{
    size_t left = size;
    for (; left >= hash->block_size; left -= hash->block_size, data += hash->block_size)
        hash->compress(chain, data);
    uint8_t end[2 * MAX_BLOCK] = {0};
    memcpy(end, data, left);
    end[left] = 0x80;
    /* The length in bits: 8 or 16 bytes, of which 8 suffice. */
    size_t blocks = left + 1 + hash->block_size / 8 > hash->block_size ? 2 : 1;
    uint64_t bits = __builtin_bswap64(((uint64_t)before + size) * 8);
    memcpy(end + blocks * hash->block_size - sizeof bits, &bits, sizeof bits);
    for (size_t at = 0; at < blocks; at++)
        hash->compress(chain, end + at * hash->block_size);
    hash->write(chain, digest, hash->digest_size);
}

/* The chaining values after the key of HMAC. */
struct hmac {
    const struct hash *hash;
    union chain inner, outer;
};

static void hmac_key(struct hmac *hmac, const struct hash *hash, const uint8_t *key, size_t size)
{
    uint8_t block[MAX_BLOCK] = {0};
    if (size > hash->block_size) {
        union chain chain = hash->initial;
        finish_hash(hash, &chain, 0, key, size, block);
    } else {
        memcpy(block, key, size);
    }
    hmac->hash = hash;
    hmac->inner = hmac->outer = hash->initial;
    for (size_t at = 0; at < hash->block_size; at++)
        block[at] ^= 0x36;
    hash->compress(&hmac->inner, block);
    for (size_t at = 0; at < hash->block_size; at++)
        block[at] ^= 0x36 ^ 0x5c;
    hash->compress(&hmac->outer, block);
}

static void hmac_message(const struct hmac *hmac, const uint8_t *data, size_t size, uint8_t *mac)
{
    const struct hash *hash = hmac->hash;
    union chain chain = hmac->inner;
    finish_hash(hash, &chain, hash->block_size, data, size, mac);
    chain = hmac->outer;
    finish_hash(hash, &chain, hash->block_size, mac, hash->digest_size, mac);
}

/* Derives a key. `salt` has four more bytes, for the number of the block. */
static void pbkdf2(const struct hmac *hmac, uint8_t *salt, size_t salt_size, uint32_t iterations,
                   uint8_t *key, size_t key_size)
{
    const struct hash *hash = hmac->hash;
    size_t size = hash->digest_size;
    /* A digest as the last block of a message after the key. */
    uint8_t block[MAX_BLOCK] = {0};
    uint64_t bits = __builtin_bswap64((uint64_t)(hash->block_size + size) * 8);
    memcpy(block + hash->block_size - sizeof bits, &bits, sizeof bits);
    block[size] = 0x80;
    for (uint32_t number = 1; key_size; number++) {
        uint32_t big_endian = __builtin_bswap32(number);
        memcpy(salt + salt_size, &big_endian, sizeof big_endian);
        hmac_message(hmac, salt, salt_size + sizeof big_endian, block);
        uint8_t sum[MAX_DIGEST];
        memcpy(sum, block, size);
        for (uint32_t at = 1; at < iterations; at++) {
            union chain chain = hmac->inner;
            hash->compress(&chain, block);
            hash->write(&chain, block, size);
            chain = hmac->outer;
            hash->compress(&chain, block);
            hash->write(&chain, block, size);
            for (size_t byte = 0; byte < size; byte++)
                sum[byte] ^= block[byte];
        }
        size_t part = key_size < size ? key_size : size;
        memcpy(key, sum, part);
        key += part;
        key_size -= part;
    }
}

/* Sixteen words of Salsa20 as the four diagonals of its matrix, so that a quarter of a
 * round is one operation on vectors. */
typedef uint32_t vector __attribute__((vector_size(16)));

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define LANES(x, a, b, c, d) __builtin_shufflevector(x, x, a, b, c, d)

/* Salsa20/8 of a ^ b, into both. */
static void salsa(vector *state, const vector *with)
{
    vector a = state[0] ^ with[0], b = state[1] ^ with[1];
    vector c = state[2] ^ with[2], d = state[3] ^ with[3];
    vector a0 = a, b0 = b, c0 = c, d0 = d;
    for (int round = 0; round < 8; round += 2) {
        /* The columns. */
        b ^= ROTATE(a + d, 7);
        c ^= ROTATE(b + a, 9);
        d ^= ROTATE(c + b, 13);
        a ^= ROTATE(d + c, 18);
        b = LANES(b, 3, 0, 1, 2);
        c = LANES(c, 2, 3, 0, 1);
        d = LANES(d, 1, 2, 3, 0);
        /* The rows. */
        d ^= ROTATE(a + b, 7);
        c ^= ROTATE(d + a, 9);
        b ^= ROTATE(c + d, 13);
        a ^= ROTATE(b + c, 18);
        b = LANES(b, 1, 2, 3, 0);
        c = LANES(c, 2, 3, 0, 1);
        d = LANES(d, 3, 0, 1, 2);
    }
    state[0] = a + a0;
    state[1] = b + b0;
    state[2] = c + c0;
    state[3] = d + d0;
}

/* The function scryptBlockMix of RFC 7914, of 2 * r blocks of four vectors. */
static void mix_blocks(const vector *from, vector *to, size_t r)
{
    const vector *last = from + 4 * (2 * r - 1);
    vector state[4] = {last[0], last[1], last[2], last[3]};
    for (size_t at = 0; at < 2 * r; at++) {
        salsa(state, from + 4 * at);
        /* The even blocks come first. */
        memcpy(to + 4 * (at / 2 + (at % 2) * r), state, sizeof state);
    }
}

/* Copies blocks into diagonals or back. */
static void permute(const uint8_t *from, uint8_t *to, size_t blocks, int back)
{
    for (size_t block = 0; block < blocks; block++, from += 64, to += 64)
        for (size_t at = 0; at < 16; at++) {
            size_t source = back ? at : at * 5 % 16, target = back ? at * 5 % 16 : at;
            memcpy(to + 4 * target, from + 4 * source, 4);
        }
}

/* The function scryptROMix: `block` has 128 * r bytes, `x` and `y` as many, and `table` n
 * times as many. */
static void mix(uint8_t *block, size_t r, uint32_t n, vector *table, vector *x, vector *y)
{
    size_t vectors = 8 * r;
    permute(block, (uint8_t *)x, 2 * r, 0);
    for (uint32_t at = 0; at < n; at++) {
        memcpy(table + at * vectors, x, vectors * sizeof *x);
        mix_blocks(table + at * vectors, x, r);
    }
    for (uint32_t at = 0; at < n; at++) {
        const vector *entry = table + (x[vectors - 4][0] & (n - 1)) * vectors;
        for (size_t i = 0; i < vectors; i++)
            y[i] = x[i] ^ entry[i];
        mix_blocks(y, x, r);
    }
    permute((const uint8_t *)x, block, 2 * r, 1);
}

/* pbkdf2(hash, password, salt, iterations, size) -> bytes, or None if the hash function is
 * not known. The numbers must be positive. */
static PyObject *py_pbkdf2(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    Py_buffer password, salt;
    unsigned int iterations;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "sy*y*In", &name, &password, &salt, &iterations, &size))
        return NULL;
    PyObject *answer = NULL;
    const struct hash *hash = hash_named(name);
    uint8_t *copy = NULL;
    if (!hash || size < 0) {
        answer = Py_BuildValue("");
    } else if (!(copy = PyMem_RawMalloc((size_t)salt.len + 4))) {
        PyErr_NoMemory();
    } else if ((answer = PyBytes_FromStringAndSize(NULL, size))) {
        struct hmac hmac;
        hmac_key(&hmac, hash, password.buf, (size_t)password.len);
        memcpy(copy, salt.buf, (size_t)salt.len);
        pbkdf2(&hmac, copy, (size_t)salt.len, iterations, (uint8_t *)PyBytes_AsString(answer),
               (size_t)size);
    }
    PyMem_RawFree(copy);
    PyBuffer_Release(&password);
    PyBuffer_Release(&salt);
    return answer;
}

/* scrypt(password, salt, n, r, p, size) -> bytes. The numbers must be valid. */
static PyObject *py_scrypt(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer password, salt;
    unsigned int n, r, p;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y*y*IIIn", &password, &salt, &n, &r, &p, &size))
        return NULL;
    PyObject *answer = NULL;
    uint8_t *blocks = NULL, *copy = NULL;
    vector *table = NULL;
    /* In 64 bits, which do not overflow: each is at most 2^32 times 2^30. */
    uint64_t chunk = (uint64_t)r * 128;
    if (!r || r >= 1 << 22 || !p || !n || n & (n - 1) || size < 0 ||
        chunk * p > INT32_MAX - 4 || chunk * ((uint64_t)n + 2) > INT32_MAX - 16) {
        PyErr_NoMemory();
        goto end;
    }
    size_t blocks_size = (size_t)chunk * p;
    blocks = PyMem_RawMalloc(blocks_size + 4);
    copy = PyMem_RawMalloc((size_t)salt.len + 4);
    table = PyMem_RawMalloc((size_t)chunk * (n + 2) + sizeof(vector));
    if (!blocks || !copy || !table) {
        PyErr_NoMemory();
    } else if ((answer = PyBytes_FromStringAndSize(NULL, size))) {
        struct hmac hmac;
        hmac_key(&hmac, hash_named("sha256"), password.buf, (size_t)password.len);
        memcpy(copy, salt.buf, (size_t)salt.len);
        pbkdf2(&hmac, copy, (size_t)salt.len, 1, blocks, blocks_size);
        vector *aligned = (vector *)(((uintptr_t)table + sizeof(vector) - 1) &
                                     ~(uintptr_t)(sizeof(vector) - 1));
        vector *x = aligned + 8 * (size_t)r * n, *y = x + 8 * (size_t)r;
        for (size_t at = 0; at < p; at++)
            mix(blocks + at * (size_t)chunk, r, n, aligned, x, y);
        pbkdf2(&hmac, blocks, blocks_size, 1, (uint8_t *)PyBytes_AsString(answer), (size_t)size);
    }
end:
    PyMem_RawFree(blocks);
    PyMem_RawFree(copy);
    PyMem_RawFree(table);
    PyBuffer_Release(&password);
    PyBuffer_Release(&salt);
    return answer;
}

static PyMethodDef methods[] = {
    {"pbkdf2", py_pbkdf2, METH_VARARGS, NULL},
    {"scrypt", py_scrypt, METH_VARARGS, NULL},
    {0},
};

DEFINE_MODULE(_isola_kdf, methods)
