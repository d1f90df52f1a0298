"""How requests are sent: connections, pace, retries, credentials."""
