/* Errors of writing to files.
 *
 * The C library reports each failed write as an I/O error. The host knows the reason, such as
 * a full disk, and reports it as POSIX says: by the next `fsync` or `fdatasync`.
 * `merge_modules` replaces the function of the C library by this one. */

#include <errno.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT ssize_t isola_write(int fd, const void *bytes, size_t size) {
  ssize_t written = write(fd, bytes, size);
  if (written < 0 && errno == EIO && fdatasync(fd) == 0) errno = EIO;
  return written;
}
