"""The demo's report: one HTML file that needs nothing but a browser."""

from device_sim.history import History, Summary

__all__ = ["render"]


def render(history: History, summary: Summary) -> str:
    """Draw the page. Equal arguments give equal text under one matplotlib version; every text in them is escaped.

    Returns:
        A complete HTML document that loads nothing.
    """
    from device_sim.report.page import page  # brings matplotlib, for which no command line should wait

    return page(history, summary)
