"""One writer per folder: the error names the other, the lock ends with its process, with and without POSIX locks."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from monosem.data.folder_lock import folder_lock

# Python without the modules of POSIX, as on Windows; what is to be run follows.
NO_POSIX = """
import sys
for absent in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[absent] = None
"""
HOLD = """
import sys, time
from monosem.data.folder_lock import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_error_of_a_second_writer_names_the_first(tmp_path):
    with folder_lock(tmp_path / "run") as folder:
        assert folder.is_dir()
        with pytest.raises(RuntimeError, match=f"process {os.getpid()} on .*choose another folder"):
            with folder_lock(folder):
                pass
    with folder_lock(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"process {child.pid} on "), folder_lock(tmp_path):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with folder_lock(tmp_path):
        pass


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path):
        raise KeyboardInterrupt
    with folder_lock(tmp_path):
        pass


def test_locking_is_retried_while_the_last_owner_releases(tmp_path):
    """Each of the threads holds the folder 20 times; none of them ever holds it together with another."""
    held, together, refused = threading.Lock(), [], []

    def run():
        done = 0
        while done < 20:
            try:
                with folder_lock(tmp_path):
                    if not held.acquire(blocking=False):
                        together.append(done)
                        return
                    held.release()
                    done += 1
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not together and all("is being written to by" in text for text in refused)
    assert not list(tmp_path.iterdir())


def python(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", NO_POSIX + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_monosem_is_imported_where_the_modules_of_posix_are_not():
    child = python("""
import importlib, pkgutil
import monosem
for module in pkgutil.walk_packages(monosem.__path__, "monosem."):
    if not module.name.startswith(("monosem.kernels", "monosem._", "monosem.bench.entrants")):
        importlib.import_module(module.name)
from monosem.ops.memory import available_memory
assert available_memory() > 0
print("imported")
""")
    assert child.communicate()[0] == "imported\n" and child.returncode == 0


def test_without_posix_a_folder_has_one_writer_and_is_free_after_a_kill(tmp_path):
    first = python(HOLD, tmp_path)
    try:
        assert first.stdout.readline() == "held\n"
        second = python(f"try:\n    exec({HOLD!r})\nexcept RuntimeError as error:\n    print(error)", tmp_path)
        assert f"is being written to by process {first.pid} on " in second.communicate()[0]
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    third = python(
        "from monosem.data.folder_lock import folder_lock\nwith folder_lock(sys.argv[1]): print('free')", tmp_path
    )
    assert third.communicate()[0] == "free\n"
