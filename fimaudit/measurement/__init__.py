"""One input from probabilities: a flow that yields batches of rows and receives answers."""
