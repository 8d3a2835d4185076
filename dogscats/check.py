"""The command `python -m dogscats.check <root>`."""

from dogscats.data.loading.check import main

if __name__ == "__main__":
    main()
