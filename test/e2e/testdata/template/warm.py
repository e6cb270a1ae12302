import json, os, random, sys

import aios

random.seed(1)
job = aios.ready()
print(job.template, *sys.argv[1:], os.environ["JOB"], os.getcwd(), aios.copies()[0], sys.stdin.read())
print(random.random(), end="")
sys.exit(7)
