"""Submit `tintype refresh` to a Ray cluster.

ray job submit --working-dir . -- python -m jobs.refresh conf/loc.yaml --set archive=s3://bucket/loc
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["refresh", *sys.argv[1:]]))
