"""What the process does with itself before anything of ComfyUI runs: it ends with comfyd, dies before it, and may lose the network."""
import ctypes
import os
import signal
import sys

REFUSED = 78            # the exit status where the network was to be denied and cannot be (`EX_CONFIG`)
CLONE_NEWUSER, CLONE_NEWNET, PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1


def prepare():
    """Network first: the kernel forgets the signal of a parent's death when a process changes its namespaces."""
    parent = os.getppid()
    if os.environ.get("COMFYD_NETWORK") == "deny":
        _deny_network()
    if not sys.platform.startswith("linux"):
        return
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:        # under pressure the kernel ends this process, not comfyd
            score = max(int(file.read()), 500)
            file.seek(0)
            file.write(str(score))
    except (OSError, ValueError):
        pass
    try:
        # Code that never gives the interpreter up would keep the reader from noticing that the connection ended.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
    if os.getppid() != parent:
        os._exit(0)


def _deny_network():
    """Moves the process into a network without interfaces, or ends it."""
    reason = None
    if not sys.platform.startswith("linux"):
        reason = "only Linux can do that"
    else:
        user, group = os.geteuid(), os.getegid()
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
                reason = os.strerror(ctypes.get_errno())
        except (OSError, AttributeError) as error:
            reason = str(error)
    if reason is not None:
        print(f"comfyd: the network cannot be denied to Python ({reason}): allow user namespaces or start without the option",
              file=sys.stderr)
        sys.stderr.flush()
        os._exit(REFUSED)
    # The user stays who he is inside as well; without this he would be nobody, which some libraries take badly.
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
        except OSError:
            pass
