/* Interruption of code by the host.
 *
 * The interpreter raises the exception that `PyThreadState_SetAsyncExc` has stored when it
 * finds a bit in a word of the thread's state, which it reads in every loop and call. This
 * module stores the exception, and takes the bit back. So the host interrupts the code by
 * setting that bit: it needs neither a thread nor a call into the guest. */

#include "python.h"

#include <string.h>

extern PyObject *PyExc_KeyboardInterrupt;
void *PyThreadState_Get(void);
unsigned long PyThread_get_thread_ident(void);
int PyThreadState_SetAsyncExc(unsigned long thread, PyObject *exception);

/* The number of words at the start of a thread's state in which the bit is searched. */
#define SEARCHED 8

/* arm() -> (address, mask): the word and its bit by which the host interrupts the code; or
 * (0, 0) if the interpreter has no such bit. */
static PyObject *arm(PyObject *module, PyObject *args)
{
    (void)module, (void)args;
    volatile uint32_t *state = PyThreadState_Get();
    uint32_t before[SEARCHED];
    for (size_t i = 0; i < SEARCHED; i++)
        before[i] = state[i];
    unsigned long thread = PyThread_get_thread_ident();
    if (PyThreadState_SetAsyncExc(thread, PyExc_KeyboardInterrupt) == 1) {
        uint32_t found = 0, mask = 0, changed = 0;
        for (size_t i = 0; i < SEARCHED; i++) {
            if (state[i] != before[i]) {
                changed++;
                found = i;
                mask = state[i] & ~before[i];
            }
        }
        if (changed == 1 && mask && !(mask & (mask - 1)) && state[found] == (before[found] | mask)) {
            state[found] &= ~mask;
            return Py_BuildValue("II", (unsigned int)(uintptr_t)&state[found], (unsigned int)mask);
        }
        PyThreadState_SetAsyncExc(thread, NULL);
    }
    return Py_BuildValue("II", 0u, 0u);
}

/* disarm(): forgets the exception. */
static PyObject *disarm(PyObject *module, PyObject *args)
{
    (void)module, (void)args;
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), NULL);
    return Py_BuildValue("");
}

static PyMethodDef methods[] = {
    {"arm", arm, METH_VARARGS, NULL},
    {"disarm", disarm, METH_VARARGS, NULL},
    {0},
};

DEFINE_MODULE(_isola_interrupt, methods)
