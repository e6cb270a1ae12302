"""An agent at work: plan, write code, run it, read what went wrong, repair it.

It behaves as an AI agent with a coding task does, with the model's part
replaced by a fixed script, so that every run says the same. It needs nothing
but Python's standard library, a writable temporary directory and the right to
start child processes.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

TASK = "Find the slowest endpoint in a request log, with tested code."

LIBRARY = '''\
"""Statistics over request times."""


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def by_endpoint(lines):
    times = {}
    for line in lines:
        endpoint, milliseconds = line.split()
        times.setdefault(endpoint, []).append(int(milliseconds))
    return times
'''

TESTS = '''\
import unittest

from stats import by_endpoint, median


class StatsTest(unittest.TestCase):
    def test_median_of_odd_count(self):
        self.assertEqual(median([9, 1, 5]), 5)

    def test_median_of_even_count(self):
        self.assertEqual(median([1, 2, 4, 9]), 3)

    def test_grouping(self):
        self.assertEqual(by_endpoint(["/a 1", "/b 2", "/a 3"]), {"/a": [1, 3], "/b": [2]})


if __name__ == "__main__":
    unittest.main()
'''

# What the agent knows how to mend: a failing test, the faulty text, the cure.
REPAIRS = {
    "test_median_of_even_count": (
        "    return ordered[len(ordered) // 2]\n",
        "    middle = len(ordered) // 2\n"
        "    if len(ordered) % 2:\n"
        "        return ordered[middle]\n"
        "    return (ordered[middle - 1] + ordered[middle]) / 2\n",
    ),
}

WORKER = '''\
import json
import sys

from stats import by_endpoint

with open(sys.argv[1]) as part:
    json.dump(by_endpoint(part), sys.stdout)
'''

WORKERS = 3
ENDPOINTS = ("/search", "/login", "/upload", "/health")


class Agent:
    """Works in one directory and keeps a transcript of what it does."""

    def __init__(self, workspace):
        self.workspace = pathlib.Path(workspace)
        self.step = 0

    def plan(self, steps):
        print(f"task   {TASK}")
        for number, (what, _) in enumerate(steps, 1):
            print(f"plan   {number}. {what}")
        for what, action in steps:
            self.step += 1
            print(f"\nstep {self.step}  {what}")
            action()

    def say(self, kind, text):
        print(f"  {kind:<6} {text}", flush=True)

    def write(self, name, text):
        (self.workspace / name).write_text(text)
        self.say("write", f"{name} ({len(text.splitlines())} lines)")

    def run(self, *argv):
        """Runs a child process to its end and returns what it said."""
        done = subprocess.run(argv, cwd=self.workspace, text=True, capture_output=True, timeout=60)
        shown = " ".join("python3" if a == sys.executable else a for a in argv)
        self.say("run", f"{shown} -> exit {done.returncode}")
        return done

    def fail(self, why):
        self.say("stuck", why)
        sys.exit(1)

    def look_around(self):
        processes = sum(name.isdigit() for name in os.listdir("/proc"))
        self.say("see", f"I am process {os.getpid()} of {processes}; my files are in {self.workspace}")
        self.say("see", f"python {sys.version_info.major}.{sys.version_info.minor} at {sys.executable}")

    def write_code(self):
        self.write("stats.py", LIBRARY)
        self.write("test_stats.py", TESTS)

    def test_and_repair(self):
        for _ in range(len(REPAIRS) + 1):
            done = self.run(sys.executable, "test_stats.py")
            if done.returncode == 0:
                self.say("see", done.stderr.strip().splitlines()[-1])
                return
            failed = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("FAIL: ")]
            for name in failed:
                self.say("see", f"{name} fails")
                self.repair(name)
        self.fail("the tests still fail after every repair I know")

    def repair(self, name):
        if name not in REPAIRS:
            self.fail(f"I know no repair for {name}")
        faulty, cure = REPAIRS[name]
        source = (self.workspace / "stats.py").read_text()
        if faulty not in source:
            self.fail("the code is not what I wrote")
        self.say("think", "an even count has no single middle value; take the mean of the two")
        self.write("stats.py", source.replace(faulty, cure))

    def make_log(self):
        """Writes a log in parts, from a small generator of its own."""
        state = 2463534242
        for part in range(WORKERS):
            lines = []
            for _ in range(4000):
                state = (state * 1103515245 + 12345) % 2**31
                endpoint = ENDPOINTS[state >> 8 & 3]
                lines.append(f"{endpoint} {(state >> 12) % 90 + 10 * len(endpoint)}\n")
            self.write(f"log.{part}", "".join(lines))

    def analyse(self):
        """Starts one worker per part, all at once, and merges their answers."""
        self.write("worker.py", WORKER)
        workers = [
            subprocess.Popen(
                [sys.executable, "worker.py", f"log.{part}"],
                cwd=self.workspace, text=True, stdout=subprocess.PIPE,
            )
            for part in range(WORKERS)
        ]
        self.say("run", f"{len(workers)} workers side by side")
        merged = {}
        for worker in workers:
            output, _ = worker.communicate(timeout=60)
            if worker.returncode != 0:
                self.fail(f"a worker ended with {worker.returncode}")
            for endpoint, times in json.loads(output).items():
                merged.setdefault(endpoint, []).extend(times)
        sys.path.insert(0, str(self.workspace))
        from stats import median  # The code that was written and repaired above.

        self.medians = {endpoint: median(times) for endpoint, times in merged.items()}
        self.counts = {endpoint: len(times) for endpoint, times in merged.items()}
        self.say("see", f"{sum(self.counts.values())} requests to {len(merged)} endpoints")

    def cross_check(self):
        """Counts once more with other tools, and compares."""
        done = self.run("sh", "-c", "cat log.* | cut -d' ' -f1 | sort | uniq -c")
        counted = {name: int(count) for count, name in (line.split() for line in done.stdout.splitlines())}
        if counted != self.counts:
            self.fail(f"the shell counts {counted}, the workers {self.counts}")
        self.say("see", "the shell counts the same")

    def report(self):
        slowest = max(self.medians, key=self.medians.get)
        lines = [f"{endpoint:<10}{self.counts[endpoint]:>6} requests{self.medians[endpoint]:>8.1f} ms\n"
                 for endpoint in sorted(self.medians, key=self.medians.get, reverse=True)]
        self.write("report.txt", "".join(lines))
        for line in lines:
            self.say("", line.rstrip())
        print(f"\ndone   {slowest} is the slowest, {self.medians[slowest]:.1f} ms in the median")


def main():
    with tempfile.TemporaryDirectory(prefix="agent-") as workspace:
        agent = Agent(workspace)
        agent.plan([
            ("look around", agent.look_around),
            ("write the code and its tests", agent.write_code),
            ("run the tests and repair what fails", agent.test_and_repair),
            ("gather the log", agent.make_log),
            ("analyse it with worker processes", agent.analyse),
            ("count again with shell tools", agent.cross_check),
            ("report", agent.report),
        ])


if __name__ == "__main__":
    main()
