"""From an adapter's folder to a live alias, or to a report that says why not."""
