/* The module `_isola_zstd`: streams and dictionaries of Zstandard. `_zstd.py` is built on
 * it. An error of the library is returned as its negative code. */

#include <string.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zdict.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "stream.h"

static const char *const STREAM_NAME = "_isola_zstd.stream";
static const char *const CDICT_NAME = "_isola_zstd.cdict";
static const char *const DDICT_NAME = "_isola_zstd.ddict";

/* The ways to use a dictionary, as in `_zstd.py`. */
enum { DIGESTED, UNDIGESTED, PREFIX };

/* A stream, with one of the two contexts. */
struct zstd {
    struct stream stream;
    ZSTD_CCtx *compression;
    ZSTD_DCtx *decompression;
    /* The dictionary to which the context refers. */
    PyObject *dictionary;
    /* Whether a decompressor may hold output for which there was no space. */
    int pending;
};

static void *allocate(void *opaque, size_t size)
{
    (void)opaque;
    return PyMem_RawMalloc(size);
}

static void release(void *opaque, void *memory)
{
    (void)opaque;
    PyMem_RawFree(memory);
}

static const ZSTD_customMem MEMORY = {allocate, release, NULL};

static int error_of(size_t result)
{
    return ZSTD_isError(result) ? -(int)ZSTD_getErrorCode(result) : 0;
}

static int compress(struct stream *stream, struct buffers *buffers, int action)
{
    struct zstd *self = (struct zstd *)stream;
    ZSTD_inBuffer in = {buffers->input, buffers->input_left, 0};
    ZSTD_outBuffer out = {buffers->output, buffers->output_left, 0};
    ZSTD_EndDirective directive = action == 2   ? ZSTD_e_end
                                  : action == 1 ? ZSTD_e_flush
                                                : ZSTD_e_continue;
    size_t left;
    int done;
    do {
        left = ZSTD_compressStream2(self->compression, &out, &in, directive);
        if (ZSTD_isError(left)) {
            ZSTD_CCtx_reset(self->compression, ZSTD_reset_session_only);
            return error_of(left);
        }
        done = directive == ZSTD_e_continue ? in.pos == in.size : left == 0;
    } while (!done && out.pos < out.size);
    buffers->input += in.pos;
    buffers->input_left -= in.pos;
    buffers->output_left -= out.pos;
    /* Another call would begin another frame. */
    return done ? STREAM_END : STREAM_OK;
}

static int decompress(struct stream *stream, struct buffers *buffers, int action)
{
    (void)action;
    struct zstd *self = (struct zstd *)stream;
    ZSTD_inBuffer in = {buffers->input, buffers->input_left, 0};
    ZSTD_outBuffer out = {buffers->output, buffers->output_left, 0};
    /* The library takes many calls without any effect for an error. */
    if (!in.size && !self->pending)
        return STREAM_OK;
    size_t left;
    do {
        left = ZSTD_decompressStream(self->decompression, &out, &in);
        if (ZSTD_isError(left)) {
            ZSTD_DCtx_reset(self->decompression, ZSTD_reset_session_only);
            self->pending = 0;
            return error_of(left);
        }
    } while (left && out.pos < out.size && in.pos < in.size);
    self->pending = left && out.pos == out.size;
    buffers->input += in.pos;
    buffers->input_left -= in.pos;
    buffers->output_left -= out.pos;
    return left ? STREAM_OK : STREAM_END;
}

static void free_stream(struct stream *stream)
{
    struct zstd *self = (struct zstd *)stream;
    ZSTD_freeCCtx(self->compression);
    ZSTD_freeDCtx(self->decompression);
    PyObject *dictionary = self->dictionary;
    PyMem_RawFree(self);
    if (dictionary)
        Py_DecRef(dictionary);
}

static PyObject *new_stream(PyObject *args, int compresses)
{
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    struct zstd *self = PyMem_RawCalloc(1, sizeof *self);
    if (!self)
        return PyErr_NoMemory();
    self->stream.step = compresses ? compress : decompress;
    self->stream.free = free_stream;
    if (compresses)
        self->compression = ZSTD_createCCtx_advanced(MEMORY);
    else
        self->decompression = ZSTD_createDCtx_advanced(MEMORY);
    if (self->compression || self->decompression)
        return stream_new(&self->stream);
    PyMem_RawFree(self);
    return PyErr_NoMemory();
}

/* compressor() -> stream */
static PyObject *compressor(PyObject *module, PyObject *args)
{
    (void)module;
    return new_stream(args, 1);
}

/* decompressor() -> stream */
static PyObject *decompressor(PyObject *module, PyObject *args)
{
    (void)module;
    return new_stream(args, 0);
}

/* set_parameter(stream, parameter, value) -> 0 or error */
static PyObject *set_parameter(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    int parameter, value;
    if (!PyArg_ParseTuple(args, "Oii", &capsule, &parameter, &value))
        return NULL;
    struct zstd *self = (struct zstd *)stream_of(capsule);
    if (!self)
        return NULL;
    size_t result =
        self->compression
            ? ZSTD_CCtx_setParameter(self->compression, (ZSTD_cParameter)parameter, value)
            : ZSTD_DCtx_setParameter(self->decompression, (ZSTD_dParameter)parameter, value);
    return Py_BuildValue("i", error_of(result));
}

