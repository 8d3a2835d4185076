"""The command `python -m dogscats.convert <table>`."""

from dogscats.labelling.other_tools import main

if __name__ == "__main__":
    main()
