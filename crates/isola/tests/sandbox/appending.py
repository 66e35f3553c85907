# Ways to append to a file, and to alternate reads and writes. Each returns the
# observed values and the final content of the file. `sandbox::files` compares the
# results in a sandbox with those of CPython on Linux.
import io, os, pathlib, shutil


def fresh(content="0123456789"):
    with open(PATH, "w") as file:
        file.write(content)


def after(*seen):
    with open(PATH) as file:
        return [*seen, file.read()]


def append_tell():
    with open(PATH, "a") as file:
        at = file.tell()
        file.write("ab")
        return after(at, file.tell())


def append_binary_tell():
    with open(PATH, "ab") as file:
        at = file.tell()
        file.write(b"ab")
        return after(at, file.tell())


def append_read_at_once():
    with open(PATH, "a+") as file:
        return after(file.read())


def append_seek_read():
    with open(PATH, "a+") as file:
        file.seek(0)
        return after(file.read(), file.tell())


def append_seek_middle_read():
    with open(PATH, "a+") as file:
        file.seek(4)
        at = file.tell()
        return after(at, file.read(3), file.tell())


def append_write_seek_read():
    with open(PATH, "a+") as file:
        file.write("new")
        file.seek(0)
        return after(file.read())


def append_seek_write():
    with open(PATH, "a+") as file:
        file.seek(0)
        file.write("new")
        return after(file.tell())


def append_seek_write_read():
    with open(PATH, "a+") as file:
        file.seek(2)
        file.write("new")
        seen = file.read()
        file.seek(2)
        return after(seen, file.read())


def append_read_write_read():
    with open(PATH, "a+") as file:
        file.seek(0)
        first = file.read(2)
        file.seek(file.tell())
        file.write("new")
        file.seek(2)
        return after(first, file.read())


def append_lines():
    with open(PATH, "a+") as file:
        file.write("\nfirst\nsecond\n")
        file.seek(0)
        return after(file.readlines())


def append_unbuffered():
    with open(PATH, "ab+", buffering=0) as file:
        at = file.tell()
        file.write(b"new")
        behind = file.tell()
        rest = file.read()
        file.seek(0)
        return after(at, behind, rest.decode(), file.read().decode())


def append_unbuffered_seek():
    with open(PATH, "ab+", buffering=0) as file:
        file.seek(3)
        at = file.tell()
        some = file.read(2)
        file.write(b"new")
        return after(at, some.decode(), file.tell(), file.read().decode())


def append_seek_relative():
    with open(PATH, "ab+") as file:
        file.seek(-3, os.SEEK_END)
        tail = file.read()
        file.seek(2)
        file.seek(3, os.SEEK_CUR)
        return after(tail.decode(), file.tell(), file.read(1).decode())


def append_twice():
    with open(PATH, "a") as one, open(PATH, "a") as two:
        one.write("one")
        one.flush()
        two.write("two")
        two.flush()
        one.write("three")
        one.flush()
        return after(one.tell(), two.tell())


def append_truncate():
    with open(PATH, "a+") as file:
        file.truncate(4)
        file.write("new")
        file.seek(0)
        return after(file.read())


def append_truncate_here():
    with open(PATH, "a+") as file:
        file.seek(5)
        file.truncate()
        file.write("new")
        return after(file.tell())


def append_new():
    os.remove(PATH)
    with open(PATH, "a+") as file:
        at = file.tell()
        file.write("new")
        file.seek(0)
        return after(at, file.read())


def append_text_io():
    with io.open(PATH, "at") as file:
        print("printed", file=file)
        return after(file.seekable(), file.readable(), file.writable())


def append_pathlib():
    with pathlib.Path(PATH).open("a+") as file:
        file.write("x")
        file.seek(0)
        return after(file.read(), pathlib.Path(PATH).stat().st_size)


def append_copyfileobj():
    with open(PATH, "ab") as file:
        shutil.copyfileobj(io.BytesIO(b"y" * 70_000), file)
        file.flush()
        return [file.tell(), os.path.getsize(PATH)]


def append_large():
    with open(PATH, "ab+") as file:
        for _ in range(40):
            file.write(b"z" * 5_000)
        file.seek(199_000)
        return [len(file.read()), file.tell()]


