"""The browser of features, and exports of what it shows."""

from monosem.analysis.dashboard.records import Counts
from monosem.analysis.dashboard.site import write_site

__all__ = ["Counts", "write_site"]
