"""The command `python -m dogscats.check <root>`."""

from dogscats.suspects.search_folder import main

if __name__ == "__main__":
    main()
