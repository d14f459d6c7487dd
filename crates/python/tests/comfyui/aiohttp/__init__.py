"""A double of aiohttp, as far as the worker and the stub's routes need it."""
