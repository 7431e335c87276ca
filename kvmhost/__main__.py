"""`python -m kvmhost`: the same as the kvmhost command; the lab starts it this way."""

import sys

from kvmhost.cli import main

if __name__ == "__main__":
    sys.exit(main())
