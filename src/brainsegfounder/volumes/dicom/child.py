"""Run as a script, with no package around it: set limits on this process, then become a program.

    python -I -S child.py SECONDS MEMORY_BYTES FILE_BYTES PROGRAM ARGUMENT...

The limits are set here and not in a fork of the caller, whose threads could hold locks then.
"""

import os
import sys


def main(arguments: list[str]) -> None:
    """Set limits of processor time, memory and file size, then replace this process."""
    seconds, memory_bytes, file_bytes = (int(number) for number in arguments[:3])
    if sys.platform != "win32":  # there the caller's timeout still holds
        import resource

        limits = {
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_AS: memory_bytes,
            resource.RLIMIT_FSIZE: file_bytes,
            resource.RLIMIT_CORE: 0,
        }
        for kind, limit in limits.items():
            resource.setrlimit(kind, (limit, limit))
    os.execve(arguments[3], arguments[3:], {})  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main(sys.argv[1:])
