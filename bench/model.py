"""The real model of the benches, in the engine that is measured from the first request on.

With `auto`, the default, the same engine serves in the end, but torch stands in until the export is made: in a new data
directory that would be measured, beside the exporter.
"""

from tests.support.service import MODELS as _MODELS

NAME = "all-MiniLM-L6-v2"
MODELS = _MODELS.rstrip("\n") + "\n  engine: onnx\n"
