/* The module `_isola_xz`: streams of liblzma. `_lzma.py` is built on it. */

#include <string.h>

#include <lzma.h>

#include "stream.h"

static const char *const STREAM_NAME = "_isola_xz.stream";

/* As in `_lzma.py`. */
enum { FORMAT_AUTO, FORMAT_XZ, FORMAT_ALONE, FORMAT_RAW };

struct xz {
    struct stream stream;
    lzma_stream library;
    lzma_check check;
};

static void *allocate(void *opaque, size_t count, size_t size)
{
    (void)opaque;
    return size && count > SIZE_MAX / size ? NULL : PyMem_RawMalloc(count * size);
}

static void release(void *opaque, void *memory)
{
    (void)opaque;
    PyMem_RawFree(memory);
}

static const lzma_allocator ALLOCATOR = {allocate, release, NULL};

static int step(struct stream *stream, struct buffers *buffers, int action)
{
    struct xz *self = (struct xz *)stream;
    lzma_stream *library = &self->library;
    library->next_in = buffers->input;
    library->avail_in = buffers->input_left;
    library->next_out = buffers->output;
    library->avail_out = buffers->output_left;
    lzma_ret result;
    int more;
    do {
        result = lzma_code(library, action ? LZMA_FINISH : LZMA_RUN);
        more = result == LZMA_OK && library->avail_in && library->avail_out;
        if (result == LZMA_GET_CHECK || result == LZMA_NO_CHECK) {
            self->check = lzma_get_check(library);
            more = 1;
        }
    } while (more);
    buffers->input = library->next_in;
    buffers->input_left = library->avail_in;
    buffers->output = library->next_out;
    buffers->output_left = library->avail_out;
    library->next_in = NULL;
    library->next_out = NULL;
    library->avail_in = library->avail_out = 0;
    /* There was nothing to do. */
    if (result == LZMA_BUF_ERROR)
        result = LZMA_OK;
    if (result > LZMA_STREAM_END)
        stream->error = (int)result;
    return (int)result;
}

static void free_stream(struct stream *stream)
{
    lzma_end(&((struct xz *)stream)->library);
    PyMem_RawFree(stream);
}

/* A filter as Python passes it: `struct.Struct("<Q8I")`. */
struct packed_filter {
    uint64_t id;
    /* Of LZMA: the dictionary's size, lc, lp, pb, mode, length, match finder, and depth.
     * Of other filters only the first is used: the distance, or the offset. */
    uint32_t options[8];
};

/* Filters for the library, which ends with one that has no id. */
struct filters {
    lzma_filter chain[LZMA_FILTERS_MAX + 1];
    union {
        lzma_options_lzma lzma;
        lzma_options_delta delta;
        lzma_options_bcj bcj;
    } options[LZMA_FILTERS_MAX];
};

/* Unpacks filters, or returns 0 if there are too many. */
static int unpack_filters(const Py_buffer *packed, struct filters *filters)
{
    size_t count = (size_t)packed->len / sizeof(struct packed_filter);
    memset(filters, 0, sizeof *filters);
    if (count > LZMA_FILTERS_MAX)
        return 0;
    for (size_t at = 0; at < count; at++) {
        struct packed_filter from;
        memcpy(&from, (const char *)packed->buf + at * sizeof from, sizeof from);
        filters->chain[at].id = from.id;
        filters->chain[at].options = &filters->options[at];
        if (from.id == LZMA_FILTER_LZMA1 || from.id == LZMA_FILTER_LZMA2) {
            lzma_options_lzma *to = &filters->options[at].lzma;
            to->dict_size = from.options[0];
            to->lc = from.options[1];
            to->lp = from.options[2];
            to->pb = from.options[3];
            to->mode = (lzma_mode)from.options[4];
            to->nice_len = from.options[5];
            to->mf = (lzma_match_finder)from.options[6];
            to->depth = from.options[7];
        } else if (from.id == LZMA_FILTER_DELTA) {
            filters->options[at].delta.type = LZMA_DELTA_TYPE_BYTE;
            filters->options[at].delta.dist = from.options[0];
        } else {
            filters->options[at].bcj.start_offset = from.options[0];
        }
    }
    filters->chain[count].id = LZMA_VLI_UNKNOWN;
    return 1;
}

