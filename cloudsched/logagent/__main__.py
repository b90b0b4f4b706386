"""`python -m cloudsched.logagent`: how is the log agent started where nothing else of the project is installed?"""

import sys

from cloudsched.logagent.agent import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
