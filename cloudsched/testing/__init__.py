"""What do tests and simulations need? Factories, manual clock, simulated fleets."""
