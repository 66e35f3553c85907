/* The part of CPython's stable ABI that the native modules use, for wasm32.
 *
 * The builder of the guest contains the interpreter, but not its headers. A wrong
 * signature is a trap at run time, so each declaration is that of the documentation:
 * https://docs.python.org/3.14/c-api/stable.html. Objects are always opaque. */

#ifndef ISOLA_PYTHON_H
#define ISOLA_PYTHON_H

#include <stddef.h>
#include <stdint.h>

typedef int32_t Py_ssize_t;
#define PY_SSIZE_T_MAX INT32_MAX

typedef struct _object PyObject;

/* Reference counts. */
void Py_IncRef(PyObject *object);
void Py_DecRef(PyObject *object);

/* Exceptions. */
extern PyObject *PyExc_RecursionError;
extern PyObject *PyExc_RuntimeError;
void PyErr_SetString(PyObject *type, const char *message);
PyObject *PyErr_NoMemory(void);

/* Arguments and results. Both functions are variadic. */
int PyArg_ParseTuple(PyObject *args, const char *format, ...);
PyObject *Py_BuildValue(const char *format, ...);

/* Bytes. */
PyObject *PyBytes_FromStringAndSize(const char *bytes, Py_ssize_t size);
char *PyBytes_AsString(PyObject *bytes);
Py_ssize_t PyBytes_Size(PyObject *bytes);
int _PyBytes_Resize(PyObject **bytes, Py_ssize_t size);

/* The buffer of a bytes-like object, part of the stable ABI since 3.11. */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len;
    Py_ssize_t itemsize;
    int readonly;
    int ndim;
    char *format;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    Py_ssize_t *suboffsets;
    void *internal;
} Py_buffer;
void PyBuffer_Release(Py_buffer *view);

/* The allocator of the interpreter, which collects garbage before it fails. */
void *PyMem_RawMalloc(size_t size);
void *PyMem_RawCalloc(size_t count, size_t size);
void PyMem_RawFree(void *memory);

/* Capsules: objects around a pointer, which Python code can neither make nor read. */
typedef void (*PyCapsule_Destructor)(PyObject *capsule);
PyObject *PyCapsule_New(void *pointer, const char *name, PyCapsule_Destructor destructor);
void *PyCapsule_GetPointer(PyObject *capsule, const char *name);

/* Modules. */
typedef PyObject *(*PyCFunction)(PyObject *self, PyObject *args);
#define METH_VARARGS 1
typedef struct {
    const char *ml_name;
    PyCFunction ml_meth;
    int ml_flags;
    const char *ml_doc;
} PyMethodDef;

typedef struct {
    /* The fields of `PyModuleDef_Base`, which `PyModuleDef_Init` fills. */
    Py_ssize_t refcount;
    void *type;
    void *m_init;
    Py_ssize_t m_index;
    PyObject *m_copy;

    const char *m_name;
    const char *m_doc;
    Py_ssize_t m_size;
    PyMethodDef *m_methods;
    void *m_slots;
    void *m_traverse;
    void *m_clear;
    void *m_free;
} PyModuleDef;
PyObject *PyModuleDef_Init(PyModuleDef *definition);

/* Defines the function that creates a module without state, and exports it. */
#define DEFINE_MODULE(name, methods)                                                   \
    static PyModuleDef definition = {                                                  \
        .refcount = 1, .m_name = #name, .m_methods = (methods)};                       \
    __attribute__((visibility("default"))) PyObject *PyInit_##name(void)               \
    {                                                                                  \
        return PyModuleDef_Init(&definition);                                          \
    }

#endif
