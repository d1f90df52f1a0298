"""What is sent to a model: rows of signs, quantised rows, orthonormal rows, ladders."""