static struct xz *new_stream(lzma_check check)
{
    struct xz *self = PyMem_RawCalloc(1, sizeof *self);
    if (!self) {
        PyErr_NoMemory();
        return NULL;
    }
    self->stream.step = step;
    self->stream.free = free_stream;
    self->library = (lzma_stream)LZMA_STREAM_INIT;
    self->library.allocator = &ALLOCATOR;
    self->check = check;
    return self;
}

/* Returns a capsule, or the error of the library. */
static PyObject *initialized(struct xz *self, lzma_ret result)
{
    if (result == LZMA_OK)
        return stream_new(&self->stream);
    free_stream(&self->stream);
    return result == LZMA_MEM_ERROR ? PyErr_NoMemory() : Py_BuildValue("i", (int)result);
}

/* compressor(format, check, filters) -> stream or error */
static PyObject *compressor(PyObject *module, PyObject *args)
{
    (void)module;
    int format, check;
    Py_buffer packed;
    struct filters filters;
    if (!PyArg_ParseTuple(args, "iiy*", &format, &check, &packed))
        return NULL;
    int valid = unpack_filters(&packed, &filters);
    PyBuffer_Release(&packed);
    struct xz *self = stack_suffices() ? new_stream(LZMA_CHECK_NONE) : NULL;
    if (!self)
        return NULL;
    lzma_ret result = LZMA_OPTIONS_ERROR;
    /* Nothing that runs Python code: the filters are on the stack, and the stream is not
     * known to anyone, so that a garbage collection cannot affect either. */
    if (valid && format == FORMAT_XZ)
        result = lzma_stream_encoder(&self->library, filters.chain, (lzma_check)check);
    else if (valid && format == FORMAT_ALONE && filters.chain[0].id == LZMA_FILTER_LZMA1)
        result = lzma_alone_encoder(&self->library, filters.chain[0].options);
    else if (valid && format == FORMAT_RAW)
        result = lzma_raw_encoder(&self->library, filters.chain);
    return initialized(self, result);
}

/* decompressor(format, memory_limit, filters) -> stream or error */
static PyObject *decompressor(PyObject *module, PyObject *args)
{
    (void)module;
    const uint32_t FLAGS = LZMA_TELL_ANY_CHECK | LZMA_TELL_NO_CHECK;
    int format;
    unsigned long long limit;
    Py_buffer packed;
    struct filters filters;
    if (!PyArg_ParseTuple(args, "iKy*", &format, &limit, &packed))
        return NULL;
    int valid = unpack_filters(&packed, &filters);
    PyBuffer_Release(&packed);
    int is_checked = format == FORMAT_AUTO || format == FORMAT_XZ;
    struct xz *self =
        stack_suffices() ? new_stream(is_checked ? LZMA_CHECK_ID_MAX + 1 : LZMA_CHECK_NONE) : NULL;
    if (!self)
        return NULL;
    lzma_ret result = LZMA_OPTIONS_ERROR;
    if (format == FORMAT_AUTO)
        result = lzma_auto_decoder(&self->library, limit, FLAGS);
    else if (format == FORMAT_XZ)
        result = lzma_stream_decoder(&self->library, limit, FLAGS);
    else if (format == FORMAT_ALONE)
        result = lzma_alone_decoder(&self->library, limit);
    else if (format == FORMAT_RAW && valid)
        result = lzma_raw_decoder(&self->library, filters.chain);
    return initialized(self, result);
}

