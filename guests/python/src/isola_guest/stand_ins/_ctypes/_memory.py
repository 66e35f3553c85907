"""The memory of C data: blocks of bytes, with addresses that are made up.

Python code cannot read memory by its address. So each block gets an address when one is
needed, and a pointer is followed by finding the block. An address that is in no block
is an error, where C code would crash.
"""

import weakref
from bisect import bisect_right

# The distance between blocks, so that no address is in two, or at the end of one and
# the start of another.
_GAP = 16

_MAX_ADDRESS = (1 << 32) - 1

# The blocks with an address, in the order of the addresses, which only increase.
_starts = []
_references = []
_next_start = 1 << 16

# The number of blocks at which those that do not exist any more are removed.
_prune_at = 1000


class Block:
    """Bytes in memory, and the objects to which pointers in them refer."""

    __slots__ = ("__weakref__", "_start", "kept", "view")

    def __init__(self, buffer):
        self.view = memoryview(buffer).cast("B")
        # Maps the position of a pointer to what it refers to.
        self.kept = {}
        self._start = None

    def address(self, position=0):
        """Returns the address of a position."""
        if self._start is None:
            self._start = _register(self)
        return self._start + position

    def read(self, position, size):
        return bytes(self.view[position : position + size])

    def write(self, position, data):
        """Writes bytes. Pointers in this place do not exist any more."""
        self.view[position : position + len(data)] = data
        self._forget(position, len(data))

    def copy(self, position, source, start, size):
        """Copies bytes of another block with the pointers in them."""
        data = source.read(start, size)
        kept = {
            place - start + position: item
            for place, item in source.kept.items()
            if start <= place < start + size
        }
        self.write(position, data)
        self.kept.update(kept)

    def _forget(self, position, size):
        if self.kept:
            for place in [each for each in self.kept if position <= each < position + size]:
                del self.kept[place]


def allocate(size):
    return Block(bytearray(size))


def _register(block):
    global _next_start, _prune_at
    start = _next_start
    end = start + len(block.view)
    if end > _MAX_ADDRESS:
        raise MemoryError("ctypes has no addresses left")
    _next_start = -(-(end + _GAP) // _GAP) * _GAP
    if len(_starts) >= _prune_at:
        existing = [pair for pair in zip(_starts, _references) if pair[1]() is not None]
        _starts[:] = [pair[0] for pair in existing]
        _references[:] = [pair[1] for pair in existing]
        _prune_at = max(1000, 2 * len(_starts))
    _starts.append(start)
    _references.append(weakref.ref(block))
    return start


def find(address, size):
    """Returns the block that contains an address, and the position in it."""
    if not address:
        raise ValueError("NULL pointer access")
    number = bisect_right(_starts, address) - 1
    block = _references[number]() if number >= 0 else None
    if block is None or address + size > _starts[number] + len(block.view):
        raise ValueError(f"invalid address {address:#x}: it is in no object of ctypes")
    return block, address - _starts[number]


def find_text(address, width):
    """Returns the bytes from an address to the first character that is zero."""
    block, position = find(address, width)
    zero = bytes(width)
    end = position
    while end + width <= len(block.view):
        if block.view[end : end + width] == zero:
            return block.read(position, end - position)
        end += width
    raise ValueError(f"the text at {address:#x} has no end")
