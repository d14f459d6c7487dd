"""A pack that ends the process while it is imported."""
import sys

sys.exit("this pack wants a restart")
