"""Two runs beside each other, and many in order."""