/* set_size(compressor, size) -> 0 or error */
static PyObject *set_size(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    unsigned long long size;
    if (!PyArg_ParseTuple(args, "OK", &capsule, &size))
        return NULL;
    struct zstd *self = (struct zstd *)stream_of(capsule);
    if (!self)
        return NULL;
    size_t result = (size_t)-ZSTD_error_stage_wrong;
    if (self->compression)
        result = ZSTD_CCtx_setPledgedSrcSize(self->compression, size);
    return Py_BuildValue("i", error_of(result));
}

/* bounds(parameter, of_compression) -> (lowest, highest) or error */
static PyObject *bounds(PyObject *module, PyObject *args)
{
    (void)module;
    int parameter, of_compression;
    if (!PyArg_ParseTuple(args, "ii", &parameter, &of_compression))
        return NULL;
    ZSTD_bounds found = of_compression ? ZSTD_cParam_getBounds((ZSTD_cParameter)parameter)
                                       : ZSTD_dParam_getBounds((ZSTD_dParameter)parameter);
    if (ZSTD_isError(found.error))
        return Py_BuildValue("i", error_of(found.error));
    return Py_BuildValue("ii", found.lowerBound, found.upperBound);
}

/* error_text(code) -> str, for a code that was returned */
static PyObject *error_text(PyObject *module, PyObject *args)
{
    (void)module;
    int code;
    if (!PyArg_ParseTuple(args, "i", &code))
        return NULL;
    return Py_BuildValue("s", ZSTD_getErrorString((ZSTD_ErrorCode)-code));
}

/* version() -> (text, number) */
static PyObject *version(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    return Py_BuildValue("sI", ZSTD_versionString(), ZSTD_versionNumber());
}

/* frame_size(data) -> size or error */
static PyObject *frame_size(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    size_t size = ZSTD_findFrameCompressedSize(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    int error = error_of(size);
    return Py_BuildValue("n", error ? (Py_ssize_t)error : (Py_ssize_t)size);
}

/* frame_info(data) -> (size of the content, id of the dictionary). The size is negative if
 * it is unknown (-1) or if the data is not a frame (-2). */
static PyObject *frame_info(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    unsigned long long size = ZSTD_getFrameContentSize(data.buf, (size_t)data.len);
    unsigned int id = ZSTD_getDictID_fromFrame(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR)
        return Py_BuildValue("iI", size == ZSTD_CONTENTSIZE_UNKNOWN ? -1 : -2, id);
    return Py_BuildValue("KI", size, id);
}

/* dictionary_id(content) -> int */
static PyObject *dictionary_id(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer content;
    if (!PyArg_ParseTuple(args, "y*", &content))
        return NULL;
    unsigned int id = ZSTD_getDictID_fromDict(content.buf, (size_t)content.len);
    PyBuffer_Release(&content);
    return Py_BuildValue("I", id);
}

static void destroy_cdict(PyObject *capsule)
{
    ZSTD_freeCDict(PyCapsule_GetPointer(capsule, CDICT_NAME));
}

static void destroy_ddict(PyObject *capsule)
{
    ZSTD_freeDDict(PyCapsule_GetPointer(capsule, DDICT_NAME));
}

/* digest_to_compress(content, level) -> digested dictionary, or None if it is not valid */
static PyObject *digest_to_compress(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer content;
    int level;
    if (!PyArg_ParseTuple(args, "y*i", &content, &level))
        return NULL;
    ZSTD_CDict *digested = NULL;
    int suffices = stack_suffices();
    if (suffices)
        digested = ZSTD_createCDict(content.buf, (size_t)content.len, level);
    PyBuffer_Release(&content);
    if (!digested)
        return suffices ? Py_BuildValue("") : NULL;
    PyObject *capsule = PyCapsule_New(digested, CDICT_NAME, destroy_cdict);
    if (!capsule)
        ZSTD_freeCDict(digested);
    return capsule;
}

/* digest_to_decompress(content) -> digested dictionary, or None if it is not valid */
static PyObject *digest_to_decompress(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer content;
    if (!PyArg_ParseTuple(args, "y*", &content))
        return NULL;
    ZSTD_DDict *digested = NULL;
    int suffices = stack_suffices();
    if (suffices)
        digested = ZSTD_createDDict(content.buf, (size_t)content.len);
    PyBuffer_Release(&content);
    if (!digested)
        return suffices ? Py_BuildValue("") : NULL;
    PyObject *capsule = PyCapsule_New(digested, DDICT_NAME, destroy_ddict);
    if (!capsule)
        ZSTD_freeDDict(digested);
    return capsule;
}

/* use_digested(stream, dictionary) -> 0 or error */
static PyObject *use_digested(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *dictionary;
    if (!PyArg_ParseTuple(args, "OO", &capsule, &dictionary))
        return NULL;
    struct zstd *self = (struct zstd *)stream_of(capsule);
    if (!self)
        return NULL;
    void *digested = PyCapsule_GetPointer(dictionary, self->compression ? CDICT_NAME : DDICT_NAME);
    if (!digested)
        return NULL;
    size_t result = self->compression ? ZSTD_CCtx_refCDict(self->compression, digested)
                                      : ZSTD_DCtx_refDDict(self->decompression, digested);
    if (!ZSTD_isError(result)) {
        PyObject *old = self->dictionary;
        Py_IncRef(dictionary);
        self->dictionary = dictionary;
        if (old)
            Py_DecRef(old);
    }
    return Py_BuildValue("i", error_of(result));
}

/* use_content(stream, content, is_prefix) -> 0 or error. The content is an object of type
 * bytes, which cannot change, since a prefix is not copied. */
static PyObject *use_content(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *content;
    int is_prefix;
    if (!PyArg_ParseTuple(args, "OSi", &capsule, &content, &is_prefix))
        return NULL;
    struct zstd *self = (struct zstd *)stream_of(capsule);
    if (!self || !stack_suffices())
        return NULL;
    const void *bytes = PyBytes_AsString(content);
    size_t size = (size_t)PyBytes_Size(content);
    size_t result;
    self->stream.busy = 1;
    if (!is_prefix)
        result = self->compression
                     ? ZSTD_CCtx_loadDictionary(self->compression, bytes, size)
                     : ZSTD_DCtx_loadDictionary(self->decompression, bytes, size);
    else
        result = self->compression ? ZSTD_CCtx_refPrefix(self->compression, bytes, size)
                                   : ZSTD_DCtx_refPrefix(self->decompression, bytes, size);
    self->stream.busy = 0;
    if (!ZSTD_isError(result)) {
        PyObject *old = self->dictionary;
        Py_IncRef(content);
        self->dictionary = content;
        if (old)
            Py_DecRef(old);
    }
    return Py_BuildValue("i", error_of(result));
}

/* Reports whether the sizes, an array of `size_t`, add up to the samples. */
static int sizes_match(const Py_buffer *samples, const Py_buffer *sizes)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < (size_t)sizes->len / sizeof(size_t); at++) {
        size_t size;
        memcpy(&size, (const char *)sizes->buf + at * sizeof size, sizeof size);
        sum += size;
    }
    return sum == (uint64_t)samples->len;
}

