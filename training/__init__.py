"""What makes the models of `exported`: a recipe a model (`recipes`), what several of them use (`methods`), their data
(`data`), and how a trained network becomes a version (`export`).

`train`, `evaluate`, `make_explainable` and `calibrate_detector` are the commands of these names.
"""


class TrainingError(RuntimeError):
    """Training or measuring ended without a result; the message says why and what to do."""
