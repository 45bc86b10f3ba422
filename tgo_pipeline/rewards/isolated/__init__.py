"""Rewards in an interpreter of their own: packages that cannot be installed beside this one's.

    load_reward("official:imagereward")                              # the official package itself scores
    load_reward("worker:python=/envs/judge:my_module:my_function")   # anybody's, docs/WORKERS.md

`names.py` reads what they are called, `environments.py` builds and finds interpreters, `process.py` starts a process
and asks it, `worker.py` is what runs there, and `reward.py` puts all of that behind the seam of every reward.
"""
