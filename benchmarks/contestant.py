"""One contestant in a process of its own: a `Job` on stdin, and what was measured on stdout, both as JSON."""

import sys

from contestants.measuring import main

if __name__ == "__main__":
    sys.exit(main())
