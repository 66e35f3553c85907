/* The module `_isola_bzip2`: streams of bzip2. `_bz2.py` is built on it. */

#include <bzlib.h>

#include "stream.h"

static const char *const STREAM_NAME = "_isola_bzip2.stream";

struct bzip2 {
    struct stream stream;
    bz_stream library;
};

static void *allocate(void *opaque, int count, int size)
{
    (void)opaque;
    if (count < 0 || size < 0 || (size && count > INT32_MAX / size))
        return NULL;
    return PyMem_RawMalloc((size_t)count * (size_t)size);
}

static void release(void *opaque, void *memory)
{
    (void)opaque;
    PyMem_RawFree(memory);
}

static struct bzip2 *new_stream(void)
{
    struct bzip2 *self = PyMem_RawCalloc(1, sizeof *self);
    if (self) {
        self->library.bzalloc = allocate;
        self->library.bzfree = release;
    }
    return self;
}

static void lend(struct bzip2 *self, const struct buffers *buffers)
{
    self->library.next_in = (char *)buffers->input;
    self->library.avail_in = buffers->input_left;
    self->library.next_out = (char *)buffers->output;
    self->library.avail_out = buffers->output_left;
}

static void take_back(struct bzip2 *self, struct buffers *buffers)
{
    buffers->input = (const uint8_t *)self->library.next_in;
    buffers->input_left = self->library.avail_in;
    buffers->output = (uint8_t *)self->library.next_out;
    buffers->output_left = self->library.avail_out;
    self->library.next_in = self->library.next_out = NULL;
    self->library.avail_in = self->library.avail_out = 0;
}

static int compress(struct stream *stream, struct buffers *buffers, int action)
{
    struct bzip2 *self = (struct bzip2 *)stream;
    int finish = action == BZ_FINISH;
    int result = BZ_RUN_OK;
    if (!finish && !buffers->input_left)
        return STREAM_OK;
    lend(self, buffers);
    while (self->library.avail_out && (finish || self->library.avail_in)) {
        result = BZ2_bzCompress(&self->library, finish ? BZ_FINISH : BZ_RUN);
        if (result != BZ_RUN_OK && result != BZ_FINISH_OK)
            break;
    }
    take_back(self, buffers);
    if (result == BZ_STREAM_END)
        return STREAM_END;
    return result < 0 ? (stream->error = result) : STREAM_OK;
}

static int decompress(struct stream *stream, struct buffers *buffers, int action)
{
    (void)action;
    struct bzip2 *self = (struct bzip2 *)stream;
    lend(self, buffers);
    int result = BZ2_bzDecompress(&self->library);
    take_back(self, buffers);
    if (result == BZ_STREAM_END)
        return STREAM_END;
    return result < 0 ? (stream->error = result) : STREAM_OK;
}

static void free_compressor(struct stream *stream)
{
    BZ2_bzCompressEnd(&((struct bzip2 *)stream)->library);
    PyMem_RawFree(stream);
}

static void free_decompressor(struct stream *stream)
{
    BZ2_bzDecompressEnd(&((struct bzip2 *)stream)->library);
    PyMem_RawFree(stream);
}

/* compressor(level) -> stream. The level must be valid. */
static PyObject *compressor(PyObject *module, PyObject *args)
{
    (void)module;
    int level;
    if (!PyArg_ParseTuple(args, "i", &level))
        return NULL;
    struct bzip2 *self = new_stream();
    if (!self)
        return PyErr_NoMemory();
    self->stream.step = compress;
    self->stream.free = free_compressor;
    int result = BZ2_bzCompressInit(&self->library, level, 0, 0);
    if (result == BZ_OK)
        return stream_new(&self->stream);
    PyMem_RawFree(self);
    if (result == BZ_MEM_ERROR)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_RuntimeError, "not a level of bzip2");
    return NULL;
}

/* decompressor() -> stream */
static PyObject *decompressor(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    struct bzip2 *self = new_stream();
    if (!self)
        return PyErr_NoMemory();
    self->stream.step = decompress;
    self->stream.free = free_decompressor;
    if (BZ2_bzDecompressInit(&self->library, 0, 0) == BZ_OK)
        return stream_new(&self->stream);
    PyMem_RawFree(self);
    return PyErr_NoMemory();
}

/* bzip2 calls it at an internal error. The guest ends. */
void bz_internal_error(int code)
{
    (void)code;
    __builtin_trap();
}

static PyMethodDef methods[] = {
    {"compressor", compressor, METH_VARARGS, NULL},
    {"decompressor", decompressor, METH_VARARGS, NULL},
    STREAM_METHODS,
    {0},
};

DEFINE_MODULE(_isola_bzip2, methods)
