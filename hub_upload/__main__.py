"""`python -m hub_upload`, the same as `elmo-hub`."""

import sys

from .cli import main

sys.exit(main())
