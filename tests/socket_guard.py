"""What tells a test that a process, or a child of it, asked for another machine.

A hook in every Python sees what Python does; strace, where it is installed, also sees what compiled
libraries do.
"""

import os
import re
import shutil
from pathlib import Path

HOOK = '''
import os
import sys


def note(event, arguments):
    """Write down who was asked for; connections on this machine are nobody's business."""
    if event == "socket.getaddrinfo":
        target = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        target = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        return
    if target not in (None, "localhost", "127.0.0.1", "::1"):
        with open(os.environ["SOCKET_GUARD"], "a") as file:
            file.write(f"{event} {target} by {sys.argv}\\n")


sys.addaudithook(note)
'''
LOCAL = re.compile(r'127\.0\.0\.1|"::1"')


class SocketGuard:
    """Runs commands so that what they ask of the network is known afterwards."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "hook").mkdir(parents=True)
        (folder / "home").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        (folder / "asked").write_text("")

    def environment(self) -> dict[str, str]:
        """Return the variables of a guarded process, whose home directory is empty."""
        path = os.pathsep.join([str(self.folder / "hook"), os.environ.get("PYTHONPATH", "")])
        paths = {
            "PYTHONPATH": path,
            "SOCKET_GUARD": str(self.folder / "asked"),
            "HOME": str(self.folder / "home"),
        }
        return {**os.environ, **paths}

    def command(self, command: list[str]) -> list[str]:
        """Return the command under strace, where there is one."""
        if shutil.which("strace") is None:
            return command
        options = ["-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmmsg,sendmsg"]
        return ["strace", *options, "-o", str(self.folder / "trace"), *command]

    def asked(self) -> list[str]:
        """Return every request for another machine."""
        trace = self.folder / "trace"
        calls = trace.read_text(errors="replace").splitlines() if trace.exists() else []
        inet = [call for call in calls if "AF_INET" in call and not LOCAL.search(call)]
        return [*(self.folder / "asked").read_text().splitlines(), *inet]
