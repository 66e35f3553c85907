/* Streams of compressed data, for Python.
 *
 * All libraries work alike: a step takes bytes from an input, and puts bytes into an
 * output. A module implements the steps; this file has the buffers. Everything else,
 * such as the input that is left over, and the exceptions, is in Python. */

#ifndef ISOLA_STREAM_H
#define ISOLA_STREAM_H

#include "python.h"

/* The buffers of a step, which it advances. */
struct buffers {
    const uint8_t *input;
    size_t input_left;
    uint8_t *output;
    size_t output_left;
};

/* The results of a step. All others are errors of the library. */
enum { STREAM_OK = 0, STREAM_END = 1 };

/* The first member of the structure of each stream. */
struct stream {
    /* Does as much as the buffers allow. An `action` is for compressors only. */
    int (*step)(struct stream *stream, struct buffers *buffers, int action);
    /* Frees the stream. */
    void (*free)(struct stream *stream);
    /* Whether a step is in progress. An allocation may collect garbage, and that may
     * run code which uses the stream. */
    int busy;
    /* The error after which the stream cannot be used, or 0. */
    int error;
};

/* The name of the capsules. Each module has its own, so that no module gets a stream
 * of another one. */
static const char *const STREAM_NAME;

/* The linear stack that a step needs at most. At its end is a reserve for the
 * interpreter. */
#define STREAM_STACK (96 * 1024)

static void stream_destroy(PyObject *capsule)
{
    struct stream *stream = PyCapsule_GetPointer(capsule, STREAM_NAME);
    if (stream)
        stream->free(stream);
}

/* Returns a capsule that owns the stream, or frees the stream. */
static PyObject *stream_new(struct stream *stream)
{
    PyObject *capsule = PyCapsule_New(stream, STREAM_NAME, stream_destroy);
    if (!capsule)
        stream->free(stream);
    return capsule;
}

/* Returns a stream that is not in use, or sets an exception. */
static struct stream *stream_of(PyObject *capsule)
{
    struct stream *stream = PyCapsule_GetPointer(capsule, STREAM_NAME);
    if (stream && stream->busy) {
        PyErr_SetString(PyExc_RuntimeError, "the stream is in use");
        return NULL;
    }
    return stream;
}

/* Reports whether the stack has space for a library, or sets an exception. The stack
 * grows down to address 0. */
static int stack_suffices(void)
{
    if ((uintptr_t)__builtin_frame_address(0) > STREAM_STACK)
        return 1;
    PyErr_SetString(PyExc_RecursionError, "Stack overflow: too little is left for a library");
    return 0;
}

/* Runs steps until all input is consumed and all output is there, or the stream ends, or
 * `limit` bytes of output are there. Returns the output, or NULL with an exception. */
static PyObject *stream_steps(struct stream *stream, struct buffers *buffers, int action,
                              Py_ssize_t limit, int *result)
{
    const Py_ssize_t FIRST_SIZE = 16 * 1024;
    Py_ssize_t size = limit < FIRST_SIZE ? limit : FIRST_SIZE;
    PyObject *output = PyBytes_FromStringAndSize(NULL, size);
    Py_ssize_t length = 0;
    while (output) {
        buffers->output = (uint8_t *)PyBytes_AsString(output) + length;
        buffers->output_left = (size_t)(size - length);
        *result = stream->step(stream, buffers, action);
        length = size - (Py_ssize_t)buffers->output_left;
        if (*result != STREAM_OK || buffers->output_left || size == limit) {
            if (length != size)
                _PyBytes_Resize(&output, length);
            break;
        }
        size = size > limit / 2 ? limit : size * 2;
        _PyBytes_Resize(&output, size);
    }
    return output;
}

/* run(stream, data, start, limit, action) -> (output, position, result)
 *
 * Passes `data` from `start` on to the stream. `limit` is the maximum size of the output, or
 * negative. `position` is the end of the data that was consumed. */
static PyObject *stream_run(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule;
    Py_buffer data;
    Py_ssize_t start, limit;
    int action;
    if (!PyArg_ParseTuple(args, "Oy*nni", &capsule, &data, &start, &limit, &action))
        return NULL;
    PyObject *answer = NULL;
    struct stream *stream = stream_of(capsule);
    if (stream && stack_suffices()) {
        int result = stream->error;
        if (start < 0 || start > data.len)
            start = data.len;
        struct buffers buffers = {
            .input = (const uint8_t *)data.buf + start,
            .input_left = (size_t)(data.len - start),
        };
        PyObject *output;
        if (result) {
            output = PyBytes_FromStringAndSize(NULL, 0);
        } else {
            stream->busy = 1;
            output = stream_steps(stream, &buffers, action,
                                  limit < 0 ? PY_SSIZE_T_MAX - 64 : limit, &result);
            stream->busy = 0;
        }
        if (output) {
            Py_ssize_t position = data.len - (Py_ssize_t)buffers.input_left;
            answer = Py_BuildValue("Nni", output, position, result);
        }
    }
    PyBuffer_Release(&data);
    return answer;
}

#define STREAM_METHODS {"run", stream_run, METH_VARARGS, NULL}

#endif
