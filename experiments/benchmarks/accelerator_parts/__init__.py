"""The parts of the accelerator benchmark: each is a function that yields Rows. See accelerator.py."""