def append_fdopen():
    fd = os.open(PATH, os.O_RDWR | os.O_APPEND)
    with os.fdopen(fd, "a+") as file:
        file.write("new")
        file.seek(0)
        return after(file.read())


def os_append_read():
    fd = os.open(PATH, os.O_RDWR | os.O_APPEND)
    try:
        os.write(fd, b"new")
        rest = os.read(fd, 100)
        at = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, 0, os.SEEK_SET)
        return after(rest.decode(), at, os.read(fd, 100).decode())
    finally:
        os.close(fd)


def os_append_positions():
    fd = os.open(PATH, os.O_RDWR | os.O_APPEND)
    try:
        seen = [os.lseek(fd, 0, os.SEEK_CUR), os.lseek(fd, 4, os.SEEK_SET)]
        seen += [os.lseek(fd, 1, os.SEEK_CUR), os.read(fd, 2).decode()]
        seen += [os.write(fd, b"new"), os.lseek(fd, 0, os.SEEK_CUR)]
        seen += [os.lseek(fd, -2, os.SEEK_END), os.read(fd, 9).decode()]
        return after(*seen)
    finally:
        os.close(fd)


def os_append_by_turns():
    fd = os.open(PATH, os.O_RDWR | os.O_APPEND)
    try:
        seen = []
        for number in range(3):
            seen.append(os.read(fd, 2).decode())
            os.write(fd, b"%d" % number)
            seen.append(os.lseek(fd, 0, os.SEEK_CUR))
        return after(*seen)
    finally:
        os.close(fd)


def os_append_pread():
    fd = os.open(PATH, os.O_RDWR | os.O_APPEND)
    try:
        os.write(fd, b"new")
        return after(os.pread(fd, 4, 8).decode(), os.lseek(fd, 0, os.SEEK_CUR))
    finally:
        os.close(fd)


def os_two_descriptors():
    one = os.open(PATH, os.O_WRONLY | os.O_APPEND)
    two = os.open(PATH, os.O_RDONLY)
    try:
        seen = [os.read(two, 100).decode()]
        os.write(one, b"new")
        seen.append(os.read(two, 100).decode())
        return after(*seen)
    finally:
        os.close(one)
        os.close(two)


def update_by_turns():
    fd = os.open(PATH, os.O_RDWR)
    try:
        seen = [os.read(fd, 2).decode(), os.write(fd, b"XY"), os.read(fd, 2).decode()]
        seen += [os.write(fd, b"Z"), os.lseek(fd, 0, os.SEEK_CUR), os.read(fd, 9).decode()]
        return after(*seen)
    finally:
        os.close(fd)


def update_write_read():
    fd = os.open(PATH, os.O_RDWR)
    try:
        return after(os.write(fd, b"abc"), os.read(fd, 100).decode())
    finally:
        os.close(fd)


def update_buffered():
    with open(PATH, "r+") as file:
        first = file.read(2)
        file.seek(file.tell())
        file.write("XY")
        file.flush()
        return after(first, file.tell(), file.read())


def update_binary():
    with open(PATH, "rb+") as file:
        first = file.read(2)
        file.write(b"XY")
        second = file.read(2)
        file.write(b"Z")
        return after(first.decode(), second.decode(), file.tell())


def update_unbuffered():
    with open(PATH, "rb+", buffering=0) as file:
        seen = [file.read(3).decode(), file.write(b"X"), file.read(3).decode(), file.tell()]
        return after(*seen)


def write_read():
    with open(PATH, "w+") as file:
        file.write("abc")
        rest = file.read()
        file.seek(1)
        return after(rest, file.read())


def beyond_the_end():
    fd = os.open(PATH, os.O_RDWR)
    try:
        os.lseek(fd, 15, os.SEEK_SET)
        os.write(fd, b"!")
        return after(os.read(fd, 5).decode(), os.lseek(fd, 0, os.SEEK_CUR))
    finally:
        os.close(fd)


def main(path):
    global PATH
    PATH = path
    results = {}
    ways = [way for way in globals().values() if callable(way) and way.__module__ == __name__]
    for way in ways:
        if way not in (fresh, after, main):
            fresh()
            try:
                results[way.__name__] = way()
            except Exception as error:
                results[way.__name__] = repr(error)
    return results
