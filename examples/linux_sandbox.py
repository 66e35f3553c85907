"""The lifecycle of a Linux sandbox.

Start a server with `isorun serve`, then run this with the package `isorun`.
"""

from isorun import IsorunTimeoutError, Sandbox

with Sandbox("host", mem_mib=256, env={"NAME": "Ada"}, network_profile="locked-down") as sb:
    print(f"created {sb.id} in {sb.info.create_ms} ms")

    out = sb.exec("python3 -c 'print(2 + 2)'")
    print("2 + 2 =", out.stdout.strip())

    # The sandbox has its own files; those of the machine are read-only.
    sb.write_text(
        "/job/hello.py",
        "import os, platform\n"
        "print('hello', os.environ['NAME'], 'from', platform.system(), 'as process', os.getpid())\n",
    )
    print(sb.exec("python3 /job/hello.py").stdout.strip())

    sb.exec_stream(
        "for i in 1 2 3; do echo step $i; sleep 0.1; done",
        on_stdout=lambda chunk: print(chunk, end=""),
    )

    # A connection that is not allowed is reset immediately, and nothing is sent.
    get = "import socket; socket.create_connection(('example.com', 80), 5).recv(1)"
    reached = sb.exec(f'python3 -c "{get}"')
    print("the internet:", reached.stderr.strip().splitlines()[-1])
    # A command without an end is stopped by its timeout.
    try:
        sb.exec("echo started; while :; do :; done", timeout=0.5)
    except IsorunTimeoutError as error:
        print("stopped after half a second; its output was:", error.stdout.strip())

    stats = sb.destroy()
    print(f"it used {stats.cpu_ms} ms of CPU time, and at most {stats.mem_peak_bytes >> 20} MiB")
