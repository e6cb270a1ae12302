"""Measures a few kinds of work from inside a box and prints the figures as JSON.

The parent measures nothing: starting the box is not part of any figure here.
Arguments are the names of the workloads to run.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

WORK = "/tmp/work"


def run(*argv, cwd=WORK, input=None):
    done = subprocess.run(argv, cwd=cwd, input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{argv[0]} ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def milliseconds(count, *argv, cwd=WORK):
    """The median time of a command, after one run that is not counted."""
    run(*argv, cwd=cwd)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run(*argv, cwd=cwd)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def calls():
    counts = {"getpid": 100000, "kill": 30000, "mmap": 5000}
    answers = run("/work/calls", input="".join(f"{name} {count}\n" for name, count in counts.items()))
    return dict(zip(counts, map(float, answers.split())))


def python():
    return {"python": milliseconds(9, sys.executable, "-c", "pass")}


def compile():
    shutil.copy("/work/hello.c", WORK)
    return {"compile": milliseconds(5, "gcc", "-O1", "-o", "hello", "hello.c")}


def git():
    tree = f"{WORK}/tree"
    for directory in range(100):
        os.makedirs(f"{tree}/d{directory}")
        for file in range(50):
            with open(f"{tree}/d{directory}/f{file}.txt", "w") as f:
                f.write(f"file {file} of directory {directory}\n")
    run("git", "init", "-q", cwd=tree)
    run("git", "add", ".", cwd=tree)
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all", cwd=tree)
    return {"git": milliseconds(5, "git", "status", "--short", cwd=tree)}


def redis():
    server = subprocess.Popen(["redis-server", "--port", "6399", "--save", "", "--appendonly", "no"],
                              cwd=WORK, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", 6399)).close()
                break
            except OSError:
                time.sleep(0.01)
        answer = run("redis-benchmark", "-p", "6399", "-n", "8000", "-c", "10", "-t", "set,get", "--csv")
    finally:
        server.kill()
        server.wait()
    figures = {}
    for line in answer.splitlines()[1:]:
        fields = [field.strip('"') for field in line.split(",")]
        figures["redis " + fields[0].lower()] = float(fields[1])
    return figures


def main():
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    figures = {}
    for name in sys.argv[1:]:
        figures.update({"calls": calls, "python": python, "compile": compile, "git": git, "redis": redis}[name]())
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
