"""`python -m cloudsched.agent`: how is the agent started where nothing else of the project is installed?"""

import sys

from cloudsched.agent.agent import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
