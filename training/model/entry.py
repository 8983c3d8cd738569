"""The script that MLflow runs to open a registered model ("models from code": nothing is pickled)."""

from mlflow.models import set_model

from training.model.reader import Reader

set_model(Reader())
