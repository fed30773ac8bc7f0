"""Hands for worker processes; light, so that these start quickly."""

import os
from pathlib import Path


class Killer:
    """Kills its worker for one piece, every time or only the first."""

    def __init__(self, piece, folder, always):
        self.piece, self.folder, self.always = piece, str(folder), always

    def setup(self, address):
        """Always."""

    def __call__(self, piece, stopped):
        if piece == self.piece:
            mark = Path(self.folder) / f"{os.getpid()}.killed"
            if self.always or not list(Path(self.folder).glob("*.killed")):
                mark.touch()
                os._exit(1)
        return piece * 10
