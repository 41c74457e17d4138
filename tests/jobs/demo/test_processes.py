"""Killing a job means killing all of it."""

from __future__ import annotations

import subprocess
import sys

import psutil

from jobs.demo.processes import MemoryWatch, kill_job

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_kill_job_leaves_no_process_of_the_job_behind():
    driver = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    child = psutil.Process(int(driver.stdout.readline()))
    assert kill_job(driver) == 2
    assert driver.returncode == -9
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    driver.stdout.close()


def test_kill_job_of_a_driver_that_has_ended_is_no_error():
    driver = subprocess.Popen([sys.executable, "-c", ""])
    driver.wait()
    assert kill_job(driver) == 1


def test_memory_watch_counts_this_process_and_its_children():
    with MemoryWatch(interval_s=0.01) as watch:
        code = "import time; block = bytearray(150 << 20); time.sleep(1)"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert watch.peak_bytes > 150 << 20
