"""What happens by itself? Loops that claim, step and settle."""
