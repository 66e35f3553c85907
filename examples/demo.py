"""The script that the demo runs in a Python sandbox."""

import statistics
import sys

from sandbox.asyncio import hostcall


def describe(numbers, *, unit="m"):
    return {
        "mean": f"{statistics.mean(numbers)} {unit}",
        "factorial of 30": __import__("math").factorial(30),
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def countdown(start):
    for n in range(start, 0, -1):
        print(f"{n} ...")
        yield {"left": n}


async def greet(user_id):
    user = await hostcall("lookup_user", {"id": user_id})
    return f"hello {user['name']}"


def spin():
    while True:
        pass


def read_the_hosts_files():
    return open("/etc/passwd").read()
