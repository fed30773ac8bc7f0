"""Runners for worker processes; light, so that these start quickly."""

import os
from pathlib import Path


class Killer:
    """Kills its worker at one task, every time or only the first."""

    def __init__(self, task, folder, always):
        self.task, self.folder, self.always = task, str(folder), always

    def prepare(self, worker_name):
        """Need nothing."""

    def __call__(self, task, should_stop):
        if task == self.task:
            mark = Path(self.folder) / f"{os.getpid()}.killed"
            if self.always or not list(Path(self.folder).glob("*.killed")):
                mark.touch()
                os._exit(1)
        return task * 10
