"""The command `python -m dogscats.demo run=<run>`."""

from dogscats.demo.server import main

if __name__ == "__main__":
    main()
