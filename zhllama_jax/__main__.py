"""`python -m zhllama_jax` is the program `zhllama`."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The program, deaf to nothing: Ctrl-C while its modules are still being imported is one line too."""
    try:
        from zhllama_jax.cli import program
    except KeyboardInterrupt:
        sys.stderr.write("zhllama: interrupted\n")
        sys.stderr.flush()
        os._exit(130)
    program.main()


if __name__ == "__main__":
    main()
