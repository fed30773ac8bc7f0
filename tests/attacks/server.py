"""Serve a folder on 127.0.0.1 and note every request; in a process of its own.

GDAL may wait for an answer while it holds Python's lock, so a thread of the same process would
never give it.
"""

import http.server
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path


class Recorder(http.server.SimpleHTTPRequestHandler):
    """Notes every request in the file that the command line names."""

    def log_message(self, *arguments):
        with Path(sys.argv[2]).open("a") as log:
            log.write(f"{self.path}\n")


@contextmanager
def recording_server(folder, log):
    """Yield the address of a server of ``folder`` that notes the paths of requests in ``log``."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(log)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
