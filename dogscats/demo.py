"""The command `python -m dogscats.demo run=<run>`."""

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM):  # no traceback during the imports below
    signal.signal(number, lambda signum, frame: os._exit(128 + signum))

from dogscats.predict.demo.server import main

if __name__ == "__main__":
    main()
