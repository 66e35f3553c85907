"""A replacement for the part of `multiprocessing` that is written in C.

It has no semaphores, which is how the library and packages such as joblib find out that
the platform has none: they report an `ImportError`, or work in one process.
"""

flags = {}
