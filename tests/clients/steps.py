"""What the Python scripts here share: steps with the answer that is due."""

import sys

MIB = bytes(range(256)) * 4096
ALL_BYTES = bytes(range(256))
TOO_LARGE = b"x" * (3 << 20)
# An expiry that has passed: a UNIX time of 1970. Negative ones mean the year 2106 in the binary protocol.
PASSED = 3_000_000


def server():
    """Where to: host and port, or the path of a socket, which comes with port 0."""
    host, port = sys.argv[1], int(sys.argv[2])
    return (host, port) if port else host


class Steps:
    """Prints a line for each step; counts those whose answer is not what is due."""

    def __init__(self):
        self.wrong = 0

    def see(self, name, got, due):
        """`got` is a value, or a function that gives one."""
        if callable(got):
            try:
                got = got()
            except Exception as e:  # Any error is an answer, too.
                got = f"{type(e).__name__}: {e}"
        shown = repr(got)
        if len(shown) > 150:
            shown = f"{shown[:60]}... of {len(shown)}"
        if callable(due):
            fine = due(got)
        else:
            fine = got == due
        if not fine:
            self.wrong += 1
        print(f"{name}: {shown}" + ("" if fine else " WRONG"), flush=True)

    def end(self):
        print("end", flush=True)
        sys.exit(1 if self.wrong else 0)


def begins(text):
    """For errors, whose texts differ with versions: the first words are due."""
    return lambda got: isinstance(got, str) and got.startswith(text)
