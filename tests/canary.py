"""What shows that code in a pickle was run."""

import os


class Canary:
    """Unpickled with code allowed, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)
