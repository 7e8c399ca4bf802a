"""What runs: one flow a file, wiring only."""
