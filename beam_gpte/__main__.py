"""Run the programs of this package: `python -m beam_gpte COMMAND ...`."""

from beam_gpte.cli.main import start

if __name__ == "__main__":
    start()
