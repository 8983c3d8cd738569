"""From a champion to answers: the registered model, packed for BentoML and served over HTTP.

Nothing is sent home: the tools' telemetry and the hub are switched off unless the caller's environment says otherwise;
so is MLflow's progress bar, which would draw itself for files that are copied in a moment.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
