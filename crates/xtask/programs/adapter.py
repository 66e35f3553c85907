"""Measures one benchmark of pyperformance. The same code runs in each engine.

The benchmarks import `pyperf`, which starts processes and is not available in a sandbox. The
module of that name here calls the measured function in the same process.
"""

import argparse
import runpy
import sys
import time
import types

# A repetition lasts at least this long, so that the resolution of the clock does not matter.
MIN_SECONDS = 0.05
REPETITIONS = 3
# Repetitions are not repeated after this time: long ones vary less, and processes are repeated.
MAX_SECONDS = 2


class Runner:
    """The part of `pyperf.Runner` that the benchmarks use.

    It measures one function: the one called `wanted`, or the first if that is empty.
    """

    wanted = ""
    seconds = None

    def __init__(self, add_cmdline_args=None):
        # The benchmarks would pass options to their worker processes by `add_cmdline_args`.
        self.argparser = argparse.ArgumentParser()
        self.metadata = {}
        self.args = None

    def parse_args(self):
        self.args = self.argparser.parse_args()
        return self.args

    def bench_time_func(self, name, function, *args, inner_loops=1):
        """Measures a function that takes a number of loops and returns their seconds."""
        if Runner.seconds is None and self.wanted in ("", name):
            Runner.seconds = best(lambda loops: function(loops, *args))

    def bench_func(self, name, function, *args, inner_loops=1):
        def run(loops):
            counter = range(loops)
            start = time.perf_counter()
            for _ in counter:
                function(*args)
            return time.perf_counter() - start

        self.bench_time_func(name, run)

    def bench_async_func(self, name, function, *args):
        """Measures a coroutine function that never waits, which therefore needs no event loop."""

        def run():
            try:
                function(*args).send(None)
            except StopIteration:
                return
            raise RuntimeError(f"{name} waits for an event")

        self.bench_func(name, run)


def best(run):
    """Returns the seconds of one loop in the fastest repetition."""
    loops = 1
    while (seconds := run(loops)) < MIN_SECONDS:
        loops *= 2
    repetitions = [seconds]
    while len(repetitions) < REPETITIONS and sum(repetitions) < MAX_SECONDS:
        repetitions.append(run(loops))
    return min(repetitions) / loops


def add_five_million():
    total = 0
    for i in range(5_000_000):
        total += i


def measure(packages, directory, wanted, *arguments):
    """Prints the seconds of one loop and the version of Python.

    `packages` is the directory that contains pyperformance, and `directory` that of the
    benchmark in it, without its prefix. An empty one means the function of this module.
    """
    pyperf = types.ModuleType("pyperf")
    pyperf.Runner = Runner
    pyperf.perf_counter = time.perf_counter
    pyperf.python_implementation = lambda: "cpython"
    sys.modules["pyperf"] = pyperf
    # A benchmark chooses the implementation of `pickle` before it imports it, but the guest has
    # imported it when it was built.
    sys.modules.pop("pickle", None)
    Runner.wanted = wanted
    if directory:
        path = f"{packages}/pyperformance/data-files/benchmarks/bm_{directory}"
        sys.path[:0] = [path, packages]
        sys.argv = [f"{path}/run_benchmark.py", *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        Runner().bench_func(wanted, add_five_million)
    if Runner.seconds is None:
        raise RuntimeError(f"bm_{directory} has no function called {wanted!r}")
    print(Runner.seconds, "CPython", sys.version.split()[0])