/* make_dictionary(samples, sizes, size, content, level) -> bytes or error. `content` is an
 * existing dictionary to finalize, or empty to train one. The sizes are an array of
 * `size_t`. */
static PyObject *make_dictionary(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer samples, sizes, content;
    Py_ssize_t size;
    int level;
    if (!PyArg_ParseTuple(args, "y*y*ny*i", &samples, &sizes, &size, &content, &level))
        return NULL;
    PyObject *answer = NULL;
    size_t result = (size_t)-ZSTD_error_srcSize_wrong;
    size_t count = (size_t)sizes.len / sizeof(size_t);
    if (!stack_suffices() || !(answer = PyBytes_FromStringAndSize(NULL, size)))
        goto end;
    if (sizes_match(&samples, &sizes) && count <= UINT32_MAX && size > 0) {
        void *to = PyBytes_AsString(answer);
        if (content.len) {
            ZDICT_params_t params = {.compressionLevel = level};
            result = ZDICT_finalizeDictionary(to, (size_t)size, content.buf, (size_t)content.len,
                                              samples.buf, sizes.buf, (unsigned)count, params);
        } else {
            result = ZDICT_trainFromBuffer(to, (size_t)size, samples.buf, sizes.buf,
                                           (unsigned)count);
        }
    }
    if (ZSTD_isError(result)) {
        Py_DecRef(answer);
        answer = Py_BuildValue("i", error_of(result));
    } else {
        _PyBytes_Resize(&answer, (Py_ssize_t)result);
    }
end:
    PyBuffer_Release(&samples);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&content);
    return answer;
}

static PyMethodDef methods[] = {
    {"compressor", compressor, METH_VARARGS, NULL},
    {"decompressor", decompressor, METH_VARARGS, NULL},
    {"set_parameter", set_parameter, METH_VARARGS, NULL},
    {"set_size", set_size, METH_VARARGS, NULL},
    {"bounds", bounds, METH_VARARGS, NULL},
    {"error_text", error_text, METH_VARARGS, NULL},
    {"version", version, METH_VARARGS, NULL},
    {"frame_size", frame_size, METH_VARARGS, NULL},
    {"frame_info", frame_info, METH_VARARGS, NULL},
    {"dictionary_id", dictionary_id, METH_VARARGS, NULL},
    {"digest_to_compress", digest_to_compress, METH_VARARGS, NULL},
    {"digest_to_decompress", digest_to_decompress, METH_VARARGS, NULL},
    {"use_digested", use_digested, METH_VARARGS, NULL},
    {"use_content", use_content, METH_VARARGS, NULL},
    {"make_dictionary", make_dictionary, METH_VARARGS, NULL},
    STREAM_METHODS,
    {0},
};

DEFINE_MODULE(_isola_zstd, methods)
