"""Submit `tintype train` to a Ray cluster.

ray job submit --working-dir . -- python -m jobs.train conf/train_flickr8k.yaml --set out=s3://bucket/models/flickr8k
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
