"""Submit `tintype list` to a Ray cluster.

ray job submit --working-dir . -- python -m jobs.list conf/loc.yaml --set archive=s3://bucket/loc
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["list", *sys.argv[1:]]))
