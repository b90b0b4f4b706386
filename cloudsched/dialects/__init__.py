"""How does each API speak? One package per dialect; dialects never import each other."""
