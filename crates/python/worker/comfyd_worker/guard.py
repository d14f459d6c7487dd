"""Code that wants to end the process (`exit()`, Ctrl-C's exception) ends what asked for it instead, as any other exception does."""
import asyncio
import contextvars

ENDS = (SystemExit, KeyboardInterrupt)
ANY = (Exception, *ENDS)

# Whether what runs was asked for by comfyd. What the process does by itself, such as answering on its routes, may end it: so Manager does.
ASKED = contextvars.ContextVar("comfyd_asked", default=False)


class Ended(Exception):
    """Stands for what code raised to end the process, which is its cause: a loop does not outlive the real one."""


async def _kept(coroutine):
    try:
        return await coroutine
    except ENDS as error:
        raise Ended(repr(error)) from error


def tasks(loop, coroutine, **more):
    """Makes a loop's tasks."""
    return asyncio.Task(_kept(coroutine) if ASKED.get() else coroutine, loop=loop, **more)
