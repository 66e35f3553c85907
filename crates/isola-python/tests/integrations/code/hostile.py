"""Code that tries to reach the host. The value of each is what it got."""

HOST_FILES = """
import os
found = []
for path in ("/etc/passwd", "/proc/self/environ", "/proc/self/cmdline", "../../../etc/hostname"):
    try:
        found.append(open(path).read())
    except OSError:
        pass
found + sorted(os.listdir("/home") if os.path.isdir("/home") else [])
"""
HOST_ENVIRONMENT = "import os\ndict(os.environ)"
HOST_PROCESSES = """
import os, subprocess
refused = []
for start in (lambda: subprocess.run(["id"]), lambda: os.fork(), lambda: os.execv("/bin/sh", [])):
    try:
        start()
    except (AttributeError, OSError, RuntimeError) as error:
        refused.append(type(error).__name__)
len(refused)
"""
HOST_NETWORK = """
import socket, urllib.request
refused = []
for reach in (
    lambda: socket.create_connection(("127.0.0.1", PORT), 2),
    lambda: urllib.request.urlopen("http://127.0.0.1:PORT/", timeout=2),
):
    try:
        reach()
    except OSError as error:
        refused.append(type(error).__name__)
len(refused)
"""
