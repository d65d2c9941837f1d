"""
A process that has all of kpx loaded and forks one kpx after the other: for machines on which starting Python takes seconds.

An emulated processor spends five seconds on the imports of one `kpx`, and a packet test starts three of them. With
KPX_LAB_PRELOAD=1 `tests.lab.launch` asks this process for them instead; everything after the imports is as in a process of its
own: arguments, environment, working directory, network namespace, session, standard files, signals, exit status.

One request is one packet: JSON, and with it five descriptors: standard input, output and error, the network namespace, and the
write end of a pipe that will get the exit status as `subprocess.Popen.returncode` has it. The answer is the process id.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import traceback
from typing import Any

CLONE_NEWNET = 0x40000000
REQUEST_BYTES = 1 << 18
DESCRIPTORS = 5
_HIGHEST_DESCRIPTOR = 4096


def load_everything() -> None:
    """Import every module of kpx, but for those that need a package which is not installed."""
    import kpx

    for module in pkgutil.walk_packages(kpx.__path__, "kpx."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                if str(error.name).partition(".")[0] == "kpx":
                    raise


def become(request: dict[str, Any], descriptors: list[int]) -> int:
    """Be a process that has just executed `python -m kpx`, in the child; return its exit status."""
    *standard, namespace, _ = descriptors
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
    os.closerange(3, _HIGHEST_DESCRIPTOR)
    if request["session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = ["kpx", *request["arguments"]]
    try:
        runpy.run_module("kpx", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
            return 1
        return stop.code or 0
    return 0


def fork(request: dict[str, Any], descriptors: list[int]) -> int:
    """Return the process id of a kpx that does what the request says."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = become(request, descriptors)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing of the child may return into the loop of the parent
        traceback.print_exc()
    finally:
        os._exit(status)


def serve(control: socket.socket) -> None:
    """Fork what is asked for until nobody can ask any more."""
    awake, wakes = socket.socketpair()
    awake.setblocking(False)
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pipes: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([control, awake], [], [])
        if awake in readable:
            awake.recv(4096)
            while pipes and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pipe = pipes.pop(ended[0])
                os.write(pipe, str(os.waitstatus_to_exitcode(ended[1])).encode())
                os.close(pipe)
        if control in readable:
            data, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, DESCRIPTORS)
            if not data:
                return
            pid = fork(json.loads(data), descriptors)
            pipes[pid] = descriptors.pop()
            for each in descriptors:
                os.close(each)
            control.send(str(pid).encode())


def main() -> None:
    """Serve on the socket whose descriptor is the only argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    load_everything()
    gc.collect()
    gc.freeze()
    serve(control)


if __name__ == "__main__":
    main()
