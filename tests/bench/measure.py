"""Runs a command and writes seconds, MiB of its largest process, and MiB of all its processes together at their worst.

usage: measure.py FILE COMMAND...

The largest process is what the kernel counted; the sum is looked at twenty times a second, with memory that processes share
counted for each of them.
"""

import os
import resource
import subprocess
import sys
import threading
import time

INTERVAL_SECONDS = 0.05
PAGE_BYTES = resource.getpagesize()


def parents_and_pages():
    """Returns parent and resident pages of every process; those that end meanwhile are left out."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/statm") as statm:
                found[int(pid)] = int(stat.read().rsplit(")", 1)[1].split()[1]), int(statm.read().split()[1])
        except OSError:
            pass
    return found


def resident_pages(root):
    """Returns the resident pages of a process and of everything below it."""
    processes = parents_and_pages()
    total, pending = 0, [root]
    while pending:
        parent = pending.pop()
        total += processes.get(parent, (0, 0))[1]
        pending += [pid for pid, (above, _) in processes.items() if above == parent]
    return total


def main():
    output, *command = sys.argv[1:]
    started, process, ended = time.monotonic(), subprocess.Popen(command), threading.Event()
    worst = [0]

    def watch():
        while not ended.wait(INTERVAL_SECONDS):
            worst[0] = max(worst[0], resident_pages(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - started
    ended.set()
    watcher.join()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    with open(output, "w") as file:
        print(f"{seconds:.3f} {largest >> 20} {max(worst[0] * PAGE_BYTES, largest) >> 20}", file=file)
    return code


sys.exit(main())
