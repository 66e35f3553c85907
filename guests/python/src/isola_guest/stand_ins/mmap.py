"""Memory maps, as copies of files in the guest's memory.

WebAssembly maps no files. A map is read when it is created; changes of a writable,
shared map are written to the file by `flush` and `close`, and at the latest when the map
is destroyed. A map of no file (-1) is memory like any other.
"""

import atexit as _atexit
import errno as _errno
import os as _os
import weakref as _weakref
from operator import index as _index

from isola_guest.files import path_of as _path_of

error = OSError

# The values are those of Linux.
ACCESS_DEFAULT, ACCESS_READ, ACCESS_WRITE, ACCESS_COPY = range(4)
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANON, MAP_ANONYMOUS = 1, 2, 0x20, 0x20
PAGESIZE = ALLOCATIONGRANULARITY = 65536


class mmap:  # noqa: N801  (the name of the real type)
    """A map of a file, or of no file."""

    __module__ = "mmap"
    # Also if the constructor fails.
    _data = _fd = _own_fd = None

    def __new__(
        cls,
        fileno,
        length,
        flags=MAP_SHARED,
        prot=PROT_READ | PROT_WRITE,
        access=ACCESS_DEFAULT,
        offset=0,
        *,
        trackfd=True,
    ):
        fileno, length, offset = _index(fileno), _index(length), _index(offset)
        if length < 0:
            raise OverflowError("memory mapped length must be positive")
        if offset < 0:
            raise OverflowError("memory mapped offset must be positive")
        if access != ACCESS_DEFAULT and (flags != MAP_SHARED or prot != PROT_READ | PROT_WRITE):
            raise ValueError("mmap can't specify both access and flags, prot.")
        if access == ACCESS_DEFAULT:
            access = _access(prot)
        elif access not in (ACCESS_READ, ACCESS_WRITE, ACCESS_COPY):
            raise ValueError("mmap invalid access parameter.")
        if offset % ALLOCATIONGRANULARITY:
            raise OSError(_errno.EINVAL, _os.strerror(_errno.EINVAL))
        self = super().__new__(cls)
        self._access = access
        # Changes of a private map are not written to the file.
        self._is_private = access == ACCESS_COPY or bool(flags & MAP_PRIVATE)
        self._has_size = trackfd
        self._offset = offset
        self._position = 0
        self._exports = 0
        self._is_changed = False
        if fileno == -1 or flags & MAP_ANONYMOUS:
            if not length:
                raise OSError(_errno.EINVAL, _os.strerror(_errno.EINVAL))
            self._data = bytearray(length)
        else:
            self._open(fileno, length, trackfd)
        return self

    def _open(self, fileno, length, trackfd):
        status = _os.fstat(fileno)
        size = status.st_size
        if not length:
            if not size:
                raise ValueError("cannot mmap an empty file")
            if self._offset >= size:
                raise ValueError("mmap offset is greater than file size")
            length = size - self._offset
        elif self._offset > size or size - self._offset < length:
            raise ValueError("mmap length is greater than file size")
        data = bytearray(length)
        view = memoryview(data)
        done = 0
        while done < length:
            piece = _os.pread(fileno, min(length - done, 1 << 24), self._offset + done)
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        view.release()
        self._file = _identity(fileno)
        # No other program can see the changes of a file without a name.
        if self._access != ACCESS_READ and not self._is_private and status.st_nlink:
            # Fails now, and not when changes are written, if the file is not writable.
            _os.pwrite(fileno, b"", 0)
            self._own_fd = self._reopened(fileno)
            _shared.add(self)
        self._fd = fileno if self._own_fd is None else self._own_fd
        self._data = data

    def _reopened(self, fileno):
        """Opens the file again, so that it can be closed before the map.

        WASI cannot duplicate descriptors. Without the path of the file, it must be open
        until the map is closed.
        """
        path = _path_of(fileno)
        if path is None:
            return None
        try:
            own = _os.open(path, _os.O_RDWR)
        except OSError:
            return None
        if _identity(own) == self._file:
            return own
        # Another file has this path now.
        _os.close(own)
        return None

    @property
    def closed(self):
        return self._data is None

    def close(self):
        """Writes changes, and releases the memory."""
        if self._data is None:
            return
        if self._exports:
            raise BufferError("cannot close exported pointers exist")
        try:
            self._write_back()
        finally:
            self._data = self._fd = None
            if self._own_fd is not None:
                _os.close(self._own_fd)
                self._own_fd = None

    def __del__(self):
        # At the shutdown of the interpreter changes have been written already.
        if _os is not None:
            self._write_back()
            if self._own_fd is not None:
                _os.close(self._own_fd)

    def flush(self, offset=0, size=None, /, *, flags=0):
        """Writes changes to the file."""
        data = self._valid()
        size = len(data) - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ValueError("flush values out of range")
        self._write_back()

    def _write_back(self):
        if not self._is_changed or self._data is None or self._fd is None or self._is_private:
            return
        self._check_file()
        with memoryview(self._data) as view:
            done = 0
            while done < len(view):
                done += _os.pwrite(self._fd, view[done:], self._offset + done)
        # A buffer that was handed out can change at any time.
        self._is_changed = self._exports > 0

    def _check_file(self):
        try:
            is_same = _identity(self._fd) == self._file
        except OSError:
            is_same = False
        if not is_same:
            raise OSError(_errno.EBADF, "the file was closed before its memory map")

    def _valid(self):
        if self._data is None:
            raise ValueError("mmap closed or invalid")
        return self._data

    def _writable(self):
        data = self._valid()
        if self._access == ACCESS_READ:
            raise TypeError("mmap can't modify a readonly memory map.")
        self._is_changed = True
        return data

    def __buffer__(self, flags):
        data = self._valid()
        view = memoryview(data)
        if self._access == ACCESS_READ:
            if flags & 1:
                raise BufferError("Object is not writable.")
            view = view.toreadonly()
        else:
            self._is_changed = True
        self._exports += 1
        return view

    def __release_buffer__(self, view):
        self._exports -= 1
        view.release()

    def __len__(self):
        return len(self._valid())

    def __getitem__(self, key):
        self._valid()
        if isinstance(key, slice):
            indices = key.indices(len(self))
            data = self._valid()
            return bytes(data[_slice(*indices)]) if range(*indices) else b""
        key = _index(key)
        try:
            # Finding the index may have closed the map.
            return self._valid()[key]
        except IndexError:
            raise IndexError("mmap index out of range") from None

    def __setitem__(self, key, value):
        self._writable()
        if isinstance(key, slice):
            indices = key.indices(len(self))
            data = self._valid()
            with memoryview(value) as view, view.cast("B") as content:
                if len(range(*indices)) != len(content):
                    raise IndexError("mmap slice assignment is wrong size")
                if content:
                    data[_slice(*indices)] = content
            return
        key, value = _index(key), _index(value)
        if not 0 <= value < 256:
            raise ValueError("mmap item value must be in range(0, 256)")
        try:
            self._valid()[key] = value
        except IndexError:
            raise IndexError("mmap index out of range") from None

    def __delitem__(self, key):
        self._writable()
        raise TypeError("mmap object doesn't support item deletion")

    def __iter__(self):
        for index in range(len(self._valid())):
            yield self[index : index + 1][0]

    def __contains__(self, item):
        return item in self._valid()

    def __enter__(self):
        self._valid()
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        if self._data is None:
            return f"<{name} closed=True>"
        access = ("DEFAULT", "READ", "WRITE", "COPY")[self._access]
        rest = f"length={len(self._data)}, pos={self._position}, offset={self._offset}"
        return f"<{name} closed=False, access=ACCESS_{access}, {rest}>"

    def __reduce__(self):
        raise TypeError("cannot pickle 'mmap.mmap' object")

    def tell(self):
        self._valid()
        return self._position

    def seek(self, pos, whence=0, /):
        pos, whence = _index(pos), _index(whence)
        data = self._valid()
        start = {0: 0, 1: self._position, 2: len(data)}.get(whence)
        if start is None:
            raise ValueError("unknown seek type")
        if not 0 <= start + pos <= len(data):
            raise ValueError("seek out of range")
        self._position = start + pos
        return self._position

    def seekable(self):
        return True

    def size(self):
        """Returns the size of the file, which may be larger than the map."""
        data = self._valid()
        if not self._has_size:
            raise OSError(_errno.EBADF, _os.strerror(_errno.EBADF))
        if self._fd is None:
            return len(data)
        self._check_file()
        return _os.fstat(self._fd).st_size

    def read(self, n=None, /):
        n = None if n is None else _index(n)
        data = self._valid()
        end = len(data) if n is None or n < 0 else min(self._position + n, len(data))
        result = bytes(data[self._position : end])
        self._position += len(result)
        return result

    def read_byte(self):
        data = self._valid()
        if self._position >= len(data):
            raise ValueError("read byte out of range")
        self._position += 1
        return data[self._position - 1]

    def readline(self):
        data = self._valid()
        end = data.find(b"\n", self._position) + 1 or len(data)
        return self.read(end - self._position)

    def write(self, bytes, /):
        data = self._writable()
        with memoryview(bytes) as view, view.cast("B") as content:
            end = self._position + len(content)
            if end > len(data):
                raise ValueError("data out of range")
            data[self._position : end] = content
            self._position = end
            return len(content)

    def write_byte(self, byte, /):
        byte = _index(byte)
        data = self._writable()
        if self._position >= len(data):
            raise ValueError("write byte out of range")
        self[self._position] = byte
        self._position += 1

    def find(self, view, start=None, end=None, /):
        start = self._position if start is None else _index(start)
        end = len(self) if end is None else _index(end)
        return self._valid().find(view, start, end)

    def rfind(self, view, start=None, end=None, /):
        start = self._position if start is None else _index(start)
        end = len(self) if end is None else _index(end)
        return self._valid().rfind(view, start, end)

    def move(self, dest, src, count, /):
        dest, src, count = _index(dest), _index(src), _index(count)
        data = self._writable()
        if min(dest, src, count) < 0 or len(data) - max(dest, src) < count:
            raise ValueError("source, destination, or count out of range")
        data[dest : dest + count] = data[src : src + count]

    def resize(self, newsize, /):
        newsize = _index(newsize)
        data = self._valid()
        if self._access not in (ACCESS_DEFAULT, ACCESS_WRITE):
            raise TypeError("mmap can't resize a readonly or copy-on-write memory map.")
        if not self._has_size:
            raise ValueError("mmap can't resize with mmap's trackfd=False.")
        if self._exports:
            raise BufferError("mmap can't resize with extant pointers exported.")
        if newsize <= 0 or self._offset + newsize < 0:
            raise ValueError("new size out of range")
        if self._fd is not None:
            self._check_file()
            _os.ftruncate(self._fd, self._offset + newsize)
        del data[newsize:]
        data.extend(bytes(newsize - len(data)))
        self._position = min(self._position, newsize)


def _slice(start, stop, step):
    """Returns a slice of indices, where an end of -1 is before the first item."""
    return slice(start, None if stop < 0 else stop, step)


def _access(prot):
    return ACCESS_DEFAULT if prot & PROT_WRITE else ACCESS_READ


def _write_all():
    for map in list(_shared):
        map._write_back()


# The maps whose changes are to be written, at the latest at the end of the interpreter.
_shared = _weakref.WeakSet()
_atexit.register(_write_all)


def _identity(fd):
    status = _os.fstat(fd)
    return status.st_dev, status.st_ino
