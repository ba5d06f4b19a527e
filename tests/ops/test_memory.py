"""Memory that is left: the least over the machine, all control groups of a process and its own limits."""

import resource
import subprocess
import sys

import pytest

from monosem.ops.memory import available_memory, check_memory

GIB = 1 << 30


def tree(root, cgroup, groups, mountinfo="", free=64 * GIB):
    """A machine with ``free`` bytes whose process is in ``cgroup``; groups: {folder: {file: content}}."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mountinfo)
    for folder, files in groups.items():
        (root / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (root / "sys/fs/cgroup" / folder / name).write_text(f"{content}\n")
    return root


def old(limit, used, inactive=0):
    return {
        "memory.limit_in_bytes": limit, "memory.usage_in_bytes": used,
        "memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}",
    }  # fmt: skip


def new(limit, used, inactive=0):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 5\ninactive_file {inactive}\nfile 9"}


NONE = 9223372036854771712  # how version 1 says that there is no limit
MOUNT = "35 31 0:32 {0} {1} rw,relatime - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("cgroup", "groups", "mountinfo", "left"),
    [
        ("0::/\n", {"": new("max", 5)}, "", 64 * GIB),
        ("0::/\n", {"": new(8 * GIB, 5 * GIB)}, "", 3 * GIB),
        ("0::/\n", {"": new(8 * GIB, 5 * GIB, 4 * GIB)}, "", 7 * GIB),  # 4 GiB are files that nobody uses
        ("0::/a/b\n", {"a/b": new("max", 1), "a": new(4 * GIB, GIB)}, "", 3 * GIB),
        ("0::/a/b\n", {"a/b": new(2 * GIB, GIB), "a": new(4 * GIB, GIB)}, "", GIB),
        ("0::/a\n", {"a": new(GIB, 2 * GIB)}, "", 0),
        ("4:memory:/a/b\n0::/\n", {"memory/a/b": old(NONE, 1), "memory/a": old(2 * GIB, GIB)}, "", GIB),
        ("4:cpu,memory:/a\n", {"memory/a": old(2 * GIB, GIB, GIB // 2)}, "", GIB + GIB // 2),
        ("4:cpuset:/a\n", {"memory/a": old(2 * GIB, GIB)}, "", 64 * GIB),  # the group of another controller
        ("4:memory:/pod/x\n", {"mem": old(3 * GIB, GIB)}, MOUNT.format("/pod/x", "/sys/fs/cgroup/mem"), 2 * GIB),
        ("4:memory:/pod/x/y\n", {"m/y": old(3 * GIB, GIB)}, MOUNT.format("/pod/x", "/sys/fs/cgroup/m"), 2 * GIB),
        ("0::/../outside\n", {"": new(2 * GIB, GIB)}, "", GIB),
    ],
)  # fmt: skip
def test_the_smallest_limit_of_the_control_groups_holds(tmp_path, cgroup, groups, mountinfo, left):
    assert available_memory(tree(tmp_path, cgroup, groups, mountinfo)) == left


def test_memory_without_proc_or_control_groups(tmp_path):
    assert available_memory(tmp_path) > 0


def test_limits_of_the_process_count():
    """In a child: a limit of this process could not be raised again."""
    code = (
        "import resource, sys; sys.path[:0] = sys.argv[1:]\n"
        "from monosem.ops.memory import available_memory\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20), resource.RLIM_INFINITY))\n"
        "print(available_memory() / (1 << 20))"
    )
    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("this process is limited itself")
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert 200 < float(done.stdout) <= 300


def test_an_allocation_that_cannot_succeed_raises(monkeypatch):
    from monosem.ops import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    with pytest.raises(ValueError, match=r"d_sae: features need 2 GB of memory, this machine has 1 GB left"):
        check_memory(2 * 10**9, "features", "d_sae")
    check_memory(10**9, "features", "d_sae")
