"""`python -m elmo_hf`, the same as `elmo-hf`."""

import sys

from elmo_hf.cli import main

sys.exit(main())
