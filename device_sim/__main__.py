"""The command `edgewise-sim`. It answers signals before it imports anything that takes time."""

from device_sim.interrupts import end_on_signals


def main() -> None:
    """Run the command."""
    end_on_signals()
    from device_sim.cli import app

    app()


if __name__ == "__main__":
    main()
