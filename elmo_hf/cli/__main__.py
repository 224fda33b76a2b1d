"""`python -m elmo_hf.cli`, which `accelerate launch -m` can start in several processes."""

import sys

from elmo_hf.cli import main

sys.exit(main())
