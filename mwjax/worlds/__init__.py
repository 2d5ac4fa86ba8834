"""Games behind one door: a world a file, one line a world in the table WORLDS of world.py."""
