"""Where measurements run: on this machine (``local``)."""
