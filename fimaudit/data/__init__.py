"""What people bring: arrays, tables, streams, images."""
