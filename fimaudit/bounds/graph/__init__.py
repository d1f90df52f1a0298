"""A network as a graph of operations with known bounds."""
