"""The pure part: numpy and the standard library only, no I/O. Start reading at errors.py."""
