/* A C stream over a file descriptor that belongs to a Python file.
 *
 * numpy reads and writes arrays by C streams. It duplicates the descriptor of the Python
 * file, since closing a stream closes its descriptor. WASI cannot duplicate descriptors, so
 * this stream uses that of the Python file and leaves it open. */

#ifndef ISOLA_FILE_H
#define ISOLA_FILE_H

#include <Python.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define ISOLA_FILE_BUFFER 8192

struct isola_file {
    int fd;
    /* The first error of reading or writing, or 0. Closing the stream reports it: numpy
     * does not check all calls, and what is buffered is written when the stream is closed. */
    int error;
    char buffer[ISOLA_FILE_BUFFER];
};

static inline ssize_t
isola_file_read(void *cookie, char *bytes, size_t size)
{
    struct isola_file *file = (struct isola_file *)cookie;
    ssize_t done = read(file->fd, bytes, size);
    if (done < 0 && file->error == 0) {
        file->error = errno;
    }
    return done;
}

/* Writes everything, unless there is an error: the C library takes a part for a failure. */
static inline ssize_t
isola_file_write(void *cookie, const char *bytes, size_t size)
{
    struct isola_file *file = (struct isola_file *)cookie;
    size_t done = 0;
    while (done < size) {
        ssize_t written = write(file->fd, bytes + done, size - done);
        if (written <= 0) {
            if (file->error == 0) {
                file->error = written < 0 ? errno : EIO;
            }
            break;
        }
        done += (size_t)written;
    }
    return done == 0 && size != 0 ? -1 : (ssize_t)done;
}

static inline int
isola_file_seek(void *cookie, off_t *offset, int whence)
{
    off_t position = lseek(((struct isola_file *)cookie)->fd, *offset, whence);
    if (position < 0) {
        return -1;
    }
    *offset = position;
    return 0;
}

static inline int
isola_file_close(void *cookie)
{
    struct isola_file *file = (struct isola_file *)cookie;
    int error = file->error;
    free(file);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return 0;
}

/* Opens a stream like `fdopen`, except that closing it leaves the descriptor open. Returns
 * NULL with an exception if memory is exhausted. */
static inline FILE *
isola_fdopen(int fd, const char *mode)
{
    cookie_io_functions_t functions = {
        isola_file_read, isola_file_write, isola_file_seek, isola_file_close
    };
    struct isola_file *file = (struct isola_file *)malloc(sizeof(struct isola_file));
    if (file == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    file->fd = fd;
    file->error = 0;
    FILE *stream = fopencookie(file, mode, functions);
    if (stream == NULL) {
        free(file);
        PyErr_NoMemory();
        return NULL;
    }
    setvbuf(stream, file->buffer, _IOFBF, ISOLA_FILE_BUFFER);
    return stream;
}

/* Closes a stream. Returns the first error of reading or writing, or 0. */
static inline int
isola_fclose(FILE *stream)
{
    return fclose(stream) == 0 ? 0 : errno;
}

/* Sets an exception if there was an error. Returns -1 then, and 0 otherwise. */
static inline int
isola_file_result(int error)
{
    if (error == 0) {
        return 0;
    }
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

#endif
