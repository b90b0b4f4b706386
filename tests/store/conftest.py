"""An open, migrated database of each kind (fixture `database` of tests/conftest.py)."""
