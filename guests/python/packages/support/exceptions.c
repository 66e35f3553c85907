/* The functions with which C++ throws an exception.
 *
 * The guest's core module has no exception handling, so a thrown exception ends the
 * sandbox. Packages throw when memory is exhausted, and for errors of their own code. */

#include <stddef.h>

void *__cxa_allocate_exception(size_t size)
{
    (void)size;
    __builtin_trap();
}

void __cxa_throw(void *object, void *type, void (*destructor)(void *))
{
    (void)object;
    (void)type;
    (void)destructor;
    __builtin_trap();
}
