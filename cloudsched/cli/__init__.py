"""What does a person type? Command lines; they speak HTTP to the server and import nothing of it.

`main` of `cloudsched.cli.main` is the `cloudsched` command. `commands.py` lists its commands; each lives in a
module of its own that is imported when it is typed.
"""
