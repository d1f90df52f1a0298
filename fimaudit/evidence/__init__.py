"""What is handed to others: bundles, and their verification."""
