/* Products of matrices of floats and doubles, for a numpy without a BLAS library.
 *
 * The matrices are cut into blocks that fit into the caches of a processor. A block is
 * copied so that its elements are read in order, whatever their distances in the array are,
 * and multiplied in tiles of ROWS x 2 vectors, which stay in registers. */

#ifndef ISOLA_MATMUL_H
#define ISOLA_MATMUL_H

#include <stdlib.h>
#include <string.h>

#include "numpy/npy_common.h"

/* The elements of a block. A block of the left matrix has 64 KiB for doubles, one of the
 * right matrix has 512 KiB. */
#define ISOLA_MATMUL_ROWS 4
#define ISOLA_MATMUL_BLOCK_M 64
#define ISOLA_MATMUL_BLOCK_N 128
#define ISOLA_MATMUL_BLOCK_P 512

/* Below this number of multiplications copying does not pay. */
#define ISOLA_MATMUL_MIN 2048

/* Defines the function for elements of `type`, of which `lanes` are in a vector. It returns 0
 * if the plain loop has to be used: the matrices are small, or memory is exhausted. */
#define ISOLA_DEFINE_MATMUL(name, type, lanes)                                             \
    typedef type name##_vector __attribute__((vector_size(16), aligned(sizeof(type))));    \
                                                                                           \
    /* Multiplies a tile and adds it to `out`. */                                          \
    static inline void name##_tile(const type *restrict a, const type *restrict b,         \
                                   npy_intp depth, type *restrict out)                     \
    {                                                                                      \
        name##_vector sums[ISOLA_MATMUL_ROWS][2] = {{{0}}};                                \
        for (npy_intp k = 0; k < depth; k++) {                                             \
            name##_vector b0, b1;                                                          \
            memcpy(&b0, b, 16);                                                            \
            memcpy(&b1, b + lanes, 16);                                                    \
            for (int row = 0; row < ISOLA_MATMUL_ROWS; row++) {                            \
                sums[row][0] += a[row] * b0;                                               \
                sums[row][1] += a[row] * b1;                                               \
            }                                                                              \
            a += ISOLA_MATMUL_ROWS;                                                        \
            b += 2 * lanes;                                                                \
        }                                                                                  \
        memcpy(out, sums, sizeof(sums));                                                   \
    }                                                                                      \
                                                                                           \
    static int name(char *left, npy_intp left_m, npy_intp left_n, char *right,             \
                    npy_intp right_n, npy_intp right_p, char *out, npy_intp out_m,         \
                    npy_intp out_p, npy_intp dm, npy_intp dn, npy_intp dp)                 \
    {                                                                                      \
        enum { COLUMNS = 2 * lanes };                                                      \
        if (dm < ISOLA_MATMUL_ROWS || dp < COLUMNS ||                                      \
            (double)dm * dn * dp < ISOLA_MATMUL_MIN)                                       \
            return 0;                                                                      \
        type *blocks = malloc(sizeof(type) * ISOLA_MATMUL_BLOCK_N *                        \
                              (ISOLA_MATMUL_BLOCK_M + ISOLA_MATMUL_BLOCK_P));              \
        if (blocks == NULL)                                                                \
            return 0;                                                                      \
        type *a = blocks, *b = blocks + ISOLA_MATMUL_BLOCK_N * ISOLA_MATMUL_BLOCK_M;       \
        for (npy_intp p0 = 0; p0 < dp; p0 += ISOLA_MATMUL_BLOCK_P) {                       \
            npy_intp p1 = dp - p0 < ISOLA_MATMUL_BLOCK_P ? dp : p0 + ISOLA_MATMUL_BLOCK_P; \
            for (npy_intp n0 = 0; n0 < dn; n0 += ISOLA_MATMUL_BLOCK_N) {                   \
                npy_intp n1 =                                                              \
                    dn - n0 < ISOLA_MATMUL_BLOCK_N ? dn : n0 + ISOLA_MATMUL_BLOCK_N;       \
                /* The right block, in panels of COLUMNS columns. */                       \
                type *to = b;                                                              \
                for (npy_intp p = p0; p < p1; p += COLUMNS)                                \
                    for (npy_intp n = n0; n < n1; n++)                                     \
                        for (npy_intp j = 0; j < COLUMNS; j++, to++)                       \
                            *to = p + j < p1 ? *(type *)(right + n * right_n +             \
                                                         (p + j) * right_p)                \
                                             : 0;                                          \
                for (npy_intp m0 = 0; m0 < dm; m0 += ISOLA_MATMUL_BLOCK_M) {               \
                    npy_intp m1 =                                                          \
                        dm - m0 < ISOLA_MATMUL_BLOCK_M ? dm : m0 + ISOLA_MATMUL_BLOCK_M;   \
                    /* The left block, in panels of ROWS rows. */                          \
                    to = a;                                                                \
                    for (npy_intp m = m0; m < m1; m += ISOLA_MATMUL_ROWS)                  \
                        for (npy_intp n = n0; n < n1; n++)                                 \
                            for (npy_intp i = 0; i < ISOLA_MATMUL_ROWS; i++, to++)         \
                                *to = m + i < m1 ? *(type *)(left + (m + i) * left_m +     \
                                                             n * left_n)                   \
                                                 : 0;                                      \
                    for (npy_intp p = p0; p < p1; p += COLUMNS)                            \
                        for (npy_intp m = m0; m < m1; m += ISOLA_MATMUL_ROWS) {            \
                            type tile[ISOLA_MATMUL_ROWS][COLUMNS];                         \
                            name##_tile(a + (m - m0) * (n1 - n0),                          \
                                        b + (p - p0) * (n1 - n0), n1 - n0, tile[0]);       \
                            for (npy_intp i = 0; i < ISOLA_MATMUL_ROWS && m + i < m1; i++) \
                                for (npy_intp j = 0; j < COLUMNS && p + j < p1; j++) {     \
                                    type *cell = (type *)(out + (m + i) * out_m +          \
                                                          (p + j) * out_p);                \
                                    *cell = n0 == 0 ? tile[i][j] : *cell + tile[i][j];     \
                                }                                                          \
                        }                                                                  \
                }                                                                          \
            }                                                                              \
        }                                                                                  \
        free(blocks);                                                                      \
        return 1;                                                                          \
    }

ISOLA_DEFINE_MATMUL(isola_matmul_float, float, 4)
ISOLA_DEFINE_MATMUL(isola_matmul_double, double, 2)

static inline int isola_matmul_other(char *left, npy_intp left_m, npy_intp left_n, char *right,
                                     npy_intp right_n, npy_intp right_p, char *out,
                                     npy_intp out_m, npy_intp out_p, npy_intp dm, npy_intp dn,
                                     npy_intp dp)
{
    (void)left, (void)left_m, (void)left_n, (void)right, (void)right_n, (void)right_p;
    (void)out, (void)out_m, (void)out_p, (void)dm, (void)dn, (void)dp;
    return 0;
}

/* The function for a type of elements. */
#define ISOLA_MATMUL(type)                                                                 \
    _Generic((type *)NULL, float *: isola_matmul_float, double *: isola_matmul_double,     \
             default: isola_matmul_other)

#endif
