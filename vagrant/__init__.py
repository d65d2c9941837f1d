"""The lab on virtual machines: what runs inside them, with Python's own library alone. tests/lab/appliance.py runs the same."""