/* check(stream) -> the integrity check of a decompressor */
static PyObject *check(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "O", &capsule))
        return NULL;
    struct stream *stream = PyCapsule_GetPointer(capsule, STREAM_NAME);
    return stream ? Py_BuildValue("i", (int)((struct xz *)stream)->check) : NULL;
}

/* is_check_supported(check) -> bool */
static PyObject *is_check_supported(PyObject *module, PyObject *args)
{
    (void)module;
    int check;
    if (!PyArg_ParseTuple(args, "i", &check))
        return NULL;
    return Py_BuildValue("i", lzma_check_is_supported((lzma_check)check) ? 1 : 0);
}

/* preset(number) -> the eight options of LZMA, or None */
static PyObject *preset(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned int number;
    lzma_options_lzma options;
    if (!PyArg_ParseTuple(args, "I", &number))
        return NULL;
    if (lzma_lzma_preset(&options, number))
        return Py_BuildValue("");
    return Py_BuildValue("IIIIIIII", options.dict_size, options.lc, options.lp, options.pb,
                         (unsigned int)options.mode, options.nice_len, (unsigned int)options.mf,
                         options.depth);
}

/* encode_properties(filter) -> bytes or error */
static PyObject *encode_properties(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer packed;
    struct filters filters;
    if (!PyArg_ParseTuple(args, "y*", &packed))
        return NULL;
    int valid = unpack_filters(&packed, &filters);
    PyBuffer_Release(&packed);
    uint32_t size;
    lzma_ret result = LZMA_OPTIONS_ERROR;
    if (valid)
        result = lzma_properties_size(&size, filters.chain);
    if (result != LZMA_OK)
        return Py_BuildValue("i", (int)result);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!bytes)
        return NULL;
    result = lzma_properties_encode(filters.chain, (uint8_t *)PyBytes_AsString(bytes));
    if (result == LZMA_OK)
        return bytes;
    Py_DecRef(bytes);
    return Py_BuildValue("i", (int)result);
}

/* decode_properties(id, properties) -> four options, (), or error */
static PyObject *decode_properties(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long id;
    Py_buffer properties;
    if (!PyArg_ParseTuple(args, "Ky*", &id, &properties))
        return NULL;
    lzma_filter filter = {.id = id};
    lzma_ret result =
        lzma_properties_decode(&filter, &ALLOCATOR, properties.buf, (size_t)properties.len);
    PyBuffer_Release(&properties);
    if (result != LZMA_OK)
        return Py_BuildValue("i", (int)result);
    PyObject *answer;
    if (!filter.options) {
        answer = Py_BuildValue("()");
    } else if (id == LZMA_FILTER_LZMA1 || id == LZMA_FILTER_LZMA2) {
        const lzma_options_lzma *options = filter.options;
        /* LZMA2 has only the first. */
        int all = id == LZMA_FILTER_LZMA1;
        answer = Py_BuildValue("IIII", options->dict_size, all ? options->lc : 0,
                               all ? options->lp : 0, all ? options->pb : 0);
    } else if (id == LZMA_FILTER_DELTA) {
        answer = Py_BuildValue("(I)", ((const lzma_options_delta *)filter.options)->dist);
    } else {
        answer = Py_BuildValue("(I)", ((const lzma_options_bcj *)filter.options)->start_offset);
    }
    release(NULL, filter.options);
    return answer;
}

static PyMethodDef methods[] = {
    {"compressor", compressor, METH_VARARGS, NULL},
    {"decompressor", decompressor, METH_VARARGS, NULL},
    {"check", check, METH_VARARGS, NULL},
    {"is_check_supported", is_check_supported, METH_VARARGS, NULL},
    {"preset", preset, METH_VARARGS, NULL},
    {"encode_properties", encode_properties, METH_VARARGS, NULL},
    {"decode_properties", decode_properties, METH_VARARGS, NULL},
    STREAM_METHODS,
    {0},
};

DEFINE_MODULE(_isola_xz, methods)
