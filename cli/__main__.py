"""Start the command line: ``georsr``, or ``python -m georsr.cli``."""

import os
import signal
from types import FrameType


def end(number: int, frame: FrameType | None) -> None:
    """End the process at a signal: nothing has begun."""
    text = "interrupted" if number == signal.SIGINT else "terminated"
    os.write(2, f"Error: {text}\n".encode())
    os._exit(128 + number)


def main() -> None:
    """Run the command line; signals are heard while its modules are still being imported."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as for jobs in the background
            signal.signal(number, end)
    from .main import main as run

    run()


if __name__ == "__main__":
    main()
